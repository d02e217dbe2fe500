"""What one call of run_round.yml asks for: the content of run.json."""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

from ..dataset.config import SERVER
from ..privacy import DEVICE
from . import patience


class RunFailed(Exception):
    """The run cannot start or go on; the message is a sentence for its user."""


class TooFew(RunFailed):
    """A round has too few updates; `again` says whether that may be otherwise when it is tried again."""

    def __init__(self, message: str, again: bool) -> None:
        super().__init__(message)
        self.again = again


class RunStopped(Exception):
    """The run was stopped by its user; the finished rounds stay."""


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """One run of an experiment. Times are in seconds.

    `config` is what a task's `train` and `evaluate` receive, and `overrides` what single devices have otherwise (they
    know it from their own client.json; here it is for the record); `weights` holds every device's `fl_weight`, and
    `undeployed` those that take no part, for their last deployment failed or there was none; `own_data` those with data
    of their own, not from the server; `keep_checkpoints` is how many are kept besides the best round's; `examples_cap`
    how many times the median a device's own number of examples may be; `initial` is a file of tensors, or the folder of
    an experiment, from which a new experiment begins; `metric` chooses the best model (auto: accuracy, or loss where
    the task measures none), by `metric_better` (higher, lower, or auto where its name tells), and `show` names those to
    show; `privacy` is fl_privacy; `trainer` and `control` are Unix sockets on the server. `enough` and `grace` are
    how long a round waits, as `patience` has it, and `late` what becomes of an answer that it did not wait for
    (drop, or carry into a later round); `chosen` are the devices of this run (none: all), of which a `fraction`
    trains in each round, and `optional` those whose absence is no news; `round_retries` is how often a round with
    too few updates is tried again, and `target_seconds` how long each device's share of one is to take (0: as long
    as the same work takes it). `experiment_id` tells one experiment from another, and from one that was begun anew
    under its name.
    """

    experiment: str
    directory: str
    rounds: int
    link: str
    task: str
    trainer: str
    weights: dict[str, Any]
    config: dict[str, Any]
    undeployed: list[str] = dataclasses.field(default_factory=list)
    chosen: list[str] = dataclasses.field(default_factory=list)
    fraction: float = 1
    optional: list[str] = dataclasses.field(default_factory=list)
    own_data: list[str] = dataclasses.field(default_factory=list)
    overrides: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    control: str = ""
    seed: int = 0
    strategy: str = "FedAvg"
    strategy_args: dict[str, Any] = dataclasses.field(default_factory=dict)
    dataset: dict[str, Any] = dataclasses.field(default_factory=dict)
    round_timeout: float = 3600
    enough: str | float = patience.ALL
    grace: str | float = "1x"
    late: str = "drop"
    round_retries: int = 2
    target_seconds: float = 0
    min_clients: int = 1
    wait_clients: float = 60
    superlink: dict[str, Any] = dataclasses.field(default_factory=dict)
    task_hash: str = ""
    experiment_id: str = ""
    keep_checkpoints: int = 5
    examples_cap: float = 10
    initial: str = ""
    metric: str = "auto"
    metric_better: str = "auto"
    show: list[str] = dataclasses.field(default_factory=list)
    privacy: dict[str, Any] = dataclasses.field(default_factory=dict)

    @property
    def devices(self) -> list[str]:
        """The names of the devices of this run, in order."""
        return [device for device in self.weights if not self.chosen or device in self.chosen]

    @property
    def blurred_by(self) -> str | None:
        """Who adds the noise of fl_privacy, device or server; None if nobody does."""
        return self.privacy.get("where", DEVICE) if self.privacy else None

    @functools.cached_property
    def fingerprints(self) -> dict[str, str | None]:
        """The fingerprint of what each host must have of the data set (None: nothing), or {} where that isn't known."""
        known = self.dataset.get("fingerprints", {} if self.dataset.get("name") == "device" else None)
        if known is None:
            return {}
        return {host: None if host in self.own_data else known.get(host) for host in [SERVER, *self.devices]}

    @classmethod
    def parse(cls, content: dict[str, Any]) -> "RunConfig":
        """Return the run that a dict describes. Raises RunFailed with a sentence."""
        if not isinstance(content, dict):
            raise RunFailed("it is not a JSON object")
        fields = dataclasses.fields(cls)
        optional = (dataclasses.MISSING, dataclasses.MISSING)
        missing = [f.name for f in fields if (f.default, f.default_factory) == optional and f.name not in content]
        if missing:
            raise RunFailed(f"it lacks {', '.join(missing)}")
        return cls(**{field.name: content[field.name] for field in fields if field.name in content})

    @classmethod
    def load(cls, path: str | Path) -> "RunConfig":
        """Read run.json. Raises RunFailed with a sentence."""
        try:
            return cls.parse(json.loads(Path(path).read_text()))
        except (OSError, ValueError, RunFailed) as error:
            raise RunFailed(f"{path} cannot be used as a run's configuration: {error}") from None

    def task_config(self, round_number: int, last: int) -> dict[str, Any]:
        """Return what a device receives in a round, of which `last` is the run's last: the user's values, and ours."""
        shape, classes = self.dataset.get("shape"), self.dataset.get("classes")
        known: dict[str, Any] = {"channels": shape[-1]} if shape else {}
        if classes:
            known["classes"] = len(classes)
        known |= {**self.config, "seed": self.seed, "round": round_number, "rounds": last}
        known |= {"experiment": self.experiment, "experiment_id": self.experiment_id, "task_hash": self.task_hash}
        if self.blurred_by == DEVICE:
            known["privacy"] = self.privacy
        return {**known, "fingerprints": self.fingerprints} if self.fingerprints else known

    def server_config(self, round_number: int, last: int) -> dict[str, Any]:
        """Return what the server's own trainer receives."""
        config = self.task_config(round_number, last)
        fingerprints = config.pop("fingerprints", None)
        return {**config, "fingerprint": fingerprints[SERVER]} if fingerprints else config
