"""Two of ten devices send false updates, each of which is sound: plain averaging fails, and robust strategies hold.

Softmax regression on scikit-learn's digits, in numpy, aggregated by Flower's strategies as a round does it.
"""

import numpy as np
import pytest
from sklearn.datasets import load_digits

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed import tensors
from flowerbed.rounds import replies
from flowerbed.rounds.fleet import Reply
from flowerbed.rounds.strategy import Aggregation

X, Y = load_digits(return_X_y=True)
ORDER = np.random.default_rng(0).permutation(len(X))
X, Y = X[ORDER].astype(np.float32) / 16, Y[ORDER]
TEST = slice(0, 400)
START = {"weight": np.zeros((64, 10), np.float32), "bias": np.zeros(10, np.float32)}
TYPES = {name: array.dtype for name, array in START.items()}
ROUNDS = 6


def trained(state, device, devices):
    """Return what an honest device makes of a model."""
    x, y = X[400:][device::devices], Y[400:][device::devices]
    weight, bias = state["weight"].copy(), state["bias"].copy()
    for _ in range(15):
        logits = x @ weight + bias
        chances = np.exp(logits - logits.max(1, keepdims=True))
        chances /= chances.sum(1, keepdims=True)
        chances[np.arange(len(y)), y] -= 1
        weight -= x.T @ chances / len(y)
        bias -= chances.mean(0)
    return {"weight": weight, "bias": bias}


def turned(state, honest, random):
    """The opposite of what was learnt, and ten times as much."""
    return {name: array - 10 * (honest[name] - array) for name, array in state.items()}


def drowned(state, honest, random):
    """Noise, as loud as it may be."""
    return {name: random.normal(0, 1e6, array.shape).astype(np.float32) for name, array in state.items()}


def accuracy(strategy, arguments, attack, devices, liars):
    """Return the accuracy on the test set after rounds in which the last `liars` of `devices` poison."""
    aggregation, state, random = Aggregation(strategy, arguments, set()), START, np.random.default_rng(1)
    for number in range(1, ROUNDS + 1):
        aggregation.choose("train", number, state, list(range(devices)), seed=0)
        updates = {}
        for device in range(devices):
            honest = trained(state, device, devices)
            sent = honest if device < devices - liars else attack(state, honest, random)
            update = replies.update(Reply(f"d{device}", tensors.pack(sent), {}, None, 0.1), state, TYPES)
            updates[f"d{device}"] = update, {"weight": 1 / devices, "loss": 1.0}
        state = aggregation.aggregate(number, state, updates)
    return float(((X[TEST] @ state["weight"] + state["bias"]).argmax(1) == Y[TEST]).mean())


ROBUST = [
    ("FedMedian", {}, 10),
    ("FedTrimmedAvg", {"beta": 0.2}, 10),
    ("Krum", {"num_malicious_nodes": 2}, 10),
    ("MultiKrum", {"num_malicious_nodes": 2, "num_nodes_to_select": 5}, 10),
    ("Bulyan", {"num_malicious_nodes": 2}, 11),  # which needs 4 f + 3
]


@pytest.mark.parametrize("attack", [turned, drowned], ids=lambda attack: attack.__name__)
def test_two_of_ten_spoil_a_mean(attack):
    assert accuracy("FedAvg", {}, attack, 10, liars=0) > 0.9
    assert accuracy("FedAvg", {}, attack, 10, liars=2) < 0.3


@pytest.mark.parametrize("attack", [turned, drowned], ids=lambda attack: attack.__name__)
@pytest.mark.parametrize(("strategy", "arguments", "devices"), ROBUST, ids=lambda value: str(value).split("{")[0])
def test_a_robust_strategy_holds_against_two_of_ten(strategy, arguments, devices, attack):
    assert accuracy(strategy, arguments, attack, devices, liars=2) > 0.85
