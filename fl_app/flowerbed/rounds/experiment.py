"""The folder of an experiment: its configuration, checkpoints, models and events."""

import json
import logging
import os
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics, tensors
from . import checkpoint as checkpoints
from . import sound, weights
from .checkpoint import Checkpoint
from .config import RunConfig, RunFailed
from .events import Events
from .files import write_atomically

log = logging.getLogger("flowerbed.rounds")

_RANKS = {"held-out": 0, "test": 1}  # what a model is chosen by
HIGHER, LOWER = "higher", "lower"  # is better
_CHANGEABLE = (  # may change from one call to the next, and is then recorded
    "round_timeout", "enough", "grace", "late", "round_retries", "target_seconds", "chosen", "fraction", "optional",
    "min_clients", "wait_clients", "strategy", "strategy_args", "config", "overrides", "weights", "link", "seed",
    "task_hash", "examples_cap", "metric", "metric_better", "privacy",
)  # fmt: skip
# Of a data set: who has what of it, which is another when devices come and go
_SHARES = ("devices", "fingerprint", "fingerprints", "split", "warnings")


@dataclass(frozen=True)
class Score:
    """What a model is judged by: the value of a metric (None: there is none), of which more, or less, is better."""

    metric: str
    better: str
    value: float | None

    @property
    def gain(self) -> float:
        """Return a number that is the higher, the better the value."""
        return self.value if self.better == HIGHER else -self.value


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
        except (OSError, ValueError, KeyError, TypeError, RecursionError):  # what is wrong with it, `open` says
            return None
        return known if isinstance(known, str) and self.begun else None

    @property
    def begun(self) -> bool:
        """Whether there is something to go on from."""
        return any(self.checkpoints.glob("round-*"))

    def open(self, initial: dict[str, np.ndarray]) -> Checkpoint:
        """Return where to go on: the newest checkpoint that can be trained from, or round 0 with `initial`'s tensors.

        Records a changed configuration. Raises RunFailed if the model or the data set is another than before, or if
        rounds are done but no checkpoint of them is left.
        """
        self._native = {name: array.dtype for name, array in initial.items()}
        self.events.mend()
        self._check_configuration(initial)
        found, problems = checkpoints.newest(self.checkpoints, lambda checkpoint: _unfit(checkpoint, initial))
        for problem in problems:
            log.warning(problem)
            self.events.record({"event": "problem", "message": problem})
        if found is None:
            self._check_new(problems)
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
            best = self._save_model(checkpoint)
            self.events.record(*checkpoint.events)
        except OSError as error:
            raise RunFailed(
                f"round {checkpoint.round} is saved in {path}, but the rest of {self.folder} could not be written "
                f"({os.strerror(error.errno or 0)}): make room and run again"
            ) from None
        checkpoints.prune(self.checkpoints, checkpoint.round, self.run.keep_checkpoints, best)

    def _check_new(self, problems: list[str]) -> None:
        """Refuse to begin anew where rounds are done."""
        rounds = [event["round"] for event in self.events.read() if event.get("event") == "round"]
        done = max((number for number in rounds if isinstance(number, int)), default=0)
        if done:
            raise RunFailed(
                f"{self.events.path} says that round {done} of experiment {self.run.experiment} is done, but "
                f"{self.checkpoints} holds no checkpoint to go on from: {'; '.join([*problems[:2], ''])}"
                "put one back, or choose another name with -e experiment=NAME"
            )

    # -- Configuration ------------------------------------------------------------------------------------------------

    def _check_configuration(self, initial: dict[str, np.ndarray]) -> None:
        path = self.folder / "configuration.json"
        fixed = {
            "dataset": self.run.dataset,
            "model": {name: [str(array.dtype), list(array.shape)] for name, array in sorted(initial.items())},
        }
        now = {
            "id": self.id,
            **fixed,
            "blurred_by": self.run.blurred_by,
            **{name: getattr(self.run, name) for name in _CHANGEABLE},
        }
        now = json.loads(json.dumps(now))
        if path.exists():
            try:
                before = json.loads(path.read_text())
                if not isinstance(before, dict):
                    raise ValueError("it is not a JSON object")
            except (OSError, ValueError, RecursionError) as error:
                raise RunFailed(
                    f"{path} cannot be used ({error}): restore it, or choose another name with -e experiment=NAME"
                ) from None
            if (was := before.get("blurred_by")) != self.run.blurred_by:
                raise RunFailed(
                    f"experiment {self.run.experiment} began {_private(was)}, but this run is "
                    f"{_private(self.run.blurred_by)}: no ε is of both. Choose another name with -e experiment=NAME, "
                    "or change fl_privacy back"
                )
            pairs = {
                "dataset": (_lasting(before.get("dataset")), _lasting(now["dataset"])),
                "model": (before.get("model"), now["model"]),
            }
            phrases = [difference for name, pair in pairs.items() for difference in differences(*pair, name)]
            differing = sorted(phrases, key=lambda phrase: (phrase.count("."), len(phrase)))  # the broadest first
            others = [phrase for phrase in differing if not phrase.startswith("dataset.fingerprint ")]
            moved = _moved(*_came_and_went(before, now))
            if others != differing and moved:
                differing = [f"{moved}, among which the data set is split anew", *others]
            if differing:
                raise RunFailed(
                    f"experiment {self.run.experiment} began with another model or data set: "
                    f"{'; '.join(differing[:5])}{' …' if len(differing) > 5 else ''}. "
                    f"Choose another name with -e experiment=NAME, or change it back"
                )
            changes = {name: [before.get(name), now[name]] for name in _CHANGEABLE if before.get(name) != now[name]}
            if changes:
                self.events.record({"event": "configuration", "changes": changes})
            if event := _fleet_event(before, now):
                self.events.record(event)
            if before == now:
                return
        write_atomically(path, [(json.dumps(now, indent=2) + "\n").encode()])

    # -- Models and events ---------------------------------------------------------------------------------------------

    def _save_model(self, checkpoint: Checkpoint) -> int | None:
        """Write model/last.safetensors, and model/best.safetensors when none before was as good.

        Returns the round of the best one, if there is one. A score on a test set is never compared with one on what
        devices hold out: it replaces what they chose, and they never replace what it chose.
        """
        by, score = self._score(checkpoint.events)
        about = {"round": str(checkpoint.round), "experiment": self.run.experiment, **vars(score), "chosen_by": by}
        about = {name: value if isinstance(value, str) else json.dumps(value) for name, value in about.items()}
        native = {name: self._as_native(name, array) for name, array in checkpoint.model.items()}
        pieces = tensors.pieces(native, about)
        write_atomically(self.folder / "model" / "last.safetensors", pieces)
        best = self.folder / "model" / "best.safetensors"
        best_by, best_score, best_round = _best(best)
        if best_score is not None and best_by not in _RANKS:  # of before it was said
            best_by = "test" if self._was_tested(best_round) else "held-out"
        if score.value is None:
            return best_round
        other = best_score is not None and (best_score.metric, best_score.better) != (score.metric, score.better)
        if other:
            self._say_other_metric(best_score, best_round, score, checkpoint.round)
        if best_score is None or other or (_RANKS[by], score.gain) > (_RANKS[best_by], best_score.gain):
            write_atomically(best, pieces)
            return checkpoint.round
        return best_round

    def _say_other_metric(self, before: Score, round_before: int | None, now: Score, number: int) -> None:
        self.events.record({"event": "problem", "round": number, "message": (
            f"the best model so far, of round {round_before}, was chosen by {before.metric} ({before.better} is "
            f"better): from round {number} on {now.metric} chooses ({now.better} is better), and begins anew"
        )})  # fmt: skip

    def _was_tested(self, number: int | None) -> bool:
        """Return whether a round's model was judged by the test set, as far as its events say."""
        return any(
            event.get("event") == "round" and event.get("round") == number and event.get("accuracy") is not None
            for event in self.events.read()
        )

    def _score(self, events: list[dict[str, Any]]) -> tuple[str, Score]:
        """Return who judges a round's model, and its score: no value if nobody did, or one device alone."""
        result = events[-1]
        name = result.get("metric") or metrics.ACCURACY
        better = self.run.metric_better
        if better == "auto":
            better = LOWER if name == metrics.LOSS else HIGHER
        tested = metrics.of_event(result).get(name)
        if _is_number(tested):
            return "test", Score(name, better, tested)
        devices = [
            event for event in events if event.get("event") == "device" and name in metrics.of_event(event, "heldout_")
        ]
        judges = sum(event.get("heldout_weight", 1) > 0 for event in devices)
        counting = sum(weights.parse(weight) != 0 for weight in map(self.run.weights.get, self.run.devices))
        mean = metrics.of_event(result, "heldout_").get(name)
        good = _is_number(mean) and judges >= min(2, counting)
        return "held-out", Score(name, better, mean if good else None)

    def _as_native(self, name: str, array: np.ndarray) -> np.ndarray:
        native = self._native.get(name, array.dtype)
        return np.rint(array).astype(native) if native.kind in "iub" and array.dtype.kind == "f" else array

    def _complete_events(self, checkpoint: Checkpoint) -> None:
        """Add what a crash between checkpoint and events, or among the events, left out."""
        recorded = {_identity(event) for event in self.events.read()}
        missing = [event for event in checkpoint.events if _identity(event) not in recorded]
        if missing:
            self._save_model(checkpoint)
            self.events.record(*missing)


