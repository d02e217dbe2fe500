"""A checkpoint a round: the global model, the strategy's memory and the round's events, in one safetensors file."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from .. import tensors
from .files import write_atomically

_NAME = re.compile(r"round-(\d+)\.safetensors$")
_MODEL, _MEMORY = "model/", "strategy/"


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
    about = {"round": checkpoint.round, "memory": checkpoint.memory_rest, "events": checkpoint.events}
    write_atomically(path_of(folder, checkpoint.round), tensors.pack(arrays, {"flowerbed": json.dumps(about)}))


def load(path: Path) -> Checkpoint:
    """Read a checkpoint. Raises ValueError if it is damaged, OSError if it cannot be read."""
    data = path.read_bytes()
    arrays = tensors.unpack(data)
    about = json.loads(tensors.metadata(data)["flowerbed"])
    parts: dict[str, dict[str, np.ndarray]] = {_MODEL: {}, _MEMORY: {}}
    for name, array in arrays.items():
        for prefix, part in parts.items():
            if name.startswith(prefix):
                part[name.removeprefix(prefix)] = array
    return Checkpoint(about["round"], parts[_MODEL], parts[_MEMORY], about["memory"], about["events"])


def newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that can be read (None if there is none), and a sentence for each that can't."""
    problems = []
    found = {int(match[1]): path for path in folder.glob("round-*") if (match := _NAME.match(path.name))}
    for _, path in sorted(found.items(), reverse=True):
        try:
            return load(path), problems
        except (OSError, ValueError, KeyError, TypeError) as error:
            problems.append(f"the checkpoint {path} cannot be read ({error}): an older one is used")
    return None, problems
