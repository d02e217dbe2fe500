"""fl_initial: an experiment's first model, from a file of tensors or from what another experiment has learnt."""

import mmap
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import tensors
from . import sound
from .config import RunFailed
from .sound import State

_MODELS = ("model/best.safetensors", "model/last.safetensors")  # of an experiment's folder, the first that is there
_FEW = 3  # names that are said


def check_begun(path: str, experiment: str, events: list[dict[str, Any]]) -> None:
    """Raise RunFailed if an experiment that has rounds is to begin from `path`, and did not, by its events."""
    started = [event for event in events if event.get("event") == "run-started" and event.get("first_round") == 1]
    if path and path != (started[-1].get("initial") if started else None):
        raise RunFailed(
            f"experiment {experiment} has begun with another first model, so fl_initial ({path}) would change nothing: "
            "choose another name with -e experiment=NAME, or go on without it (-e fl_initial=)"
        )


def load(path: str, built: Mapping[str, np.ndarray], tied: list[list[str]]) -> tuple[State, str]:
    """Return the first model, and a sentence that says what of it is from `path`: a file, or an experiment's folder.

    What is there by name and shape is taken, in the model's own types; the rest stays as `built`. Of the names of a
    `tied` tensor, a file need have but one. Raises RunFailed.
    """
    file = _file(Path(path))
    try:
        with open(file, "rb") as opened:  # as large as it is: no more of it is read than is taken
            given = tensors.unpack(mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ))
    except OSError as error:
        raise RunFailed(f"fl_initial: {file} cannot be read ({os.strerror(error.errno or 0)})") from None
    except ValueError as error:
        raise RunFailed(
            f"fl_initial: {file} cannot be used ({error}): save the model's state_dict with save_file of "
            "safetensors.torch, as float32"
        ) from None
    for names in tied:
        values = [given[name] for name in names if name in given]
        given |= {name: values[0] for name in names if values and name not in given}
    taken = {name: given[name] for name, array in built.items() if name in given and given[name].shape == array.shape}
    if not taken:
        raise RunFailed(
            f"fl_initial: {file} is of another model: it has {_few(given)}, and the task's model has {_few(built)}, of "
            "which none has the same name and shape"
        )
    types = {name: array.dtype for name, array in built.items()}
    model = {**built, **{name: np.array(array) for name, array in sound.brought(taken, types).items()}}
    if fault := sound.faults(model, built, types):
        raise RunFailed(f"fl_initial: {file} holds {fault}: nothing can be trained from that")
    return model, _said(file, given, taken, built)


def _file(path: Path) -> Path:
    if not path.exists():
        raise RunFailed(
            f"fl_initial: {path} is not there: give the path of a .safetensors file, or the name of an experiment"
        )
    if not path.is_dir():
        return path
    models = [path / name for name in _MODELS if (path / name).is_file()]
    if not models:
        raise RunFailed(f"fl_initial: the experiment {path} has no model yet: run it first, or choose another")
    return models[0]


def _said(file: Path, given: State, taken: State, built: Mapping[str, np.ndarray]) -> str:
    other = [name for name in built if name in given and name not in taken]
    shapes = [f"{name}, {_shape(built[name])} here and {_shape(given[name])} there" for name in other[:_FEW]]
    lacking = [name for name in built if name not in given]
    unused = [name for name in given if name not in built]
    sentence = f"the first model has {len(taken)} of its {len(built)} tensors from {file}"
    if other:
        sentence += f"; {len(other)} of another shape {_stay(other)} as built ({'; '.join(shapes)}{_more(other)})"
    if lacking:
        sentence += f"; {len(lacking)} that it lacks {_stay(lacking)} as built ({_names(lacking)})"
    if unused:
        sentence += f"; {len(unused)} of its own {'are' if len(unused) > 1 else 'is'} of no use ({_names(unused)})"
    return sentence


def _few(state: Mapping[str, np.ndarray]) -> str:
    return f"{len(state)} tensor{'s' * (len(state) != 1)}" + (f" ({_names(list(state))})" if state else "")


def _names(names: list[str]) -> str:
    return ", ".join(names[:_FEW]) + _more(names)


def _more(names: list[str]) -> str:
    return " …" if len(names) > _FEW else ""


def _stay(names: list[str]) -> str:
    return "stay" if len(names) > 1 else "stays"


def _shape(array: np.ndarray) -> str:
    return "×".join(map(str, array.shape)) or "a number"
