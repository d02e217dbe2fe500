"""The stream's messages: words and tensors in parts, and whatever else may come instead."""

import json
import random

import pytest

from flowerbed.link.stream import wire
from flowerbed.parts import PART, Parts, split

SIZES = [0, 1, PART, PART + 1, 3 * PART + 5]


def header(**changes) -> bytes:
    return json.dumps({"id": 1, "kind": "train", "words": 0, "tensors": 0} | changes).encode()


@pytest.mark.parametrize("size", SIZES)
def test_a_message_arrives_whole_in_small_parts(size):
    data = random.Random(size).randbytes(size)
    words = {"round": 3, "names": ["é" * size]}
    message = wire.Message(7, wire.TRAIN, words, split(data))
    parts = list(wire.write(message))
    assert not message.tensors and max(map(len, parts)) <= PART
    for got in wire.read(parts * 2):  # nothing of one is in the next
        assert (got.id, got.kind, got.words, b"".join(got.tensors)) == (7, wire.TRAIN, words, data)


def test_one_body_goes_to_many():
    body = wire.body({"round": 1}, bytes(PART + 3))
    got = list(wire.read([part for number in range(3) for part in body.headed(number, wire.EVALUATE)]))
    assert [message.id for message in got] == [0, 1, 2]
    assert all(message.words == {"round": 1} and sum(map(len, message.tensors)) == PART + 3 for message in got)


def test_what_is_not_kept_is_read_and_let_go():
    reader = wire.Reader(lambda header: header.id == 2)
    parts = [part for number in (1, 2) for part in wire.write(wire.Message(number, wire.TRAIN, 1, split(b"update")))]
    got = [message for message in map(reader.feed, parts) if message is not None]
    assert [(message.id, b"".join(message.tensors)) for message in got] == [(2, b"update")]


def test_empty_parts_are_not_sent():
    assert len(list(wire.write(wire.Message(1, wire.TRAIN, None, Parts([b"", b"a", b""]))))) == 2


@pytest.mark.parametrize(
    "data",
    [b"", b"\xff\xfe", b"5", b"[]", b"{}", b"null", b"[" * 1000, header(words=-1), header(tensors=1.5), header(id=True),
     header(kind="fit"), header(kind="bye"), header(kind=[1]), header(kind=None), header(more=1),
     header(kind="train" + " " * 2000)],
)  # fmt: skip
def test_bytes_that_are_no_header_are_refused(data):
    with pytest.raises(wire.ProtocolError, match="it sent"):
        wire.Reader().feed(data)


@pytest.mark.parametrize(
    "parts", [[header(tensors=5), b"123456"], [header(tensors=5), b"1"], [header(tensors=5), b""],
              [header(words=2, tensors=2), b"1234"],
              [header(tensors=PART + 1), bytes(PART + 1)], [header(words=3), b"{no"],
              [header(words=9999), b"[" * 9999]],
)  # fmt: skip
def test_a_body_that_is_not_as_announced_is_refused(parts):
    reader = wire.Reader()
    with pytest.raises(wire.ProtocolError, match="it sent"):
        for part in parts:
            reader.feed(part)


@pytest.mark.parametrize("data", [b"", b"\xff", b"[]", b"5", b'{"kind": "refused"}', b"[" * 900])
def test_bytes_that_are_no_bye_are_refused(data):
    with pytest.raises(wire.ProtocolError, match="it sent no bye"):
        wire.Bye.parse(data)


def test_a_bye_is_fit_for_a_log():
    assert wire.Bye.parse(wire.Bye("refused", "no\n\x1b[2J" + "x" * 999).pack()) == wire.Bye(
        "refused", "no " + "x" * 296 + "…"
    )


def test_a_bye_in_any_letters_fits_into_its_frame():
    data = wire.Bye(wire.Bye.REPLACED, "a device called " + "\U0001f33b" * 280).pack()
    assert len(data) <= wire.MOST_HEADER
    assert wire.Bye.parse(data).why.startswith("a device called \U0001f33b")
