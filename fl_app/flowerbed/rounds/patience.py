"""How long a round waits: for enough answers, and then a grace time for the rest.

`fl_enough` is all, a number of answers, or a fraction of the devices that were asked. `fl_grace` is in seconds, or a
multiple of the median device's time, as in 1.5x.
"""

import math
import statistics
import time

ALL = "all"


def enough(value: object) -> str | int | float:
    """Return how many answers are enough: all, a whole number, or a fraction below 1. Raises ValueError."""
    if value == ALL:
        return ALL
    number = _number(value)
    if number is None or number <= 0 or (number >= 1 and not number.is_integer()):
        raise ValueError(
            f"is {value!r}, but must be all, a whole number of at least 1, or a fraction above 0 and below 1"
        )
    return int(number) if number >= 1 else number


def grace(value: object) -> tuple[float, bool]:
    """Return a number, and whether it is a multiple of the median device's time, not seconds. Raises ValueError."""
    multiple = isinstance(value, str) and value.endswith("x")
    number = _number(value[:-1] if multiple else value)  # type: ignore[index]
    if number is None or number < 0:
        raise ValueError(
            f"is {value!r}, but must be seconds of at least 0, or a multiple of the median device's time, as in 1.5x"
        )
    return number, multiple


class Patience:
    """How long one round, or its evaluation, waits for the devices that were `asked`.

    Of these at least `least` updates are needed: those that came late, from a round before, count.
    """

    def __init__(self, enough_is: object, grace_is: object, asked: int, least: int) -> None:
        wanted = enough(enough_is)
        self._asked, self._least = asked, least
        self._enough = asked if wanted == ALL else wanted if isinstance(wanted, int) else math.ceil(wanted * asked)
        self._enough = max(self._enough, least)
        self._grace, self._multiple = grace(grace_is)
        self._seconds: list[float] = []
        self._late = 0
        self._ends = math.inf

    def answered(self, seconds: float) -> None:
        """Take note of an answer that can be used, and came after so many seconds."""
        self._seconds.append(seconds)
        if len(self._seconds) == self._enough < self._asked:
            unit = statistics.median(self._seconds) if self._multiple else 1.0
            self._ends = time.monotonic() + self._grace * unit

    def carried(self) -> None:
        """Take note of an answer to a round before that can be used."""
        self._late += 1

    @property
    def over(self) -> bool:
        """Whether the round goes on without those that have not answered."""
        return time.monotonic() >= self._ends

    @property
    def short(self) -> bool:
        """Whether there are fewer updates than are needed."""
        return len(self._seconds) + self._late < self._least


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if math.isfinite(number) else None
