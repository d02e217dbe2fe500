"""The client's end of Flower's gRPC stream: one connection, no polling, one message at a time.

`Join` is the call that Flower's own `start_client` makes. Called directly, so that a connection that ends stops the
training at once, and that a server that is away is waited for without a limit and without noise.
"""

import json
import logging
import queue
import threading
import time
from collections.abc import Iterator
from typing import Any

import grpc
from flwr.proto.transport_pb2 import (
    ClientMessage,
    Code,
    Parameters,
    Reason,
    Scalar,
    ServerMessage,
    Status,
)
from flwr.proto.transport_pb2_grpc import FlowerServiceStub

from .handler import ClientConfig, handle, query
from .trainer import Trainer

log = logging.getLogger("flowerbed.client")

MAX_MESSAGE = 512 * 1024 * 1024
MAX_BACKOFF = 2.0
CHANNEL_OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.min_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", int(MAX_BACKOFF * 1000)),
    # A server that lost its power sends no farewell: ask after it.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


def serve(client: ClientConfig) -> None:
    """Answer the server's messages for ever; come back whenever it goes and returns."""
    log.info("%s waits for the server at %s", client.name, client.server)
    with grpc.insecure_channel(client.server, options=CHANNEL_OPTIONS) as channel:
        stub = FlowerServiceStub(channel)
        backoff = 0.1
        while True:
            session = Session(client)
            reason = session.run(stub)
            if session.joined:
                backoff = 0.1
                log.info("the connection to the server ended (%s): waiting for it to return", reason)
            elif backoff == 0.1:
                log.info(
                    "the server at %s does not let %s in yet (%s): trying again", client.server, client.name, reason
                )
            time.sleep(backoff)
            backoff = min(backoff * 2, MAX_BACKOFF)


class Session:
    """One stream, from Join to its end."""

    def __init__(self, client: ClientConfig) -> None:
        self.client = client
        self.trainer = Trainer(client.trainer)
        self.joined = False
        self._inbox: queue.Queue[ServerMessage | None] = queue.Queue()
        self._outbox: queue.Queue[ClientMessage | None] = queue.Queue()

    def run(self, stub: FlowerServiceStub) -> str:
        """Answer messages until the stream ends; return why it ended. A job still running is then cancelled."""
        worker = threading.Thread(target=self._work, daemon=True)
        worker.start()
        try:
            for message in stub.Join(self._outgoing(), wait_for_ready=True):
                if not self.joined:
                    self.joined = True
                    log.info("%s joined the server at %s", self.client.name, self.client.server)
                self._inbox.put(message)
            return "closed by the server"
        except grpc.RpcError as error:
            return str(error.details() or error.code())  # type: ignore[attr-defined]
        finally:
            self._inbox.put(None)
            self._outbox.put(None)
            self.trainer.cancel()
            worker.join()

    def _outgoing(self) -> Iterator[ClientMessage]:
        while (message := self._outbox.get()) is not None:
            yield message

    def _work(self) -> None:
        while (message := self._inbox.get()) is not None:
            self._outbox.put(answer(self.client, self.trainer, message))


def answer(client: ClientConfig, trainer: Trainer, message: ServerMessage) -> ClientMessage:
    """Return the reply to one message of the server."""
    ok = Status(code=Code.OK)
    kind = message.WhichOneof("msg")
    if kind == "get_properties_ins":
        properties = _scalars(query(client, trainer))
        return ClientMessage(get_properties_res=ClientMessage.GetPropertiesRes(status=ok, properties=properties))
    if kind in ("fit_ins", "evaluate_ins"):
        job = "train" if kind == "fit_ins" else "evaluate"
        instruction = getattr(message, kind)
        arrays = b"".join(instruction.parameters.tensors)
        arrays, metrics = handle(client, trainer, job, arrays, json.loads(instruction.config["json"].string))
        examples, scalars = int(metrics.get("examples", 0)), _scalars(metrics)
        if job == "train":
            parameters = Parameters(tensors=[arrays], tensor_type="safetensors")
            return ClientMessage(fit_res=ClientMessage.FitRes(
                status=ok, parameters=parameters, num_examples=examples, metrics=scalars))  # fmt: skip
        return ClientMessage(evaluate_res=ClientMessage.EvaluateRes(
            status=ok, loss=metrics.get("loss", 0.0), num_examples=examples, metrics=scalars))  # fmt: skip
    return ClientMessage(disconnect_res=ClientMessage.DisconnectRes(reason=Reason.ACK))


def _scalars(content: dict[str, Any]) -> dict[str, Scalar]:
    return {"json": Scalar(string=json.dumps(content))}
