"""Flower's gRPC stream as a `Grid`: what `start_server` and `start_client` use, under Flower's Message API.

Flower marks the stream as deprecated, so it is kept behind `Grid` and flwr is pinned.
"""

import logging
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from flwr.app import Error, Message, RecordDict
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.server.client_manager import SimpleClientManager
from flwr.server.client_proxy import ClientProxy
from flwr.server.superlink.fleet.grpc_bidi.flower_service_servicer import FlowerServiceServicer
from flwr.server.superlink.fleet.grpc_bidi.grpc_bridge import GrpcBridgeClosed, InsWrapper
from flwr.serverapp import Grid

from ..parts import split
from ..words import clean
from . import wire
from .content import QUERY, make_content, read_content

log = logging.getLogger("flowerbed.server")

QUERY_SECONDS = 30
PULL_SECONDS = 0.1
MAX_REFUSED = 100  # names, each logged once
NAME = 80  # characters of a stranger's

try:
    from flwr.supercore.task_identity import TaskIdentity
except ImportError:  # flwr 1.30, the last one for Python 3.10, asks no such thing of who makes a message
    pass
else:
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 0


class StreamGrid(Grid):
    """The devices connected to `address` (host:port). `devices` are the names that may connect; ids follow them."""

    waits = True  # pull_messages returns when there is something, not at once

    def __init__(self, address: str, devices: list[str]) -> None:
        self.names = {index + 1: name for index, name in enumerate(devices)}
        self._ids = {name: node for node, name in self.names.items()}
        self.last_seen: dict[str, float] = {}
        self._refused: set[str] = set()
        self._connected: dict[int, _Device] = {}
        self._replies: dict[str, Message] = {}
        self._pending: dict[str, Message] = {}
        self._changed = threading.Condition()
        self._server = _make_server(_Servicer(_Devices(self)), address, 2 * len(devices) + 16)

    def start(self) -> None:
        """Accept devices from now on."""
        self._server.start()

    # -- Grid ---------------------------------------------------------------------------------------------------------

    def set_run(self, *_: Any, **__: Any) -> None:
        """Do nothing: a stream carries one run at a time, and needs no name for it."""

    @property
    def run(self) -> Any:
        """No run of Flower's: there is no deployment engine here that would know one."""
        return None

    def create_message(
        self, content: RecordDict, message_type: str, dst_node_id: int, group_id: str, ttl: float | None = None
    ) -> Message:
        """Return a new message; `Message(...)` itself does as well."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """Return the ids of the devices that are connected, in order."""
        with self._changed:
            return sorted(self._connected)

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return the nodes that are connected."""
        return [NodeInfo(node_id=node) for node in self.get_node_ids()]

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send each message to its node; return their ids, by which `pull_messages` finds the replies."""
        instructions: dict[int, list[bytes]] = {}
        ids = []
        for message in messages:
            message.metadata.__dict__["_message_id"] = identifier = str(uuid.uuid4())
            ids.append(identifier)
            content = message.content
            # Strategies send one content to many nodes: it is encoded once.
            key = id(content)
            if key not in instructions:
                instructions[key] = _encode(message.metadata.message_type, content)
            with self._changed:
                self._pending[identifier] = message
                device = self._connected.get(message.metadata.dst_node_id)
            if device is None:
                self._fail(identifier, "it is not connected")
            else:
                threading.Thread(
                    target=self._exchange, args=(device, identifier, instructions[key]), daemon=True
                ).start()
        return ids

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, each once; wait a moment for the first."""
        wanted = set(message_ids)
        with self._changed:
            self._changed.wait_for(lambda: wanted & self._replies.keys(), PULL_SECONDS)
            return [self._replies.pop(identifier) for identifier in wanted & self._replies.keys()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return the replies that came within `timeout` seconds (None: without a limit)."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        return replies

    # -- What the stream can do beyond a Grid -------------------------------------------------------------------------

    def interrupt(self) -> None:
        """Cut the connections on which a message is under way: these devices stop what they do, and come back."""
        with self._changed:
            busy = {message.metadata.dst_node_id for message in self._pending.values()}
            devices = [device for node, device in self._connected.items() if node in busy]
        for device in devices:
            device.context.cancel()

    # -- Devices come and go ------------------------------------------------------------------------------------------

    def _join(self, device: "_Device") -> None:
        """Ask a new connection who it is, and let it in under that name."""
        try:
            answer = device.request(list(wire.write_request(wire.Request(QUERY))), QUERY_SECONDS)
        except (GrpcBridgeClosed, ValueError):
            return
        name = answer.values.get("name") if isinstance(answer.values, dict) else None
        node = self._ids.get(name) if isinstance(name, str) else None
        if node is None:
            name = clean(name, NAME)
            if len(self._refused) < MAX_REFUSED and name not in self._refused:  # it tries again for ever
                self._refused.add(name)
                log.info("refused a device that calls itself %r: the inventory has no such device", name)
            device.refuse(f"the server's inventory has no device {name}: run deploy.yml")
            return
        with self._changed:
            if device.ended:  # while it was asked: it has left already
                return
            before = self._connected.get(node)
            self._connected[node] = device
            self.last_seen[name] = time.time()
            device.name = name
            self._changed.notify_all()
        if before is not None:  # its Wi-Fi was gone and the old connection does not know it yet
            log.info("%s connected anew", name)
            before.context.cancel()
        else:
            log.info("%s connected", name)

    def _leave(self, device: "_Device") -> None:
        with self._changed:
            device.ended = True
            node = self._ids.get(device.name or "")
            if node is not None and self._connected.get(node) is device:
                del self._connected[node]
                self.last_seen[device.name or ""] = time.time()
                log.info("%s disconnected", device.name)
            self._changed.notify_all()

    def _exchange(self, device: "_Device", identifier: str, instruction: list[bytes]) -> None:
        metadata = self._pending[identifier].metadata
        try:
            answer = device.request(instruction, metadata.ttl)
        except (GrpcBridgeClosed, ValueError):
            self._fail(identifier, "its connection ended before it answered")
            return
        self.last_seen[device.name or ""] = time.time()
        if answer.kind != metadata.message_type or answer.values is None:
            self._fail(identifier, "its answer cannot be read")
            return
        content = make_content(b"".join(answer.packed), answer.values)
        answer.packed.clear()  # Flower's servicer keeps the answer until the next one comes
        self._settle(identifier, lambda message: Message(content, reply_to=message))

    def _fail(self, identifier: str, reason: str) -> None:
        error = Error(code=ErrorCode.NODE_UNAVAILABLE, reason=reason)
        self._settle(identifier, lambda message: Message(error, reply_to=message))

    def _settle(self, identifier: str, make: Any) -> None:
        with self._changed:
            self._replies[identifier] = make(self._pending.pop(identifier))
            self._changed.notify_all()


class _Device(ClientProxy):
    """One connection, as Flower's servicer and client manager know it."""

    def __init__(self, cid: str, bridge: Any, context: grpc.ServicerContext) -> None:
        super().__init__(cid)
        self.bridge = bridge
        self.context = context
        self.name: str | None = None
        self.ended = False
        self.refusal: str | None = None

    def request(self, instruction: list[bytes], seconds: float) -> wire.Answer:
        """Send one instruction and wait for its answer. Raises GrpcBridgeClosed when the connection ends.

        After `seconds` without an answer Flower's servicer ends the connection; the device stops what it does.
        """
        return self.bridge.request(InsWrapper(server_message=instruction, timeout=seconds)).client_message

    def refuse(self, reason: str) -> None:
        """End the connection, and tell the device why."""
        self.refusal = reason
        self.bridge.close()

    # The servicer talks to the bridge alone; ClientProxy's own calls are the older API's.
    def _unused(self, *_: Any, **__: Any) -> Any:
        raise NotImplementedError

    get_properties = get_parameters = fit = evaluate = reconnect = _unused


class _Devices(SimpleClientManager):
    """Flower's client manager, which tells the grid who comes and goes."""

    def __init__(self, grid: StreamGrid) -> None:
        super().__init__()
        self._grid = grid

    def register(self, client: _Device) -> bool:  # type: ignore[override]
        """Let a connection in; who it is, is asked once the servicer serves it."""
        threading.Thread(target=self._grid._join, args=(client,), daemon=True).start()
        return super().register(client)

    def unregister(self, client: _Device) -> None:  # type: ignore[override]
        """Forget a connection that ended."""
        super().unregister(client)
        self._grid._leave(client)


class _Servicer(FlowerServiceServicer):
    """Flower's servicer, whose connections keep their gRPC context: cancelling it is what cuts a connection."""

    def __init__(self, devices: _Devices) -> None:
        self._local = threading.local()
        super().__init__(devices, grpc_client_proxy_factory=self._make_device)

    def _make_device(self, cid: str, bridge: Any) -> _Device:
        device = self._local.device = _Device(cid, bridge, self._local.context)
        return device

    def Join(self, request_iterator: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
        """Serve one connection."""
        self._local.context = context
        messages = super().Join(wire.read_answers(request_iterator), context)
        first = None
        try:
            first = next(messages)  # the device is made by now, on this thread
            device = self._local.device
            yield from first
            for message in messages:
                yield from message
        except (GrpcBridgeClosed, StopIteration):
            if first is not None and device.refusal:
                context.abort(grpc.StatusCode.PERMISSION_DENIED, device.refusal)


def _make_server(servicer: _Servicer, address: str, most: int) -> grpc.Server:
    """Return a server for at most `most` connections, each of which has a thread of its own.

    It is as Flower's own, but for the bytes: what goes to all devices is written once.
    """
    server = grpc.server(ThreadPoolExecutor(most), maximum_concurrent_rpcs=most, options=wire.OPTIONS)
    handler = grpc.stream_stream_rpc_method_handler(servicer.Join)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, {wire.METHOD: handler}),))
    server.add_insecure_port(address)
    return server


def _encode(kind: str, content: RecordDict) -> list[bytes]:
    packed, config = read_content(content)
    return list(wire.write_request(wire.Request(kind, split(packed), config)))
