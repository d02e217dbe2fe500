"""A small language model: it learns from what each household says to its device, and the sentences stay there."""

import math
import os

import torch
from torch.nn.functional import cross_entropy

from .net import Language
from .texts import read


def build_model(config):
    """Return a new model; `width` of fl_config is its size."""
    return Language(int(config.get("width", 96)))


def load_data(folder, config):
    """Return (train, held-out) windows of the text in `folder`."""
    return read(folder, share=0.1)


def train(model, data, config):
    """Train `model` in place for `steps` of fl_config, from where this device's last round ended in its text."""
    batch_size, steps = int(config["batch_size"]), int(config.get("steps", 20))
    kept = os.path.join(config["state"], "window")
    begin = 0
    if os.path.exists(kept):
        with open(kept) as file:
            begin = int(file.read())
    data = data.to(next(model.parameters()).device)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(config["learning_rate"]))
    model.train()
    total = 0.0
    for step in range(steps):
        batch = (begin + batch_size * step + torch.arange(batch_size)) % len(data)
        optimizer.zero_grad()
        loss = _loss(model, data[batch])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        total += float(loss.detach())
    with open(kept + ".new", "w") as file:
        file.write(str((begin + batch_size * steps) % len(data)))
    os.replace(kept + ".new", kept)  # the file is whole, also if the power fails now
    return _measured(total / steps)


def evaluate(model, data, config):
    """Return the mean cross-entropy of a byte (loss, in nats), and the same in bits."""
    device = next(model.parameters()).device
    model.eval()
    with torch.no_grad():
        total = sum(float(_loss(model, part.to(device))) * len(part) for part in data.split(100))
    return _measured(total / len(data))


def _loss(model, windows):
    windows = windows.long()
    logits = model(windows[:, :-1])
    return cross_entropy(logits.reshape(-1, logits.shape[-1]), windows[:, 1:].reshape(-1))


def _measured(loss):
    return {"loss": loss, "bits_per_byte": loss / math.log(2)}
