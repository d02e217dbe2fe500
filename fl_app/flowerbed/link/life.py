"""Waiting for an answer that may take hours: as long as there is a sign of life at the other end."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

LOOK_SECONDS = 30.0  # between two looks
GONE_SECONDS = 300.0  # without a sign of life, after which it is waited for no longer


@contextlib.contextmanager
def watched(alive: Callable[[], bool]) -> Iterator[threading.Event]:
    """Ask again and again whether what is waited for is `alive`; set the event once it has not been for too long."""
    gone, done = threading.Event(), threading.Event()

    def look() -> None:
        last = time.monotonic()
        while not done.wait(LOOK_SECONDS):
            answers = False
            with contextlib.suppress(OSError, ValueError):
                answers = alive()
            if answers:
                last = time.monotonic()
            elif time.monotonic() > last + GONE_SECONDS:
                gone.set()

    threading.Thread(target=look, daemon=True).start()
    try:
        yield gone
    finally:
        done.set()
