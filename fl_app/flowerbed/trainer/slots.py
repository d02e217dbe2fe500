"""Trainers that share one machine take turns: more of them at work than there are cores only slows all of them down."""

import contextlib
import fcntl
import os
import time

POLL_SECONDS = 0.01
WAIT_SECONDS = 600


class Slots:
    """The cores of this machine, shared by all trainers that name the same `folder` (None: nothing is shared).

    A slot is a locked file, so a trainer that dies leaves none behind. `threads` is what one trainer uses.
    """

    def __init__(self, folder, threads):
        self._files = []
        if folder:
            os.makedirs(folder, exist_ok=True)
            count = max(1, len(os.sched_getaffinity(0)) // threads)
            paths = [os.path.join(folder, "slot-%d" % index) for index in range(count)]
            self._files = [open(path, "w") for path in paths]  # noqa: SIM115 - held open as long as the trainer lives

    @contextlib.contextmanager
    def take(self):
        """Hold a slot for the length of a `with`; wait for a free one, but not for ever: without, work is only slow."""
        deadline = time.time() + WAIT_SECONDS
        held = None
        try:
            while self._files and held is None and time.time() < deadline:
                held = next((file for file in self._files if _lock(file)), None)
                if held is None:
                    time.sleep(POLL_SECONDS)
            yield
        finally:
            if held is not None:
                fcntl.flock(held, fcntl.LOCK_UN)


def _lock(file):
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
