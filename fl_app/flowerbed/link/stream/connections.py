"""The server's end of all connections: one event loop on one thread, however many devices there are.

A device's name comes from its certificate, by TLS, so a stranger never has a place: its connection ends before any of
its bytes is read. What a device sends is an answer to something that it was asked, and no larger than that can be; or
it is let go, or the device is cut.
"""

import asyncio
import contextlib
import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from ...parts import PART
from ...words import clean
from .. import identity
from . import wire
from .frames import Frames
from .registry import Registry
from .wire import Bye

log = logging.getLogger("flowerbed.server")

PING_SECONDS = 8.0  # without a sign of life, after which a device is asked for one
GONE_SECONDS = 25.0  # without any, after which it is cut
LOOK_SECONDS = 1.0
HELLO_SECONDS = 20.0  # for a guest to say who it is, by TLS and by its hello
MOST_GUESTS = 500  # that have not said so yet
MOST_REPLACED = 8  # instances of a device that are known to have been replaced, the latest
MOST_PEER = 80  # characters of an address
MOST_LOGGED = 100  # sentences about strangers, each logged once
BACKLOG = 1024
_HANDSHAKE = b"\x16"  # the first byte of TLS: RFC 8446, section 5.1

Settle = Callable[[str, wire.Message | str], None]


@dataclass(frozen=True)
class Order:
    """A message for a device: `id` is the grid's, and until `deadline` (monotonic) its answer is waited for."""

    id: str
    node: int
    kind: str
    body: wire.Body
    seconds: float
    deadline: float


@dataclass(eq=False)
class _Device:
    """A device's connection; before its hello, a guest's. `peer` is its address."""

    peer: str
    name: str = ""
    node: int = 0
    fingerprint: str = ""
    instance: str = ""
    frames: Frames | None = None
    hello: asyncio.Future = field(default_factory=lambda: asyncio.get_running_loop().create_future())
    over: bool = False
    pinged: float = field(default_factory=time.monotonic)
    outgoing: asyncio.Queue = field(default_factory=asyncio.Queue)
    waiting: dict[int, Order] = field(default_factory=dict)
    timers: dict[int, asyncio.TimerHandle] = field(default_factory=dict)
    reader: wire.Reader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = wire.Reader(self.accept)

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.pinged = time.monotonic()
        with contextlib.suppress(ConnectionError):
            self.frames.put(wire.PING, apart=True)

    def settled(self, number: int) -> None:
        """Wait no longer for the answer to an order."""
        del self.waiting[number]
        self.timers.pop(number).cancel()

    def accept(self, header: wire.Header) -> bool:
        """Say of a header whether its message is one that is waited for. Raises ProtocolError if it can't be."""
        order = self.waiting.get(header.id)
        if order is None:  # answered already, or made up: it is let go
            most_tensors = wire.MOST_TENSORS
        elif header.kind != order.kind:
            raise wire.ProtocolError(f"it answered {order.kind} with {header.kind}")
        else:
            most_tensors = wire.WIDER * order.body.tensors + wire.MORE if header.kind == wire.TRAIN else 0
        if header.words > wire.MOST_WORDS[header.kind]:
            raise wire.ProtocolError(f"it sent {header.words} bytes of words, and {wire.MOST_WORDS[header.kind]} are "
                                     "the most")  # fmt: skip
        if header.tensors > most_tensors:
            raise wire.ProtocolError(f"it sent {header.tensors} bytes of tensors, and {most_tensors} are the most")
        return order is not None


