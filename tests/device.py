"""A device on the real stream that says what a test has it say: whatever the identity, the instance, the answers."""

import asyncio
import contextlib
import queue
import ssl
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from flowerbed.link import identity
from flowerbed.link.stream import wire
from flowerbed.link.stream.frames import Frames
from flowerbed.parts import PART

Answer = Callable[[wire.Message], Iterable[bytes]]  # to a request, in the stream's own frames

_loop = asyncio.new_event_loop()
threading.Thread(target=_loop.run_forever, name="devices", daemon=True).start()


class Device:
    """One connection to the server at `address` (host:port), with the identity in a folder.

    Pings are answered unless `answers_pings` is False. `received` are the messages that came, `pings` is how often the
    server asked for a sign of life; `ended` is set once the connection has ended, with the `bye` that came, or `error`.
    """

    def __init__(
        self, address: str, folder: Path, answer: Answer = lambda message: (), instance: str = "a",
        answers_pings: bool = True, hello: bytes | None = None,
    ) -> None:  # fmt: skip
        self._address, self._folder = address, folder
        self._answer, self.answers_pings = answer, answers_pings
        self._hello = wire.Hello(instance).pack() if hello is None else hello
        self.received: list[wire.Message] = []
        self.pings = 0
        self.ended = threading.Event()
        self.bye: wire.Bye | None = None
        self.error: BaseException | None = None
        self._reader = wire.Reader()
        self._frames: Frames | None = None
        self._lock = threading.Lock()
        self._outgoing: queue.Queue[tuple[Iterable[bytes], bool]] | None = None
        self._work = asyncio.run_coroutine_threadsafe(self._run(), _loop)

    @property
    def reason(self) -> str:
        """Return why the server ended the connection."""
        return self.bye.why if self.bye else ""

    def send(self, frames: Iterable[bytes], apart: bool = False) -> None:
        """Send frames, asked or not, after what is to be sent already; on a thread, for they may be long in coming."""
        with self._lock:
            if self._outgoing is None:
                self._outgoing = queue.Queue()
                threading.Thread(target=self._pass_on, daemon=True).start()
        self._outgoing.put((frames, apart))

    def _pass_on(self) -> None:
        while not self.ended.is_set():
            with contextlib.suppress(queue.Empty):
                frames, apart = self._outgoing.get(timeout=1)
                for data in frames:
                    asyncio.run_coroutine_threadsafe(self._put(data, apart), _loop).result(20)

    async def _put(self, data: bytes, apart: bool) -> None:
        while self._frames is None and not self.ended.is_set():  # it is not connected yet
            await asyncio.sleep(0.01)
        with contextlib.suppress(ConnectionError):
            if self._frames is None:
                return
            if apart:
                self._frames.put(data, apart)
            else:
                await self._frames.send([data])

    def stop(self) -> None:
        """End the connection."""
        _loop.call_soon_threadsafe(lambda: self._frames and self._frames.close())
        _loop.call_soon_threadsafe(self._work.cancel)
        self.ended.wait(20)

    async def _run(self) -> None:
        over = asyncio.Event()

        def ended(error: Exception | None) -> None:
            self.error = error
            over.set()

        try:
            context = identity.context(self._folder, ssl.Purpose.SERVER_AUTH)
            host, _, port = self._address.rpartition(":")
            _, self._frames = await asyncio.get_running_loop().create_connection(
                lambda: Frames(self._take, ended), host.strip("[]"), int(port), ssl=context
            )
            self._frames.most = PART
            self._frames.put(self._hello, apart=True)
            await over.wait()
        except OSError as error:
            self.error = error
        finally:
            self.ended.set()

    def _take(self, data: bytes, apart: bool) -> None:
        if apart and data == wire.PING:
            self.pings += 1
            if self.answers_pings:
                self._frames.put(wire.PING, apart=True)
        elif apart:
            self.bye = wire.Bye.parse(data)
        else:
            message = self._reader.feed(data)
            if message is not None:
                self.received.append(message)
                self.send(self._answer(message))

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
