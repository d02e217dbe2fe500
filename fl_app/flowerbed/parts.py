"""Tensors on their way, in parts: each is let go once it is passed on, so a small board holds an update only once."""

from collections import deque
from collections.abc import Callable, Iterator

PART = 1 << 18  # bytes
Parts = deque[bytes]


def split(data: bytes) -> Parts:
    """Return the parts of `data`."""
    return deque(data[begin : begin + PART] for begin in range(0, len(data), PART))


def read(source: Callable[[int], bytes]) -> Parts:
    """Return what `source`, a file's `read`, still has."""
    return deque(iter(lambda: source(PART), b""))


def drain(parts: Parts) -> Iterator[bytes]:
    """Take the parts one by one, so that nothing holds those that were taken."""
    while parts:
        yield parts.popleft()
