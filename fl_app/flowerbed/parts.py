"""Tensors on their way, in parts: each is let go once it is passed on, so a small board holds an update only once."""

import contextlib
import ctypes
import io
from collections import deque
from collections.abc import Callable, Iterator

PART = 1 << 18  # bytes
M_MMAP_THRESHOLD = -3  # malloc.h
Parts = deque[bytes | memoryview]


def return_freed_memory() -> None:
    """Let this process give each part back to the system that it lets go of, where its C library can: mallopt(3).

    By itself, malloc soon keeps for later what is as large as a part: measured, two updates more.
    """
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).mallopt(M_MMAP_THRESHOLD, PART // 2)


def split(data: bytes) -> Parts:
    """Return the parts of `data`, as views of it."""
    view = memoryview(data)
    return deque(view[begin : begin + PART] for begin in range(0, len(view), PART))


def join(parts: Parts) -> bytes:
    """Return what the parts are of; each is let go as it is taken, so that all of it is held once."""
    whole = io.BytesIO()  # which hands its own memory out
    whole.writelines(drain(parts))
    return whole.getvalue()


def read(source: Callable[[int], bytes]) -> Parts:
    """Return what `source`, a file's `read`, still has."""
    return deque(iter(lambda: source(PART), b""))


def drain(parts: Parts) -> Iterator[bytes | memoryview]:
    """Take the parts one by one, so that nothing holds those that were taken."""
    while parts:
        yield parts.popleft()
