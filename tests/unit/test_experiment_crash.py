"""What a crash may leave of metrics.jsonl, and that nothing recorded afterwards is lost."""

import json
import math

import numpy as np
import pytest

from flowerbed import tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds.checkpoint import Checkpoint
from flowerbed.rounds.config import RunConfig
from flowerbed.rounds.experiment import Experiment

MODEL = {"weight": np.arange(4, dtype=np.float32)}


def experiment(folder, **changes) -> Experiment:
    return Experiment(RunConfig.parse({
        "experiment": "trial", "directory": str(folder), "rounds": 1, "link": "stream", "task": "task.py",
        "trainer": "", "weights": {"d0": "examples", "d1": "examples"}, "config": {"learning_rate": 0.1},
    } | changes))  # fmt: skip


def finished(number: int, **result) -> Checkpoint:
    devices = [{"event": "device", "round": number, "device": name} for name in ("d0", "d1")]
    return Checkpoint(number, MODEL, events=[*devices, {"event": "round", "round": number, "accuracy": 0.5, **result}])


def events(folder, kind: str) -> list[dict]:
    found = []
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return [event for event in found if event["event"] == kind]


def cut(folder, text: str) -> None:
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(text)


def test_a_changed_configuration_is_recorded_after_a_line_that_was_cut_short(tmp_path):
    first = experiment(tmp_path)
    first.open(MODEL)
    first.save(finished(1))
    cut(tmp_path, '{"time": 1.5, "event": "probl')
    experiment(tmp_path, config={"learning_rate": 0.2}).open(MODEL)
    assert len(events(tmp_path, "configuration")) == 1


def test_a_line_cut_short_before_the_first_checkpoint_spoils_none_after_it(tmp_path):
    experiment(tmp_path).open(MODEL)
    cut(tmp_path, '{"time": 1.5, "event": "run-sta')
    second = experiment(tmp_path)
    second.open(MODEL)
    second.events.record({"event": "run-started"})
    assert len(events(tmp_path, "run-started")) == 1


def test_events_that_were_half_written_are_not_there_twice(tmp_path):
    first = experiment(tmp_path)
    first.open(MODEL)
    checkpoints.save(first.checkpoints, finished(1))
    first.events.record(finished(1).events[0])
    cut(tmp_path, '{"time": 1.5, "event": "dev')
    experiment(tmp_path).open(MODEL)
    assert sorted(event["device"] for event in events(tmp_path, "device")) == ["d0", "d1"]
    assert [event["round"] for event in events(tmp_path, "round")] == [1]


@pytest.mark.parametrize("line", ["[]", "5", "null", '"text"'])
def test_a_line_that_is_no_event_is_passed_over(tmp_path, line):
    first = experiment(tmp_path)
    first.open(MODEL)
    first.save(finished(1))
    cut(tmp_path, line + "\n")
    assert experiment(tmp_path).open(MODEL).round == 1


def test_a_crash_after_the_checkpoint_is_made_good_to_the_models_too(tmp_path):
    first = experiment(tmp_path)
    first.open(MODEL)
    checkpoints.save(first.checkpoints, finished(1))
    experiment(tmp_path).open(MODEL)
    for name in ("last", "best"):
        assert tensors.metadata((tmp_path / f"model/{name}.safetensors").read_bytes())["round"] == "1"


@pytest.mark.parametrize("first", [math.nan, None])
def test_the_best_model_is_one_whose_accuracy_is_a_number(tmp_path, first):
    trial = experiment(tmp_path)
    trial.open(MODEL)
    for number, accuracy in ((1, first), (2, 0.5), (3, 0.4)):
        trial.save(finished(number, accuracy=accuracy))
    assert tensors.metadata((tmp_path / "model/best.safetensors").read_bytes())["round"] == "2"


def test_what_is_recorded_is_json_that_any_reader_takes(tmp_path):
    trial = experiment(tmp_path)
    trial.open(MODEL)
    trial.save(finished(1, loss=math.nan, heldout_loss=math.inf))

    def refuse(constant):
        raise AssertionError(constant)

    for line in (tmp_path / "metrics.jsonl").read_text().splitlines():
        json.loads(line, parse_constant=refuse)
