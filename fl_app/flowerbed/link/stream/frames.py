"""Frames on a connection, at both ends: five bytes that say of what kind and how long it is, and those. Above TLS.

Frames of one kind are the parts of messages, in order. Those of the other, which are `apart`, are about the connection,
and may come between them: they are small, and wait for nothing.

A connection shows that it lives by what comes, and by what the other end takes of what is sent to it: on a slow network
that may be all there is to see for minutes.
"""

import asyncio
import socket
import struct
import time
from collections.abc import Callable, Iterable

from ...parts import PART
from .wire import MOST_HEADER, ProtocolError

MOVING = 1024  # bytes that the other end has to take between two looks; less may be only its kernel's doing
FAREWELL_SECONDS = 5.0  # for the last words to arrive
_HEAD = struct.Struct(">?I")
_ACKED, _UNTIL = 120, 128  # where tcp_info in linux/tcp.h has tcpi_bytes_acked, since Linux 4.1


class Frames(asyncio.BufferedProtocol):
    """One end of a connection.

    `received` is called with each frame, and whether it is apart; a ProtocolError that it raises ends the connection.
    `ended` is called once, with why, or None if the other end closed it. Frames that aren't apart are refused until the
    owner lets them in: `most` is the size of the largest, in bytes.
    """

    def __init__(self, received: Callable[[bytes, bool], None], ended: Callable[[Exception | None], None]) -> None:
        self.received, self.ended, self.most = received, ended, 0
        self.transport: asyncio.Transport | None = None
        self._over = False
        self._buffer, self._filled = bytearray(_HEAD.size), 0
        self._head: tuple[bool, int] | None = None  # of the frame that is coming
        self._heard = time.monotonic()
        self._acked = 0
        self._room = asyncio.Event()
        self._room.set()

    # -- What the owner calls ------------------------------------------------------------------------------------------

    async def send(self, frames: Iterable[bytes]) -> None:
        """Send frames, each when there is room for it. Raises ConnectionError if the connection has ended."""
        for data in frames:
            self.put(data)
            await self._room.wait()

    def put(self, data: bytes, apart: bool = False) -> None:
        """Send one frame, whether or not there is room for it. Raises ConnectionError if the connection has ended."""
        if self._over or self.transport is None:
            raise ConnectionError("the connection has ended")
        self.transport.writelines((_HEAD.pack(apart, len(data)), data))

    def close(self, last: bytes | None = None) -> None:
        """End the connection, after one last frame, which is apart, if there is one to send."""
        if self._over or self.transport is None:
            return
        if last is not None:
            self.put(last, apart=True)
        self._over = True
        self._room.set()
        transport = self.transport
        transport.close()
        asyncio.get_running_loop().call_later(FAREWELL_SECONDS, transport.abort)

    @property
    def silent(self) -> float:
        """Return for how many seconds there has been no sign of life."""
        return time.monotonic() - self._heard

    def look(self) -> None:
        """Look whether the other end takes what is sent to it. To be called about once a second."""
        acked = self._bytes_acked()
        if acked - self._acked >= MOVING:
            self._heard = time.monotonic()
        self._acked = acked

    def excuse(self, seconds: float) -> None:
        """Take off the last so many seconds, in which this end did not look."""
        self._heard += seconds

    def _bytes_acked(self) -> int:
        try:
            info = self.transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _UNTIL)
            return struct.unpack_from("=Q", info, _ACKED)[0]
        except (OSError, AttributeError, struct.error):
            return 0

    # -- What asyncio calls --------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take note of the transport."""
        self.transport = transport
        transport.set_write_buffer_limits(high=PART)

    def get_buffer(self, sizehint: int) -> memoryview:
        """Return where what comes next is written to."""
        return memoryview(self._buffer)[self._filled :]

    def buffer_updated(self, count: int) -> None:
        """Take note of what came; hand a frame over once it is whole."""
        self._heard = time.monotonic()
        self._filled += count
        if self._over:  # what still comes is let go
            self._filled = 0
        elif self._filled == len(self._buffer):
            try:
                self._take(self._buffer)
            except ProtocolError as error:
                self._end(error)

    def _take(self, data: bytearray) -> None:
        self._filled = 0
        if self._head is None:
            apart, length = _HEAD.unpack(data)
            most = MOST_HEADER if apart else self.most
            if length > most:
                raise ProtocolError(f"it sent a part of {length} bytes, and {most} are the most")
            if length:
                self._head, self._buffer = (apart, length), bytearray(length)
                return
            data = bytearray()
        else:
            [apart, _], self._head = self._head, None
            self._buffer = bytearray(_HEAD.size)
        self.received(bytes(data) if apart else data, apart)

    def eof_received(self) -> bool:
        """Close when the other end does."""
        return False

    def pause_writing(self) -> None:
        """Wait with the next frame."""
        self._room.clear()

    def resume_writing(self) -> None:
        """Go on."""
        self._room.set()

    def connection_lost(self, error: Exception | None) -> None:
        """Say that it is over."""
        self._end(error)

    def _end(self, why: Exception | None) -> None:
        if not self._over:
            self._room.set()
            self.ended(why)
            self._over = True
