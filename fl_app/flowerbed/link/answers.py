"""What a device answers: each message of the server is one call of the trainer, on whichever link it came."""

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import memory
from ..parts import Parts
from ..trainer_socket import TrainerError, TrainerSocket
from .identity import FOLDER


@dataclass(frozen=True)
class ClientConfig:
    """The content of client.json.

    `overrides` are this device's own values of the run's configuration (batch_size, learning_rate, …). `identity` is
    the folder with its key and certificates (see link.identity).
    """

    name: str
    server: str
    trainer: str
    overrides: dict[str, Any]
    facts: dict[str, Any]
    identity: Path = Path(FOLDER)

    @classmethod
    def load(cls, path: str | Path) -> "ClientConfig":
        """Read client.json; the trainer's socket is relative to it. Raises ValueError with a sentence."""
        try:
            content = json.loads(Path(path).read_text())
            trainer = os.path.join(os.path.dirname(os.path.abspath(path)), content["trainer"])
            return cls(content["name"], content["server"], os.path.relpath(trainer), content.get("overrides") or {},
                       content.get("facts") or {}, Path(path).absolute().parent / FOLDER)  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{path} cannot be used as the client's configuration: {error}") from None


def query(client: ClientConfig, trainer: TrainerSocket) -> dict[str, Any]:
    """Return who this device is and what its trainer says of itself; `problem` says why it can't take part."""
    try:
        health = trainer.health()
    except TrainerError as error:
        health = {"ready": False, "problem": str(error), "starting": True}  # its supervisor sees to that
    return {**health, "name": client.name, "facts": client.facts, "client_memory_left": memory.left()[1]}


def handle(
    client: ClientConfig, trainer: TrainerSocket, job: str, arrays: Parts, config: dict[str, Any]
) -> tuple[Parts, dict[str, Any]]:
    """Run `job` (train or evaluate) and return the resulting tensors and metrics, the device's own overrides applied.

    A failure is no exception: the metrics then have `error`, a sentence, and `trace`.
    """
    started = time.monotonic()
    config = {**config, **client.overrides}
    if "fingerprints" in config:
        config["fingerprint"] = config.pop("fingerprints").get(client.name)
    if "steps_by_device" in config:
        config["steps"] = config.pop("steps_by_device").get(client.name, 0)
    try:
        result, metrics = trainer.call_in_parts(job, arrays, config)
    except TrainerError as error:
        return Parts(), {"error": str(error), "trace": error.trace}
    metrics["seconds_client"] = time.monotonic() - started
    return result, metrics
