"""What devices answer, checked before it is used: a device may send anything.

Every function raises ValueError with a sentence that names the device.
"""

from typing import Any

import numpy as np

from .. import tensors
from .fleet import Reply
from .strategy import State

_LARGEST = 1e300  # which NaN is not below either
_MAY = ("seconds_load", "seconds_train", "seconds_evaluate", "seconds_client", "peak_memory_bytes")


def trained(device: str, reply: Reply) -> dict[str, Any]:
    """Return the numbers that came with an update: examples, loss, accuracy, and what else was measured."""
    return _numbers(device, reply, "update", ("examples", "loss", "accuracy"))


def scored(device: str, reply: Reply) -> dict[str, Any]:
    """Return the numbers of an evaluation: examples, loss, accuracy, seconds_evaluate, and what else was measured."""
    return _numbers(device, reply, "score", ("examples", "loss", "accuracy", "seconds_evaluate"))


def update(device: str, reply: Reply, model: State) -> State:
    """Return the tensors of an update, which have the names and shapes of those of `model`, and are finite."""
    try:
        state = tensors.unpack(reply.packed)
    except tensors.TensorError as error:
        raise ValueError(f"{device} sent an update that cannot be read: {error}") from None
    if {name: array.shape for name, array in state.items()} != {name: array.shape for name, array in model.items()}:
        raise ValueError(f"{device} sent an update with other tensors than the model's")
    bad = [name for name, array in state.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise ValueError(f"{device} sent an update with NaN or infinite values in {', '.join(bad[:3])}")
    return state


def _numbers(device: str, reply: Reply, what: str, needed: tuple[str, ...]) -> dict[str, Any]:
    if reply.error is not None:
        raise ValueError(f"{device} gave no {what}: {reply.error}")
    found = {name: reply.values.get(name) for name in needed}
    found |= {name: reply.values[name] for name in _MAY if name in reply.values}
    for name, value in found.items():
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not abs(value) < _LARGEST:
            raise ValueError(f"{device} sent {name} = {str(value)[:40]}, which is not a number")
    if not isinstance(found["examples"], int) or found["examples"] < 1:
        raise ValueError(f"{device} sent examples = {found['examples']}, which is not a number of examples")
    return found
