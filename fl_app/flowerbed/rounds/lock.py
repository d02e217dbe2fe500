"""Who runs an experiment: a lock on its folder, which the kernel releases when its holder ends, however it ends."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path

from .config import RunFailed

_NAME = "run.lock"


@contextlib.contextmanager
def hold(folder: Path) -> Iterator[None]:
    """Hold the experiment's lock. Raises RunFailed if another run holds it, OSError if the folder can't be written."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / _NAME, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailed(f"another run of experiment {folder.name} goes on: wait for it, or stop it first") from None
        yield


def held(folder: Path) -> bool:
    """Return whether a run holds the experiment's lock."""
    with open(folder / _NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
