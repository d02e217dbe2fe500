"""fl_privacy: updates clipped to a length and blurred with Gaussian noise, so that they tell little of a device.

An update is what training adds to the tensors that it moves (`moved`). Its length is the L2 norm over all of them
together. The standard deviation of the noise is `noise` times `clip`, for each number of each of these tensors. No
other tensor leaves a device: it stays as it was received. Runs on a device's Python, too (3.6).

The Gaussian mechanism: Dwork & Roth, 2014, appendix A. Clipped updates of whole devices: McMahan et al., 2018,
arXiv:1710.06963.
"""

import math
import os

import numpy as np

DEVICE, SERVER = "device", "server"
DELTA = 1e-5
_RUNNING = ("running_mean", "running_var")  # BatchNorm's buffers that training moves
_BLOCK = 1 << 16  # elements that are reckoned with at a time


def parse(value):
    """Return fl_privacy as a dict of clip, noise, where and delta; None where it asks for nothing.

    Raises ValueError with a sentence's end: what is wrong, and what may be.
    """
    if not isinstance(value, dict):
        raise ValueError("is %.40r, but must be a mapping such as {clip: 1, noise: 0.5}" % (value,))
    if not value:
        return None
    known = ("clip", "noise", "where", "delta")
    for name in value:
        if name not in known:
            raise ValueError("has %.40r, but may have %s" % (name, ", ".join(known)))
    for name in known[:2]:
        if name not in value:
            raise ValueError("lacks %s: give clip and noise" % name)
    where = value.get("where", DEVICE)
    if where not in (DEVICE, SERVER):
        raise ValueError("has where %.40r, but it must be device or server" % (where,))
    delta = _number(value.get("delta", DELTA))
    if not 0 < delta < 1:
        raise ValueError("has delta %.40r, but it must be a number above 0 and below 1" % (value["delta"],))
    clip, noise = _number(value["clip"]), _number(value["noise"])
    if not 0 < clip < math.inf:
        raise ValueError("has clip %.40r, but it must be a number above 0" % (value["clip"],))
    if not 0 <= noise < math.inf:
        raise ValueError("has noise %.40r, but it must be a number of at least 0" % (value["noise"],))
    return {"clip": clip, "noise": noise, "where": where, "delta": delta}


def stronger(*choices):
    """Return of several fl_privacy (None: none) what a device does: it satisfies each that is for devices; or None."""
    own = [choice for choice in choices if choice and choice["where"] == DEVICE]
    if not own:
        return None
    return {"clip": min(choice["clip"] for choice in own), "noise": max(choice["noise"] for choice in own)}


def moved(arrays, buffers, frozen, tied):
    """Return the names of the tensors that training moves, of a tied one the first.

    They are the parameters that are not `frozen`, and BatchNorm's running statistics; but of what is in `buffers`,
    nothing else. `tied` are the names of each tensor that has several.
    """
    again = {name for group in tied for name in sorted(group)[1:]}
    return [
        name for name in sorted(arrays)
        if arrays[name].dtype.kind == "f" and name not in frozen and name not in again
        and (name not in buffers or name.split(".")[-1] in _RUNNING)
    ]  # fmt: skip


def length(before, after, names):
    """Return the L2 norm of the update from the tensors `before` to those `after`."""
    return math.sqrt(math.fsum(
        float(np.dot(change, change))
        for name in names for change in map(_change, _blocks(before[name]), _blocks(after[name]))
    ))  # fmt: skip


def shortened(before, after, names, clip):
    """Return `after` with an update that is no longer than `clip`, and all but `names` as `before`; and its length.

    Not longer by a rounding either: numbers are rounded towards those before.
    """
    found = length(before, after, names)
    result = dict(before)
    for name in names:
        result[name] = after[name]
        if found > clip:
            result[name] = np.empty(before[name].shape, before[name].dtype)
            _move(before[name], after[name], clip / found, 0.0, result[name])
    return result, found


def blur(before, after, names, clip, noise):
    """Replace `before` by what may leave the device: it moves towards `after` by at most `clip`, and has noise.

    Raises ValueError if the update's length is not finite.
    """
    found = length(before, after, names)
    if not math.isfinite(found):
        raise ValueError("an update of length %s, which is not a finite number" % found)
    for name in names:
        _move(before[name], after[name], min(1.0, clip / found) if found else 1.0, noise * clip, before[name])


def noisy(array, deviation):
    """Return an array with Gaussian noise of a standard deviation."""
    result = np.empty(array.shape, array.dtype)
    _move(array, array, 0.0, deviation, result)
    return result


def normal(count):
    """Return `count` numbers of the standard normal distribution, which nobody can predict.

    The system's cryptographic generator makes them, and no seed: who knows the noise can take it off. (Box & Muller,
    1958, from 53 bits.)
    """
    half = (count + 1) // 2
    bits = np.frombuffer(os.urandom(16 * half), np.uint64) >> np.uint64(11)
    uniform = (bits.astype(np.float64) + 1) * 2.0**-53  # above 0, and at most 1
    radius, angle = np.sqrt(-2 * np.log(uniform[:half])), 2 * np.pi * uniform[half:]
    return np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])[:count]


def _move(before, after, scale, deviation, result):
    for old, new, place in zip(_blocks(before), _blocks(after), _blocks(result)):
        change = scale * _change(old, new)
        if deviation:
            change += deviation * normal(len(change))
        moved = (old + change).astype(old.dtype)
        if not deviation:
            too_far = np.abs(moved - old.astype(np.float64)) > np.abs(change)
            moved[too_far] = np.nextafter(moved[too_far], old[too_far])
        place[:] = moved


def _change(old, new):
    """Return what was added to numbers; nothing to those that are not finite, as a mask's."""
    old = old.astype(np.float64)
    with np.errstate(invalid="ignore"):
        change = new - old
    change[~np.isfinite(old)] = 0
    return change


def _blocks(array):
    flat = array.reshape(-1)
    return [flat[begin : begin + _BLOCK] for begin in range(0, flat.size, _BLOCK)]


def _number(value):
    """Return a number, also one that is given as text; NaN for what is none."""
    try:
        return float("nan") if isinstance(value, bool) else float(value)
    except (TypeError, ValueError, OverflowError):
        return float("nan")
