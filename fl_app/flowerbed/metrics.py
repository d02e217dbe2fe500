"""What a task measures, by name: numbers, and lists of numbers such as one for each class.

The trainer checks what the task returned, and the server what a device sent. Runs on a device's Python, too (3.6).
"""

import math
import operator

from .words import clean

LOSS, ACCURACY = "loss", "accuracy"
MOST_NAMES = 50
LONGEST_NAME = 60  # characters
LONGEST_LIST = 1000
MOST_NUMBERS = 1500  # of all metrics together: they travel in one line of HTTP
_ROUNDING = 1e-6  # a share in float32 may be so much above 1
NOT_FINITE = "which is not a finite number"


class MetricError(ValueError):
    """A metric cannot be used; the message is a sentence's end: "loss = nan, which is not a finite number"."""


class NotFinite(MetricError):
    """A metric is NaN or infinite: so it is when training diverges."""


def checked(metrics):
    """Return metrics as a dict of float, or list of float, by name. Raises MetricError.

    An array or a tensor is taken for the list that it holds; one with a single element for a number.
    """
    if not isinstance(metrics, dict):
        raise MetricError("%s, which is not a dict of metrics" % clean(repr(metrics), 40))
    if LOSS not in metrics:
        raise MetricError("no %s among its metrics (%s)" % (LOSS, clean(", ".join(map(str, metrics)), 80)))
    if len(metrics) > MOST_NAMES:
        raise MetricError("%d metrics, and at most %d are taken" % (len(metrics), MOST_NAMES))
    result = {name: _value(_name(name), value) for name, value in metrics.items()}
    if isinstance(result[LOSS], list):
        raise MetricError("%s as a list, but it must be one number" % LOSS)
    if sum(len(value) if isinstance(value, list) else 1 for value in result.values()) > MOST_NUMBERS:
        raise MetricError("metrics with more than %d numbers in all" % MOST_NUMBERS)
    return result


def is_share(name):
    """Return whether a metric is a share, from 0 to 1: so it is by its name, accuracy or top5_accuracy."""
    return name.split("_")[-1] == ACCURACY


def of_event(event, prefix=""):
    """Return what an event says was measured; one of before there were metrics by name has loss and accuracy alone."""
    found = event.get(prefix + "metrics")
    if isinstance(found, dict) and found:
        return found
    return {name: event[prefix + name] for name in (LOSS, ACCURACY) if event.get(prefix + name) is not None}


def mean(values, weights):
    """Return the weighted mean of a metric: of numbers, or of lists of one length, place by place; else None.

    `weights` sum to 1, or to 0, in which case there is no mean.
    """
    if not values or not any(weights):
        return None
    if all(isinstance(value, list) for value in values):
        if len({len(value) for value in values}) > 1:
            return None
        return [math.fsum(map(operator.mul, weights, place)) for place in zip(*values)]
    if any(isinstance(value, list) for value in values):
        return None
    return math.fsum(map(operator.mul, weights, values))


def _name(name):
    if not isinstance(name, str) or clean(name, LONGEST_NAME) != name or not name:
        raise MetricError("a metric named %s: a name is a printable text of at most %d characters"
                          % (clean(repr(name), 40), LONGEST_NAME))  # fmt: skip
    return name


def _value(name, value):
    if hasattr(value, "tolist"):
        value = value.tolist()
        while isinstance(value, list) and len(value) == 1:
            value = value[0]
    if isinstance(value, (list, tuple)):
        if len(value) > LONGEST_LIST:
            raise MetricError("%s as a list of %d numbers, and at most %d are taken" % (name, len(value), LONGEST_LIST))
        return [_number("%s[%d]" % (name, place), name, item) for place, item in enumerate(value)]
    return _number(name, name, value)


def _number(where, name, value):
    told = "%s = %s, " % (where, clean(repr(value), 40))
    if isinstance(value, (str, bytes, list, tuple)) or value is None:
        raise MetricError(told + "which is not a number")
    try:
        number = float(value)
    except OverflowError:
        raise NotFinite(told + NOT_FINITE) from None
    except (TypeError, ValueError):
        raise MetricError(told + "which is not a number") from None
    if not math.isfinite(number):
        raise NotFinite(told + NOT_FINITE)
    if is_share(name):
        if not -_ROUNDING <= number <= 1 + _ROUNDING:
            raise MetricError(told + "which is not a share, from 0 to 1")
        number = min(max(number, 0.0), 1.0)
    return number
