"""The folder of an experiment: its configuration, checkpoints, models and events."""

import json
import math
import os
import uuid
from pathlib import Path
from typing import Any

import numpy as np

from .. import tensors
from . import checkpoint as checkpoints
from .checkpoint import Checkpoint
from .config import RunConfig, RunFailed
from .events import Events
from .files import write_atomically

_FREE = (  # may change from one call to the next, and is then recorded
    "round_timeout", "min_clients", "wait_clients", "strategy", "strategy_args", "config", "overrides", "weights",
    "link", "seed", "task_hash",
)  # fmt: skip


class Experiment:
    """runs/<experiment>/ on the server's disk."""

    def __init__(self, run: RunConfig) -> None:
        self.run = run
        self.folder = Path(run.directory)
        self.checkpoints = self.folder / "checkpoints"
        self.events = Events(self.folder / "metrics.jsonl")
        self._native: dict[str, np.dtype] = {}
        self.id = self._known_id() or uuid.uuid4().hex

    def _known_id(self) -> str | None:
        """Return the id that was given to what there is to go on from, or None."""
        try:
            known = json.loads((self.folder / "configuration.json").read_text())["id"]
        except (OSError, ValueError, KeyError, TypeError):  # what is wrong with it, `open` says
            return None
        return known if isinstance(known, str) and any(self.checkpoints.glob("round-*")) else None

    def open(self, initial: dict[str, np.ndarray]) -> Checkpoint:
        """Return where to go on: the newest checkpoint, or round 0 with the tensors of `initial`.

        Records a changed configuration. Raises RunFailed if the model or the data set is another than before.
        """
        self._native = {name: array.dtype for name, array in initial.items()}
        self.events.mend()
        self._check_configuration(initial)
        found, problems = checkpoints.newest(self.checkpoints)
        for problem in problems:
            self.events.record({"event": "problem", "message": problem})
        if found is None:
            return Checkpoint(0, initial)
        self._complete_events(found)
        return found

    def save(self, checkpoint: Checkpoint) -> None:
        """Put a finished round on disk: checkpoint, model, events. Raises RunFailed on a full disk and the like."""
        path = checkpoints.path_of(self.checkpoints, checkpoint.round)
        try:
            checkpoints.save(self.checkpoints, checkpoint)
        except OSError as error:
            raise RunFailed(
                f"round {checkpoint.round} could not be saved in {self.checkpoints} ({os.strerror(error.errno or 0)}); "
                f"the checkpoint of round {checkpoint.round - 1} is whole: make room and run again"
            ) from None
        try:
            self._save_model(checkpoint)
            self.events.record(*checkpoint.events)
        except OSError as error:
            raise RunFailed(
                f"round {checkpoint.round} is saved in {path}, but the rest of {self.folder} could not be written "
                f"({os.strerror(error.errno or 0)}): make room and run again"
            ) from None

    # -- Configuration ------------------------------------------------------------------------------------------------

    def _check_configuration(self, initial: dict[str, np.ndarray]) -> None:
        path = self.folder / "configuration.json"
        fixed = {
            "dataset": self.run.dataset,
            "model": {name: [str(array.dtype), list(array.shape)] for name, array in sorted(initial.items())},
        }
        now = {"id": self.id, **fixed, **{name: getattr(self.run, name) for name in _FREE}}
        now = json.loads(json.dumps(now))
        if path.exists():
            try:
                before = json.loads(path.read_text())
            except (OSError, ValueError) as error:
                raise RunFailed(f"{path} cannot be read ({error}): restore it, or choose another experiment") from None
            found = [difference for name in fixed for difference in differences(before.get(name), now[name], name)]
            differing = sorted(found, key=lambda phrase: (phrase.count("."), len(phrase)))  # the broadest first
            if differing:
                raise RunFailed(
                    f"experiment {self.run.experiment} began with another model or data set: "
                    f"{'; '.join(differing[:5])}{' …' if len(differing) > 5 else ''}. "
                    f"Choose another name with -e experiment=NAME, or change it back"
                )
            changes = {name: [before.get(name), now[name]] for name in _FREE if before.get(name) != now[name]}
            if changes:
                self.events.record({"event": "configuration", "changes": changes})
            elif before.get("id") == self.id:
                return
        write_atomically(path, (json.dumps(now, indent=2) + "\n").encode())

    # -- Models and events ---------------------------------------------------------------------------------------------

    def _save_model(self, checkpoint: Checkpoint) -> None:
        """Write model/last.safetensors, and model/best.safetensors when none before was as good."""
        result = checkpoint.events[-1]
        scores = [result.get(name) for name in ("accuracy", "heldout_accuracy")]
        score = next((value for value in scores if value is not None and math.isfinite(value)), None)
        about = {"round": str(checkpoint.round), "experiment": self.run.experiment, "accuracy": json.dumps(score)}
        data = tensors.pack({name: self._as_native(name, array) for name, array in checkpoint.model.items()}, about)
        write_atomically(self.folder / "model" / "last.safetensors", data)
        best = self.folder / "model" / "best.safetensors"
        if score is not None and (not best.exists() or score > _score(best)):
            write_atomically(best, data)

    def _as_native(self, name: str, array: np.ndarray) -> np.ndarray:
        native = self._native.get(name, array.dtype)
        return np.rint(array).astype(native) if native.kind in "iub" and array.dtype.kind == "f" else array

    def _complete_events(self, checkpoint: Checkpoint) -> None:
        """Add what a crash between checkpoint and events, or among the events, left out."""
        there = {_identity(event) for event in self.events.read()}
        missing = [event for event in checkpoint.events if _identity(event) not in there]
        if missing:
            self._save_model(checkpoint)
            self.events.record(*missing)


def _identity(event: dict[str, Any]) -> tuple[str, str, str]:
    return str(event.get("event")), str(event.get("round")), str(event.get("device"))


def differences(before: Any, now: Any, where: str) -> list[str]:
    """Return what differs between two JSON values, a short phrase each."""
    if before == now:
        return []
    if isinstance(before, dict) and isinstance(now, dict):
        keys = sorted({*before, *now})
        return [phrase for key in keys for phrase in differences(before.get(key), now.get(key), f"{where}.{key}")]
    return [f"{where} was {_short(before)} and is now {_short(now)}"]


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else text[:57] + "…"


def _score(path: Path) -> float:
    try:
        score = json.loads(tensors.metadata(path.read_bytes()).get("accuracy", "null"))
        return -math.inf if score is None else float(score)
    except (OSError, ValueError, TypeError):
        return -math.inf
