"""An experiment's folder: what it records, refuses, and survives."""

import json

import numpy as np
import pytest

from disk import full_disk
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds import lock
from flowerbed.rounds.checkpoint import Checkpoint
from flowerbed.rounds.config import RunConfig, RunFailed
from flowerbed.rounds.experiment import Experiment

MODEL = {"weight": np.arange(6, dtype=np.float32).reshape(2, 3), "counter": np.array(3)}


def run(folder, **changes):
    content = {
        "experiment": "trial", "directory": str(folder), "rounds": 1, "link": "stream", "task": "task.py",
        "trainer": "", "weights": {"d0": "examples"}, "config": {"learning_rate": 0.001},
        "dataset": {"name": "digits", "alpha": 0.5},
    }  # fmt: skip
    return RunConfig.parse(content | changes)


def finished(number, accuracy=0.5):
    model = {name: array + number for name, array in MODEL.items()}
    events = [
        {"event": "device", "round": number, "device": "d0"},
        {"event": "round", "round": number, "accuracy": accuracy},
    ]
    return Checkpoint(number, model, {"m/weight": model["weight"]}, '{"m": "dict"}', events)


def events(folder, kind):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_an_experiment_goes_on_from_its_newest_checkpoint(tmp_path):
    experiment = Experiment(run(tmp_path))
    assert experiment.open(MODEL).round == 0
    for number in (1, 2):
        experiment.save(finished(number))
    found = Experiment(run(tmp_path)).open(MODEL)
    assert (found.round, found.memory_rest) == (2, '{"m": "dict"}')
    np.testing.assert_array_equal(found.model["weight"], MODEL["weight"] + 2)
    np.testing.assert_array_equal(found.memory["m/weight"], MODEL["weight"] + 2)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        "round-00001.safetensors", "round-00002.safetensors",
    ]  # fmt: skip


def test_best_and_last_model_are_kept_in_the_model_s_own_types(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    for number, accuracy in ((1, 0.4), (2, 0.9), (3, 0.6)):
        done = finished(number, accuracy)
        done.model["counter"] = np.array(2.6)  # a mean of counters
        experiment.save(done)
    load = pytest.importorskip("safetensors.numpy").load_file
    assert load(tmp_path / "model/last.safetensors")["counter"] == np.array(3)
    np.testing.assert_array_equal(load(tmp_path / "model/best.safetensors")["weight"], MODEL["weight"] + 2)
    assert checkpoints.newest(tmp_path / "checkpoints")[0].model["counter"] == 2.6


def test_a_damaged_checkpoint_is_named_and_an_older_one_used(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    for number in (1, 2):
        experiment.save(finished(number))
    newest = tmp_path / "checkpoints/round-00002.safetensors"
    newest.write_bytes(newest.read_bytes()[:100])
    assert Experiment(run(tmp_path)).open(MODEL).round == 1
    assert "round-00002.safetensors cannot be read" in events(tmp_path, "problem")[0]["message"]
    assert newest.exists()


@pytest.mark.parametrize(
    ("model", "changes", "difference"),
    [
        (MODEL, {"dataset": {"name": "digits", "alpha": 0.1}}, r"dataset.alpha was 0.5 and is now 0.1"),
        ({**MODEL, "weight": np.zeros((4, 3), np.float32)}, {}, r"model.weight was .*2, 3.* and is now .*4, 3"),
    ],
)
def test_another_model_or_data_set_is_refused_with_the_difference(tmp_path, model, changes, difference):
    Experiment(run(tmp_path)).open(MODEL)
    with pytest.raises(RunFailed, match=difference):
        Experiment(run(tmp_path, **changes)).open(model)


def test_other_settings_may_change_and_are_recorded(tmp_path):
    Experiment(run(tmp_path)).open(MODEL)
    Experiment(run(tmp_path, config={"learning_rate": 0.1}, rounds=7)).open(MODEL)
    [change] = events(tmp_path, "configuration")
    assert change["changes"] == {"config": [{"learning_rate": 0.001}, {"learning_rate": 0.1}]}


def test_what_a_crash_left_out_of_the_events_is_added(tmp_path):
    experiment = Experiment(run(tmp_path))
    experiment.open(MODEL)
    experiment.save(finished(1))
    checkpoints.save(tmp_path / "checkpoints", finished(2))  # and then the power failed, in the middle of a line
    with open(tmp_path / "metrics.jsonl", "a") as file:
        file.write('{"event": "ro')
    Experiment(run(tmp_path)).open(MODEL)
    whole = [line for line in (tmp_path / "metrics.jsonl").read_text().splitlines() if line.endswith("}")]
    assert [json.loads(line)["round"] for line in whole if '"event": "round"' in line] == [1, 2]


def test_a_full_disk_leaves_the_last_good_checkpoint(tmp_path):
    with full_disk(tmp_path, 300_000) as disk:
        experiment = Experiment(run(disk))
        experiment.open(MODEL)
        experiment.save(finished(1))
        large = finished(2)
        large.model["weight"] = np.zeros((1000, 1000), np.float32)
        with pytest.raises(RunFailed, match="round 2 could not be saved .*No space left.* round 1 is whole: make room"):
            experiment.save(large)
        assert [path.name for path in (disk / "checkpoints").iterdir()] == ["round-00001.safetensors"]
        assert Experiment(run(disk)).open(MODEL).round == 1


def test_an_experiment_has_one_run_at_a_time(tmp_path):
    with lock.hold(tmp_path):
        assert lock.held(tmp_path)
        with pytest.raises(RunFailed, match="another run of experiment"), lock.hold(tmp_path):
            pass
    assert not lock.held(tmp_path)
