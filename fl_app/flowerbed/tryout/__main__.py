"""Try a task without a fleet: python -m flowerbed.tryout TASK [DATA] [--config NAME=VALUE ...].

Prints what came of it and exits with 0; or, on stderr, what a fleet would refuse, and exits with 1.
"""

import argparse
import json
import logging
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

import numpy as np

from .. import metrics
from ..dataset import DatasetError
from ..rounds import checkpoint
from ..rounds.config import RunConfig, RunFailed
from ..rounds.events import Events
from ..rounds.loop import run_rounds
from ..trainer.task import task_hash
from ..trainer_socket import LOG, TrainerError, TrainerSocket
from ..words import clean, clean_trace
from .data import DEVICE, SERVER, Data, place
from .fleet import SOCKET, START_SECONDS, Device, trainers

BATCHES = 4
DEFAULTS = {"batch_size": 32, "local_epochs": 1, "learning_rate": 0.001}  # as in roles/fl/defaults
ROUND_SECONDS = 3600


class Refused(Exception):
    """A fleet would not do this; the message is a sentence."""


def main(words: list[str] | None = None) -> int:
    """Try the task, say what came of it, and return the exit status; `words` are those of the command line."""
    arguments = _arguments(words)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    logging.getLogger("flwr").setLevel(logging.CRITICAL)  # what matters of it, the round loop says
    with tempfile.TemporaryDirectory(prefix="flowerbed-") as name:
        folder = Path(name)
        try:
            print("\n".join(_try(arguments, folder)))
            return 0
        except (Refused, RunFailed, DatasetError, OSError) as error:
            sentence = clean(error, 1000)
        except KeyboardInterrupt:
            return 130
        if LOG in sentence:
            for log in sorted(folder.glob(f"*/{LOG}")):
                print("\n".join([f"{log.relative_to(folder)}:", *clean_trace(log.read_text().splitlines())]),
                      file=sys.stderr)  # fmt: skip
        print(f"A fleet would not take {arguments.task}: {sentence}", file=sys.stderr)
        return 1


