"""A checkpoint a round: the global model, the strategy's memory and the round's events, in one safetensors file.

A checksum in its metadata covers all of it. Checkpoints of before there was one are read without.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import tensors
from .files import write_atomically

_NAME = re.compile(r"round-(\d+)\.safetensors$")
_MODEL, _MEMORY = "model/", "strategy/"
_CHECKSUM = "sha256"
_LONGEST_HEADER = 1 << 26  # bytes


@dataclass
class Checkpoint:
    """What a run needs to go on after `round`: tensors of the model and of the strategy, and what was measured."""

    round: int
    model: dict[str, np.ndarray]
    memory: dict[str, np.ndarray] = field(default_factory=dict)
    memory_rest: str = "{}"
    events: list[dict[str, Any]] = field(default_factory=list)


def path_of(folder: Path, round_number: int) -> Path:
    """Return where the checkpoint of a round lies."""
    return folder / f"round-{round_number:05d}.safetensors"


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint atomically. Raises OSError; then none of it is there."""
    arrays = {_MODEL + name: array for name, array in checkpoint.model.items()}
    arrays |= {_MEMORY + name: array for name, array in checkpoint.memory.items()}
    rest = json.dumps({
        "round": checkpoint.round, "memory": checkpoint.memory_rest, "events": checkpoint.events, "checksum": _CHECKSUM
    })  # fmt: skip
    metadata = {"flowerbed": rest, _CHECKSUM: _checksum(rest, arrays)}
    write_atomically(path_of(folder, checkpoint.round), tensors.pieces(arrays, metadata))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises ValueError and others if it is damaged, OSError if it cannot be read."""
    data = path.read_bytes()
    arrays, metadata = tensors.unpack(data), tensors.metadata(data)
    rest = json.loads(metadata["flowerbed"])
    checked = rest.get("checksum") or _CHECKSUM in metadata
    if checked and metadata.get(_CHECKSUM) != _checksum(metadata["flowerbed"], arrays):
        raise ValueError("it is damaged: its checksum is another")
    parts: dict[str, dict[str, np.ndarray]] = {_MODEL: {}, _MEMORY: {}}
    for name, array in arrays.items():
        for prefix, part in parts.items():
            if name.startswith(prefix):
                part[name.removeprefix(prefix)] = array
    return Checkpoint(rest["round"], parts[_MODEL], parts[_MEMORY], rest["memory"], rest["events"])


def newest(
    folder: Path, fault: Callable[[Checkpoint], str] = lambda checkpoint: ""
) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint to go on from (None if there is none), and a sentence for each newer one that isn't.

    `fault` says what is wrong with one that can be read, a sentence's end, or nothing.
    """
    usable, problems = None, []
    for number, path in sorted(_paths(folder).items(), reverse=True):
        try:
            usable = load(path)
            if usable.round != number:
                raise ValueError(f"it is of round {usable.round}")
            if not (wrong := fault(usable)):
                break
            problems.append(f"the checkpoint {path} is not used, because it {wrong}")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            problems.append(f"the checkpoint {path} cannot be read ({error})")
        usable = None
    end = f"the run goes on after round {usable.round}" if usable else "there is no older one"
    return usable, [f"{problem}: {end}" for problem in problems]


def prune(folder: Path, newest: int, keep: int, best: int | None) -> None:
    """Remove old checkpoints: all but the `keep` latest up to round `newest`, and that of round `best`.

    Other files stay; so do checkpoints of later rounds, which could not be gone on from.
    """
    older = {number: path for number, path in _paths(folder).items() if number <= newest}
    for number in sorted(older)[:-keep]:
        if number != best and _is_ours(older[number]):
            with contextlib.suppress(OSError):  # one too many is no reason to end a run
                older[number].unlink()


def about(path: Path) -> dict[str, str]:
    """Return the metadata of a file of tensors, of which no more is read. Raises ValueError or OSError."""
    with open(path, "rb") as file:
        start = file.read(8)
        return tensors.metadata(start + file.read(min(int.from_bytes(start, "little"), _LONGEST_HEADER)))


def _paths(folder: Path) -> dict[int, Path]:
    return {int(match[1]): path for path in folder.glob("round-*") if (match := _NAME.match(path.name))}


def _is_ours(path: Path) -> bool:
    """Return whether a file is one that `save` wrote, by its name and its metadata."""
    try:
        return path.name == path_of(path.parent, int(_NAME.match(path.name)[1])).name and "flowerbed" in about(path)
    except (OSError, ValueError):
        return False


def _checksum(rest: str, arrays: dict[str, np.ndarray]) -> str:
    digest = hashlib.sha256(rest.encode())
    for name, array in sorted(arrays.items()):
        digest.update(json.dumps([name, array.dtype.newbyteorder("<").str, list(array.shape)]).encode())
        digest.update(np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")))
    return digest.hexdigest()
