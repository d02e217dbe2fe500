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
from .patience import Patience

POLL_SECONDS = 0.05
GRACE_SECONDS = 2.0


@dataclass
class Reply:
    """What came back from a device: tensors and values, or `error`, a sentence's end; and after how many seconds.

    `late` says that it did not come in time, and `lost` that it will not come: the device itself said nothing. `round`
    is the round that it belongs to. `trace` has the last lines of a task's traceback. All words are fit for a terminal.
    """

    device: str
    packed: bytes
    values: dict[str, Any]
    error: str | None
    seconds: float
    late: bool = False
    trace: list[str] = field(default_factory=list)
    lost: bool = False
    round: int = 0


@dataclass(frozen=True)
class _Order:
    """What a device was asked to do in a round, monotonic `since`; its answer is waited for so many `seconds`.

    `keep` says that it is wanted also when the round has gone on.
    """

    device: str
    round: int
    since: float
    seconds: float
    keep: bool


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
        self._late: dict[str, _Order] = {}  # by message: what a round did not wait for, and devices are busy with
        self._came: list[Reply] = []  # late answers that are wanted
        self.about: dict[str, dict[str, Any]] = {}

    def refresh(self, patience: float | None = None) -> list[str]:
        """Ask nodes that are new, or doubtful, who they are; return the run's devices that are connected, in order.

        Waits for the answers at most `patience` seconds (None: as long as one may take), once a node: what a node
        answers after that is taken up by a later call.
        """
        started = time.monotonic()
        deadline = started + (self._query_seconds if patience is None else patience)
        self._ask()
        while self._queries:
            heard = self._hear()
            now = time.monotonic()
            waited_for = {node for node, _ in self._queries.values()} - self._silent
            if waited_for and now >= deadline:
                self._silent |= waited_for
            if not waited_for or now >= deadline:
                break
            self._between(heard, now - started)
        return [name for name in self._devices if name in self._nodes]

    def _ask(self) -> None:
        """Ask nodes that are new, or doubtful, who they are."""
        started = time.monotonic()
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

    def _hear(self) -> bool:
        """Take up what was answered, and return whether anything was."""
        arrived = list(self._grid.pull_messages(list(self._queries))) if self._queries else []
        now = time.monotonic()
        for message in arrived:
            if (query := self._queries.pop(message.metadata.reply_to_message_id, None)) is not None:  # a first one
                node, until = query
                self._meet(node, _read("", message, 0, 1, MOST_NAMES), late=now >= until - GRACE_SECONDS)
        return bool(arrived)

    def _meet(self, node: int, reply: Reply, late: bool) -> None:
        if reply.error is not None:
            if late:  # a SuperLink's word that the node has not answered
                self._silent.add(node)
            return
        self._silent.discard(node)
        said = reply.values.get("name")
        name = getattr(self._grid, "names", {}).get(node, said)
        if name in self._devices and said != name:
            self._nodes[name] = node
            problem = f"it is {name} by its key, but says that it is {clean(said, 80)}: deploy again"
            self.about[name] = {"problem": problem}
        elif name in self._devices:
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

    def busy(self, device: str) -> bool:
        """Return whether a device is still at work for a round that has gone on, or was when it was last looked at."""
        return self.owes(device) is not None or any(order.device == device for order in self._late.values())

    def owes(self, device: str) -> int | None:
        """Return the round to which a device owes an answer that is still wanted, or has given it late; or None."""
        rounds = [order.round for order in self._late.values() if order.keep and order.device == device]
        return next(iter(rounds + [reply.round for reply in self._came if reply.device == device]), None)

    def catch_up(self) -> None:
        """Take up what has come late: those devices are no longer at work."""
        self._take_late(self._grid.pull_messages([*self._late]) if self._late else [])

    def exchange(
        self, devices: Iterable[str], kind: str, content: RecordDict, seconds: float, patience: Patience,
        number: int, late: bool = False, keep: bool = False,
    ) -> Iterator[Reply]:  # fmt: skip
        """Send one content to devices; yield every device's reply as it comes, late ones and failures, too.

        The clock begins as the content is handed to the link; it covers sending, training and receiving. A device that
        has not answered after `seconds`, or when `patience` is over, is cut off, and what it sends then is let go; so
        it is with all that are still at work when the caller takes no more. With `keep`, one that has not answered in
        this round, `number`, when patience is over stays at work; with `late`, the answers of such devices to rounds
        before are yielded, too, and waited for where updates are short. Those whose answer is of another trainer than
        was asked before, or of one that had not been ready then, are asked anew who they are, and come after that.
        """
        devices = list(devices)
        for device in devices:
            if device not in self._nodes:
                yield Reply(device, b"", {}, "its connection ended", 0.0, lost=True, round=number)
        names = {self._nodes[device]: device for device in devices if device in self._nodes}
        others: list[Reply] = []
        for reply in self._exchange(names, content, kind, seconds, patience, number, late, keep):
            if reply is None:
                if others:
                    self._ask()
                    self._hear()
            elif reply.error is not None or self._known(reply):
                yield reply
            else:
                others.append(reply)
                self.doubt(reply.device)
            for other in filter(self._known, [*others]):
                others.remove(other)
                yield other
        if others:
            self.refresh()
        for reply in others:
            if not self._known(reply):
                reply.error = "its trainer was started again, and has not said what it has"
            yield reply

    def _known(self, reply: Reply) -> bool:
        """Return whether what is known of a device was said by the trainer that gave this reply, once it was ready."""
        return self.ready(reply.device) and reply.values.get("tried") == self.about[reply.device].get("tried")

    def _exchange(
        self, names: dict[int, str], content: RecordDict, kind: str, seconds: float, patience: Patience, number: int,
        late: bool, keep: bool,
    ) -> Iterator[Reply | None]:  # fmt: skip
        """Yield replies, and None after every look."""
        started = time.monotonic()
        messages = [Message(content, node, kind, ttl=seconds) for node in names]
        orders = [_Order(device, number, started, seconds, keep) for device in names.values()]
        waiting = dict(zip(self._grid.push_messages(messages) if messages else [], orders, strict=True))
        cut = True
        try:
            while waiting or (late and (self._came or (patience.short and self._owed()))):
                wanted = [*waiting, *self._late]
                arrived = list(self._grid.pull_messages(wanted)) if wanted else []
                now = time.monotonic()
                others = [message for message in arrived if message.metadata.reply_to_message_id not in waiting]
                for message in arrived:
                    if order := waiting.pop(message.metadata.reply_to_message_id, None):
                        yield _read(order.device, message, _took(message, order, now), seconds, number=number)
                self._take_late(others)
                while late and self._came:
                    yield self._came.pop(0)
                yield None
                if not arrived and waiting and now > started + seconds + GRACE_SECONDS:
                    break
                if patience.over:
                    cut = not keep and hasattr(self._grid, "abandon")
                    break
                self._between(arrived, now - started)
        finally:
            if cut:
                self._abandon(waiting)
            else:
                self._late |= waiting
        took = time.monotonic() - started
        reason = f"it did not answer within {seconds:g} s"
        if patience.over:
            reason = f"it had not answered after {took:.3g} s, when the round went on without it"
        for order in waiting.values():
            yield Reply(order.device, b"", {}, reason, min(took, seconds), late=True, lost=True, round=number)

    def _owed(self) -> bool:
        """Return whether there is work of rounds before whose answer is wanted."""
        return any(order.keep for order in self._late.values())

    def _take_late(self, arrived: Iterable[Message]) -> None:
        """Take up late answers; give up those whose own time is over."""
        now = time.monotonic()
        for message in arrived:
            order = self._late.pop(message.metadata.reply_to_message_id, None)
            if order and order.keep:  # a first one
                took = _took(message, order, now)
                self._came.append(_read(order.device, message, took, order.seconds, number=order.round))
        over = {name: order for name, order in self._late.items() if now > order.since + order.seconds + GRACE_SECONDS}
        self._abandon(over)
        for name, order in over.items():
            del self._late[name]
            if order.keep:
                reason = f"it did not answer within {order.seconds:g} s"
                self._came.append(
                    Reply(order.device, b"", {}, reason, order.seconds, late=True, lost=True, round=order.round)
                )

    def close(self) -> None:
        """Want no answer any more: nothing is held for a run that has ended."""
        self._abandon([*self._queries, *self._late])
        self._queries.clear()
        self._late.clear()
        self._came.clear()

    def _abandon(self, messages: Iterable[str]) -> None:
        messages = list(messages)
        if messages and (abandon := getattr(self._grid, "abandon", None)):
            abandon(messages)

    def _between(self, arrived: object, waited: float) -> None:
        """Pause between two looks at what has arrived."""
        if arrived or getattr(self._grid, "waits", False):
            self.pause(0)
        else:  # every look costs a SuperLink something: the longer it takes, the less often it is asked
            self.pause(min(max(POLL_SECONDS, waited / 50), 1))

    def pause(self, seconds: float) -> None:
        """Wait. Raises RunStopped if the run is to stop."""
        if self._stop.wait(seconds):
            raise RunStopped


def _took(message: Message, order: _Order, now: float) -> float:
    return getattr(message, "arrived", now) - order.since


def _read(device: str, message: Message, took: float, limit: float, most: int = LONGEST_LIST, number: int = 0) -> Reply:
    if message.has_error():
        late = took >= limit
        reason = f"it did not answer within {limit:g} s" if late else clean(message.error.reason or "it failed")
        return Reply(device, b"", {}, reason, took, late, lost=True, round=number)
    try:
        packed, values = read_content(message.content)
    except ValueError as error:
        return Reply(device, b"", {}, clean(error), took, round=number)
    error = values.get("error")
    trace = clean_trace(values.get("trace"))
    sentence = None if error is None else clean(error)
    return Reply(device, packed, clean_all(values, most=most), sentence, took, trace=trace, round=number)