def _arguments(words: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m flowerbed.tryout", description="Try a task without a fleet.")
    parser.add_argument("task", metavar="TASK", help="the task's file or folder, as fl_task names it")
    parser.add_argument(
        "data", metavar="DATA", nargs="?", default="digits",
        help="class folders, a file of arrays or columns, a dataset_name, or NAME:PATH of both, such as "
        "cifar10:/data/cifar or device:/data/mine for a folder that the task itself reads (default: digits)",
    )  # fmt: skip
    parser.add_argument("--config", metavar="NAME=VALUE", nargs="+", default=[], help="what fl_config would have")
    parser.add_argument("--image-size", metavar=("HEIGHT", "WIDTH"), nargs=2, type=int, help="as dataset_image_size")
    arguments = parser.parse_args(words)
    if wrong := [pair for pair in arguments.config if "=" not in pair]:
        parser.error(f"--config takes NAME=VALUE, not {wrong[0]}")
    return arguments


def _try(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """Return what came of it, in lines. Raises Refused and the like, with a sentence."""
    task = Path(arguments.task).expanduser().resolve()
    if not task.exists():
        raise Refused("there is no such file or folder")
    config = DEFAULTS | {name: _value(text) for name, _, text in (pair.partition("=") for pair in arguments.config)}
    batch = config["batch_size"] if isinstance(config["batch_size"], int) else DEFAULTS["batch_size"]
    data = place(arguments.data, folder, max(BATCHES * batch, 1), arguments.image_size)
    os.chdir(folder)  # paths in sentences are short
    tried = Trial(task, config, data)
    with trainers(folder, task, data, tried.run_config("deployment").task_config(0, 0)):
        about = {host: _ready(host) for host in (SERVER, DEVICE)}
        tried.run("resumed")
        tried.run("whole", rounds=2)
        tried.run("resumed")  # with the task's module as if freshly imported, for the other experiment has had it since
    notes = [*data.manifest.get("warnings", []), *about[DEVICE]["warnings"], *tried.differences()]
    return [f"A fleet takes {arguments.task}.", *tried.report(about[DEVICE]), *(f"Note: {note}" for note in notes)]


def _ready(host: str) -> dict[str, Any]:
    try:
        return TrainerSocket(f"{host}/{SOCKET}").wait_ready(START_SECONDS)
    except TrainerError as error:
        raise Refused(f"the trainer of {host} is not ready: {error}") from None


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


class Trial:
    """Rounds of the task on the fleet of one."""

    def __init__(self, task: Path, config: dict[str, Any], data: Data) -> None:
        self._config = config
        self._data = data
        self._task = str(task)
        self._grid = Device(f"{DEVICE}/{SOCKET}")

    def run_config(self, experiment: str, rounds: int = 1) -> RunConfig:
        """Return what a fleet's server would be asked for."""
        return RunConfig(
            experiment, experiment, rounds, "stream", self._task, f"{SERVER}/{SOCKET}", {DEVICE: "examples"},
            self._config, own_data=[DEVICE] if self._data.own else [], dataset=self._data.manifest,
            task_hash=task_hash(self._task), round_timeout=ROUND_SECONDS,
        )  # fmt: skip

    def run(self, experiment: str, rounds: int = 1) -> None:
        """Do rounds of an experiment. Raises Refused if a fleet would have gone on without something."""
        run_rounds(self._grid, self.run_config(experiment, rounds), threading.Event())
        if self._events(experiment, "problem"):
            raise Refused("it would go on without what the lines above name")

    def differences(self) -> list[str]:
        """Return what is to be said of models that should be the same, bit for bit."""
        for number, sentence in (
            (1, "the same seed gave two models: the task draws numbers that the seeds of Python, numpy and torch do "
                "not decide"),
            (2, "a run in one go gave another model than one that was stopped and went on: the task keeps something "
                "from round to round"),
        ):  # fmt: skip
            one, other = (
                checkpoint.load(checkpoint.path_of(Path(name, "checkpoints"), number)).model
                for name in ("whole", "resumed")
            )
            if any(not np.array_equal(one[name], other[name], equal_nan=True) for name in one):
                return [sentence]
        return []

    def report(self, about: dict[str, Any]) -> list[str]:
        """Return what the last round was like."""
        device, result = (self._events("whole", kind)[-1] for kind in ("device", "round"))
        seconds = {"train": device["seconds_train"], "heldout": device.get("seconds_evaluate", 0)}
        counts = {"train": device["examples"], "heldout": device.get("heldout_examples", 0)}
        whole = counts | self._data.whole
        long = sum(seconds[split] * whole[split] / max(counts[split], 1) for split in seconds)
        lines = [
            f"Model: {device['bytes_down'] / 1e6:.3g} MB, sent to each device and back in every round.",
            f"Trained on {counts['train']} examples: {told(device['metrics'])}.",
        ]
        if counts["heldout"]:
            score = told(device["heldout_metrics"])
            lines.append(f"Evaluated on {counts['heldout']} examples that are held out: {score}.")
        if result["metrics"]:
            lines.append(f"Evaluated on the server's test set: {told(result['metrics'])}.")
        return [
            *lines,
            f"Memory: the trainer's had at most {device['peak_memory_bytes'] / 1e6:.0f} MB.",
            f"Time: a round of a device with {whole['train']} examples takes about {long:.2g} s on this machine "
            f"({about['device']}, {about['threads']} threads). A board takes longer.",
        ]

    def _events(self, experiment: str, kind: str) -> list[dict[str, Any]]:
        return [event for event in Events(Path(experiment, "metrics.jsonl")).read() if event["event"] == kind]


def told(measured: dict[str, Any]) -> str:
    """Return metrics in words: "loss 0.25, accuracy 91.0%"."""

    def one(name: str, value: Any) -> str:
        if isinstance(value, list):
            return f"{name} (a list of {len(value)})"
        return f"{name} {value:.1%}" if metrics.is_share(name) else f"{name} {value:.4g}"

    return ", ".join(one(name, value) for name, value in measured.items())


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that no trainer stays
    sys.exit(main())
