"""What a run says of its strategy: at the start, what its user may not know of it; later, that the loss explodes."""

import math
from collections.abc import Mapping
from typing import Any

from . import strategy
from .strategy import Aggregation

EXPLODED = 3  # times the lowest loss so far, and above the first one
EXPLODED_AT_ONCE = 10  # times what the devices had in training, after the first round, of which no other loss is known
_STEPS = {  # what makes a strategy's own step on the server smaller
    "FedAdam": ("eta",), "FedAdagrad": ("eta",), "FedYogi": ("eta",),
    "FedAvgM": ("server_learning_rate", "server_momentum"),
}  # fmt: skip


def remarks(aggregation: Aggregation, arguments: Mapping[str, Any], devices: int) -> list[str]:
    """Return what is to be said of a strategy before it is used for `devices` that train, sentences."""
    name, used = aggregation.name, vars(aggregation.strategy)
    sentences = []
    defaults = strategy.DEFAULTS.get(name, {})
    if ours := [f"{key} {value:g}" for key, value in defaults.items() if key not in arguments]:
        sentences.append(f"{name} has {' and '.join(ours)}, Flowerbed's default, as the loss explodes with Flower's")
    if name == "FedProx" and not used["proximal_mu"]:
        sentences.append("FedProx with proximal_mu 0 is FedAvg: give one in fl_strategy_args")
    if name == "FedAvgM" and not used["server_momentum"] and used["server_learning_rate"] == 1:
        sentences.append(
            "FedAvgM with server_momentum 0 and server_learning_rate 1 is FedAvg: give one in fl_strategy_args"
        )
    if name == "FedTrimmedAvg" and not int(used["beta"] * devices):
        enough = f"; it would of {math.ceil(1 / used['beta'])}" if used["beta"] else ""
        sentences.append(f"FedTrimmedAvg with beta {used['beta']:g} leaves out nothing of {devices} devices{enough}")
    return sentences


class Watch:
    """Notices when the global model's loss explodes. `events` are those of the experiment so far."""

    def __init__(self, aggregation: Aggregation, experiment: str, events: list[dict[str, Any]]) -> None:
        self._aggregation, self._experiment = aggregation, experiment
        rounds = [event for event in events if event.get("event") == "round" and isinstance(event.get("round"), int)]
        self._rounds: dict[int, Mapping[str, Any]] = {event["round"]: event for event in rounds}
        self._said = 0.0

    def after(self, number: int, scores: Mapping[str, float | None], trained: float) -> str | None:
        """Return a sentence if the model of a round is one whose loss has exploded, and it was not said before.

        `scores` are its loss and heldout_loss, and `trained` the mean loss of the devices' training.
        """
        kind = "loss" if scores["loss"] is not None else "heldout_loss"
        self._rounds[number] = scores
        past = {place: self._rounds[place].get(kind) for place in sorted(self._rounds) if place < number}
        past = {place: loss for place, loss in past.items() if isinstance(loss, int | float)}
        now = scores[kind]
        if now is None or now <= EXPLODED * self._said:
            return None
        if not past:
            against, times, than = trained, EXPLODED_AT_ONCE, "what it was in the devices' training"
            if self._aggregation.name not in _STEPS:
                return None  # a mean of what they trained: they may have another loss in training
        else:
            best = min(past, key=lambda place: past[place])
            against, times, than = past[best], EXPLODED, f"that of round {best}"
            if now <= next(iter(past.values())):
                return None
        if against <= 0 or now <= times * against:
            return None
        self._said = now
        return (
            f"the loss of the model of round {number} is {now:.3g}, {now / against:.3g} times {than} ({against:.3g}): "
            f"it explodes. {self._cause()}" + (self._way_back() if past else "")
        )

    def _cause(self) -> str:
        name = self._aggregation.name
        if name not in _STEPS:
            return "The devices' training goes too far: try a smaller fl_learning_rate, or fewer fl_local_epochs"
        used = vars(self._aggregation.strategy)
        steps = " and ".join(f"{step} {used[step]:g}" for step in _STEPS[name])
        return f"{name} with {steps} moves the model too far: try a tenth of it in fl_strategy_args"

    def _way_back(self) -> str:
        return (
            "; to go on from the best model so far, begin another experiment with it: -e experiment=NAME -e "
            f"fl_initial={self._experiment}"
        )
