"""What devices answer, checked before it is used: a device may send anything.

Every function raises ValueError with a sentence that names the device.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import tensors
from ..words import clean
from . import sound
from .fleet import Reply
from .sound import State

_LARGEST = 1e300  # which NaN is not below either
_OPTIONAL = ("seconds_load", "seconds_train", "seconds_evaluate", "seconds_client", "peak_memory_bytes")


_NOT_FINITE = "which is not a finite number"  # so a trainer says of a metric
_SLACK = 1e-6  # a mean of ones in single precision may be a little more


class Unsound(ValueError):
    """What a device computed is not finite, or the like: so it is when training diverges."""


def trained(reply: Reply) -> dict[str, Any]:
    """Return the numbers that came with an update: examples, loss, accuracy, and what else was measured."""
    return _numbers(reply, "update", ("examples", "loss", "accuracy"))


def scored(reply: Reply) -> dict[str, Any]:
    """Return the numbers of an evaluation: examples, loss, accuracy, seconds_evaluate, and what else was measured."""
    return _numbers(reply, "score", ("examples", "loss", "accuracy", "seconds_evaluate"))


def share(who: str, name: str, value: float) -> float:
    """Return a metric that is a share, from 0 to 1. Raises ValueError if it is not."""
    if not -_SLACK <= value <= 1 + _SLACK:
        raise ValueError(f"{who} sent {name} = {value:g}, but {name} is a share, from 0 to 1")
    return min(max(value, 0.0), 1.0)


def update(reply: Reply, model: State, types: Mapping[str, np.dtype]) -> State:
    """Return the tensors of an update, in the model's own `types`, with the names and shapes of those of `model`.

    They can be averaged and squared: the order of updates does not decide in which type they are summed. Raises
    Unsound if they can't.
    """
    device = reply.device
    try:
        state = tensors.unpack(reply.packed)
    except tensors.TensorError as error:
        raise ValueError(f"{device} sent an update that cannot be read: {clean(error)}") from None
    if {name: array.shape for name, array in state.items()} != {name: array.shape for name, array in model.items()}:
        raise ValueError(f"{device} sent an update with other tensors than the model's")
    state = sound.brought(state, types)
    if fault := sound.faults(state, model, types):
        raise Unsound(f"{device} sent an update with {fault}")
    return state


def _numbers(reply: Reply, what: str, needed: tuple[str, ...]) -> dict[str, Any]:
    device = reply.device
    if reply.error is not None:
        kind = Unsound if _NOT_FINITE in reply.error else ValueError
        raise kind(f"{device} gave no {what}: {reply.error}")
    found = {name: reply.values.get(name) for name in needed}
    found |= {name: reply.values[name] for name in _OPTIONAL if name in reply.values}
    for name, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) < _LARGEST:
            kind = Unsound if isinstance(value, float) and not math.isfinite(value) else ValueError
            raise kind(f"{device} sent {name} = {str(value)[:40]}, which is not a number")
    if not isinstance(found["examples"], int) or found["examples"] < 1:
        raise ValueError(f"{device} sent examples = {found['examples']}, which is not a number of examples")
    return found | {"accuracy": share(device, "accuracy", found["accuracy"])}
