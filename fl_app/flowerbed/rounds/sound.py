"""Whether tensors can be averaged, squared and trained from: those that devices send, and those made of them.

What the global model has at the same place is no fault: a mask of -inf, or of a type's lowest number.
"""

from collections.abc import Mapping

import numpy as np

State = dict[str, np.ndarray]

_NEGATIVE = "negative variances"
_EXACT = 2**53  # integers are averaged as float64, which holds them exactly up to here


def brought(state: Mapping[str, np.ndarray], types: Mapping[str, np.dtype]) -> State:
    """Return the tensors in the model's own `types`; what is no number of an integer's type stays as it is."""
    result = {}
    with np.errstate(all="ignore"):  # what does not fit becomes infinite, and is found
        for name, array in state.items():
            dtype = types[name]
            fits = dtype.kind == "f" or array.dtype == dtype or _is_whole(array, dtype).all()
            result[name] = array.astype(dtype, copy=False) if fits else array
    return result


def faults(
    state: Mapping[str, np.ndarray], model: Mapping[str, np.ndarray], types: Mapping[str, np.dtype], noisy: bool = False
) -> str:
    """Return what is wrong with tensors of the model's names and shapes, as in "NaN in a, b"; "" if nothing is.

    `model` is the global model that they follow; `types` are the model's own. `noisy` variances may be negative.
    """
    faulty: dict[str, list[str]] = {}
    for name, array in state.items():
        if (fault := _fault(name, array, model[name], types[name])) and not (noisy and fault == _NEGATIVE):
            faulty.setdefault(fault, []).append(name)
    return "; ".join(
        f"{fault} in {', '.join(names[:3])}{' and others' if len(names) > 3 else ''}" for fault, names in faulty.items()
    )


def is_variance(name: str) -> bool:
    """Return whether a tensor holds variances, by its name: that of BatchNorm's."""
    return name.split(".")[-1] == "running_var"


def outline(model: Mapping[str, np.ndarray]) -> State:
    """Return of a global model what must be known of it to look at what comes after: seldom what is in it.

    A tensor of which that need not be known is of zeros, which take no memory.
    """
    plain = {name for name, array in model.items() if array.dtype.kind == "f" and extreme(array) is None}
    return {
        name: np.broadcast_to(np.zeros((), array.dtype), array.shape) if name in plain else array.copy()
        for name, array in model.items()
    }


def extreme(array: np.ndarray) -> np.ndarray | None:
    """Return where an array is not finite, or too large to be squared in its type; None if it is so nowhere."""
    if array.dtype.kind != "f" or array.size == 0:
        return None
    limit = _limit(array.dtype)
    if -limit <= array.min() and array.max() <= limit:  # neither is so if there is a NaN
        return None
    return ~(np.abs(array) <= limit)


def not_finite(state: Mapping[str, np.ndarray]) -> list[str]:
    """Return the names of tensors that hold NaN or infinite values."""
    floats = {name: array for name, array in state.items() if array.dtype.kind == "f" and array.size}
    return [name for name, array in floats.items() if not np.isfinite([array.min(), array.max()]).all()]


def _fault(name: str, array: np.ndarray, model: np.ndarray, dtype: np.dtype) -> str | None:
    if dtype.kind != "f":
        if array.dtype == dtype and dtype.itemsize <= 4:
            return None  # averaged exactly, whatever they are: a look would cost 17 bytes an element
        same = array == model
        if not (_is_whole(array, dtype) | same).all():
            return f"values that no {dtype} can be"
        return None if ((np.abs(array.astype(np.float64)) <= _EXACT) | same).all() else "whole numbers beyond 2^53"
    places = extreme(array)
    if places is not None:
        extremes = array[places]
        before = model.astype(array.dtype, copy=False)[places]
        extremes = extremes[~((extremes == before) | (np.isnan(extremes) & np.isnan(before)))]
        if not np.isfinite(extremes).all():
            return f"NaN or infinite values (as {array.dtype})"
        if extremes.size:
            return f"values beyond {_limit(array.dtype):.2g} (whose squares no {array.dtype} holds)"
    if is_variance(name) and (array < 0).any():
        return _NEGATIVE
    return None


def _is_whole(array: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Return where an array has values that an integer type, or bool, can hold."""
    if array.dtype == dtype:
        return np.ones(array.shape, bool)
    low, high = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if array.dtype.kind != "f":
        return (array >= low) & (array <= high)
    exact = array.astype(np.float64)  # in which high itself, of 64 bits, would be rounded up
    return (exact >= low) & (exact < float(high + 1)) & (np.rint(exact) == exact)


def _limit(dtype: np.dtype) -> float:
    """Return the largest number of a float type that is usable: its square is finite, but for half precision."""
    largest = np.finfo(dtype).max
    return float(largest if dtype.itemsize < 4 else np.sqrt(largest))
