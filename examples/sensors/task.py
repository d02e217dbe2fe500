"""Calibrate cheap sensors: from what a gas sensor, a thermometer and a hygrometer read, tell the NO2 in the air."""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import mse_loss

from flowerbed.dataset import arrays

INPUTS = ["signal", "temperature", "humidity"]  # mV, °C, %
MIDDLE, SPREAD = (300.0, 15.0, 60.0), (100.0, 10.0, 20.0)  # of each, roughly: the same on all devices
TARGET = "no2"  # µg/m³, from a reference station
TYPICAL = 30.0


class Calibration(nn.Module):
    """A small net from readings (N, 3) in their units to NO2 (N) in µg/m³."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, x):
        """Scale readings to about -1 to 1, and the net's output to a usual concentration."""
        return TYPICAL * self.net((x - x.new_tensor(MIDDLE)) / x.new_tensor(SPREAD))[:, 0]


def build_model(config):
    """Return a new model: the data set does not tell its shape."""
    return Calibration()


def load_data(folder, config):
    """Return (train, held-out) readings from `folder`, each a pair of tensors, or None; the last tenth is held out."""
    splits = arrays.read(folder, INPUTS + [TARGET], shuffle=False)
    return tuple(split and _pair(split) for split in splits)


def _pair(split):
    rows = np.stack([split[name] for name in INPUTS + [TARGET]], axis=1)
    rows = torch.from_numpy(rows[~np.isnan(rows).any(axis=1)]).float()  # an empty cell is NaN: leave such rows out
    return rows[:, :-1].contiguous(), rows[:, -1].contiguous()


def train(model, data, config):
    """Train `model` in place; return what it measures afterwards."""
    device = next(model.parameters()).device
    x, y = (tensor.to(device) for tensor in data)
    optimizer = torch.optim.Adam(model.parameters(), lr=float(config["learning_rate"]))
    model.train()
    for _ in range(int(config["local_epochs"])):
        for batch in torch.randperm(len(y)).split(int(config["batch_size"])):
            optimizer.zero_grad()
            mse_loss(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return evaluate(model, data, config)


def evaluate(model, data, config):
    """Return the mean squared error (loss), the mean absolute error in µg/m³ (mae), and the mean error (bias)."""
    device = next(model.parameters()).device
    x, y = (tensor.to(device) for tensor in data)
    model.eval()
    with torch.no_grad():
        error = model(x) - y
    return {"loss": error.pow(2).mean(), "mae": error.abs().mean(), "bias": error.mean()}
