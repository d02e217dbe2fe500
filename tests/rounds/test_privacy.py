"""Rounds with fl_privacy on real processes: what the model is made of, and what is counted."""

import json

import numpy as np
import pytest

import fleet
from flowerbed import privacy, tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds import private

COUNTERS = {"features.1.num_batches_tracked", "features.5.num_batches_tracked"}


@pytest.fixture(scope="module")
def trio(tmp_path_factory):
    trio = fleet.Fleet(tmp_path_factory.mktemp("p"), [40, 60, 80])
    yield trio
    trio.stop()


def model(trio, experiment):
    folder = trio.folder / "runs" / experiment / "checkpoints"
    return checkpoints.load(checkpoints.path_of(folder, 1)).model


@pytest.mark.parametrize("where", ["device", "server"])
def test_the_model_is_the_mean_of_clipped_updates(trio, where):
    """Without noise it is exactly so; the counters of BatchNorm stay with the devices."""
    given = {"clip": 0.05, "noise": 0, "where": where}
    assert trio.run(where, privacy=given, weights=dict.fromkeys(trio.devices, "uniform")) == (0, "round 1 is done")
    packed = trio.trainer("server").call("initial", b"", trio.task_config(0))[0]
    start = tensors.unpack(packed)
    names = [name for name in start if name not in COUNTERS]
    updates = [
        tensors.unpack(trio.trainer(device).call("train", packed, trio.task_config(1))[0]) for device in trio.devices
    ]
    assert min(privacy.length(start, update, names) for update in updates) > 1
    clipped = [privacy.shortened(start, update, names, 0.05)[0] for update in updates]
    for name, got in model(trio, where).items():
        wanted = sum(update[name].astype(np.float64) for update in clipped) / 3
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    lengths = [event.get("update_length") for event in trio.events(where, "device")]
    assert lengths == ([None] * 3 if where == "device" else [pytest.approx(
        privacy.length(start, update, names), rel=1e-3) for update in updates])  # fmt: skip
    [done] = trio.events(where, "round")
    assert done["privacy"] == {**given, "delta": 1e-5, "epsilon": None}


@pytest.mark.parametrize("where", ["device", "server"])
def test_what_is_spent_is_shown_and_an_experiment_goes_on_counting(trio, where):
    name, given = f"counts-{where}", {"clip": 1, "noise": 0.2, "where": where}
    assert trio.run(name, rounds=2, privacy=given)[0] == 0
    assert trio.run(name, privacy={**given, "noise": 0.4})[0] == 0
    half = 2 if where == "device" else 1
    counted = {0.2 / half: 2, 0.4 / half: 1}
    spent = [event["privacy"]["epsilon"] for event in trio.events(name, "round")]
    assert spent == sorted(spent) and spent[2] == pytest.approx(private.epsilon(counted, 1e-5))
    kept = json.loads((trio.folder / "runs" / name / private.FILE).read_text())
    assert kept == {"answers": dict.fromkeys(trio.devices, {str(key): count for key, count in counted.items()})}
    said = [event["message"].partition(" so far")[0].rpartition("is ")[2] for event in trio.events(name, "privacy")]
    assert said == ["0", f"{spent[1]:.3g}"]
    for other, said in (
        ({}, "without fl_privacy"),
        ({**given, "where": {"device": "server"}.get(where, "device")}, ""),
    ):
        code, sentence = trio.run(name, privacy=other)
        assert code == 1 and f"experiment {name} began with fl_privacy where {where}, but this run is" in sentence
        assert said in sentence and sentence.endswith("or change fl_privacy back")


def test_an_experiment_without_privacy_goes_on_without(trio):
    assert trio.run("open")[0] == 0
    assert "privacy" not in trio.events("open", "round")[0]
    code, sentence = trio.run("open", privacy={"clip": 1, "noise": 1})
    assert code == 1 and "began without fl_privacy, but this run is with fl_privacy where device" in sentence


@pytest.mark.parametrize(
    ("given", "strategy", "text"),
    [
        ({"clip": 1}, "FedAvg", "fl_privacy lacks noise: give clip and noise"),
        ({"clip": 1, "noise": 1, "where": "server"}, "FedMedian", "fl_privacy has where server, which blurs"),
    ],
)
def test_nothing_is_trained_with_a_value_that_makes_no_sense(trio, given, strategy, text):
    code, sentence = trio.run("nonsense", privacy=given, strategy=strategy)
    assert code == 1 and sentence.startswith(text)
    assert trio.events("nonsense", "run-started") == []
