"""p_m: what a user may choose, and what comes of it."""

import math

import pytest

from flowerbed.rounds import weights


@pytest.mark.parametrize("value", ["examples", "uniform", 0, 0.25, "0.25", 3])
def test_a_weight_is_a_rule_or_a_number(value):
    assert weights.parse(value) in ("examples", "uniform", 0.0, 0.25, 3.0)


@pytest.mark.parametrize("value", [-1, "-0.1", "heavy", math.nan, math.inf, None, True, [1], ""])
def test_anything_else_is_refused_with_what_it_may_be(value):
    [(device, sentence)] = weights.problems({"rpi-1": value})
    assert device == "rpi-1"
    assert "must be examples, uniform or a number" in sentence


def test_weights_given_for_some_devices_only_name_the_others():
    found = weights.problems({"a": 0.5, "b": 0.5, "c": "examples"})
    assert [device for device, _ in found] == ["c"]
    assert "give every device a number, or none" in found[0][1]
    assert weights.problems({"a": "uniform", "b": "examples", "c": "examples"})[0][0] == "a"


def test_all_zero_is_refused_and_one_above_zero_is_enough():
    assert weights.problems({"a": 0, "b": 0}) == [
        (None, "is 0 for every device: give at least one device a weight above 0")
    ]
    assert weights.problems({"a": 0, "b": 2}) == []


def test_resolve_normalises_over_the_devices_that_answered():
    assert weights.resolve({"a": "examples", "b": "examples", "c": "examples"}, {"a": 30, "c": 10}) == {
        "a": 0.75,
        "c": 0.25,
    }
    assert weights.resolve({"a": "uniform", "b": "uniform"}, {"a": 1, "b": 999}) == {"a": 0.5, "b": 0.5}
    assert weights.resolve({"a": 3, "b": 1, "c": 4}, {"a": 5, "b": 5}) == {"a": 0.75, "b": 0.25}
    with pytest.raises(ValueError, match="all 0"):
        weights.resolve({"a": 0, "b": 1}, {"a": 5})


def test_the_devices_that_do_otherwise_are_all_there_are():
    [(_, sentence)] = weights.problems({"a": 0.5, "b": "examples", "c": "examples"})
    assert "b, c" in sentence and "others" not in sentence


def test_weights_whose_sum_overflows_or_vanishes_are_shared_out_right():
    assert weights.resolve(dict.fromkeys("abc", 1e308), dict.fromkeys("abc", 1)) == dict.fromkeys(
        "abc", pytest.approx(1 / 3)
    )
    assert weights.resolve({"a": 5e-324, "b": 1.5e-323}, {"a": 1, "b": 1}) == {"a": 0.25, "b": 0.75}
    assert weights.resolve({"a": 1e308, "b": 1e-300}, {"a": 1, "b": 1})["a"] == 1


def test_the_server_s_own_count_holds_whatever_a_device_claims():
    assert weights.counts({"a": 10**12, "b": 60}, {"a": 40, "b": 60}, 10) == {"a": 40, "b": 60}


@pytest.mark.parametrize(
    ("claims", "known", "counted"),
    [
        ({"a": 10, "b": 12, "c": 10**12}, {}, {"a": 10, "b": 12, "c": 60}),
        ({"a": 10, "b": 10**12}, {}, {"a": 10, "b": 50}),  # of two, the lower one is the median
        ({"a": 10, "b": 50, "c": 51}, {}, {"a": 10, "b": 50, "c": 51}),
        ({"a": 10**12}, {}, {"a": 10**12}),
        ({"a": 10**12, "b": 1000, "c": 10}, {"a": 10}, {"a": 10, "b": 50, "c": 10}),
        ({}, {}, {}),
    ],
)
def test_a_claim_far_above_the_median_is_cut(claims, known, counted):
    assert weights.counts(claims, known, 5) == counted


def test_without_a_cap_any_claim_counts():
    assert weights.counts({"a": 1, "b": 10**300}, {}, math.inf) == {"a": 1, "b": 10**300}
