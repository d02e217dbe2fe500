"""The client's end of Flower's gRPC stream: one connection, no polling, one message at a time.

`Join` is the call that Flower's own `start_client` makes. Called directly, so that a connection that ends stops the
training at once, and that a server that is away is waited for without a limit and without noise.
"""

import logging
import queue
import threading
import time

import grpc

from ..link import wire
from ..link.content import QUERY
from ..words import clean
from .handler import ClientConfig, handle, query
from .trainer import Trainer

log = logging.getLogger("flowerbed.client")

MAX_BACKOFF = 2.0
CHANNEL_OPTIONS = [
    *wire.OPTIONS,
    ("grpc.enable_http_proxy", 0),  # a proxy for downloads may not reach the server, or let no stream through
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", int(MAX_BACKOFF * 1000)),
]


def serve(client: ClientConfig) -> None:
    """Answer the server's messages for ever; come back whenever it goes and returns."""
    log.info("%s waits for the server at %s", client.name, client.server)
    with grpc.insecure_channel(client.server, options=CHANNEL_OPTIONS) as channel:
        join = channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")
        backoff, refusal = 0.1, None
        while True:
            session = Session(client, refused=refusal is not None)
            reason = session.run(join)
            if session.joined:
                backoff, refusal = 0.1, None
                log.info("the connection to the server ended (%s): waiting for it to return", reason)
            elif reason != refusal:
                refusal = reason
                log.info(
                    "the server at %s does not let %s in yet (%s): trying again", client.server, client.name, reason
                )
            time.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF)


class Session:
    """One stream, from Join to its end; `refused` says that the one before was refused."""

    def __init__(self, client: ClientConfig, refused: bool) -> None:
        self.client = client
        self.refused = refused
        self.trainer = Trainer(client.trainer)
        self.joined = False
        self._inbox: queue.Queue[wire.Request | None] = queue.Queue()
        self._outbox: queue.Queue[wire.Answer | None] = queue.Queue()

    def run(self, join: grpc.StreamStreamMultiCallable) -> str:
        """Answer messages until the stream ends; return why it ended. A job still running is then cancelled."""
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        try:
            answers = wire.write_answers(iter(self._outbox.get, None))
            for number, request in enumerate(wire.read_requests(join(answers, wait_for_ready=True))):
                # The first one asks who this is, and may be followed by the same refusal.
                if number == self.refused:
                    self.joined = True
                    log.info("%s joined the server at %s", self.client.name, self.client.server)
                self._inbox.put(request)
            return "closed by the server"
        except grpc.RpcError as error:
            self.joined &= error.code() is not grpc.StatusCode.PERMISSION_DENIED  # type: ignore[attr-defined]
            return clean(error.details() or error.code())  # type: ignore[attr-defined]
        finally:
            self._inbox.put(None)
            self._outbox.put(None)
            self.trainer.cancel()
            worker.join()

    def _work(self) -> None:
        while (request := self._inbox.get()) is not None:
            self._outbox.put(self._answer(request))

    def _answer(self, request: wire.Request) -> wire.Answer:
        if request.kind == QUERY:
            return wire.Answer(QUERY, values=query(self.client, self.trainer))
        if request.kind not in (wire.TRAIN, wire.EVALUATE):
            return wire.Answer(request.kind)
        return wire.Answer(
            request.kind, *handle(self.client, self.trainer, request.kind, request.packed, request.config)
        )
