"""What devices answer, checked before it is used: a device may send anything.

Every function raises ValueError with a sentence that names the device.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from .. import metrics, tensors
from ..words import clean
from . import sound
from .fleet import Reply
from .sound import State

_LARGEST = 1e15  # of seconds, bytes and examples; NaN is not below it either
_OPTIONAL = ("seconds_load", "seconds_train", "seconds_evaluate", "seconds_client", "peak_memory_bytes")


class Unsound(ValueError):
    """What a device computed is not finite, or the like: so it is when training diverges."""


def trained(reply: Reply) -> dict[str, Any]:
    """Return what came with an update: examples, metrics by name, and seconds and the like."""
    return _measured(reply, "update", ("examples",))


def scored(reply: Reply) -> dict[str, Any]:
    """Return what an evaluation gave: examples, metrics by name, and seconds_evaluate."""
    return _measured(reply, "score", ("examples", "seconds_evaluate"))


def update(reply: Reply, model: State, types: Mapping[str, np.dtype], noisy: bool = False) -> State:
    """Return the tensors of an update, in the model's own `types`, with the names and shapes of those of `model`.

    They can be averaged and squared: the order of updates does not decide in which type they are summed. Raises
    Unsound if they can't. In a `noisy` one a variance may be negative.
    """
    device = reply.device
    try:
        state = tensors.unpack(reply.packed, tensors.longest_header(model))
    except tensors.TensorError as error:
        raise ValueError(f"{device} sent an update that cannot be read: {clean(error)}") from None
    if {name: array.shape for name, array in state.items()} != {name: array.shape for name, array in model.items()}:
        raise ValueError(f"{device} sent an update with other tensors than the model's")
    state = sound.brought(state, types)
    if fault := sound.faults(state, model, types, noisy):
        raise Unsound(f"{device} sent an update with {fault}")
    return state


def _measured(reply: Reply, what: str, needed: tuple[str, ...]) -> dict[str, Any]:
    device = reply.device
    if reply.error is not None:
        kind = Unsound if metrics.NOT_FINITE in reply.error else ValueError
        raise kind(f"{device} gave no {what}: {reply.error}")
    numbers = {name: reply.values.get(name) for name in needed}
    numbers |= {name: reply.values[name] for name in _OPTIONAL if name in reply.values}
    for name, value in numbers.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value < _LARGEST:
            raise ValueError(f"{device} sent {name} = {clean(value, 40)}, which is not a number that it can be")
    if not isinstance(numbers["examples"], int) or numbers["examples"] < 1:
        raise ValueError(f"{device} sent examples = {numbers['examples']}, which is not a number of examples")
    try:
        return numbers | {"metrics": metrics.checked(reply.values.get("metrics"))}
    except metrics.MetricError as error:
        kind = Unsound if isinstance(error, metrics.NotFinite) else ValueError
        raise kind(f"{device} sent {error}") from None
