"""fl_target_seconds: how many local steps a device is to do, from what it measured."""

import pytest

from flowerbed.rounds.fitting import MOST, Fitting


def done(device, steps, seconds, **more):
    return {"event": "device", "device": device, "steps": steps, "seconds_train": seconds, **more}


def test_steps_fill_the_seconds_that_transfer_leaves():
    fitting = Fitting(10, [])
    assert fitting.steps(["fast", "slow"]) == {}
    fitting.take(done("fast", 100, 1.0, seconds_transfer=1.0, seconds_load=1.0))
    fitting.take(done("slow", 100, 16.0))
    assert fitting.steps(["fast", "slow", "unknown"]) == {"fast": 800, "slow": 62}


def test_a_new_measurement_counts_as_much_as_all_before_and_a_run_goes_on_with_what_was_measured():
    events = [done("a", 10, 10.0), {"event": "round", "round": 1}, done("a", 10, 20.0)]
    assert Fitting(30, events).steps(["a"]) == {"a": 20}
    fitting = Fitting(30, events[:2])
    fitting.take(events[2])
    assert fitting.steps(["a"]) == {"a": 20}


def test_a_device_that_was_late_is_slower_than_it_would_have_to_be():
    late = {"event": "device", "device": "a", "status": "late", "steps_asked": 100, "seconds_waited": 50.0}
    assert Fitting(10, [late]).steps(["a"]) == {"a": 20}
    assert Fitting(10, [done("a", 10, 10.0), late]).steps(["a"]) == {"a": 10}  # which was known
    assert Fitting(10, [done("a", 100, 1.0), late]).steps(["a"]) == {"a": 20}


def test_a_device_does_one_step_at_least_and_one_for_which_that_is_too_much_is_known():
    fitting = Fitting(10, [done("a", 1, 5.0, seconds_transfer=8.0), done("b", 1, 5.0)])
    assert fitting.steps(["a", "b"]) == {"a": 1, "b": 2}
    assert fitting.too_slow(["a", "b", "unknown"]) == {"a": 13.0}


@pytest.mark.parametrize("seconds", [0, -1, 5e-324])
def test_a_senseless_measurement_asks_for_nothing_senseless(seconds):
    steps = Fitting(10, [done("a", 1, seconds, seconds_transfer=-9)]).steps(["a"])
    assert steps in ({}, {"a": MOST})
