"""Every strategy that can be chosen: interrupted, exchanged for another between two runs, and given bad arguments."""

import gc
import inspect
import itertools
import threading
from collections.abc import Iterator

import flwr.serverapp.strategy as flower
import numpy as np
import pytest

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed import tensors
from flowerbed.rounds import checkpoint as checkpoints
from flowerbed.rounds.checkpoint import Checkpoint
from flowerbed.rounds.config import RunFailed
from flowerbed.rounds.strategy import Aggregation, check, names

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
        "scale": np.array(random.normal(), np.float32),
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
            assert resumed.recall(found.memory, found.memory_rest, other) is None
        other = saved_and_loaded(tmp_path, number, do_round(resumed, other, number), resumed).model
    for tensor, array in one.items():
        np.testing.assert_array_equal(array, other[tensor])


@pytest.mark.parametrize(("first", "second"), list(itertools.permutations(NAMES, 2)))
def test_a_strategy_takes_over_from_any_other(tmp_path, first, second):
    before = made(first)
    found = saved_and_loaded(tmp_path, 1, do_round(before, state(0), 1), before)
    after = made(second)
    assert after.recall(found.memory, found.memory_rest, found.model) is None
    model = do_round(after, found.model, 2)
    assert model.keys() == found.model.keys()
    assert all(np.isfinite(array).all() for array in model.values())


@pytest.mark.parametrize("learnt", ["less", "more"])
@pytest.mark.parametrize("name", ["FedAdam", "FedYogi", "FedAdagrad", "FedAvgM"])
def test_memory_of_other_tensors_than_are_learnt_is_dropped_and_said(tmp_path, name, learnt):
    """As of an experiment that began before a tied weight was learnt under all its names."""
    then, now = (BUFFERS | {"bias"}, BUFFERS) if learnt == "more" else (BUFFERS, BUFFERS | {"bias"})
    before, after, new = (Aggregation(name, ARGUMENTS.get(name, {}), buffers) for buffers in (then, now, now))
    found = saved_and_loaded(tmp_path, 1, do_round(before, state(0), 1), before)
    sentence = after.recall(found.memory, found.memory_rest, found.model)
    assert f"what {name} remembers of the rounds before is of other tensors than are learnt now" in sentence
    model, wanted = (do_round(aggregation, found.model, 2) for aggregation in (after, new))
    for tensor, array in wanted.items():
        np.testing.assert_array_equal(model[tensor], array)


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
        ("FedAdam", {"eta": "fast"}), ("FedAvgM", {"server_momentum": "0,9"}),
        ("MultiKrum", {"num_nodes_to_select": 0}),
        ("Krum", {"num_malicious_nodes": "one"}), ("Bulyan", {"num_malicious_nodes": 9}),
        ("FedTrimmedAvg", {"beta": 0.5}), ("FedTrimmedAvg", {"beta": "a tenth"}), ("FedAdam", {"tau": 0}),
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
    thread.join(120)
    assert outcome, "it waits for ever"
    assert isinstance(outcome[0], RunFailed), repr(outcome[0])
    assert name in str(outcome[0])


