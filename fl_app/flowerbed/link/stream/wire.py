"""What both ends of a stream send, to and from bytes.

One message is several frames (see `frames`): a header,

    {"id": 7, "kind": "train", "words": 213, "tensors": 250168}

a small JSON object, and then so many bytes of words (JSON) and of tensors as it announces, in parts, for tensors may be
most of a small board's memory. All parts have PART bytes, but for the last of the words and the last of the tensors. An
answer has the id and the kind of its request.

Between these, wherever they are, may come what is said about the connection: a device's first frame, its hello; an
empty one, by which the server asks for a sign of life and a device gives one; and a bye, the server's last word.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from ...parts import PART, Parts, drain, split
from ...tensors import MOST_BYTES
from ...words import LONGEST, clean
from ..content import QUERY

VERSION = 1  # of what both ends send
TRAIN, EVALUATE = "train", "evaluate"
KINDS = (QUERY, TRAIN, EVALUATE)
PING = b""

MOST_HEADER = 1024  # bytes, as of a hello
MOST_WORDS = {QUERY: 1 << 22, TRAIN: 1 << 16, EVALUATE: 1 << 16}  # of an answer; a query tells all classes
MOST_INSTANCE = 80  # characters
# An update has the model's tensors, perhaps in a type twice as wide, and perhaps another header.
WIDER, MORE = 2, 1 << 16
MOST_TENSORS = WIDER * MOST_BYTES + MORE


class ProtocolError(ValueError):
    """The other end sent what it must not; the message is a sentence's end, "it sent …"."""


@dataclass(frozen=True)
class Header:
    """What comes: an answer's `id` is its request's. Sizes are in bytes."""

    id: int
    kind: str
    words: int = 0
    tensors: int = 0

    def pack(self) -> bytes:
        """Return the header's bytes."""
        return json.dumps(vars(self), separators=(",", ":")).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Header":
        """Return the header in `data`. Raises ProtocolError if that is none."""
        header = _made(cls, data if len(data) <= MOST_HEADER else b"", "it sent no header where one was to come")
        numbers = (header.id, header.words, header.tensors)
        if header.kind not in KINDS or not all(type(number) is int and number >= 0 for number in numbers):
            raise ProtocolError("it sent a header that makes no sense")
        return header


@dataclass(frozen=True)
class Hello:
    """A device's first words; `instance` is another one whenever its client is started."""

    instance: str
    version: int = VERSION

    def pack(self) -> bytes:
        """Return the hello's bytes."""
        return json.dumps(vars(self)).encode()

    @classmethod
    def parse(cls, data: bytes) -> "Hello":
        """Return the hello in `data`. Raises ProtocolError if that is none, or of another version."""
        hello = _made(cls, data, "it sent no hello")
        if hello.version != VERSION:
            raise ProtocolError("it is of another version of Flowerbed: run deploy.yml for all")
        return cls(clean(hello.instance, MOST_INSTANCE))


@dataclass(frozen=True)
class Bye:
    """Why the server ends a connection: `kind` is one of those below, `why` a sentence's part for people."""

    kind: str
    why: str

    REFUSED, REPLACED, BROKEN, LATE = "refused", "replaced", "broken", "late"

    def pack(self) -> bytes:
        """Return the bye's bytes, its sentence cut to what a frame has room for."""
        longest = LONGEST
        while len(data := json.dumps({"kind": self.kind, "why": clean(self.why, longest)}).encode()) > MOST_HEADER:
            longest -= 10
        return data

    @classmethod
    def parse(cls, data: bytes) -> "Bye":
        """Return the bye in `data`. Raises ProtocolError if that is none."""
        bye = _made(cls, data, "it sent no bye where one was to come")
        return cls(clean(bye.kind), clean(bye.why))


@dataclass
class Message:
    """A message as a whole: its words are a JSON value, its tensors are packed."""

    id: int
    kind: str
    words: Any = None
    tensors: Parts = field(default_factory=Parts)


@dataclass(frozen=True)
class Body:
    """The words and tensors of a message, in parts that are views; one body may go to many devices."""

    parts: Parts
    words: int
    tensors: int

    def headed(self, number: int, kind: str) -> Iterator[bytes]:
        """Yield all of a message with this body."""
        yield Header(number, kind, self.words, self.tensors).pack()
        yield from map(bytes, self.parts)


def body(words: Any, tensors: bytes) -> Body:
    """Return the body of a message that is sent more than once."""
    text = _text(words)
    return Body(split(text) + split(tensors), len(text), len(tensors))


def write(message: Message) -> Iterator[bytes]:
    """Yield a message; it has no tensors afterwards."""
    text = _text(message.words)
    yield Header(message.id, message.kind, len(text), sum(map(len, message.tensors))).pack()
    yield from map(bytes, split(text))
    for part in drain(message.tensors):
        if part:
            yield bytes(part)


class Reader:
    """Makes messages of what comes.

    `accept` is asked about each header before any of its body comes: it raises ProtocolError, or says whether the
    message is kept. What isn't kept is read and let go.
    """

    def __init__(self, accept: Callable[[Header], bool] = lambda header: True) -> None:
        self._accept = accept
        self._header: Header | None = None
        self._keep = True
        self._words: list[bytes] = []
        self._tensors = Parts()
        self._missing = [0, 0]  # bytes of words, and of tensors

    @property
    def halfway(self) -> bool:
        """Say whether a message has begun and not ended."""
        return self._header is not None

    def feed(self, data: bytes) -> Message | None:
        """Take what came; return the message that it ends, if it ends one that is kept. Raises ProtocolError."""
        if self._header is None:
            self._header = Header.parse(data)
            self._missing = [self._header.words, self._header.tensors]
            self._keep = self._accept(self._header)
        else:
            which = 0 if self._missing[0] else 1
            if len(data) != min(self._missing[which], PART):  # small ones would take many times their size
                raise ProtocolError("it sent another number of bytes than it had announced")
            self._missing[which] -= len(data)
            if self._keep:
                (self._words if which == 0 else self._tensors).append(data)
        if any(self._missing):
            return None
        header, text, tensors = self._header, b"".join(self._words), self._tensors
        self._header, self._words, self._tensors = None, [], Parts()
        if not self._keep:
            return None
        try:
            words = json.loads(text) if text else None
        except (ValueError, RecursionError):
            raise ProtocolError("it sent words that are not JSON") from None
        return Message(header.id, header.kind, words, tensors)


def read(parts: Iterable[bytes]) -> Iterator[Message]:
    """Yield the messages in what comes. Raises ProtocolError."""
    reader = Reader()
    for data in parts:
        message = reader.feed(data)
        if message is not None:
            yield message


def _made(kind: type[Any], data: bytes, otherwise: str) -> Any:
    """Return the dataclass that a small JSON object in `data` is of. Raises ProtocolError, as told, if that is none."""
    try:
        return kind(**json.loads(data))
    except (ValueError, TypeError, RecursionError):
        raise ProtocolError(otherwise) from None


def _text(words: Any) -> bytes:
    return b"" if words is None else json.dumps(words).encode()