def _private(blurred_by: str | None) -> str:
    return f"with fl_privacy where {blurred_by}" if blurred_by else "without fl_privacy"


def _lasting(dataset: Any) -> Any:
    """Return what of a data set stays while devices come and go: of its shares, their first fingerprint."""
    if not isinstance(dataset, dict):
        return dataset
    first = dataset.get("split", dataset.get("fingerprint"))  # an earlier Flowerbed's were always as they began
    rest = {key: value for key, value in dataset.items() if key not in _SHARES}
    return {**rest, "fingerprint": first} if first else rest


def _fleet_event(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any] | None:
    """Return an event that says which devices came, went, and have another share, since the last run; or None."""
    came, went = _came_and_went(before, now)
    was, known = _fingerprints(before), _fingerprints(now)
    others = [name for name in _devices(now) if name in was and name in known and was[name] != known[name]]
    if not came and not went and not others:
        return None
    phrases = [f"{_few(others)} {'has' if len(others) == 1 else 'have'} other examples"] * bool(others)
    message = f"the fleet is another than before: {'; '.join(filter(None, [_moved(came, went), *phrases]))}"
    return {"event": "fleet", "came": came, "went": went, "changed": others, "message": message}


def _came_and_went(before: dict[str, Any], now: dict[str, Any]) -> tuple[list[str], list[str]]:
    then, there = _devices(before), _devices(now)
    if not then:
        return [], []
    return [name for name in there if name not in then], [name for name in then if name not in there]


