"""The device's end: one connection, one message at a time, and pings answered meanwhile.

A connection that ends stops the training at once. A server that is away is waited for without a limit, and without
noise.
"""

import logging
import queue
import threading
import time
import uuid
from collections.abc import Iterator

import grpc

from ...trainer_socket import TrainerSocket
from ...words import clean
from ..answers import ClientConfig, handle, query
from ..content import QUERY
from . import wire

log = logging.getLogger("flowerbed.client")

MAX_BACKOFF = 2.0
OPTIONS = [
    ("grpc.enable_http_proxy", 0),  # a proxy for downloads may not reach the server, or let no stream through
    ("grpc.max_receive_message_length", wire.MOST_PART),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", int(MAX_BACKOFF * 1000)),
    # A server that lost its power sends no farewell.
    ("grpc.keepalive_time_ms", 15_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.http2.max_pings_without_data", 0),
]
REFUSALS = (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.INVALID_ARGUMENT)
AWAY = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)


def serve(client: ClientConfig) -> None:
    """Answer the server's messages for ever; come back whenever it goes and returns."""
    log.info("%s waits for the server at %s", client.name, client.server)
    metadata = ((wire.NAME, client.name.encode()), (wire.INSTANCE, uuid.uuid4().hex))
    with grpc.insecure_channel(client.server, options=OPTIONS) as channel:
        join = channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")
        backoff, refusal = 0.1, None
        while True:
            session = Session(client)
            reason = session.run(join, metadata)
            if session.refused:
                if reason != refusal:
                    refusal = reason
                    log.info(
                        "the server at %s does not let %s in (%s): trying again", client.server, client.name, reason
                    )
            elif session.joined:
                backoff, refusal = 0.1, None
                log.info("the connection to the server ended (%s): waiting for it to return", reason)
            time.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF)


class Session:
    """One connection, from its call to its end."""

    def __init__(self, client: ClientConfig) -> None:
        self.client = client
        self.trainer = TrainerSocket(client.trainer)
        self.joined = False
        self.refused = False
        self._inbox: queue.Queue[wire.Message | None] = queue.Queue()
        self._outbox: queue.Queue[wire.Message | None] = queue.Queue()

    def run(self, join: grpc.StreamStreamMultiCallable, metadata: tuple) -> str:
        """Answer messages until the connection ends; return why it ended. A job still running is then cancelled."""
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        try:
            call = join(self._outgoing(), metadata=metadata, wait_for_ready=True)
            for message in wire.read(call):
                if not self.joined:  # a stranger gets none
                    self.joined = True
                    log.info("%s joined the server at %s", self.client.name, self.client.server)
                if message.kind == wire.PING:
                    self._outbox.put(message)
                else:
                    self._inbox.put(message)
            return "closed by the server"
        except wire.ProtocolError as error:
            call.cancel()
            self.refused = True
            return f"it is of another version of Flowerbed: {error}"
        except grpc.RpcError as error:
            code = error.code()  # type: ignore[attr-defined]
            self.refused = code in REFUSALS or not (self.joined or code in AWAY)
            if code is grpc.StatusCode.UNIMPLEMENTED:
                return "it is of another version of Flowerbed: run deploy.yml for all"
            return clean(error.details() or error.code())  # type: ignore[attr-defined]
        finally:
            self._inbox.put(None)
            self._outbox.put(None)
            self.trainer.cancel()
            worker.join()

    def _outgoing(self) -> Iterator[bytes]:
        while (message := self._outbox.get()) is not None:
            yield from wire.write(message)

    def _work(self) -> None:
        while (message := self._inbox.get()) is not None:
            self._outbox.put(self._answer(message))

    def _answer(self, message: wire.Message) -> wire.Message:
        if message.kind == QUERY:
            return wire.Message(message.id, QUERY, query(self.client, self.trainer))
        tensors, words = handle(self.client, self.trainer, message.kind, message.tensors, message.words or {})
        return wire.Message(message.id, message.kind, words, tensors)
