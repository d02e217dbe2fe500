"""The tutorial's task: LeNet5 with BatchNorm, trained with Adam on images.

A task is one file with these four names. To run your own, copy this file and set `fl_task` to it. It runs inside the
trainer, on the device's own Python and torch (3.6 and 1.10 on a Jetson Nano), so keep to what those know.
"""

import itertools

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from flowerbed.dataset import shards


class LeNet5(nn.Module):
    """LeNet5 (LeCun et al., 1998) with BatchNorm after each convolution, for 32 × 32 images."""

    def __init__(self, channels, classes):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(channels, 6, 5), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(6, 16, 5), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        )  # fmt: skip
        self.classifier = nn.Sequential(
            nn.Flatten(), nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)
        )

    def forward(self, x):
        """Map images (N, channels, 32, 32) in 0..1 to logits (N, classes)."""
        return self.classifier(self.features(x))


def build_model(config):
    """Return a new model for `config["channels"]` image channels and `config["classes"]` classes."""
    for name in ("channels", "classes"):
        if name not in config:
            raise ValueError("the data set does not tell its number of %s: set it in fl_config" % name)
    return LeNet5(int(config["channels"]), int(config["classes"]))


def load_data(folder, config):
    """Return this device's (train, held-out) data from `folder`, each a TensorDataset of images and labels.

    A data set's `classes`, names by label as torchvision has them, are compared between the devices.
    """
    data = tuple(None if split is None else _dataset(*split) for split in shards.read_images(folder))
    for split in filter(None, data):
        split.classes = shards.classes(folder)
    return data


def _dataset(x, y):
    scale = 255.0 if x.dtype == np.uint8 else 1.0  # a user's own floats are in 0..1 already
    x = torch.from_numpy(np.ascontiguousarray(x)).float().div_(scale).permute(0, 3, 1, 2)
    if tuple(x.shape[-2:]) != (32, 32):
        x = F.interpolate(x, size=(32, 32), mode="bilinear", align_corners=False)
    return torch.utils.data.TensorDataset(x.contiguous(), torch.from_numpy(np.asarray(y)).long())


def train(model, data, config):
    """Train `model` in place for `config["local_epochs"]` epochs, or for `config["steps"]` steps if there are any.

    Return the mean loss, the accuracy, and where steps are asked for how many were done.
    """
    device = next(model.parameters()).device
    images, labels = (tensor.to(device) for tensor in data.tensors)
    images = _to_channels(images, config)
    _check_labels(labels, config)
    batch_size, mu = int(config["batch_size"]), float(config.get("proximal_mu", 0))
    if batch_size < 1:
        raise ValueError("batch_size is %d, but must be at least 1: set it in fl_config" % batch_size)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(config["learning_rate"]))
    start = [parameter.detach().clone() for parameter in model.parameters()] if mu else []
    model.train()
    total, correct, seen, steps = 0.0, 0, 0, 0
    for batch in _round(len(labels), batch_size, config):
        optimizer.zero_grad()
        logits = model(images[batch])
        loss = F.cross_entropy(logits, labels[batch])
        objective = loss
        for parameter, origin in zip(model.parameters(), start):  # FedProx: Li et al., 2020, arXiv:1812.06127
            objective = objective + mu / 2 * (parameter - origin).pow(2).sum()
        objective.backward()
        optimizer.step()
        total += float(loss.detach()) * len(batch)
        correct += int((logits.argmax(1) == labels[batch]).sum())
        seen += len(batch)
        steps += 1
    if not seen:
        raise ValueError("nothing was trained: there are %d images, and local_epochs is %s"
                         % (len(labels), config["local_epochs"]))  # fmt: skip
    measured = {"loss": total / seen, "accuracy": correct / seen}
    return dict(measured, steps=steps) if "steps" in config else measured


def _round(count, size, config):
    """Yield the batches of a round: local_epochs times all, or as many as the device is to do (fl_target_seconds)."""
    steps = int(config.get("steps", 0))  # 0 where it is not known yet how fast the device is
    epochs = itertools.count() if steps else range(int(config["local_epochs"]))
    batches = (batch for _ in epochs for batch in _batches(count, size))
    return itertools.islice(batches, steps or None)


def _batches(count, size):
    """Return `count` shuffled indices in batches of `size`; a last single one joins the batch before it.

    A single image trains, too (`size` 1): BatchNorm then has the mean over its pixels.
    """
    batches = list(torch.randperm(count).split(size))
    if size > 1 and len(batches) > 1 and len(batches[-1]) == 1:
        batches[-2:] = [torch.cat(batches[-2:])]
    return batches


def _to_channels(images, config):
    """Return `images` (N, channels, H, W) with the model's number of channels: grey ones as colour, colour as grey."""
    have, want = images.shape[1], int(config["channels"])
    if have == want:
        return images
    if have == 1:
        return images.expand(-1, want, -1, -1)
    if (have, want) == (3, 1):
        red, green, blue = images.unbind(1)
        return (0.299 * red + 0.587 * green + 0.114 * blue)[:, None]  # luma, ITU-R BT.601, as image libraries have it
    raise ValueError("the images have %d channels, but the model has %d: do the data and fl_config agree?"
                     % (have, want))  # fmt: skip


def _check_labels(labels, config):
    if not len(labels):
        raise ValueError("the data set has no images")
    for label in (int(labels.min()), int(labels.max())):
        if not 0 <= label < int(config["classes"]):
            raise ValueError("a label is %d, but the model has %s classes, from 0: do the data and fl_config agree?"
                             % (label, config["classes"]))  # fmt: skip


def evaluate(model, data, config):
    """Return the mean cross-entropy loss and the accuracy (0..1) of `model` on `data`."""
    device = next(model.parameters()).device
    images, labels = _to_channels(data.tensors[0], config), data.tensors[1]
    _check_labels(labels, config)
    model.eval()
    total, correct = 0.0, 0
    with torch.no_grad():
        for x, y in zip(images.split(100), labels.to(device).split(100)):
            logits = model(x.to(device, memory_format=torch.channels_last))  # a fifth faster without gradients
            total += float(F.cross_entropy(logits, y, reduction="sum"))
            correct += int((logits.argmax(1) == y).sum())
    return {"loss": total / len(data), "accuracy": correct / len(data)}
