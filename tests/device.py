"""A device on the real stream that says what a test has it say: whatever the name, the instance, the answers."""

import queue
import threading
from collections.abc import Callable, Iterable

import grpc

from flowerbed.link.stream import wire

Answer = Callable[[wire.Message], Iterable[bytes]]  # to a request, in the stream's own bytes


class Device:
    """One call to the server at `address`; pings are answered unless `answers_pings` is False.

    `received` are the messages that came, and `ended` is set once the call has ended, with `status` and `reason`.
    """

    def __init__(
        self, address: str, name: str, answer: Answer = lambda message: (), instance: str = "a",
        answers_pings: bool = True,
    ) -> None:  # fmt: skip
        self._answer, self.answers_pings = answer, answers_pings
        self.received: list[wire.Message] = []
        self.ended = threading.Event()
        self.status: grpc.StatusCode | None = None
        self.reason = ""
        self._outgoing: queue.Queue[bytes | None] = queue.Queue()
        self._channel = grpc.insecure_channel(address)
        join = self._channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")
        metadata = ((wire.NAME, name.encode()), (wire.INSTANCE, instance))
        self._call = join(iter(self._outgoing.get, None), metadata=metadata, wait_for_ready=True)
        threading.Thread(target=self._work, daemon=True).start()

    def send(self, parts: Iterable[bytes]) -> None:
        """Send bytes, asked or not."""
        for part in parts:
            self._outgoing.put(part)

    def stop(self) -> None:
        """End the call."""
        self._outgoing.put(None)
        self._channel.close()

    def _work(self) -> None:
        try:
            for message in wire.read(self._call):
                self.received.append(message)
                if message.kind != wire.PING:
                    self.send(self._answer(message))
                elif self.answers_pings:
                    self.send(wire.write(message))
        except (grpc.RpcError, ValueError):
            pass
        self.status, self.reason = self._call.code(), self._call.details() or ""
        self.ended.set()

    def __enter__(self) -> "Device":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
