"""Trainers that share one machine take turns: more of them at work than there are cores only slows all of them down."""

import contextlib
import fcntl
import os
import select
import sys
import time

WAKE_SECONDS = 0.5  # how long a slot may lie unused after its trainer died without ringing
WAIT_SECONDS = 600


class Slots:
    """The cores of this machine, shared by all trainers that name the same `folder` (None: nothing is shared).

    A slot is a locked file, so a trainer that dies leaves none behind. Whoever frees one rings the bell, a pipe on
    which the others sleep: eight that poll would slow down the two at work. `threads` is what one trainer uses.
    """

    def __init__(self, folder, threads):
        self._files = []
        if folder:
            os.makedirs(folder, exist_ok=True)
            count = max(1, len(os.sched_getaffinity(0)) // threads)
            paths = [os.path.join(folder, "slot-%d" % index) for index in range(count)]
            self._files = [open(path, "w") for path in paths]  # noqa: SIM115 - held open as long as the trainer lives
            bell = os.path.join(folder, "bell")
            with contextlib.suppress(FileExistsError):
                os.mkfifo(bell, 0o600)
            self._bell = os.open(bell, os.O_RDWR | os.O_NONBLOCK)

    @contextlib.contextmanager
    def take(self):
        """Hold a slot for the length of a `with`; wait for a free one, but not for ever: without, work is only slow."""
        deadline = time.monotonic() + WAIT_SECONDS
        held = None
        try:
            while self._files and held is None and time.monotonic() < deadline:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._bell, 1)  # the ring for the slot that is taken now
                held = next((file for file in self._files if _lock(file)), None)
                if held is None:
                    select.select([self._bell], [], [], WAKE_SECONDS)
            if self._files and held is None:
                sys.stderr.write("no processor came free within %d s: working beside the others\n" % WAIT_SECONDS)
                sys.stderr.flush()
            yield
        finally:
            if held is not None:
                fcntl.flock(held, fcntl.LOCK_UN)
                with contextlib.suppress(BlockingIOError):  # full of rings that nobody waited for
                    os.write(self._bell, b".")


def _lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
