"""A fleet of one: the trainers of a device and of the server as processes, and the device's client in this one."""

import contextlib
import json
import os
import shutil
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from flwr.app import Message

from .. import flower_private
from ..link.answers import ClientConfig, handle, query
from ..link.content import QUERY, make_content, read_content
from ..parts import split
from ..trainer.task import files
from ..trainer_socket import LOG, TrainerSocket
from .data import DEVICE, Data

PACKAGE = Path(__file__).parents[1]
SOCKET = "trainer.sock"
START_SECONDS = 180  # as trainer_ready_timeout
AGAIN_SECONDS = 1


@contextlib.contextmanager
def trainers(folder: Path, task: Path, data: Data, config: dict[str, Any]) -> Iterator[None]:
    """Run a trainer in the folder of each host, with the environment and the files that a deployment gives it."""
    running = []
    try:
        for host, path in data.folders.items():
            home = folder / host
            (home / "logs").mkdir(parents=True)
            (home / "app").mkdir()
            (home / "app" / "flowerbed").symlink_to(PACKAGE)
            placed = home / "app" / ("task" if task.is_dir() else "task.py")
            for name, source in files(str(task)):
                target = placed / name if task.is_dir() else placed
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source, target)
            trainer = {"name": host, "socket": SOCKET, "task": str(placed.relative_to(home)), "data": path,
                       "shard": not data.own, "config": "task.json"}  # fmt: skip
            (home / "task.json").write_text(json.dumps(config))
            (home / "trainer.json").write_text(json.dumps(trainer))
            running.append(Supervised(home))
        yield
    finally:
        for supervised in running:
            supervised.stop()


class Supervised:
    """The trainer in the folder `home`, which is started again when it dies, as supervisor or Docker would do.

    However this process ends, the trainer does, too.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        self._stopped = threading.Event()
        self._process = self._start()
        self._thread = threading.Thread(target=self._keep, daemon=True)
        self._thread.start()

    def _start(self) -> subprocess.Popen:
        environment = {name: os.environ[name] for name in ("HOME", "USER", "PATH") if name in os.environ}
        environment |= {"LC_ALL": "C.UTF-8", "PYTHONPATH": str(self._home / "app"), "PYTHONUNBUFFERED": "1"}
        with open(self._home / LOG, "ab") as log:
            return subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", sys.executable, "-m", "flowerbed.trainer", "trainer.json"],
                cwd=self._home, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    def _keep(self) -> None:
        while True:
            self._process.wait()
            if self._stopped.wait(AGAIN_SECONDS):
                return
            self._process = self._start()

    def stop(self) -> None:
        """Kill it, whether it was just started again or not."""
        self._stopped.set()
        while self._thread.is_alive():
            self._process.kill()
            self._thread.join(0.1)


class Device:
    """A Flower `Grid` of one device, which answers a message as it is sent."""

    waits = True  # pull_messages returns when there is something

    def __init__(self, trainer: str) -> None:
        flower_private.allow_messages()
        self._client = ClientConfig(DEVICE, "", trainer, {}, {})
        self._replies: dict[str, Message] = {}

    def get_node_ids(self) -> list[int]:
        """Return the node."""
        return [1]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Answer messages; return their ids."""
        identifiers = []
        for message in messages:
            identifiers.append(str(uuid.uuid4()))
            flower_private.number(message, identifiers[-1])
            self._replies[identifiers[-1]] = self._answer(message)
        return identifiers

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the answers."""
        return [self._replies.pop(identifier) for identifier in message_ids]

    def _answer(self, message: Message) -> Message:
        trainer = TrainerSocket(self._client.trainer)
        if message.metadata.message_type == QUERY:
            return Message(make_content(b"", query(self._client, trainer)), reply_to=message)
        packed, config = read_content(message.content)
        result, metrics = handle(self._client, trainer, message.metadata.message_type, split(packed), config)
        return Message(make_content(b"".join(result), metrics), reply_to=message)
