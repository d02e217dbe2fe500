"""Every strategy that can be chosen: interrupted, exchanged for another between two runs, and given bad arguments."""

import gc
import itertools
import threading
from collections.abc import Iterator

import numpy as np
import pytest

import flowerbed.link.stream  # noqa: F401 - it tells Flower whose messages these are
from flowerbed import tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds.checkpoint import Checkpoint
from flowerbed.rounds.config import RunFailed
from flowerbed.rounds.strategy import Aggregation, names

BUFFERS = {"bn.running_var", "bn.num_batches_tracked"}
NAMES = names()
ARGUMENTS = {"FedAvgM": {"server_momentum": 0.9}, "QFedAvg": {"client_learning_rate": 0.1}}  # others need none


@pytest.fixture(scope="module", autouse=True)
def frozen() -> Iterator[None]:
    """What is there already does not count when Flower collects garbage, as in a run."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def state(seed: int) -> dict[str, np.ndarray]:
    """Return a small model's tensors as they come from a device."""
    random = np.random.default_rng(seed)
    return dict(tensors.unpack(tensors.pack({
        "conv.weight": random.normal(size=(3, 2)).astype(np.float32),
        "bn.running_var": random.uniform(0.1, 2, 3).astype(np.float32),
        "bn.num_batches_tracked": np.array(random.integers(1, 100)),
        "bias": random.normal(size=3).astype(np.float32),
    })))  # fmt: skip


def made(name: str) -> Aggregation:
    return Aggregation(name, ARGUMENTS.get(name, {}), BUFFERS)


def do_round(aggregation: Aggregation, before: dict, number: int) -> dict[str, np.ndarray]:
    updates = {f"d{m}": (state(10 * number + m), {"weight": 0.2, "loss": 1.0 + m, "accuracy": 0.5}) for m in range(5)}
    chosen, _ = aggregation.choose("train", number, before, list(range(5)), seed=0)
    assert chosen == [0, 1, 2, 3, 4]
    return aggregation.aggregate(number, before, updates)


def saved_and_loaded(folder, number: int, model: dict, aggregation: Aggregation) -> Checkpoint:
    checkpoints.save(folder, Checkpoint(number, model, *aggregation.remember()))
    return checkpoints.newest(folder)[0]


@pytest.mark.parametrize("name", NAMES)
def test_a_strategy_interrupted_after_every_round_ends_where_the_uninterrupted_one_does(tmp_path, name):
    steady = made(name)
    one = other = state(0)
    for number in (1, 2, 3, 4):
        one = do_round(steady, one, number)
        resumed = made(name)
        if number > 1:
            found = checkpoints.newest(tmp_path)[0]
            other = found.model
            resumed.recall(found.memory, found.memory_rest)
        other = saved_and_loaded(tmp_path, number, do_round(resumed, other, number), resumed).model
    for tensor, array in one.items():
        np.testing.assert_array_equal(array, other[tensor])


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(NAMES, 2)))
def test_a_strategy_takes_over_from_any_other(tmp_path, first, second):
    before = made(first)
    found = saved_and_loaded(tmp_path, 1, do_round(before, state(0), 1), before)
    after = made(second)
    after.recall(found.memory, found.memory_rest)
    model = do_round(after, found.model, 2)
    assert model.keys() == found.model.keys()
    assert all(np.isfinite(array).all() for array in model.values())


@pytest.mark.parametrize("name", NAMES)
def test_running_variances_stay_positive_and_counters_are_no_parameters(name):
    aggregation, model = made(name), state(0)
    for number in range(1, 6):
        model = do_round(aggregation, model, number)
        assert (model["bn.running_var"] > 0).all()
        assert 0 < model["bn.num_batches_tracked"] < 100


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("FedAvg", {"fraction_train": 1.5}), ("FedAvg", {"fraction_train": "half"}), ("FedAvg", {1: 2}),
        ("FedAvg", {"min_train_nodes": "two"}), ("FedAvg", {"min_available_nodes": None}), ("QFedAvg", {}),
        ("FedAvg", {"weighted_by_key": "loss"}), ("FedAvg", {"train_metrics_aggr_fn": "mean"}),
        ("FedAdam", {"eta": "fast"}), ("FedAvgM", {"server_momentum": "0.9"}),
        ("MultiKrum", {"num_nodes_to_select": 0}),
        ("Krum", {"num_malicious_nodes": "one"}), ("Bulyan", {"num_malicious_nodes": 9}),
        ("FedTrimmedAvg", {"beta": 0.5}), ("FedTrimmedAvg", {"beta": "0.1"}),
    ],
)  # fmt: skip
def test_bad_arguments_are_a_sentence_and_never_wait(name, arguments):
    """A run that cannot go on says why, whether at its start, when it chooses or when it aggregates."""
    outcome: list[BaseException | None] = []

    def work() -> None:
        try:
            do_round(Aggregation(name, arguments, BUFFERS), state(0), 1)
            outcome.append(None)
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    thread.join(10)
    assert outcome, "it waits for ever"
    assert isinstance(outcome[0], RunFailed), repr(outcome[0])
    assert name in str(outcome[0])
