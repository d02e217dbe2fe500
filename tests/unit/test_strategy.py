"""Aggregation by Flower's strategies, against independent NumPy."""

from pathlib import Path

import numpy as np
import pytest
import yaml

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed.rounds import weights
from flowerbed.rounds.config import RunFailed
from flowerbed.rounds.strategy import Aggregation, names

BUFFERS = {"bn.running_var", "bn.num_batches_tracked"}


def state(seed):
    random = np.random.default_rng(seed)
    return {
        "conv.weight": random.normal(size=(3, 2)).astype(np.float32),
        "bn.running_var": random.uniform(0.1, 2, 3).astype(np.float32),
        "bn.num_batches_tracked": np.array(random.integers(1, 100)),
    }


def do_round(aggregation, before, updates, shares, number=1):
    chosen, extra = aggregation.choose("train", number, before, list(range(len(updates))), seed=0)
    metrics = [{"weight": share, "loss": 1.0, "accuracy": 0.5} for share in shares]
    given = {f"d{m}": pair for m, pair in enumerate(zip(updates, metrics, strict=True))}
    return aggregation.aggregate(number, before, given), chosen, extra


@pytest.mark.parametrize("choice", ["examples", "uniform", {"d0": 0.2, "d1": 5, "d2": 1.3, "d3": 0}])
def test_the_aggregate_is_the_weighted_sum_of_every_tensor(choice):
    examples = {"d0": 10, "d1": 200, "d2": 31, "d3": 7}
    chosen = choice if isinstance(choice, dict) else dict.fromkeys(examples, choice)
    shares = list(weights.resolve(chosen, examples).values())
    updates = [state(seed) for seed in range(4)]
    after, _, _ = do_round(Aggregation("FedAvg", {}, BUFFERS), state(9), updates, shares)
    raw = np.array({"examples": [10, 200, 31, 7], "uniform": [1] * 4}.get(str(choice), [0.2, 5, 1.3, 0]), np.float64)
    for name in updates[0]:
        wanted = sum(p * update[name].astype(np.float64) for p, update in zip(raw / raw.sum(), updates, strict=True))
        np.testing.assert_allclose(after[name], wanted, rtol=1e-6, atol=1e-6)


def test_fedprox_averages_and_tells_the_clients_its_mu():
    updates, shares = [state(1), state(2)], [0.25, 0.75]
    after, _, extra = do_round(Aggregation("FedProx", {"proximal_mu": 0.3}, BUFFERS), state(9), updates, shares)
    assert extra == {"proximal_mu": 0.3}
    wanted = 0.25 * updates[0]["conv.weight"] + 0.75 * updates[1]["conv.weight"]
    np.testing.assert_allclose(after["conv.weight"], wanted, rtol=1e-6)


def test_fedadam_moves_what_is_learnt_and_averages_the_buffers():
    """Reddi et al., 2021, arXiv:2003.00295, with Flower's bias correction."""
    eta, beta_1, beta_2, tau = 0.1, 0.9, 0.99, 1e-3
    aggregation = Aggregation("FedAdam", {"eta": eta}, BUFFERS)
    theta, m, v = state(9), 0.0, 0.0
    for number in (1, 2):
        updates = [state(10 * number), state(10 * number + 1)]
        after, _, _ = do_round(aggregation, theta, updates, [0.5, 0.5], number)
        delta = (updates[0]["conv.weight"] + updates[1]["conv.weight"]) / 2 - theta["conv.weight"]
        m, v = beta_1 * m + (1 - beta_1) * delta, beta_2 * v + (1 - beta_2) * delta**2
        rate = eta * np.sqrt(1 - beta_2 ** (number + 1)) / (1 - beta_1 ** (number + 1))
        wanted = theta["conv.weight"] + rate * m / (np.sqrt(v) + tau)
        np.testing.assert_allclose(after["conv.weight"], wanted, rtol=1e-5)
        assert after["conv.weight"].dtype == np.float32
        mean = (updates[0]["bn.running_var"] + updates[1]["bn.running_var"]) / 2
        np.testing.assert_allclose(after["bn.running_var"], mean, rtol=1e-6)
        theta = after


def test_fedmedian_takes_the_median_and_krum_the_update_closest_to_the_others():
    updates = [state(seed) for seed in range(3)]
    after, _, _ = do_round(Aggregation("FedMedian", {}, BUFFERS), state(9), updates, [0.2, 0.3, 0.5])
    wanted = np.median([update["conv.weight"] for update in updates], axis=0)
    np.testing.assert_allclose(after["conv.weight"], wanted, rtol=1e-6)

    near = {name: (array + (array.dtype.kind == "f") * 0.001).astype(array.dtype) for name, array in state(1).items()}
    close = {name: (array + (array.dtype.kind == "f") * 0.0005).astype(array.dtype) for name, array in state(1).items()}
    liar = {name: array * 1000 for name, array in state(3).items()}
    krum = Aggregation("Krum", {"num_malicious_nodes": 1}, BUFFERS)
    after, _, _ = do_round(krum, state(9), [state(1), near, close, liar], [0.25] * 4)
    assert any(np.array_equal(after["conv.weight"], honest["conv.weight"]) for honest in (state(1), near, close))


def test_a_strategy_goes_on_as_if_it_had_never_stopped():
    def two_rounds(stop_between):
        aggregation = Aggregation("FedAdam", {}, BUFFERS)
        first, _, _ = do_round(aggregation, state(9), [state(1), state(2)], [0.5, 0.5], 1)
        if stop_between:
            memory = aggregation.remember()
            aggregation = Aggregation("FedAdam", {}, BUFFERS)
            assert aggregation.recall(*memory, first) is None
        return do_round(aggregation, first, [state(3), state(4)], [0.5, 0.5], 2)[0]

    one, other = two_rounds(False), two_rounds(True)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_fraction_of_the_devices_is_drawn_by_seed():
    aggregation = Aggregation("FedAvg", {"fraction_train": 0.5}, BUFFERS)
    draws = [aggregation.choose("train", number, state(9), list(range(10)), seed=0)[0] for number in (1, 1, 2, 3)]
    assert len(draws[0]) == 5 and draws[0] == draws[1]
    assert len({tuple(draw) for draw in draws}) > 1


@pytest.mark.parametrize(
    ("name", "arguments", "sentence"),
    [
        ("FedAwg", {}, "which Flower does not have; it has .*FedAvg"),
        ("FedAvg", {"fraction": 1}, "fl_strategy_args do not fit FedAvg: .*fraction_train"),
        ("FedProx", {"mu": 1}, "fl_strategy_args do not fit FedProx: .*proximal_mu"),
    ],
)
def test_a_wrong_strategy_is_a_sentence(name, arguments, sentence):
    with pytest.raises(RunFailed, match=sentence):
        Aggregation(name, arguments, BUFFERS)


def test_a_strategy_that_wants_more_devices_than_there_are_does_not_wait_for_ever():
    with pytest.raises(RunFailed, match="at least 5 devices, but only 2"):
        Aggregation("FedAvg", {"min_train_nodes": 5}, BUFFERS).choose("train", 1, state(9), [0, 1], 0)


def test_the_inventory_may_name_what_a_run_can_use():
    specs = yaml.safe_load((Path(__file__).parents[2] / "roles/fl/meta/argument_specs.yml").read_text())
    assert specs["argument_specs"]["variables"]["options"]["fl_strategy"]["choices"] == names()