class Connections:
    """All connections to `address` (host:port) of the devices in `nodes`, each a name and its node's number.

    `folder` has the server's identity. `settle` is called, on the event loop's thread, with each order's id and its
    answer, or why there is none. Raises IdentityError.
    """

    def __init__(self, address: str, nodes: dict[str, int], folder: Path, settle: Settle) -> None:
        self._address = address
        self._nodes = nodes
        self._registry = Registry(folder)
        self._settle = settle
        self._devices: dict[int, _Device] = {}
        self._last_seen: dict[str, float] = {}
        self._numbers = 0
        self._guests = 0
        self._logged: set[str] = set()
        self._replaced: dict[int, deque[str]] = {node: deque(maxlen=MOST_REPLACED) for node in nodes.values()}
        self._doubled: set[int] = set()  # nodes of which it was said that two have their identity
        self._loop = asyncio.new_event_loop()

    def start(self) -> None:
        """Accept devices from now on. Raises OSError if the address can't be listened on."""
        host, _, port = self._address.rpartition(":")
        family = socket.AF_INET6 if "[" in host else socket.AF_INET
        listener = socket.create_server((host.strip("[]"), int(port)), family=family, backlog=BACKLOG)
        listener.setblocking(False)
        self._tasks = [self._loop.create_task(work) for work in (self._listen(listener), self._watch())]
        threading.Thread(target=self._loop.run_forever, name="stream", daemon=True).start()

    def send(self, orders: list[Order]) -> None:
        """Send what is ordered, from any thread."""
        self._loop.call_soon_threadsafe(lambda: [self._send(order) for order in orders])

    def cut(self, nodes: set[int], ids: set[str]) -> None:
        """Cut, from any thread, the devices among `nodes` that are still busy with an order of `ids`."""
        self._loop.call_soon_threadsafe(self._cut_busy, nodes, ids)

    def connected(self) -> list[int]:
        """Return the numbers of the nodes that are connected."""
        return sorted(self._devices)

    def last_seen(self, name: str) -> float | None:
        """Return when a device last showed a sign of life, in seconds since the epoch; None if it never did."""
        device = self._devices.get(self._nodes[name])
        if device is None:
            return self._last_seen.get(name)
        return time.time() - device.frames.silent

    # -- On the event loop's thread ------------------------------------------------------------------------------------

    async def _listen(self, listener: socket.socket) -> None:
        """Take what comes to the address, for ever."""
        greeted: set[asyncio.Task] = set()
        while True:
            try:
                connection, peer = await self._loop.sock_accept(listener)
            except OSError as error:  # too many open files, or a guest that is gone
                self._say_once(f"a connection could not be taken: {error.strerror}")
                await asyncio.sleep(LOOK_SECONDS)
                continue
            if self._guests >= MOST_GUESTS:
                self._say_once(f"{MOST_GUESTS} connections do not say whose they are: no more are taken until some end")
                connection.close()
                continue
            self._guests += 1
            task = self._loop.create_task(self._greet(connection, clean(peer[0].removeprefix("::ffff:"), MOST_PEER)))
            greeted.add(task)
            task.add_done_callback(greeted.discard)

    async def _greet(self, connection: socket.socket, peer: str) -> None:
        """Find out whose a connection is, and serve it if it is a device's of ours; from its beginning to its end."""
        device = _Device(peer)
        try:
            refusal = await asyncio.wait_for(self._identify(connection, device), HELLO_SECONDS)
        except (OSError, asyncio.TimeoutError, wire.ProtocolError) as error:  # noqa: UP041 - another one on Python 3.10
            refusal = identity.problem(error) or (str(error) if isinstance(error, wire.ProtocolError) else "")
        finally:
            self._guests -= 1
        if refusal is None:
            return await self._serve(device)
        if refusal:  # else the network ended it, or a guest that said nothing
            self._say_once(f"refused {f'{device.name} at {peer}' if device.name else peer}: {refusal}")
        if device.frames is not None:
            device.frames.close(Bye(Bye.REFUSED, refusal).pack())
        return None

    async def _identify(self, connection: socket.socket, device: _Device) -> str | None:
        """Learn by TLS whose a connection is, and by its hello the rest; return why it is refused, if it is.

        Raises what TLS raises, and ProtocolError.
        """
        connection.setblocking(False)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            first = await self._first_bytes(connection)
        except BaseException:
            connection.close()
            raise
        if first[:1] != _HANDSHAKE:
            connection.close()
            what = "HTTP/2" if first == b"PRI " else "HTTP" if first.strip().isalpha() else "something"
            return f"it speaks {what} without TLS" if first else ""
        frames = Frames(lambda data, apart: self._received(device, data, apart), lambda why: self._ended(device, why))
        device.frames = frames  # the hello may come before the next line is done
        transport, _ = await self._loop.connect_accepted_socket(
            lambda: frames, connection, ssl=self._registry.context, ssl_handshake_timeout=HELLO_SECONDS
        )
        tls = transport.get_extra_info("ssl_object")
        device.fingerprint = identity.fingerprint(tls.getpeercert(binary_form=True))
        name = self._registry.name(device.fingerprint)
        if name is None:
            device.name = clean(identity.name_in(tls.getpeercert()), identity.MOST_NAME)
            if self._registry.knows(device.name):
                return "its certificate is not the one that the last deployment recorded for it: run deploy.yml"
            return "no such device is deployed: it was taken out, or reset"
        device.name = name
        if name not in self._nodes:
            return f"the server's inventory has no device {name}: run deploy.yml"
        device.node = self._nodes[name]
        device.instance = (await device.hello).instance
        return None

    async def _first_bytes(self, connection: socket.socket) -> bytes:
        """Return the first bytes that come, and leave them where they are."""
        readable = self._loop.create_future()
        self._loop.add_reader(connection, lambda: readable.done() or readable.set_result(None))
        try:
            await readable
        finally:
            self._loop.remove_reader(connection)
        return connection.recv(4, socket.MSG_PEEK)

    async def _serve(self, device: _Device) -> None:
        """Give a device its place, unless a newer one has replaced it before; and send what it is to get."""
        node, older = device.node, self._devices.get(device.node)
        if older is not None and device.instance in self._replaced[node]:
            if node not in self._doubled:  # it tries again for ever
                self._doubled.add(node)
                log.info(
                    "two devices have the identity of %s: the one at %s is connected, and the one at %s, which was "
                    "before, is held back. Was its card copied? Deploy to one of them under another name",
                    device.name, older.peer, device.peer,
                )  # fmt: skip
            return device.frames.close(Bye(Bye.REPLACED, (
                f"another one with the identity of {device.name}, at {older.peer}, is connected. Was its card copied? "
                "Deploy to one of them under another name"
            )).pack())  # fmt: skip
        if older is not None:
            if older.instance != device.instance:
                self._replaced[node].append(older.instance)
            self._cut(older, Bye.REPLACED, f"a newer connection with its identity came from {device.peer}")
        self._devices[node] = device
        log.info("%s connected%s", device.name, "" if older is None else " anew")
        device.frames.most = PART
        device.ping()  # by which it learns that it is in
        with contextlib.suppress(ConnectionError):
            while not device.over:
                await device.frames.send(await device.outgoing.get())
        return None

    def _received(self, device: _Device, data: bytes, apart: bool) -> None:
        """Take what comes. Raises ProtocolError if it must not."""
        if not device.hello.done():
            device.hello.set_result(wire.Hello.parse(data))
            return
        if apart:
            if data != wire.PING:
                raise wire.ProtocolError("it sent something that is no sign of life")
            return
        message = device.reader.feed(data)
        order = None if message is None else device.waiting.get(message.id)
        if order is not None:
            self._settle(order.id, message)
            device.settled(message.id)

    def _ended(self, device: _Device, why: Exception | None) -> None:
        """Take note that a connection ended: by itself, or for what was received."""
        if not device.hello.done():
            device.hello.set_exception(why or ConnectionError())
            device.hello.exception()  # which nobody may wait for any more
        if isinstance(why, wire.ProtocolError):
            self._cut(device, Bye.BROKEN, str(why))
        else:
            if why is not None and self._devices.get(device.node) is device:
                log.info("%s: its connection broke: %s", device.name, clean(why))
            self._leave(device)

    def _cut(self, device: _Device, kind: str, why: str) -> None:
        """End a connection, with the word why."""
        with contextlib.suppress(ConnectionError):
            device.frames.close(Bye(kind, why).pack())
        unanswered = (
            f"it broke the protocol: {why}" if kind == Bye.BROKEN else "its connection ended before it answered"
        )
        self._leave(device, f" ({why})", unanswered)

    def _leave(
        self, device: _Device, why: str = "", unanswered: str = "its connection ended before it answered"
    ) -> None:
        """Let a connection go that ended, or is to end; whatever it was asked has no answer."""
        if self._devices.get(device.node) is device:
            self._last_seen[device.name] = time.time()
            del self._devices[device.node]
            self._doubled.discard(device.node)
            log.info("%s disconnected%s", device.name, why)
        for number, order in list(device.waiting.items()):
            self._settle(order.id, unanswered)
            device.settled(number)
        device.over = True
        device.outgoing.put_nowait(())  # so that nobody waits for more

    def _send(self, order: Order) -> None:
        device = self._devices.get(order.node)
        if device is None:
            return self._settle(order.id, "it is not connected")
        self._numbers += 1
        device.waiting[self._numbers] = order
        device.outgoing.put_nowait(order.body.headed(self._numbers, order.kind))
        device.timers[self._numbers] = self._loop.call_later(
            order.deadline - time.monotonic(), self._late, device, self._numbers
        )
        return None

    def _late(self, device: _Device, number: int) -> None:
        """Cut a device that has not answered in time: it stops what it does, and comes back."""
        order = device.waiting[number]
        reason = f"it did not answer within {order.seconds:g} s"
        self._settle(order.id, reason)
        device.settled(number)
        self._cut(device, Bye.LATE, reason)

    def _cut_busy(self, nodes: set[int], ids: set[str]) -> None:
        for node in nodes & self._devices.keys():
            device = self._devices[node]
            if any(order.id in ids for order in device.waiting.values()):
                self._cut(device, Bye.LATE, "nobody waits for its answer any more")

    async def _watch(self) -> None:
        """Ask quiet devices for a sign of life; cut those that show none, and those that are no longer recorded."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            stood_still = max(0.0, now - before - 2 * LOOK_SECONDS)  # the server itself: no device's silence
            before = now
            self._registry.refresh()
            for device in list(self._devices.values()):
                device.frames.excuse(stood_still)
                device.frames.look()
                silent = device.frames.silent
                if self._registry.name(device.fingerprint) != device.name:
                    self._cut(device, Bye.REFUSED, "its certificate is no longer accepted")
                elif silent > GONE_SECONDS:
                    self._cut(device, Bye.LATE, f"it showed no sign of life for {silent:.0f} s")
                elif min(silent, now - device.pinged) > PING_SECONDS:
                    device.ping()

    def _say_once(self, sentence: str) -> None:
        """Log a sentence about who calls again and again, once."""
        if len(self._logged) < MOST_LOGGED and sentence not in self._logged:
            self._logged.add(sentence)
            log.info(sentence)
