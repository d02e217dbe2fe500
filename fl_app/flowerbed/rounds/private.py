"""fl_privacy at work on the server, and the accountant of what it has spent: (ε, δ), by device.

`device`: each device clips and blurs its own update; whoever sees it, the server included, learns so little. This is
local differential privacy. Any two data sets of a device are compared, which move its update by 2 clip at most, so that
an answer is a Gaussian mechanism of noise multiplier `noise` / 2.

`server`: the server clips the updates, and adds noise to their weighted mean; who sees the models learns so little. A
device is compared with itself without data: its update is then 0, while all p_m stay. That moves the mean by p_m clip,
so the noise's standard deviation is `noise` times `clip` times the largest p_m of the round; its multiplier is `noise`.

Each device that is asked to train spends once, whether it answers or not. Devices are not chosen in secret, so nothing
is taken off for that. A device's ε is of all its answers together, and that of the one with the largest is shown.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .. import privacy
from .config import RunFailed
from .files import write_atomically
from .sound import State

FILE = "privacy.json"
# With which the next model is a function of the updates' weighted mean, and of nothing else that devices send
OF_THE_MEAN = ("FedAdagrad", "FedAdam", "FedAvg", "FedAvgM", "FedProx", "FedYogi")
_BY_LOSS = ("QFedAvg",)


def unfit(where: str, strategy: str) -> str | None:
    """Return why a strategy doesn't fit the place where noise is added, a sentence's end; or None."""
    if strategy in _BY_LOSS:
        return f"is set, but {strategy} weighs updates by the devices' losses, which have no noise: choose another"
    if where == privacy.SERVER and strategy not in OF_THE_MEAN:
        return (
            f"has where server, which blurs the updates' mean, but {strategy} takes another: choose one of "
            f"{', '.join(OF_THE_MEAN)}, or where: device"
        )
    return None


def epsilon(answers: Mapping[float, int], delta: float) -> float | None:
    """Return ε at `delta` of Gaussian mechanisms, how many of each noise multiplier; None if it has no bound."""
    from dp_accounting import get_epsilon_gaussian  # seconds of imports, of which nobody else has use

    total = math.fsum(count / multiplier**2 if multiplier**2 else math.inf for multiplier, count in answers.items())
    if not total:
        return 0.0
    with np.errstate(all="ignore"):  # it looks for ε where δ is 0, too
        found = float(get_epsilon_gaussian(1 / math.sqrt(total), delta))  # one Gaussian is as good as all together
    return found if math.isfinite(found) else None


class Accountant:
    """Counts each device's answers by noise multiplier, in a file in the experiment's folder."""

    def __init__(self, folder: Path, begun: bool) -> None:
        """Read the file. Raises RunFailed if it can't be used, or isn't there though the experiment has `begun`."""
        self._path = folder / FILE
        self.answers: dict[str, Counter[float]] = {}
        if not begun and not self._path.exists():
            return
        try:
            content = json.loads(self._path.read_text())["answers"]
            self.answers = {
                device: Counter({float(multiplier): int(count) for multiplier, count in counts.items()})
                for device, counts in content.items()
            }
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RunFailed(
                f"{self._path}, which counts what fl_privacy has spent, cannot be used ({error}): restore it, or "
                "choose another name with -e experiment=NAME"
            ) from None

    def count(self, devices: Iterable[str], multiplier: float) -> None:
        """Take down, on disk, one answer more of each device. Raises OSError."""
        for device in devices:
            self.answers.setdefault(device, Counter())[multiplier] += 1
        content = {device: dict(sorted(counts.items())) for device, counts in sorted(self.answers.items())}
        write_atomically(self._path, [(json.dumps({"answers": content}, indent=2) + "\n").encode()])

    def epsilon(self, delta: float) -> float | None:
        """Return the largest ε of a device; None if there is no bound."""
        different = {frozenset(counts.items()) for counts in self.answers.values()}
        found = [epsilon(dict(counts), delta) for counts in different]
        return None if None in found else max(found, default=0.0)


class Privacy:
    """fl_privacy in a run. `moved` names the tensors that training moves, `tied` those that are one."""

    def __init__(
        self, given: Mapping[str, Any], accountant: Accountant, moved: list[str], tied: list[list[str]]
    ) -> None:
        self.where, self.clip = given["where"], given["clip"]
        self.noise, self.delta = given["noise"], given["delta"]
        self._accountant, self._moved, self._tied = accountant, moved, tied

    def spend(self, devices: Iterable[str]) -> None:
        """Count devices that are about to be asked to train. Raises RunFailed."""
        try:
            self._accountant.count(devices, self.noise / 2 if self.where == privacy.DEVICE else self.noise)
        except OSError as error:
            raise RunFailed(
                f"what fl_privacy spends cannot be written down ({error}): make room and run again"
            ) from None

    def spent(self) -> dict[str, Any]:
        """Return for an event what was done, and spent so far."""
        return {
            "where": self.where, "clip": self.clip, "noise": self.noise, "delta": self.delta,
            "epsilon": self._accountant.epsilon(self.delta),
        }  # fmt: skip

    def clipped(self, model: State, update: State) -> tuple[State, float | None]:
        """Return an update as it counts, and its length where the server clips it."""
        if self.where == privacy.DEVICE:
            return update, None
        update, length = privacy.shortened(model, update, self._moved, self.clip)
        return self._tie(update), length

    def blur(self, updates: dict[str, State], shares: Mapping[str, float]) -> None:
        """Add the server's noise to the weighted mean of updates: to the one with the largest weight, as much of it."""
        if self.where == privacy.SERVER and self.noise:
            heaviest = max(updates, key=lambda device: shares[device])
            update = updates[heaviest]
            blurred = {name: privacy.noisy(update[name], self.noise * self.clip) for name in self._moved}
            updates[heaviest] = self._tie({**update, **blurred})

    def remark(self) -> str:
        """Return what is to be said before a run."""
        who = "each device clips its update" if self.where == privacy.DEVICE else "the server clips each update"
        return (
            f"fl_privacy: {who} to a length of {self.clip:g}, with noise of {self.noise:g} times that; ε is "
            f"{_shown(self._accountant.epsilon(self.delta))} so far (δ {self.delta:g}). It is of the model's tensors: "
            "what devices measure, and how many examples they have, has no noise"
        )

    def _tie(self, update: State) -> State:
        for name, *others in self._tied:
            update |= dict.fromkeys(others, update[name])
        return update


def _shown(epsilon: float | None) -> str:
    return "without bound" if epsilon is None else f"{epsilon:.3g}"
