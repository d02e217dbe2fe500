"""fl_target_seconds: local steps fitted to each device's measured speed, so that all devices finish together.

A device's share of a round is to take so many seconds: to receive the model, to train, to send the update. How long a
step takes, and how long the rest, is what the device and the server measured in the rounds before; each new measurement
counts as much as all before. `steps` makes updates of different numbers of steps comparable.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any

NEW = 0.5  # what a new measurement counts
MOST = 1_000_000  # steps


class Fitting:
    """The local steps of devices for `target` seconds, from the events of the rounds so far."""

    def __init__(self, target: float, events: Iterable[Mapping[str, Any]]) -> None:
        self._target = target
        self._step: dict[str, float] = {}  # seconds of one
        self._rest: dict[str, float] = {}  # seconds of what is no training
        for event in events:
            if event.get("event") == "device":
                self.take(event)

    def take(self, event: Mapping[str, Any]) -> None:
        """Learn from what a device did, or did not do in the time that a round waited for it."""
        device, asked, waited = event["device"], event.get("steps_asked"), event.get("seconds_waited")
        if event.get("steps") and event.get("seconds_train", 0) > 0:
            self._learn(self._step, device, event["seconds_train"] / event["steps"])
            rest = max(0.0, event.get("seconds_transfer", 0.0)) + max(0.0, event.get("seconds_load", 0.0))
            self._learn(self._rest, device, rest)
        elif asked and waited:  # it is slower than that
            self._step[device] = max(self._step.get(device, 0.0), waited / asked)

    def steps(self, devices: Iterable[str]) -> dict[str, int]:
        """Return the number of steps for each device of which it is known how long one takes."""
        return {
            device: max(1, math.floor(min(MOST, (self._target - self._rest.get(device, 0.0)) / self._step[device])))
            for device in devices
            if self._step.get(device, 0.0) > 0
        }

    def too_slow(self, devices: Iterable[str]) -> dict[str, float]:
        """Return the seconds of the devices for which a single step, and all besides, takes longer than the target."""
        whole = {device: self._step.get(device, 0.0) + self._rest.get(device, 0.0) for device in devices}
        return {device: seconds for device, seconds in whole.items() if seconds > self._target}

    def _learn(self, known: dict[str, float], device: str, seconds: float) -> None:
        known[device] = NEW * seconds + (1 - NEW) * known.get(device, seconds)
