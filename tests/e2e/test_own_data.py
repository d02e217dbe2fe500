"""Data of any kind that lies on the devices: a table, arrays, and a folder that only the task understands."""

import shutil

import numpy as np
import pyarrow
import pytest
from checkout import TWO_GROUPS, Checkout
from pyarrow import parquet

pytestmark = [pytest.mark.e2e, pytest.mark.long]
GROUPS = TWO_GROUPS
REGRESSION = """
import numpy as np
import torch
from torch.nn.functional import mse_loss

from flowerbed.dataset import arrays


def load_data(folder, config):
    return [part and pair(part) for part in arrays.read(folder, ["temperature", "wind", "power"])]


def pair(part):
    x = np.stack([part["temperature"], part["wind"]], axis=1)
    return torch.from_numpy(x).float(), torch.from_numpy(part["power"]).float()


def build_model(config):
    return torch.nn.Linear(2, 1)


def train(model, data, config):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(50):
        optimizer.zero_grad()
        mse_loss(model(data[0])[:, 0], data[1]).backward()
        optimizer.step()
    return evaluate(model, data, config)


def evaluate(model, data, config):
    with torch.no_grad():
        return {"loss": mse_loss(model(data[0])[:, 0], data[1])}
"""
SENTENCES = """

def load_data(folder, config):
    lines = [line.split("|") for line in open(folder + "/readings.txt")]
    part = np.array(lines, np.float32)
    return (torch.from_numpy(part[:, :2]), torch.from_numpy(part[:, 2])), None
"""


def readings(count: int, seed: int) -> dict[str, np.ndarray]:
    temperature, wind = np.random.default_rng(seed).random((2, count)).round(3)
    return {"temperature": temperature, "wind": wind, "power": (2 * temperature - wind).round(3)}


@pytest.fixture
def own(checkout: Checkout):
    """Return the variables of data on the devices, and the folder of a device's data, which is empty."""

    def folder(device: str):
        path = checkout.home(device) / "data"
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
        return path

    (checkout.folder / "sensor_task.py").write_text(REGRESSION)
    return {"dataset_name": "device", "fl_task": "sensor_task.py"}, folder


def test_a_regression_is_trained_on_a_table_and_on_arrays_once_they_can_be_read(checkout, own):
    variables, folder = own
    rows = list(zip(*readings(40, 1).values(), strict=True))
    table = folder("rpi-1") / "train.csv"
    table.write_text("temperature;power\n1,5;2\n")
    words = checkout.fail("deploy", **variables)
    assert "The trainer of rpi-1 is not ready: data/train.csv has no wind: it has temperature, power." in words
    assert "The trainer of jetson-4gb-1 is not ready: the data folder data is missing: deploy, or put this" in words

    lines = ["Zeit;temperature;wind;power", *(f"27.11.2026;{a};{b};{c}".replace(".", ",") for a, b, c in rows)]
    table.write_text("\n".join(lines).replace("27,11,", "27.11."))
    windy = folder("jetson-4gb-1") / "train.parquet"
    parquet.write_table(pyarrow.table(readings(60, 2)), windy)
    testset = checkout.folder / "testset"
    testset.mkdir()
    np.savez(testset / "heldout.npz", **readings(30, 3))
    variables["dataset_path"] = str(testset)
    checkout.play("deploy", **variables)
    checkout.check("regression", **variables)
    told = {event["device"]: event for event in checkout.events("regression", "device")}
    counts = [(told[device]["examples"], told[device]["heldout_examples"]) for device in checkout.devices]
    assert counts == [(36, 4), (54, 6)]
    checkout.run("regression", 2, **variables)
    losses = [event["loss"] for event in checkout.events("regression", "round")]
    assert losses[-1] < losses[0] / 2 < 0.1


def test_a_folder_that_only_the_task_understands_is_left_to_it(checkout, own):
    variables, folder = own
    (checkout.folder / "sensor_task.py").write_text(REGRESSION + SENTENCES)
    for seed, device in enumerate(checkout.devices):
        rows = zip(*readings(20, seed).values(), strict=True)
        (folder(device) / "readings.txt").write_text("".join(f"{a}|{b}|{c}\n" for a, b, c in rows))
    checkout.play("deploy", **variables)
    checkout.check("sentences", **variables)
    assert [event["examples"] for event in checkout.events("sentences", "device")] == [20, 20]
