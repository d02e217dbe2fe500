"""What a trainer keeps for one experiment, and what it makes anew for another."""

import pytest
import torch

from flowerbed.trainer.jobs import Cancelled
from flowerbed.trainer.worker import Refused, Worker

TASK = """
import numpy, random, torch
seen = []
def build_model(config): return torch.nn.Linear(1, 1)
def load_data(folder, config): return [numpy.random.rand(), random.random(), float(torch.rand(1))], [3]
def train(model, data, config):
    seen.append((id(model), id(data)))
    torch.set_default_dtype(torch.float64)
    torch.set_grad_enabled(False)
    torch.backends.cudnn.benchmark = True
    return {"loss": len(set(seen)), "accuracy": 0, "calls": len(seen)}
evaluate = train
"""
FIRST, SECOND = {"experiment_id": "1"}, {"experiment_id": "2"}


@pytest.fixture
def worker(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path)})
    worker.warm_up()
    yield worker
    worker._set_torch()


def calls(worker, state, config):
    worker.check(config)
    return worker.train(state, config)[1]["calls"]


def test_another_experiment_or_configuration_gets_a_fresh_module(worker):
    state = worker.initial(b"", FIRST)[0]
    module, data = worker._task, worker.train_data
    assert [calls(worker, state, {**FIRST, "round": number, "seed": number}) for number in range(3)] == [1, 2, 3]
    assert worker._task is module, "the first experiment after the start has one already"
    assert [calls(worker, state, SECOND), calls(worker, state, SECOND)] == [1, 2]
    assert worker.train_data is not data and worker.train_data == data, "random numbers are drawn again"
    assert calls(worker, state, FIRST) == 1
    assert calls(worker, state, {**FIRST, "learning_rate": 0.1}) == 1, "its optimiser would be that of another model"


def test_a_task_s_settings_of_torch_end_with_its_experiment(worker):
    state = worker.initial(b"", FIRST)[0]
    worker.train(state, FIRST)
    assert torch.get_default_dtype() is torch.float64
    assert torch.backends.cudnn.benchmark
    assert b'"F64"' not in worker.initial(b"", SECOND)[0] and torch.is_grad_enabled()
    assert torch.backends.cudnn.deterministic and not torch.backends.cudnn.benchmark


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

    def cancelled():
        raise Cancelled

    worker._load_data = cancelled
    with pytest.raises(Cancelled):
        worker.train(state, SECOND)
    worker._load_data = load_data
    assert not worker.ready and worker.try_again() and not worker.try_again()
    assert calls(worker, state, FIRST) == 1
    assert worker.ready
