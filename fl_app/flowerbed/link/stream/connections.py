"""The server's end of all connections: one event loop on one thread, however many devices there are.

A device's name comes with its call, so a stranger never has a place: its call ends before any of its bytes is read.
What a device sends is an answer to something that it was asked, and no larger than that can be; or it is let go, or
the device is cut.
"""

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from urllib.parse import unquote

import grpc
import grpc.aio

from ...words import clean
from . import wire

log = logging.getLogger("flowerbed.server")

PING_SECONDS = 8.0  # without a sign of life, after which a device is asked for one
GONE_SECONDS = 25.0  # without any, after which it is cut
ANSWER_SECONDS = 3.0  # for the older of two of one name to show that it lives
LOOK_SECONDS = 1.0
MOST_LOGGED = 100  # sentences about strangers, each logged once
MOST_NAME = 80  # characters of a stranger's
OPTIONS = [
    ("grpc.so_reuseport", 0),  # another server's port is in use
    ("grpc.max_receive_message_length", wire.MOST_PART),
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),  # a device may ask so often whether the server lives
    ("grpc.server_handshake_timeout_ms", 10_000),
    ("grpc.max_connection_idle_ms", 30_000),  # without a call; a device has one as long as it is here
]
_REFUSED, _DOUBLED, _GONE, _BROKEN, _REPLACED = (
    grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.DEADLINE_EXCEEDED,
    grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.ABORTED,
)  # fmt: skip

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
    name: str
    node: int
    instance: str
    peer: str
    cut: asyncio.Future  # of why, a gRPC status and a sentence
    alive: float = field(default_factory=time.monotonic)  # when it last showed a sign of life
    pinged: float = 0.0
    sign: asyncio.Event = field(default_factory=asyncio.Event)
    outgoing: asyncio.Queue = field(default_factory=asyncio.Queue)
    waiting: dict[int, Order] = field(default_factory=dict)
    timers: dict[int, asyncio.TimerHandle] = field(default_factory=dict)
    reader: wire.Reader = field(init=False)

    def __post_init__(self) -> None:
        self.reader = wire.Reader(self.accept)

    def lives(self) -> None:
        """Take note of a sign of life."""
        self.alive = time.monotonic()
        self.sign.set()
        self.sign = asyncio.Event()

    def ping(self) -> None:
        """Ask for a sign of life."""
        self.pinged = time.monotonic()
        self.outgoing.put_nowait(wire.write(wire.Message(0, wire.PING)))

    def settled(self, number: int) -> None:
        """Wait no longer for the answer to an order."""
        del self.waiting[number]
        self.timers.pop(number).cancel()

    def end(self, status: grpc.StatusCode, reason: str) -> None:
        """Cut the connection, once."""
        if not self.cut.done():
            self.cut.set_result((status, reason))

    def accept(self, header: wire.Header) -> bool:
        """Say of a header whether its message is one that is waited for. Raises ProtocolError if it can't be."""
        order = self.waiting.get(header.id)
        if header.kind == wire.PING:
            most_tensors = 0
        elif order is None:  # answered already, or made up: it is let go
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
        return order is not None and header.kind != wire.PING


