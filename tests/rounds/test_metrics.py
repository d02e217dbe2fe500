"""Rounds with a task that measures what it likes: a regression without an accuracy, on a fleet of real processes."""

import json

import pytest

import fleet
from flowerbed import tensors

# A line through noise: the error of its slope and of its offset are a list. The file `measures` in the trainer's folder
# has what else it returns.
TASK = """
import json, os
import numpy as np
import torch


def build_model(config):
    return torch.nn.Linear(1, 1)


def load_data(folder, config):
    data = []
    for split in ("train", "heldout"):
        path = os.path.join(folder, split + ".npz")
        x = torch.from_numpy(np.load(path)["x"]).float().reshape(-1, 64)[:, :1] if os.path.exists(path) else None
        data.append(None if x is None else torch.utils.data.TensorDataset(x / 255, 3 * x / 255 + 1))
    return data


def train(model, data, config):
    x, y = data.tensors
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        loss = ((model(x) - y) ** 2).mean()
        loss.backward()
        optimizer.step()
    return measured(model, data, config)


def evaluate(model, data, config):
    return measured(model, data, config)


def measured(model, data, config):
    x, y = data.tensors
    with torch.no_grad():
        error = model(x) - y
    off = [float(model.weight) - 3, float(model.bias) - 1]
    found = {"loss": float((error ** 2).mean()), "mae": float(error.abs().mean()), "off": off}
    if os.path.exists("measures"):
        with open("measures") as file:
            found.update(json.load(file))
    if found.pop("only_in", config["round"]) != config["round"]:
        found["accuracy"] = None
    if found.pop("rename_in", None) == config["round"]:
        found["MAE"] = found.pop("mae")
    return {name: value for name, value in found.items() if value is not None}
"""
SERVER = "server"


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    folder = tmp_path_factory.mktemp("g")
    (folder / "task.py").write_text(TASK)
    pair = fleet.Fleet(folder, [40, 120], folder / "task.py")
    yield pair
    pair.stop()


@pytest.fixture
def measures(pair):
    """Have what a host's task returns be otherwise: None takes a metric away."""

    def change(host, **what):
        (pair.folder / host / "measures").write_text(json.dumps(what))

    yield change
    for host in (SERVER, *pair.devices):
        (pair.folder / host / "measures").unlink(missing_ok=True)


def about(pair, experiment, name):
    return tensors.metadata((pair.folder / f"runs/{experiment}/model/{name}.safetensors").read_bytes())


def problems(pair, experiment):
    return [event["message"] for event in pair.events(experiment, "problem")]


def test_what_a_task_measures_is_recorded_by_device_and_as_a_mean_by_p_m(pair):
    assert pair.run("line", rounds=3) == (0, "rounds 1 to 3 are done")
    assert problems(pair, "line") == []
    for done in pair.events("line", "round"):
        devices = [event for event in pair.events("line", "device") if event["round"] == done["round"]]
        for split, metrics, weight in (
            ("heldout", "heldout_metrics", "heldout_weight"),
            ("train", "metrics", "weight"),
        ):
            for name in ("loss", "mae"):
                mean = sum(event[weight] * event[metrics][name] for event in devices)
                assert done[f"{split}_metrics"][name] == pytest.approx(mean)
            off = [sum(event[weight] * event[metrics]["off"][place] for event in devices) for place in (0, 1)]
            assert done[f"{split}_metrics"]["off"] == pytest.approx(off)
        assert [event["weight"] for event in devices] == [0.25, 0.75]
        assert done["metrics"].keys() == {"loss", "mae", "off"} and done["accuracy"] is None
        assert "accuracy" not in devices[0] and devices[0]["loss"] == devices[0]["metrics"]["loss"]
    assert done["metric"] == "loss" and done["loss"] == done["metrics"]["loss"]


