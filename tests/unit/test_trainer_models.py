"""Which models can travel, and what is said of those that cannot."""

import json

import numpy as np
import pytest

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed import tensors
from flowerbed.rounds.strategy import Aggregation
from flowerbed.trainer.worker import Refused, Worker

TASK = """
import torch
from torch import nn
class Extra(nn.Linear):
    def get_extra_state(self): return {"seen": 3}
class Hidden(nn.Linear):
    def get_extra_state(self): return torch.ones(2)
def model():
    a = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    %s
    return a
def build_model(config): return model()
def load_data(folder, config): return [1], [1]
def train(model, data, config):
    %s
    return {"loss": 0, "accuracy": 0}
evaluate = train
"""


def worker(folder, build="pass", train="pass"):
    (folder / "task.py").write_text(TASK % (build, train))
    worker = Worker({"name": "d0", "task": str(folder / "task.py"), "data": str(folder)})
    worker.warm_up()
    assert worker.ready, worker.problem
    return worker


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        ("a = a.to(torch.bfloat16)", "tensor 0.weight of the task's model has type bfloat16, which can be neither"),
        ("a.register_buffer('b', torch.ones(2, dtype=torch.complex64))", "tensor b of .* has type complex64"),
        ("a.register_buffer('b', torch.eye(3).to_sparse())", "tensor b of the task's model has type sparse_coo"),
        ("a.add_module('e', Extra(1, 1))", "e._extra_state in the state of the task's model is a dict: only tensors"),
        ("a.add_module('h', Hidden(1, 1))", "tensor h._extra_state in .* is neither a parameter nor a buffer"),
        ("a.register_buffer('b', torch.zeros(1, 3).expand(2, 3))", r"tensor b of .* is expanded: .*append .clone\(\)"),
        ("a.register_buffer('b', a[0].weight.detach()[1])", "tensors 0.weight and b of the task's model share memory"),
        ("a[1].weight = nn.Parameter(a[0].weight.detach())", "tensors 0.weight and 1.weight of .* share memory"),
        ("a.add_module('lazy', nn.LazyLinear(3))", "tensor lazy.weight of the task's model has no shape yet"),
        ("a = 5", "build_model of the task must return a torch.nn.Module, not int"),
    ],
)
def test_a_model_that_cannot_travel_is_told_when_it_is_made(tmp_path, build, sentence):
    with pytest.raises(Refused, match=sentence):
        worker(tmp_path, build).initial(b"", {})


@pytest.mark.parametrize(
    "build",
    [
        "a[1].weight = a[0].weight",
        "a.register_buffer('mask', torch.full((4, 4), float('-inf')).triu(1))",
        "both = torch.rand(4, 2); a.register_buffer('b', both[:, 0]); a.register_buffer('c', both[:, 1])",
        "a.register_buffer('b', torch.rand(3, 2).t()); a.register_buffer('none', torch.empty(0)); a.half()",
        "a.register_buffer('b', torch.tensor(3)); a.register_buffer('c', torch.ones(2, dtype=torch.bool))",
        "a.register_buffer('b', a[0].weight.detach()[1], persistent=False)",
        "a = nn.utils.spectral_norm(nn.Linear(2, 2))",
        "a.add_module('lazy', nn.LazyLinear(3)); a(torch.ones(1, 2))",
        "a = torch.jit.script(a)",
    ],
)
def test_other_models_come_back_as_they_were_sent(tmp_path, build):
    sender = worker(tmp_path, build)
    packed, about = sender.initial(b"", {})
    assert sender.train(packed, {})[0] == packed
    learnt = {name for name, _ in sender._model.named_parameters(remove_duplicate=False)}
    assert set(tensors.unpack(packed)) - learnt == set(eval(about["buffers"]))


@pytest.mark.parametrize(
    ("train", "sentence"),
    [
        ("model[0].bias.data = torch.ones(5)", r"changed the shape of tensor 0.bias from \(2,\) to \(5,\)"),
        ("model.register_buffer('b', torch.ones(1))", "train of the task added tensors to the model, .*: b"),
        ("model.to(torch.bfloat16)", "tensor 0.weight of the task's model has type bfloat16"),
    ],
)
def test_a_task_that_makes_another_model_of_it_is_told_and_gets_a_whole_one(tmp_path, train, sentence):
    device = worker(tmp_path, train=f"if config['round'] == 1: {train}")
    state = device.initial(b"", {})[0]
    with pytest.raises(Refused, match=sentence):
        device.train(state, {"round": 1})
    assert device.train(state, {"round": 2})[0] == state


@pytest.mark.parametrize("strategy", ["FedAvg", "FedAdam", "FedAvgM", "QFedAvg"])
def test_tied_weights_stay_one_whatever_the_strategy(tmp_path, strategy):
    device = worker(
        tmp_path,
        "a[1].weight = a[0].weight; a.append(nn.BatchNorm1d(2))",
        "model.train(); model(torch.rand(4, 2)).pow(3).sum().backward()\n"
        "    with torch.no_grad(): [p.sub_(0.01 * p.grad) for p in model.parameters()]",
    )
    packed, about = device.initial(b"", {})
    state, buffers = tensors.unpack(packed), set(eval(about["buffers"]))
    assert buffers == {"2.running_mean", "2.running_var", "2.num_batches_tracked"}
    assert json.loads(about["tied"]) == [["0.weight", "1.weight"]]
    arguments = {"client_learning_rate": 0.1} if strategy == "QFedAvg" else {}
    aggregation = Aggregation(strategy, arguments, buffers)
    before = state["0.weight"]
    for number in (1, 2, 3):
        aggregation.choose("train", number, state, [0, 1], 0)
        updates = {}
        for seed, weight in ((1, 0.3), (2, 0.7)):
            trained, _ = device.train(tensors.pack(state), {"round": number, "seed": seed})
            updates[f"d{seed}"] = tensors.unpack(trained), {"weight": weight, "loss": 1.0, "accuracy": 0.5}
        state = aggregation.aggregate(number, state, updates)
    assert not np.array_equal(state["0.weight"], before)
    np.testing.assert_array_equal(state["0.weight"], state["1.weight"])
