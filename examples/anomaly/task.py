"""Find faults of a pump without having seen one: an autoencoder of its vibration, and how badly it tells a window."""

import torch
from torch import nn

from flowerbed.dataset import arrays

AXES, SAMPLES = 3, 128  # of a window


class Autoencoder(nn.Module):
    """Squeeze a window (N, 3, 128) into eight numbers, and make it anew from those."""

    def __init__(self, narrow):
        super().__init__()
        self.net = nn.Sequential(
            nn.Flatten(), nn.Linear(AXES * SAMPLES, 96), nn.ReLU(), nn.Linear(96, narrow),
            nn.Linear(narrow, 96), nn.ReLU(), nn.Linear(96, AXES * SAMPLES),
        )  # fmt: skip

    def forward(self, x):
        """Return what comes out, in the shape of what went in."""
        return self.net(x).view_as(x)


def build_model(config):
    """Return a new model; `narrow` of fl_config is how many numbers it squeezes a window into."""
    return Autoencoder(int(config.get("narrow", 8)))


def load_data(folder, config):
    """Return (train, held-out) windows from `folder`: a dict with "x", and with "fault" where that is known, or None.

    Each has a mean of 0 on each axis, and a strength of 1 in all: it is the form that tells, not how hard a pump works.
    """
    splits = [split and {name: torch.from_numpy(array) for name, array in split.items()}
              for split in arrays.read(folder)]  # fmt: skip
    for split in filter(None, splits):
        x = split["x"].float()
        x = x - x.mean(dim=2, keepdim=True)
        split["x"] = x / x.pow(2).mean(dim=(1, 2), keepdim=True).sqrt().clamp(min=1e-6)
    return tuple(splits)


def train(model, data, config):
    """Train `model` in place; return what it measures afterwards."""
    x = data["x"].to(next(model.parameters()).device)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(config["learning_rate"]))
    model.train()
    for _ in range(int(config["local_epochs"])):
        for batch in torch.randperm(len(x)).split(int(config["batch_size"])):
            optimizer.zero_grad()
            _error(model, x[batch]).mean().backward()
            optimizer.step()
    return evaluate(model, data, config)


def evaluate(model, data, config):
    """Return the mean error of windows without a fault (loss), the same by axis, and the AUC where faults are known.

    The AUC is how often a window with a fault has a larger error than one without: 0.5 is a guess, 1 is always.
    """
    model.eval()
    with torch.no_grad():
        error = _error(model, data["x"].to(next(model.parameters()).device)).cpu()
    fault = data["fault"].bool() if "fault" in data else torch.zeros(len(error), dtype=torch.bool)
    well = error[~fault]
    measured = {"loss": well.mean(), "error_by_axis": well.mean(dim=0)}
    if fault.any():
        measured["auc"] = (error[fault].mean(dim=1)[:, None] > well.mean(dim=1)[None]).float().mean()
    return measured


def _error(model, x):
    """Return the mean squared error of each window on each axis (N, 3)."""
    return (model(x) - x).pow(2).mean(dim=2)