def test_the_best_model_has_the_lowest_loss_where_there_is_no_accuracy(pair, measures):
    pair.run("lowest")
    measures(SERVER, loss=100)
    pair.run("lowest")
    assert about(pair, "lowest", "last")["round"] == "2" and json.loads(about(pair, "lowest", "last")["value"]) == 100
    best = about(pair, "lowest", "best")
    assert (best["round"], best["metric"], best["better"], best["chosen_by"]) == ("1", "loss", "lower", "test")
    assert len(list((pair.folder / "runs/lowest/checkpoints").iterdir())) == 2


def test_a_metric_by_name_chooses_the_best_model_and_another_one_says_so(pair, measures):
    for score in (1, 3, 2):
        measures(SERVER, f1=score)
        assert pair.run("f1", metric="f1", metric_better="higher")[0] == 0
    best = about(pair, "f1", "best")
    assert (best["round"], best["metric"], best["better"], json.loads(best["value"])) == ("2", "f1", "higher", 3)
    assert pair.run("f1", metric="mae", metric_better="lower")[0] == 0
    assert about(pair, "f1", "best")["round"] == "4" and about(pair, "f1", "best")["metric"] == "mae"
    [sentence] = problems(pair, "f1")
    assert sentence == (
        "the best model so far, of round 2, was chosen by f1 (higher is better): from round 4 on mae chooses (lower is "
        "better), and begins anew"
    )


def test_a_metric_that_nobody_measures_or_that_is_a_list_chooses_none_and_that_is_said(pair):
    assert pair.run("none", metric="f1", metric_better="higher", show=["f1", "mae", "rmse"], rounds=2)[0] == 0
    assert not (pair.folder / "runs/none/model/best.safetensors").exists()
    assert problems(pair, "none") == [
        "fl_metric is f1, which is not among what is measured (loss, mae, off) in round 1: no best model is chosen",
        "fl_show is f1, which is not among what is measured (loss, mae, off) in round 1",
        "fl_show is rmse, which is not among what is measured (loss, mae, off) in round 1",
    ]
    assert pair.run("list", metric="off", metric_better="lower")[0] == 0
    assert problems(pair, "list") == ["fl_metric is off, which is a list in round 1: no best model is chosen"]


def test_one_metric_leads_a_run_whatever_a_later_round_lacks(pair, measures):
    for host in (SERVER, *pair.devices):
        measures(host, accuracy=0.5, only_in=1)
    assert pair.run("led", rounds=2)[0] == 0
    assert [event["metric"] for event in pair.events("led", "round")] == ["accuracy", "accuracy"]
    assert about(pair, "led", "best")["round"] == "1"
    measures(SERVER, accuracy=[0.5, 0.25])
    assert pair.run("by class")[0] == 0
    assert pair.events("by class", "round")[0]["metric"] == "loss"


def test_what_one_device_does_not_measure_has_no_mean_and_that_is_said_once(pair, measures):
    measures("d1", mae=None, off=[1, 2, 3])
    assert pair.run("lacks", rounds=2)[0] == 0
    for done in pair.events("lacks", "round"):
        assert done["train_metrics"].keys() == done["heldout_metrics"].keys() == {"loss"}
        assert done["metrics"].keys() == {"loss", "mae", "off"}
    assert problems(pair, "lacks") == [
        "mae of train has no mean from round 1 on: d1 did not measure it",
        "off of train has no mean from round 1 on: it is of different lengths",
        "mae of evaluate has no mean from round 1 on: d1 did not measure it",
        "off of evaluate has no mean from round 1 on: it is of different lengths",
    ]


def test_a_metric_that_changes_its_name_between_rounds_is_told(pair, measures):
    for device in pair.devices:
        measures(device, rename_in=2)
    assert pair.run("renamed", rounds=3)[0] == 0
    assert problems(pair, "renamed") == [
        f"{job} of the task measures other things from round {number} on: {what}"
        for number, what in ((2, "MAE came and mae went"), (3, "mae came and MAE went"))
        for job in ("train", "evaluate")
    ]
    assert "MAE" in pair.events("renamed", "round")[1]["heldout_metrics"]
