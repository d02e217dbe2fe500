"""Updates as steps: what came late, and what came of more or less work."""

import numpy as np
import pytest

from flowerbed.rounds import steps, weights

INF = np.inf


def test_a_late_update_counts_less_by_fedasync_s_polynomial():
    assert [steps.staleness(rounds) for rounds in (0, 1, 3)] == [1, pytest.approx(0.5**0.5), 0.5]
    shares = weights.resolve({"a": 1, "b": 1, "c": 2}, {"a": 9, "b": 9, "c": 9}, {"b": steps.staleness(3)})
    assert shares == {"a": pytest.approx(1 / 3.5), "b": pytest.approx(0.5 / 3.5), "c": pytest.approx(2 / 3.5)}
    assert sum(shares.values()) == pytest.approx(1)


def test_weights_of_late_updates_alone_are_normalised_too():
    assert weights.resolve({"a": "examples"}, {"a": 9}, {"a": 0.5}) == {"a": 1}


def test_an_update_is_a_step_from_the_model_of_now_and_what_is_not_learnt_is_as_it_was_sent():
    base = {
        "w": np.array([1, 2], np.float32), "mean": np.array([5], np.float32), "count": np.array(3),
        "mask": np.array([0, -INF], np.float32), "half": np.array([1], np.float16),
    }  # fmt: skip
    model = {**base, "w": np.array([10, 20], np.float32), "half": np.array([2048], np.float16)}
    update = {
        **base, "w": np.array([2, 0], np.float32), "mean": np.array([7], np.float32), "count": np.array(4),
        "half": np.array([3], np.float16),
    }  # fmt: skip
    result = steps.moved(update, base, model, 0.5, {"mean"})
    np.testing.assert_array_equal(result["w"], [10.5, 19])
    assert (result["mean"], result["count"], result["half"]) == (7, 4, 2048)  # half precision has no 2049
    np.testing.assert_array_equal(result["mask"], base["mask"])
    assert {name: array.dtype for name, array in result.items()} == {name: array.dtype for name, array in base.items()}


def test_devices_that_did_more_steps_do_not_pull_the_model_to_them():
    """FedNova: two devices with quadratic losses, one of which does ten times as many steps of gradient descent."""
    optima, rate, counts = {"a": 1.0, "b": -3.0}, 0.01, {"a": 30, "b": 3}
    shares = {"a": 0.5, "b": 0.5}

    def trained(start, optimum, count):
        for _ in range(count):
            start = start - rate * (start - optimum)
        return start

    models = {"plain": 0.0, "normalised": 0.0}
    factors = steps.factors(counts, shares)
    assert factors == {"a": pytest.approx(16.5 / 30), "b": pytest.approx(16.5 / 3)}
    for _ in range(400):
        for name, now in models.items():
            base = {"w": np.array([now])}
            updates = {device: {"w": np.array([trained(now, optima[device], counts[device])])} for device in optima}
            if name == "normalised":
                updates = {d: steps.moved(state, base, base, factors[d], set()) for d, state in updates.items()}
            models[name] = sum(shares[device] * state["w"][0] for device, state in updates.items())
    assert models["plain"] > 0.5  # near the optimum of the busy one
    assert models["normalised"] == pytest.approx(-1, abs=0.3)  # that of the objective


def test_as_many_steps_change_no_bit():
    assert steps.factors({"a": 7, "b": 7}, {"a": 0.3, "b": 0.7}) == {"a": 1.0, "b": 1.0}