def _devices(configuration: dict[str, Any]) -> list[str]:
    found = configuration.get("weights")
    return list(found) if isinstance(found, dict) else []


def _fingerprints(configuration: dict[str, Any]) -> dict[str, Any]:
    dataset = configuration.get("dataset")
    found = dataset.get("fingerprints") if isinstance(dataset, dict) else None
    return found if isinstance(found, dict) else {}


def _moved(came: list[str], went: list[str]) -> str:
    """Return which devices came and which went, in words."""
    return " and ".join([f"{_few(came)} came"] * bool(came) + [f"{_few(went)} went"] * bool(went))


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _unfit(checkpoint: Checkpoint, initial: dict[str, np.ndarray]) -> str:
    """Return why an experiment whose first model was `initial` cannot go on from a checkpoint, or nothing."""
    model = checkpoint.model
    if {name: array.shape for name, array in model.items()} != {name: array.shape for name, array in initial.items()}:
        return "holds other tensors than the model's"
    if fault := sound.faults(model, initial, {name: array.dtype for name, array in model.items()}):
        return f"holds {fault}"
    memory = sound.not_finite(checkpoint.memory)
    return f"holds NaN or infinite values in the strategy's {', '.join(memory[:3])}" if memory else ""


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


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _best(path: Path) -> tuple[str | None, Score | None, int | None]:
    """Return what chose the best model so far (None: not said), its score, and its round; None if there is none."""
    try:
        about = checkpoints.about(path)
        value = json.loads(about.get("value", about.get(metrics.ACCURACY, "null")))  # so called before
        score = Score(about.get("metric", metrics.ACCURACY), about.get("better", HIGHER), value)
        good = _is_number(value) and (not metrics.is_share(score.metric) or 0 <= value <= 1)
        return about.get("chosen_by"), score if good else None, int(about["round"])
    except (OSError, ValueError, KeyError, RecursionError):
        return None, None, None
