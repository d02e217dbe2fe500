"""The devices of a run, by name, on whatever `Grid` they are connected to."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..link.content import QUERY, make_content, read_content
from .config import RunStopped

POLL_SECONDS = 0.05
GRACE_SECONDS = 2.0


@dataclass
class Reply:
    """What came back from a device: tensors and values, or `error`, a sentence's end; and after how many seconds."""

    packed: bytes
    values: dict[str, Any]
    error: str | None
    seconds: float
    late: bool = False

    @property
    def trace(self) -> list[str]:
        """The last lines of a task's traceback."""
        lines = self.values.get("trace")
        return [str(line) for line in lines] if isinstance(lines, list) else []


class Fleet:
    """Finds out which node is which device, and exchanges messages with devices by name.

    `stop` ends every wait with RunStopped; `query_seconds` is how long a device may take to say who it is.
    """

    def __init__(self, grid: Grid, devices: Iterable[str], stop: threading.Event, query_seconds: float) -> None:
        self._grid = grid
        self._devices = list(devices)
        self._stop = stop
        self._query_seconds = query_seconds
        self._nodes: dict[str, int] = {}
        self.about: dict[str, dict[str, Any]] = {}

    def refresh(self) -> list[str]:
        """Ask nodes that are new who they are; return the names of the run's devices that are connected, in order."""
        connected = set(self._grid.get_node_ids())
        self._nodes = {name: node for name, node in self._nodes.items() if node in connected}
        unknown = sorted(connected - set(self._nodes.values()))
        if unknown:
            replies = self._exchange({node: make_content(b"", {}) for node in unknown}, QUERY, self._query_seconds)
            for node, reply in replies.items():
                name = reply.values.get("name")
                if reply.error is None and name in self._devices:
                    self._nodes[name] = node
                    self.about[name] = reply.values
        return [name for name in self._devices if name in self._nodes]

    def wait_for(self, number: int, seconds: float) -> list[str]:
        """Return the connected devices once there are `number` of them, or after `seconds`."""
        deadline = time.monotonic() + seconds
        while len(here := self.refresh()) < number and time.monotonic() < deadline:
            self._pause(POLL_SECONDS * 4)
        return here

    def connected(self, device: str) -> bool:
        """Return whether a device was connected at the last refresh."""
        return device in self._nodes

    def runs_on(self, device: str) -> dict[str, str]:
        """Return what a device trains with, as far as it has said: Python, numpy, torch, processor and image."""
        about = self.about.get(device, {})
        facts = about.get("facts")
        found = {name: about.get(name) for name in ("python", "numpy", "torch")}
        found |= {"processor": about.get("device"), "image": facts.get("image") if isinstance(facts, dict) else None}
        return {name: value[:80] for name, value in found.items() if isinstance(value, str)}

    def forget(self, device: str) -> None:
        """Ask a device anew who it is, before it is next sent anything."""
        self._nodes.pop(device, None)

    def index(self, device: str) -> int:
        """Return a device's place in the run, the same whatever the link; strategies choose by it."""
        return self._devices.index(device)

    def name(self, index: int) -> str:
        """Return the device at a place."""
        return self._devices[index]

    def exchange(self, devices: Iterable[str], kind: str, content: RecordDict, seconds: float) -> dict[str, Reply]:
        """Send one content to devices and return their replies, every device's: late ones and failures too."""
        names = {self._nodes[device]: device for device in devices if device in self._nodes}
        replies = self._exchange(dict.fromkeys(names, content), kind, seconds)
        return {names[node]: reply for node, reply in replies.items()}

    def _exchange(self, contents: dict[int, RecordDict], kind: str, seconds: float) -> dict[int, Reply]:
        started = time.monotonic()
        messages = [Message(content, node, kind, ttl=seconds) for node, content in contents.items()]
        waiting = dict(zip(self._grid.push_messages(messages), contents, strict=True))
        replies: dict[int, Reply] = {}
        deadline = started + seconds + GRACE_SECONDS
        while waiting and time.monotonic() < deadline:
            arrived = list(self._grid.pull_messages(list(waiting)))
            now = time.monotonic()
            for message in arrived:
                node = waiting.pop(message.metadata.reply_to_message_id)
                replies[node] = _read(message, now - started, seconds)
            if arrived or getattr(self._grid, "waits", False):
                self.check_stop()
            else:  # every look costs a SuperLink something: the longer it takes, the less often it is asked
                self._pause(min(max(POLL_SECONDS, (now - started) / 50), 1))
        for node in waiting.values():
            replies[node] = Reply(b"", {}, f"it did not answer within {seconds:g} s", seconds, late=True)
        return replies

    def check_stop(self) -> None:
        """Raise RunStopped if the run is to stop."""
        self._pause(0)

    def _pause(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise RunStopped


def _read(message: Message, took: float, limit: float) -> Reply:
    if message.has_error():
        late = took >= limit
        reason = f"it did not answer within {limit:g} s" if late else message.error.reason or "it failed"
        return Reply(b"", {}, reason, took, late)
    try:
        packed, values = read_content(message.content)
    except ValueError as error:
        return Reply(b"", {}, str(error), took)
    error = values.get("error")
    return Reply(packed, values, None if error is None else str(error), took)