@pytest.mark.parametrize(
    ("name", "arguments", "problem"),
    [
        ("FedAdam", {"tau": 0}, "tau is 0, but must be a number above 0"),
        ("FedAdam", {"eta": "1e-2x"}, "eta is '1e-2x', but must be a number above 0"),
        ("FedAdam", {"eta": [0.1]}, r"eta is \[0.1\], but must be a number above 0"),
        ("FedAdam", {"eta": True}, "eta is True, but must be a number above 0"),
        ("FedAdam", {"eta": float("nan")}, "eta is nan, but must be a number above 0"),
        ("FedAdam", {"eta": 10**400}, "eta is 1000+, but must be a number above 0"),
        ("FedYogi", {"beta_1": 1}, "beta_1 is 1, but must be a number from 0 to below 1"),
        ("FedAdam", {"beta_2": -0.1}, "beta_2 is -0.1, but must be a number from 0 to below 1"),
        ("FedAdagrad", {"beta_1": 0.9}, "beta_1 is not one of its arguments, which are .*eta_l.* tau"),
        ("FedAvgM", {"server_momentum": 1.0}, "server_momentum is 1.0, but must be a number from 0 to below 1"),
        ("FedAvgM", {"server_learning_rate": 0}, "server_learning_rate is 0, but must be a number above 0"),
        ("QFedAvg", {"client_learning_rate": 0.1, "q": -1}, "q is -1, but must be a number of at least 0"),
        ("QFedAvg", {}, "client_learning_rate is missing"),
        ("FedProx", {"proximal_mu": -0.1}, "proximal_mu is -0.1, but must be a number of at least 0"),
        ("FedAvg", {"fraction_train": 0}, "fraction_train is 0, but must be a number above 0, and at most 1"),
        ("FedAvg", {"min_train_nodes": 1.5}, "min_train_nodes is 1.5, but must be a whole number of at least 1"),
        ("FedAvg", {"min_train_nodes": 9}, "min_train_nodes is 9, more than the devices that train .8."),
        ("MultiKrum", {"num_nodes_to_select": 9}, "num_nodes_to_select is 9, more than the devices that train .8."),
        ("Krum", {"num_malicious_nodes": -1}, "num_malicious_nodes is -1, but must be a whole number of at least 0"),
        ("Krum", {"num_malicious_nodes": 4}, "num_malicious_nodes is 4, but must be fewer than half of the 8 devices"),
        ("Bulyan", {"num_malicious_nodes": 2}, "num_malicious_nodes is 2, for which it needs 11 devices, but 8 train"),
        ("Bulyan", {"selection_rule": "krum"}, "selection_rule is not one of its arguments"),
        ("QFedAvg", {"client_learning_rate": 1, "train_loss_key": "x"}, "train_loss_key is not one of its arguments"),
    ],
)
def test_every_argument_is_checked_before_anything_trains(name, arguments, problem):
    with pytest.raises(RunFailed, match=f"^fl_strategy_args do not fit {name}: {problem}"):
        check(name, arguments, 8)


def test_bulyan_chooses_no_fewer_devices_than_it_makes_a_model_of():
    aggregation = Aggregation("Bulyan", {"fraction_train": 0.1, "min_train_nodes": 1}, BUFFERS)
    assert len(aggregation.choose("train", 1, state(0), list(range(5)), seed=0)[0]) == 3
    with pytest.raises(RunFailed, match="Bulyan with fl_strategy_args .* at least 3 devices, but only 2 can train"):
        aggregation.choose("train", 1, state(0), [0, 1], seed=0)


def test_devices_of_weight_0_evaluate_too():
    assert check("FedAvg", {"min_evaluate_nodes": 9}, 8) == {"min_evaluate_nodes": 9}


def test_all_that_is_wrong_is_said_at_once():
    with pytest.raises(RunFailed, match="eta is -1, .*; tau is 'x', .*; mu is not one"):
        check("FedAdam", {"eta": -1, "tau": "x", "mu": 1})


def test_a_number_may_come_as_text_and_every_default_of_flower_fits():
    assert check("FedAdam", {"eta": "1e-2", "min_train_nodes": "2", "beta_1": 0}) == {
        "eta": 0.01, "min_train_nodes": 2, "beta_1": 0.0
    }  # fmt: skip
    assert Aggregation("FedAdam", {"eta": "1e-2"}, BUFFERS).strategy.eta == 0.01
    for name in NAMES:
        parameters = inspect.signature(getattr(flower, name).__init__).parameters
        given = check(name, ARGUMENTS.get(name, {}))
        kinds = {key: parameter.default for key, parameter in parameters.items() if parameter.default is not None}
        plain = {key: value for key, value in kinds.items() if isinstance(value, float | int) and key not in given}
        assert len(plain) >= 5 and check(name, {**given, **plain}, 8) == {**given, **plain}
