"""The device's end: one connection, one message at a time, and pings answered meanwhile.

A connection that ends stops the training at once. A server that is away is waited for without a limit, and without
noise.
"""

import asyncio
import contextlib
import logging
import queue
import socket
import ssl
import threading
import uuid

from ...parts import PART
from ...trainer_socket import TrainerSocket
from ...words import clean
from .. import identity
from ..answers import ClientConfig, handle, query
from ..content import QUERY
from . import wire
from .frames import Frames
from .wire import Bye

log = logging.getLogger("flowerbed.client")

MOST_WAIT = 2.0  # seconds between two tries
CONNECT_SECONDS = 20.0
GONE_SECONDS = 25.0  # without a sign of life from the server, after which it is away; it asks for one more often
LOOK_SECONDS = 1.0


def serve(client: ClientConfig) -> None:
    """Answer the server's messages for ever; come back whenever it goes and returns."""
    asyncio.run(_serve(client))


async def _serve(client: ClientConfig) -> None:
    log.info("%s waits for the server at %s", client.name, client.server)
    instance = uuid.uuid4().hex
    wait, refusal = 0.1, None
    while True:
        session = Session(client, instance)
        reason = await session.run()
        if session.refused:
            if reason != refusal:
                refusal = reason
                log.info(
                    "%s has no connection to the server at %s (%s): trying again", client.name, client.server, reason
                )
        elif session.joined:
            wait, refusal = 0.1, None
            log.info("the connection to the server ended (%s): waiting for it to return", reason)
        await asyncio.sleep(wait)
        wait = min(wait * 2, MOST_WAIT)


class Session:
    """One connection, from its beginning to its end."""

    def __init__(self, client: ClientConfig, instance: str) -> None:
        self.client, self.instance = client, instance
        self.trainer = TrainerSocket(client.trainer)
        self.joined = False
        self.refused = False
        self._reader = wire.Reader()
        self._bye: Bye | None = None
        self._inbox: queue.Queue[wire.Message | None] = queue.Queue()
        self._outbox: asyncio.Queue[wire.Message] = asyncio.Queue()
        self._ended: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

    async def run(self) -> str:
        """Answer messages until the connection ends; return why it ended. A job still running is then cancelled."""
        try:
            self._frames = await asyncio.wait_for(self._connect(), CONNECT_SECONDS)
        except identity.IdentityError as error:
            self.refused = True
            return f"it has no identity to show: {error}: run deploy.yml"
        except (OSError, asyncio.TimeoutError) as error:  # noqa: UP041 - another one on Python 3.10
            return self._why(error)
        worker = threading.Thread(target=self._work, args=(asyncio.get_running_loop(),), daemon=True)
        worker.start()
        tasks = [asyncio.create_task(work) for work in (self._send(), self._watch())]
        try:
            return self._why(await self._ended)
        finally:
            for task in tasks:
                task.cancel()
            self._frames.close()
            self._inbox.put(None)
            self.trainer.cancel()
            await asyncio.get_running_loop().run_in_executor(None, worker.join)

    async def _connect(self) -> Frames:
        """Return a connection on which the hello is said. Raises IdentityError, and what the network and TLS raise."""
        host, _, port = self.client.server.rpartition(":")
        host = host.strip("[]")
        context = identity.context(self.client.identity, ssl.Purpose.SERVER_AUTH)
        _, frames = await asyncio.get_running_loop().create_connection(
            lambda: Frames(self._received, self._end), host, int(port), ssl=context,
            server_hostname=host.partition("%")[0],
        )  # fmt: skip
        frames.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        frames.most = PART
        frames.put(wire.Hello(self.instance).pack(), apart=True)
        return frames

    def _why(self, error: BaseException | None) -> str:
        """Return why the connection ended, as people say it; and take note whether it was refused."""
        if self._bye is not None:
            self.refused = self._bye.kind in (Bye.REFUSED, Bye.REPLACED, Bye.BROKEN)
            return self._bye.why
        if isinstance(error, wire.ProtocolError):
            self.refused = True
            return f"it is of another version of Flowerbed: {error}"
        problem = None if error is None else identity.problem(error)
        if problem:
            self.refused = True
            return f"{problem}: run deploy.yml"
        if error is None and not self.joined:  # as TLS does with a certificate that it does not accept
            self.refused = True
            return "it ended the connection at once, and its logs/server.log says why"
        return "closed by the server" if error is None else clean(error) or type(error).__name__

    def _received(self, data: bytes, apart: bool) -> None:
        """Take what comes. Raises ProtocolError if it must not."""
        if apart and data != wire.PING:
            self._bye = Bye.parse(data)
            return
        if not self.joined:  # a stranger gets nothing but a bye
            self.joined = True
            log.info("%s joined the server at %s", self.client.name, self.client.server)
        if apart:
            self._frames.put(wire.PING, apart=True)
            return
        message = self._reader.feed(data)
        if message is not None:
            self._inbox.put(message)

    def _end(self, why: Exception | None) -> None:
        if not self._ended.done():
            self._ended.set_result(why)

    async def _send(self) -> None:
        with contextlib.suppress(ConnectionError):
            while True:
                await self._frames.send(wire.write(await self._outbox.get()))

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            self._frames.look()
            if self._frames.silent > GONE_SECONDS:
                self._end(ConnectionError(f"it showed no sign of life for {GONE_SECONDS:g} s"))

    def _work(self, loop: asyncio.AbstractEventLoop) -> None:
        while (message := self._inbox.get()) is not None:
            loop.call_soon_threadsafe(self._outbox.put_nowait, self._answer(message))

    def _answer(self, message: wire.Message) -> wire.Message:
        if message.kind == QUERY:
            return wire.Message(message.id, QUERY, query(self.client, self.trainer))
        tensors, words = handle(self.client, self.trainer, message.kind, message.tensors, message.words or {})
        return wire.Message(message.id, message.kind, words, tensors)
