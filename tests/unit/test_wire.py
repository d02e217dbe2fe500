"""The stream's messages: tensors in parts, and whatever a stranger may send."""

import random

import pytest
from flwr.proto.transport_pb2 import ClientMessage

from flowerbed.link import wire
from flowerbed.parts import PART, split

SIZES = [0, 1, PART, PART + 1, 3 * PART + 5]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", [wire.TRAIN, wire.EVALUATE])
def test_a_request_arrives_whole_in_small_messages(kind, size):
    data = random.Random(size).randbytes(size)
    request = wire.Request(kind, split(data), {"round": 3})
    messages = list(wire.write_request(request))
    assert not request.packed and max(map(len, messages)) < PART + 200
    for _, got in zip(range(2), wire.read_requests(messages * 2), strict=True):  # nothing of one is in the next
        assert (got.kind, b"".join(got.packed), got.config) == (kind, data, {"round": 3})


@pytest.mark.parametrize("size", SIZES)
def test_an_answer_arrives_whole_in_small_messages(size):
    data = random.Random(size).randbytes(size)
    answers = [wire.Answer(wire.TRAIN, split(data), {"loss": 1.0}), wire.Answer(wire.EVALUATE, values={"loss": 2.0})]
    messages = list(wire.write_answers(answers))
    assert not answers[0].packed and max(map(len, messages)) < PART + 200
    first, second = wire.read_answers(messages)
    assert (first.kind, b"".join(first.packed), first.values) == (wire.TRAIN, data, {"loss": 1.0})
    assert (second.kind, second.values) == (wire.EVALUATE, {"loss": 2.0})


def test_an_answer_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(wire, "MAX_TENSORS", 10 * PART)
    part = ClientMessage(fit_res=ClientMessage.FitRes(parameters={"tensors": [bytes(PART)]})).SerializeToString()
    good = list(wire.write_answers([wire.Answer(wire.TRAIN, split(b"update"), {})]))
    given_up, after = wire.read_answers([part] * 10 + good)
    assert given_up == wire.Answer("") and (after.kind, b"".join(after.packed)) == (wire.TRAIN, b"update")


def test_bytes_that_are_no_answer_are_none():
    assert list(wire.read_answers([b"\xff\xff", b""])) == [wire.Answer("")] * 2
