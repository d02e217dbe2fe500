"""What a trainer keeps for one experiment, and what it makes anew for another."""

import json
import os
import sys
import warnings

import numpy
import pytest
import torch

from flowerbed.trainer import keep
from flowerbed.trainer.jobs import Cancelled
from flowerbed.trainer.surroundings import set_torch
from flowerbed.trainer.worker import Refused, Worker

TASK = """
import numpy, random, torch
seen = []
def build_model(config): return torch.nn.Linear(1, 1)
def load_data(folder, config): return [numpy.random.rand(), random.random(), float(torch.rand(1))], [3]
def train(model, data, config):
    seen.append((id(model), id(data)))
    return {"loss": len(set(seen)), "calls": len(seen)}
evaluate = train
"""
FIRST, SECOND = {"experiment_id": "1"}, {"experiment_id": "2"}


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    worker.warm_up()
    yield worker
    worker._surroundings.restore()
    set_torch(torch, worker.threads)


def calls(worker, state, config):
    worker.check(config)
    return worker.train(state, config)[1]["metrics"]["calls"]


def test_another_experiment_or_configuration_gets_a_fresh_module(worker):
    state = worker.initial(b"", FIRST)[0]
    module, data = worker._task, worker.train_data
    assert [calls(worker, state, {**FIRST, "round": number, "rounds": number}) for number in range(3)] == [1, 2, 3]
    assert worker._task is module
    assert [calls(worker, state, SECOND), calls(worker, state, SECOND)] == [1, 2]
    assert worker.train_data is not data and worker.train_data == data, "random numbers are drawn again"
    assert calls(worker, state, FIRST) == 1
    assert calls(worker, state, {**FIRST, "learning_rate": 0.1}) == 1, "its optimiser would be that of another model"
    assert calls(worker, state, {**FIRST, "seed": 1}) == 1, "load_data has the seed, too"
    assert worker.train_data != data


def facts():
    """Return what a task may change for a whole process."""
    return {
        "type": torch.get_default_dtype(), "gradients": torch.is_grad_enabled(), "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(), "benchmark": torch.backends.cudnn.benchmark,
        "anomaly": torch.is_anomaly_enabled(), "precision": torch.get_float32_matmul_precision(),
        "device": torch.ones(1).device.type, "errors": numpy.geterr(), "filters": len(warnings.filters),
        "folder": os.getcwd(), "path": list(sys.path), "variable": os.environ.get("OF_A_TASK"),
    }  # fmt: skip


def test_what_a_task_sets_for_the_whole_process_ends_with_its_experiment(worker, tmp_path):
    change = """
def train(model, data, config):
    import os, sys, warnings
    torch.set_default_dtype(torch.float64); torch.set_grad_enabled(False); torch.set_num_threads(worker_threads + 1)
    torch.use_deterministic_algorithms(True); torch.backends.cudnn.benchmark = True
    torch.autograd.set_detect_anomaly(True); torch.set_float32_matmul_precision("medium")
    torch.set_default_device("meta"); numpy.seterr(all="raise"); warnings.simplefilter("error")
    os.chdir("/"); sys.path.insert(0, "/tmp/of-a-task"); os.environ["OF_A_TASK"] = "1"
    return {"loss": 0}
"""
    (tmp_path / "task.py").write_text(TASK + f"worker_threads = {worker.threads}" + change)
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    state = worker.initial(b"", FIRST)[0]
    before = facts()
    assert before["type"] is torch.float32 and before["device"] == "cpu" and before["variable"] is None
    worker.train(state, FIRST)
    torch.set_default_device(None)
    changed = facts()
    assert {name for name in before if before[name] != changed[name]} == set(before) - {"device"}
    torch.set_default_device("meta")
    assert b'"F64"' not in worker.initial(b"", SECOND)[0]
    assert facts() == before


TELLING = """
import json, os, torch
told = {}
def note(where, config):
    told[where] = {name: value for name, value in config.items() if name != "state"}
    told["kept"] = sorted(os.listdir(config["state"]))
    with open(os.path.join(config["state"], where), "w") as file:
        json.dump(told, file)
def build_model(config): note("build_model", config); return torch.nn.Linear(1, 1)
def load_data(folder, config): note("load_data", config); return [1], [1]
def train(model, data, config): note("train", config); return {"loss": len(told["kept"])}
def evaluate(model, data, config): note("evaluate", config); return {"loss": len(told["kept"])}
"""
RUN = {
    "experiment": "e",
    "experiment_id": "1",
    "round": 1,
    "rounds": 3,
    "seed": 7,
    "channels": 1,
    "classes": 2,
    "own": 5,
}


