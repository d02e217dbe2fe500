"""The messages of Flower's stream, to and from bytes, on both ends.

Tensors may be most of a small board's memory. So a message is taken apart as soon as it is there, put together as late
as can be, and what it holds is copied as seldom as protobuf allows.
"""

import json
from dataclasses import dataclass, field
from typing import Any

from flwr.proto.transport_pb2 import ClientMessage, Code, Reason, ServerMessage
from google.protobuf.message import DecodeError

from .content import QUERY

SERVICE, METHOD = "flwr.proto.FlowerService", "Join"  # the call of Flower's own start_client
TRAIN, EVALUATE = "train", "evaluate"
MAX_MESSAGE = 512 * 1024 * 1024  # bytes
OPTIONS = [
    ("grpc.max_send_message_length", MAX_MESSAGE),
    ("grpc.max_receive_message_length", MAX_MESSAGE),
    # A board that lost its power sends no farewell: ask after the other end, and let it ask.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
]
_REQUESTS = {"get_properties_ins": QUERY, "fit_ins": TRAIN, "evaluate_ins": EVALUATE}
_ANSWERS = {"get_properties_res": QUERY, "fit_res": TRAIN, "evaluate_res": EVALUATE}


@dataclass
class Request:
    """What the server asks: query, train or evaluate (another kind: to leave), packed tensors, and configuration."""

    kind: str
    packed: bytes = b""
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answer:
    """What a device answers to a request of that kind: packed tensors and JSON-able values (None: unreadable)."""

    kind: str
    packed: bytes = b""
    values: Any = None


def write_request(request: Request) -> bytes:
    """Return a ServerMessage's bytes."""
    message = ServerMessage()
    if request.kind == QUERY:
        message.get_properties_ins.SetInParent()
    else:
        instruction = message.fit_ins if request.kind == TRAIN else message.evaluate_ins
        instruction.config["json"].string = json.dumps(request.config)
        instruction.parameters.tensor_type = "safetensors"
        instruction.parameters.tensors.append(request.packed)
    return message.SerializeToString()


def read_request(data: bytes) -> Request:
    """Return the request in a ServerMessage's bytes."""
    message = ServerMessage.FromString(data)
    name = str(message.WhichOneof("msg"))
    kind = _REQUESTS.get(name, name)
    if kind not in (TRAIN, EVALUATE):
        return Request(kind)
    instruction = getattr(message, name)
    return Request(kind, b"".join(instruction.parameters.tensors), json.loads(instruction.config["json"].string))


def write_answer(answer: Answer) -> bytes:
    """Return a ClientMessage's bytes; the answer has no tensors afterwards."""
    message = ClientMessage()
    text = json.dumps(answer.values)
    if answer.kind == QUERY:
        message.get_properties_res.status.code = Code.OK
        message.get_properties_res.properties["json"].string = text
    elif answer.kind == TRAIN:
        message.fit_res.status.code = Code.OK
        message.fit_res.metrics["json"].string = text
        message.fit_res.parameters.tensor_type = "safetensors"
        message.fit_res.parameters.tensors.append(answer.packed)
        answer.packed = b""
    elif answer.kind == EVALUATE:
        message.evaluate_res.status.code = Code.OK
        message.evaluate_res.metrics["json"].string = text
    else:
        message.disconnect_res.reason = Reason.ACK
    return message.SerializeToString()


def read_answer(data: bytes) -> Answer:
    """Return the answer in a ClientMessage's bytes, whatever they are: strangers may call, too."""
    try:
        message = ClientMessage.FromString(data)
        name = str(message.WhichOneof("msg"))
        kind = _ANSWERS.get(name, name)
        if kind == QUERY:
            return Answer(kind, values=json.loads(message.get_properties_res.properties["json"].string))
        if kind == TRAIN:
            packed = b"".join(message.fit_res.parameters.tensors)
            return Answer(kind, packed, json.loads(message.fit_res.metrics["json"].string))
        return Answer(kind, values=json.loads(message.evaluate_res.metrics["json"].string))
    except (ValueError, RecursionError, DecodeError):
        return Answer("")
