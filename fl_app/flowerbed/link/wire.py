"""The messages of Flower's stream, to and from bytes, on both ends.

Tensors may be most of a small board's memory, and gRPC and protobuf hold a message several times over. So tensors
travel in parts, a message each, the last of which has the JSON, too.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from flwr.proto.transport_pb2 import ClientMessage, Code, Reason, ServerMessage
from google.protobuf.message import DecodeError

from ..parts import Parts
from ..tensors import MOST_BYTES
from .content import QUERY

SERVICE, METHOD = "flwr.proto.FlowerService", "Join"  # the call of Flower's own start_client
TRAIN, EVALUATE = "train", "evaluate"
MAX_TENSORS = MOST_BYTES + MOST_BYTES // 64  # bytes of an answer, with what surrounds its parts
OPTIONS = [
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
    packed: Parts = field(default_factory=Parts)
    config: dict[str, Any] = field(default_factory=dict)


@dataclass
class Answer:
    """What a device answers to a request of that kind: packed tensors and JSON-able values (None: unreadable)."""

    kind: str
    packed: Parts = field(default_factory=Parts)
    values: Any = None


def write_request(request: Request) -> Iterator[bytes]:
    """Yield ServerMessages' bytes; the request has no tensors afterwards."""
    for part, last in _parts(request.packed):
        message = ServerMessage()
        if request.kind == QUERY:
            message.get_properties_ins.SetInParent()
        else:
            instruction = message.fit_ins if request.kind == TRAIN else message.evaluate_ins
            instruction.parameters.tensor_type = "safetensors"
            instruction.parameters.tensors.append(part)
            if last:
                instruction.config["json"].string = json.dumps(request.config)
        yield message.SerializeToString()


def read_requests(messages: Iterable[bytes]) -> Iterator[Request]:
    """Yield the requests in ServerMessages' bytes."""
    parts = Parts()
    for data in messages:
        message = ServerMessage.FromString(data)
        name = str(message.WhichOneof("msg"))
        kind = _REQUESTS.get(name, name)
        if kind not in (TRAIN, EVALUATE):
            yield Request(kind)
            continue
        instruction = getattr(message, name)
        parts.extend(instruction.parameters.tensors)
        if "json" in instruction.config:
            yield Request(kind, parts, json.loads(instruction.config["json"].string))
            parts = Parts()


def write_answers(answers: Iterable[Answer]) -> Iterator[bytes]:
    """Yield ClientMessages' bytes; the answers have no tensors afterwards."""
    for answer in answers:
        text = json.dumps(answer.values)
        for part, last in _parts(answer.packed):
            message = ClientMessage()
            if answer.kind == QUERY:
                message.get_properties_res.status.code = Code.OK
                message.get_properties_res.properties["json"].string = text
            elif answer.kind == TRAIN:
                message.fit_res.status.code = Code.OK
                message.fit_res.parameters.tensor_type = "safetensors"
                message.fit_res.parameters.tensors.append(part)
                if last:
                    message.fit_res.metrics["json"].string = text
            elif answer.kind == EVALUATE:
                message.evaluate_res.status.code = Code.OK
                message.evaluate_res.metrics["json"].string = text
            else:
                message.disconnect_res.reason = Reason.ACK
            yield message.SerializeToString()


def read_answers(messages: Iterable[bytes]) -> Iterator[Answer]:
    """Yield the answers in ClientMessages' bytes, whatever they are: strangers may call, too."""
    parts, size = Parts(), 0
    for data in messages:
        try:
            message = ClientMessage.FromString(data)
            name = str(message.WhichOneof("msg"))
            kind = _ANSWERS.get(name, name)
            if kind == QUERY:
                answer = Answer(kind, values=json.loads(message.get_properties_res.properties["json"].string))
            elif kind == TRAIN:
                parts.extend(message.fit_res.parameters.tensors)
                size += len(data)
                if "json" not in message.fit_res.metrics and size <= MAX_TENSORS:
                    continue
                answer = Answer(kind, parts, json.loads(message.fit_res.metrics["json"].string))
            else:
                answer = Answer(kind, values=json.loads(message.evaluate_res.metrics["json"].string))
        except (ValueError, RecursionError, DecodeError):
            answer = Answer("")
        parts, size = Parts(), 0
        yield answer


def _parts(packed: Parts) -> Iterator[tuple[bytes, bool]]:
    """Take the parts, at least an empty one, and tell of each whether it is the last."""
    while len(packed) > 1:
        yield packed.popleft(), False
    yield packed.popleft() if packed else b"", True