@pytest.fixture
def teller(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(keep, "FOLDER", "state")
    (tmp_path / "task.py").write_text(TELLING)
    config = {"name": "d0", "task": "task.py", "data": ".", "options": {"option": 1}, "config": "task.json"}
    (tmp_path / "task.json").write_text('{"own": 4, "seed": 7}')
    return Worker(config)


def test_all_functions_of_a_task_are_told_the_same(teller):
    teller.warm_up()
    deployed = {"option": 1, "own": 4, "seed": 7, "experiment": "", "round": 0, "rounds": 0, "device": "d0"}
    assert teller.ready and teller._task.told["load_data"] == deployed
    teller.train(teller.initial(b"", {**RUN, "round": 0})[0], RUN)
    teller.evaluate(teller.initial(b"", {**RUN, "round": 0})[0], RUN)
    told = teller._task.told
    assert told["train"] == told["evaluate"] == {**RUN, "option": 1, "device": "d0"}
    assert told["load_data"] == told["build_model"] == {**RUN, "option": 1, "device": "d0", "round": 0}


def test_a_task_s_state_lasts_over_rounds_and_restarts_and_is_another_experiment_s_own(teller, tmp_path):
    state = teller.initial(b"", {**RUN, "round": 0})[0]
    assert [teller.train(state, {**RUN, "round": number})[1]["metrics"]["loss"] for number in (1, 2)] == [2, 3]
    again = Worker(teller.config)
    again.warm_up()
    assert again._task.told["kept"] == [], "what is read at a deployment has a state of its own"
    assert again.train(state, {**RUN, "round": 3})[1]["metrics"]["loss"] == 3
    other = {**RUN, "experiment_id": "2"}
    again.train(state, other)
    assert json.loads((tmp_path / "state/2/load_data").read_text())["kept"] == []
    assert again.train(state, {**RUN, "round": 4})[1]["metrics"]["loss"] == 3
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == ["1", "2", "deployment"]


def test_old_states_go_and_empty_ones_do(teller, tmp_path):
    for number in range(25):
        folder = tmp_path / "state" / f"old-{number}"
        folder.mkdir(parents=True)
        if number:
            (folder / "kept").touch()
        os.utime(folder, (number, number))
    (tmp_path / "state/a file").touch()
    teller.initial(b"", RUN)
    left = {path.name for path in (tmp_path / "state").iterdir()}
    assert left == {"1", "a file", *(f"old-{number}" for number in range(6, 25))}


def test_a_state_that_cannot_be_kept_is_a_sentence(teller, tmp_path):
    (tmp_path / "state").write_text("a file")
    with pytest.raises(Refused, match=r"d0 cannot keep a task's state in .*/state \(.*\): make room there, or give"):
        teller.initial(b"", RUN)
    teller.warm_up()
    assert teller.problem.startswith("d0 cannot keep a task's state in ")
    (tmp_path / "state").unlink()
    with pytest.raises(Refused, match="the experiment's id is none"):
        teller.initial(b"", {**RUN, "experiment_id": "../up"})


def test_a_module_that_cannot_be_had_anew_is_a_sentence(worker, tmp_path):
    state = worker.initial(b"", FIRST)[0]
    (tmp_path / "task.py").write_text(TASK + "seen.append(0)\n")
    with pytest.raises(Refused, match="the code of d0 has changed since its trainer started: run deploy.yml"):
        worker.train(state, SECOND)
    assert calls(worker, state, FIRST) == 1, "an experiment that was begun goes on"
    (tmp_path / "task.py").unlink()
    with pytest.raises(Refused, match="the trainer of d0 is not usable: the task file .* is not there"):
        worker.train(state, SECOND)
    health = worker.health(False)
    assert not health["ready"] and "is not there" in health["problem"]
    (tmp_path / "task.py").write_text(TASK)
    worker.problem = None
    worker.warm_up()
    assert calls(worker, state, SECOND) == 1


def test_classes_that_nobody_has_compared_are_not_trained_on(tmp_path):
    (tmp_path / "task.py").write_text(
        TASK + "class Data(list): ...\n"
        "def load_data(folder, config):\n"
        "    Data.classes = open(folder + '/classes.txt').read().split()\n"
        "    return Data([1]), None\n"
    )
    (tmp_path / "classes.txt").write_text("cat dog")
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    worker.warm_up()
    state = worker.initial(b"", FIRST)[0]
    (tmp_path / "classes.txt").write_text("dog")
    with pytest.raises(Refused, match=r"the data of d0 has other classes than it told, \['dog'\]: run again"):
        worker.train(state, SECOND)
    assert worker.health(False)["classes"] == ["dog"]
    assert calls(worker, state, SECOND) == 1


def test_what_was_cancelled_while_it_was_loaded_is_loaded_again(worker, tmp_path):
    state = worker.initial(b"", FIRST)[0]
    load_data = worker._load_data

    def cancelled(told):
        raise Cancelled

    worker._load_data = cancelled
    with pytest.raises(Cancelled):
        worker.train(state, SECOND)
    worker._load_data = load_data
    assert not worker.ready and worker.try_again() and not worker.try_again()
    assert calls(worker, state, FIRST) == 1
    assert worker.ready
