"""The devices of a run, by name, on whatever `Grid` they are connected to."""

import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flwr.app import Message, RecordDict
from flwr.serverapp import Grid

from ..link.content import QUERY, make_content, read_content
from ..metrics import LONGEST_LIST
from ..trainer_socket import MOST_NAMES
from ..words import clean, clean_all, clean_trace
from .config import RunStopped

POLL_SECONDS = 0.05
GRACE_SECONDS = 2.0


@dataclass
class Reply:
    """What came back from a device: tensors and values, or `error`, a sentence's end; and after how many seconds.

    `trace` has the last lines of a task's traceback. All words are fit for a terminal.
    """

    device: str
    packed: bytes
    values: dict[str, Any]
    error: str | None
    seconds: float
    late: bool = False
    trace: list[str] = field(default_factory=list)


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
        self._queries: dict[str, tuple[int, float]] = {}  # by message: the node, and until when it may answer
        self._silent: set[int] = set()  # nodes that were waited for in vain
        self._doubtful: set[str] = set()  # devices to be asked again, though what they said still counts
        self.about: dict[str, dict[str, Any]] = {}

    def refresh(self, patience: float | None = None) -> list[str]:
        """Ask nodes that are new, or doubtful, who they are; return the run's devices that are connected, in order.

        Waits for the answers at most `patience` seconds (None: as long as one may take), once a node: what a node
        answers after that is taken up by a later call.
        """
        started = time.monotonic()
        deadline = started + (self._query_seconds if patience is None else patience)
        connected = set(self._grid.get_node_ids())
        self._nodes = {name: node for name, node in self._nodes.items() if node in connected}
        self._silent &= connected
        over = [
            message for message, (node, until) in self._queries.items() if node not in connected or started >= until
        ]
        for message in over:
            del self._queries[message]
        self._abandon(over)
        asked = {node for node, _ in self._queries.values()}
        sure = {node for name, node in self._nodes.items() if name not in self._doubtful}
        self._doubtful.clear()
        unknown = sorted(connected - asked - sure)
        messages = [Message(make_content(b"", {}), node, QUERY, ttl=self._query_seconds) for node in unknown]
        until = started + self._query_seconds + GRACE_SECONDS
        sent = self._grid.push_messages(messages) if messages else []
        self._queries |= {message: (node, until) for message, node in zip(sent, unknown, strict=True)}
        while self._queries:
            arrived = list(self._grid.pull_messages(list(self._queries)))
            now = time.monotonic()
            for message in arrived:
                if (query := self._queries.pop(message.metadata.reply_to_message_id, None)) is not None:
                    node, until = query
                    self._meet(node, _read("", message, 0, 1, MOST_NAMES), late=now >= until - GRACE_SECONDS)
            waited_for = {node for node, _ in self._queries.values()} - self._silent
            if waited_for and now >= deadline:
                self._silent |= waited_for
            if not waited_for or now >= deadline:
                break
            self._between(arrived, now - started)
        return [name for name in self._devices if name in self._nodes]

    def _meet(self, node: int, reply: Reply, late: bool) -> None:
        if reply.error is not None:
            if late:  # a SuperLink's word that the node has not answered
                self._silent.add(node)
            return
        self._silent.discard(node)
        name = reply.values.get("name")
        if name in self._devices:
            cleaned = {key: clean(reply.values[key]) for key in ("problem", "task_hash") if reply.values.get(key)}
            self._nodes[name] = node
            self.about[name] = {**reply.values, **cleaned}

    def connected(self, device: str) -> bool:
        """Return whether a device was connected at the last refresh."""
        return device in self._nodes

    def settled(self, device: str) -> bool:
        """Return whether a device is connected, and ready or unable to be: it is worth no wait."""
        about = self.about.get(device, {})
        unable = about.get("problem") and not about.get("starting")
        return self.connected(device) and bool(unable or about.get("ready", True))

    def ready(self, device: str) -> bool:
        """Return whether a device was ready when it was asked; then only what it said of its data counts."""
        about = self.about.get(device, {})
        return bool(about.get("ready", True)) and not about.get("problem")

    def ask_anew(self, devices: Iterable[str]) -> None:
        """Have the next refresh ask devices again; until they answer, what they said before counts."""
        self._doubtful |= set(devices)

    def runs_on(self, device: str) -> dict[str, str]:
        """Return what a device trains with, as far as it has said: Python, numpy, torch, processor and image."""
        about = self.about.get(device, {})
        facts = about.get("facts")
        named = {name: about.get(name) for name in ("python", "numpy", "torch")}
        named |= {"processor": about.get("device"), "image": facts.get("image") if isinstance(facts, dict) else None}
        return {name: clean(value, 80) for name, value in named.items() if isinstance(value, str)}

    def doubt(self, device: str) -> None:
        """Ask a device anew who it is, before it is next sent anything."""
        self._nodes.pop(device, None)

    def index(self, device: str) -> int:
        """Return a device's place in the run, the same whatever the link; strategies choose by it."""
        return self._devices.index(device)

    def name(self, index: int) -> str:
        """Return the device at a place."""
        return self._devices[index]

    def exchange(self, devices: Iterable[str], kind: str, content: RecordDict, seconds: float) -> Iterator[Reply]:
        """Send one content to devices; yield every device's reply as it comes, late ones and failures, too.

        The clock begins as the content is handed to the link; it covers sending, training and receiving. A device that
        has not answered after `seconds` is cut off, and what it sends then is let go; so it is with all that are still
        at work when the caller takes no more. Those whose answer is of another trainer than was asked before, or of one
        that had not been ready then, are asked anew who they are, and come last.
        """
        devices = list(devices)
        for device in devices:
            if device not in self._nodes:
                yield Reply(device, b"", {}, "its connection ended", 0.0)
        names = {self._nodes[device]: device for device in devices if device in self._nodes}
        others: list[Reply] = []
        for reply in self._exchange(names, content, kind, seconds):
            if reply.error is not None or self._known(reply):
                yield reply
            else:
                others.append(reply)
                self.doubt(reply.device)
        if others:
            self.refresh()
        for reply in others:
            if not self._known(reply):
                reply.error = "its trainer was started again, and has not said what it has"
            yield reply

    def _known(self, reply: Reply) -> bool:
        """Return whether what is known of a device was said by the trainer that gave this reply, once it was ready."""
        return self.ready(reply.device) and reply.values.get("tried") == self.about[reply.device].get("tried")

    def _exchange(self, names: dict[int, str], content: RecordDict, kind: str, seconds: float) -> Iterator[Reply]:
        started = time.monotonic()
        messages = [Message(content, node, kind, ttl=seconds) for node in names]
        waiting = dict(zip(self._grid.push_messages(messages), names.values(), strict=True))
        try:
            while waiting:
                arrived = list(self._grid.pull_messages(list(waiting)))
                now = time.monotonic()
                for message in arrived:
                    took = getattr(message, "arrived", now) - started
                    if (device := waiting.pop(message.metadata.reply_to_message_id, None)) is not None:  # a first one
                        yield _read(device, message, took, seconds)
                if not arrived and now > started + seconds + GRACE_SECONDS:
                    break
                self._between(arrived, now - started)
        finally:
            self._abandon(waiting)
        for device in waiting.values():
            yield Reply(device, b"", {}, f"it did not answer within {seconds:g} s", seconds, late=True)

    def close(self) -> None:
        """Want no answer any more: nothing is held for a run that has ended."""
        self._abandon(self._queries)
        self._queries.clear()

    def _abandon(self, messages: Iterable[str]) -> None:
        messages = list(messages)
        if messages and (abandon := getattr(self._grid, "abandon", None)):
            abandon(messages)

    def _between(self, arrived: list[Message], waited: float) -> None:
        """Pause between two looks at what has arrived."""
        if arrived or getattr(self._grid, "waits", False):
            self.pause(0)
        else:  # every look costs a SuperLink something: the longer it takes, the less often it is asked
            self.pause(min(max(POLL_SECONDS, waited / 50), 1))

    def pause(self, seconds: float) -> None:
        """Wait. Raises RunStopped if the run is to stop."""
        if self._stop.wait(seconds):
            raise RunStopped


def _read(device: str, message: Message, took: float, limit: float, most: int = LONGEST_LIST) -> Reply:
    if message.has_error():
        late = took >= limit
        reason = f"it did not answer within {limit:g} s" if late else clean(message.error.reason or "it failed")
        return Reply(device, b"", {}, reason, took, late)
    try:
        packed, values = read_content(message.content)
    except ValueError as error:
        return Reply(device, b"", {}, clean(error), took)
    error = values.get("error")
    trace = clean_trace(values.get("trace"))
    sentence = None if error is None else clean(error)
    return Reply(device, packed, clean_all(values, most=most), sentence, took, trace=trace)
