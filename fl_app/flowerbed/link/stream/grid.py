"""The stream as a Flower `Grid`: messages in, replies out, by id. `connections` does the sending."""

import threading
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from flwr.app import Error, Message, RecordDict
from flwr.serverapp import Grid

from ... import flower_private
from ...parts import join
from ...words import clean
from ..content import QUERY, make_content, read_content
from ..identity import MOST_NAME
from . import wire
from .connections import Connections, Order

PULL_SECONDS = 0.1

flower_private.allow_messages()


class StreamGrid(Grid):
    """The devices connected to `address` (host:port). `devices` are the names that may connect; ids follow them.

    `folder` has the server's identity (see link.identity). Raises IdentityError.
    """

    waits = True  # pull_messages returns when there is something, not at once

    def __init__(self, address: str, devices: list[str], folder: Path) -> None:
        self.names = {index + 1: name for index, name in enumerate(devices)}
        nodes = {name: node for node, name in self.names.items()}
        self._connections = Connections(address, nodes, folder, self._settle)
        self._replies: dict[str, Message] = {}
        self._pending: dict[str, Message] = {}
        self._changed = threading.Condition()

    def start(self) -> None:
        """Accept devices from now on. Raises OSError if the address can't be listened on."""
        self._connections.start()

    def last_seen(self, name: str) -> float | None:
        """Return when a device last showed a sign of life, in seconds since the epoch; None if it never did."""
        return self._connections.last_seen(name)

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
        return self._connections.connected()

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Send each message to its node; return their ids, by which `pull_messages` finds the replies.

        A message's `ttl` begins now: without an answer by then, its device is cut, and the reply is an error.
        """
        now = time.monotonic()
        bodies: dict[int, wire.Body] = {}
        orders = []
        for message in messages:
            metadata, content = message.metadata, message.content
            if id(content) not in bodies:  # strategies send one content to many nodes: it is encoded once
                packed, values = read_content(content)
                bodies[id(content)] = wire.body(None if metadata.message_type == QUERY else values, packed)
            identifier = str(uuid.uuid4())
            flower_private.number(message, identifier)
            orders.append(Order(
                identifier, metadata.dst_node_id, metadata.message_type, bodies[id(content)], metadata.ttl,
                now + metadata.ttl,
            ))  # fmt: skip
            with self._changed:
                self._pending[identifier] = message
        self._connections.send(orders)
        return [order.id for order in orders]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies that are there, each once; wait a moment for the first."""
        wanted = set(message_ids)
        with self._changed:
            self._changed.wait_for(lambda: wanted & self._replies.keys(), PULL_SECONDS)
            return [self._replies.pop(identifier) for identifier in wanted & self._replies.keys()]

    def send_and_receive(self, messages: Iterable[Message], *, timeout: float | None = None) -> list[Message]:
        """Send messages and return the replies that came within `timeout` seconds (None: within their `ttl`)."""
        waiting = set(self.push_messages(messages))
        deadline = None if timeout is None else time.monotonic() + timeout
        replies: list[Message] = []
        while waiting and (deadline is None or time.monotonic() < deadline):
            for reply in self.pull_messages(waiting):
                waiting.discard(reply.metadata.reply_to_message_id)
                replies.append(reply)
        self.abandon(waiting)
        return replies

    # -- What it can do beyond a Grid ----------------------------------------------------------------------------------

    def abandon(self, message_ids: Iterable[str]) -> None:
        """Let replies go, those to come, too. Devices still at work on one are cut: they stop, and come back."""
        ids = set(message_ids)
        with self._changed:
            for identifier in ids:
                self._replies.pop(identifier, None)
            left = {identifier: self._pending.pop(identifier) for identifier in ids & self._pending.keys()}
        work = {key: message for key, message in left.items() if message.metadata.message_type != QUERY}
        if work:
            self._connections.cut({message.metadata.dst_node_id for message in work.values()}, set(work))

    # -- On the thread of the connections ------------------------------------------------------------------------------

    def _settle(self, identifier: str, answer: wire.Message | str) -> None:
        """Keep an answer, or why there is none, as the reply to a message, if it is still wanted.

        Raises ProtocolError if it is no answer that can be kept.
        """
        with self._changed:
            message = self._pending.get(identifier)
        if message is None:
            return
        node = message.metadata.dst_node_id
        if message.metadata.message_type == QUERY and not isinstance(answer, str):
            name = answer.words.get("name") if isinstance(answer.words, dict) else None
            if name != self.names[node]:
                answer = f"it connected as {self.names[node]}, and calls itself {clean(name, MOST_NAME)} now"
        if isinstance(answer, str):
            reply = Message(Error(code=flower_private.NODE_UNAVAILABLE, reason=answer), reply_to=message)
        else:
            try:
                reply = Message(make_content(join(answer.tensors), answer.words), reply_to=message)
            except (ValueError, RecursionError):
                raise wire.ProtocolError("it sent words that cannot be read") from None
        reply.arrived = time.monotonic()
        with self._changed:
            if self._pending.pop(identifier, None) is not None:
                self._replies[identifier] = reply
                self._changed.notify_all()
