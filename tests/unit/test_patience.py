"""How long a round waits: fl_enough and fl_grace."""

import pytest

from flowerbed.rounds import patience
from flowerbed.rounds.patience import Patience


@pytest.mark.parametrize(
    ("value", "wanted"), [("all", "all"), (1, 1), ("8", 8), (1.0, 1), (0.5, 0.5), ("0.8", 0.8), ("8.0", 8)]
)
def test_what_is_enough(value, wanted):
    assert patience.enough(value) == wanted and type(patience.enough(value)) is type(wanted)


@pytest.mark.parametrize("value", [0, "0", -1, 1.5, "half", "", None, True, "nan", "inf", [1], "50%", 10**400])
def test_what_is_no_number_of_answers(value):
    with pytest.raises(ValueError, match="^is .*, but must be all, a whole number of at least 1, or a fraction"):
        patience.enough(value)


@pytest.mark.parametrize(
    ("value", "wanted"), [(0, (0, False)), ("2.5", (2.5, False)), ("1.5x", (1.5, True)), ("0x", (0, True))]
)
def test_what_is_a_grace_time(value, wanted):
    assert patience.grace(value) == wanted


@pytest.mark.parametrize("value", [-1, "-1x", "x", "2 medians", None, True, "nanx", "infx", {}])
def test_what_is_no_grace_time(value):
    with pytest.raises(ValueError, match="^is .*, but must be seconds of at least 0, or a multiple of the median"):
        patience.grace(value)


@pytest.mark.parametrize(
    ("enough", "asked", "least", "wanted"),
    [("all", 3, 1, None), (2, 3, 1, 2), (3, 3, 1, None), (12, 3, 1, None), (0.5, 10, 1, 5), (0.01, 10, 1, 1),
     (0.5, 3, 1, 2), (1, 1, 1, None), (0.5, 1, 1, None), (1, 5, 3, 3), (0.2, 5, 7, None)],
)  # fmt: skip
def test_after_how_many_answers_the_rest_has_only_a_grace_time(enough, asked, least, wanted):
    waits = Patience(enough, 0, asked, least)
    over = []
    for _ in range(asked):
        assert waits.short == (len(over) < least)
        waits.answered(1.0)
        over.append(waits.over)
    assert over == [wanted is not None and count >= wanted for count in range(1, asked + 1)]


def test_a_grace_time_is_in_seconds_or_in_medians(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(patience.time, "monotonic", lambda: now[0])
    for grace, seconds in ((3, 3.0), ("1.5x", 6.0)):
        now[0] = 100.0
        waits = Patience(3, grace, 5, 1)
        for took in (1.0, 9.0, 4.0):
            waits.answered(took)
        now[0] = 100 + seconds - 0.01
        assert not waits.over
        waits.answered(6.0)  # changes nothing
        now[0] = 100 + seconds
        assert waits.over


def test_late_answers_count_among_those_that_are_needed_and_not_among_those_that_are_enough():
    waits = Patience(2, 0, 4, 2)
    waits.carried()
    waits.answered(1)
    assert not waits.short and not waits.over
    waits.answered(1)
    assert waits.over