class Connections:
    """All connections to `address` (host:port) of the devices in `nodes`, each a name and its node's number.

    `settle` is called, on the event loop's thread, with each order's id and its answer, or why there is none.
    """

    def __init__(self, address: str, nodes: dict[str, int], settle: Settle) -> None:
        self._address = address
        self._nodes = nodes
        self._settle = settle
        self._devices: dict[int, _Device] = {}
        self._last_seen: dict[str, float] = {}
        self._numbers = 0
        self._logged: set[str] = set()
        self._doubled: set[int] = set()  # nodes of which it was said that two have their name
        self._knocking: set[int] = set()  # nodes of which a newer connection waits for the older to show that it lives
        self._loop = asyncio.new_event_loop()

    def start(self) -> None:
        """Accept devices from now on. Raises RuntimeError if the address can't be listened on."""
        threading.Thread(target=self._loop.run_forever, name="stream", daemon=True).start()
        asyncio.run_coroutine_threadsafe(self._serve(), self._loop).result()

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
        return time.time() - (time.monotonic() - device.alive)

    # -- On the event loop's thread ------------------------------------------------------------------------------------

    async def _serve(self) -> None:
        self._server = grpc.aio.server(options=OPTIONS)
        handler = grpc.stream_stream_rpc_method_handler(self._join)
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(wire.SERVICE, {wire.METHOD: handler}),)
        )
        self._server.add_insecure_port(self._address)
        await self._server.start()
        self._watcher = self._loop.create_task(self._watch())

    async def _join(self, request_iterator: object, context: grpc.aio.ServicerContext) -> None:
        """Serve one connection, from its call to its end."""
        device = self._identify(context)
        refusal = await self._let_in(device) if isinstance(device, _Device) else device
        if refusal is not None:
            await context.abort(*refusal)
        tasks: list[asyncio.Task] = []
        try:
            await context.send_initial_metadata(())  # without which a call that is cut at once could not be ended
            device.ping()  # by which it learns that it is in
            tasks = [self._loop.create_task(work(device, context)) for work in (self._read, self._write)]
            await asyncio.wait([device.cut, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:  # without an await, for gRPC may cancel this at any of them
            self._leave(device)
            for task in tasks:
                task.cancel()
        if device.cut.done():
            await context.abort(*device.cut.result())

    def _identify(self, context: grpc.aio.ServicerContext) -> "_Device | tuple[grpc.StatusCode, str]":
        """Return the device that calls, or why it can't be one of ours."""
        metadata = dict(context.invocation_metadata() or ())
        try:
            name = metadata[wire.NAME].decode()
        except (KeyError, AttributeError, UnicodeDecodeError):
            return _REFUSED, "this is a server of Flowerbed's, and the call says no device's name"
        node = self._nodes.get(name)
        if node is None:
            name = clean(name, MOST_NAME)
            self._say_once(f"refused a device that calls itself {name!r}: the inventory has no such device")
            return _REFUSED, f"the server's inventory has no device {name}: run deploy.yml"
        peer = clean(unquote(context.peer()).rpartition(":")[0].removeprefix("ipv4:").removeprefix("ipv6:"), MOST_NAME)
        instance = clean(metadata.get(wire.INSTANCE), MOST_NAME)
        return _Device(name, node, instance, peer, self._loop.create_future())

    async def _let_in(self, device: _Device) -> tuple[grpc.StatusCode, str] | None:
        """Give a device its place, or return why it has to wait: the older of two of one name stays while it lives."""
        anew = False
        while (older := self._devices.get(device.node)) is not None:
            if older.instance != device.instance and await self._keeps_its_place(older):
                if device.node not in self._doubled:  # the newer one tries again for ever
                    self._doubled.add(device.node)
                    log.info(
                        "two devices call themselves %s: the one at %s is connected and answers, the one at %s is held "
                        "back. Give one of them another name: was its card copied?",
                        device.name, older.peer, device.peer,
                    )  # fmt: skip
                return _DOUBLED, (
                    f"another device called {device.name}, at {older.peer}, is connected and answers: give one of them "
                    "another name in the inventory and deploy it; was its card copied?"
                )
            if self._devices.get(device.node) is older:
                older.end(_REPLACED, "the device has connected anew")
                self._leave(older)
                anew = True
        self._devices[device.node] = device
        self._doubled.discard(device.node)
        log.info("%s connected%s", device.name, " anew" if anew else "")
        return None

    async def _keeps_its_place(self, older: _Device) -> bool:
        """Return whether a device lives, of which a newer connection has come; one of those waits for that at a time.

        (What a connection sends meanwhile, gRPC keeps.)
        """
        if older.node in self._knocking:
            return True
        self._knocking.add(older.node)
        try:
            return await self._answers(older)
        finally:
            self._knocking.discard(older.node)

    async def _answers(self, device: _Device) -> bool:
        """Return whether a device shows a sign of life when it is asked for one; or sends something at the moment.

        Its network may be slow: a part of that may take longer than an answer.
        """
        if device.reader.halfway:
            return True
        sign = device.sign
        device.ping()
        try:
            await asyncio.wait_for(sign.wait(), ANSWER_SECONDS)
        except asyncio.TimeoutError:  # noqa: UP041 - another one on Python 3.10
            return False
        return not device.cut.done() and self._devices.get(device.node) is device

    def _leave(self, device: _Device) -> None:
        """Let a connection go that ended, or is to end; whatever it was asked has no answer."""
        if self._devices.get(device.node) is device:
            self._last_seen[device.name] = time.time()
            del self._devices[device.node]
            reason = f" ({device.cut.result()[1]})" if device.cut.done() else ""
            log.info("%s disconnected%s", device.name, reason)
        why = "its connection ended before it answered"
        if device.cut.done() and device.cut.result()[0] is _BROKEN:
            why = f"it broke the protocol: {device.cut.result()[1]}"
        for number, order in list(device.waiting.items()):
            self._settle(order.id, why)
            device.settled(number)
        device.outgoing = asyncio.Queue()

    async def _read(self, device: _Device, context: grpc.aio.ServicerContext) -> None:
        try:
            while (data := await context.read()) is not grpc.aio.EOF:
                device.lives()
                message = device.reader.feed(data)
                order = None if message is None else device.waiting.get(message.id)
                if order is not None:
                    self._settle(order.id, message)
                    device.settled(message.id)
                data = message = order = None  # the next may be long in coming
        except wire.ProtocolError as error:
            device.end(_BROKEN, str(error))
        except grpc.aio.BaseError as error:
            log.info("%s: its connection broke: %s", device.name, clean(error))

    async def _write(self, device: _Device, context: grpc.aio.ServicerContext) -> None:
        try:
            while True:
                frames: Iterator[bytes] = await device.outgoing.get()
                for number, data in enumerate(frames):
                    await context.write(data)
                    if number:  # a part that it has room for; headers fit in anywhere
                        device.lives()
        except grpc.aio.BaseError:
            return

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

    def _late(self, device: _Device, number: int) -> None:
        """Cut a device that has not answered in time: it stops what it does, and comes back."""
        order = device.waiting[number]
        reason = f"it did not answer within {order.seconds:g} s"
        self._settle(order.id, reason)
        device.settled(number)
        device.end(_GONE, reason)
        self._leave(device)

    def _cut_busy(self, nodes: set[int], ids: set[str]) -> None:
        for node in nodes & self._devices.keys():
            device = self._devices[node]
            if any(order.id in ids for order in device.waiting.values()):
                device.end(_GONE, "nobody waits for its answer any more")
                self._leave(device)

    async def _watch(self) -> None:
        """Ask quiet devices for a sign of life; cut those that show none."""
        before = time.monotonic()
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            now = time.monotonic()
            stood_still = max(0.0, now - before - 2 * LOOK_SECONDS)  # the server itself: no device's silence
            before = now
            for device in list(self._devices.values()):
                device.alive += stood_still
                if now - device.alive > GONE_SECONDS:
                    device.end(_GONE, f"it showed no sign of life for {now - device.alive:.0f} s")
                    self._leave(device)
                elif now - max(device.alive, device.pinged) > PING_SECONDS:
                    device.ping()

    def _say_once(self, sentence: str) -> None:
        """Log a sentence about who calls again and again, once."""
        if len(self._logged) < MOST_LOGGED and sentence not in self._logged:
            self._logged.add(sentence)
            log.info(sentence)
