"""Who runs an experiment: a lock on its folder, which the kernel releases when its holder ends, however it ends."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from .config import RunFailed

NAME = "run.lock"
_END = "end-after-round"  # is there when somebody waits for the end of the round


@contextlib.contextmanager
def hold(folder: Path, server: str = "") -> Iterator[None]:
    """Hold the experiment's lock for a run of a `server`, named by its control socket.

    Raises RunFailed if another run holds it, OSError if the folder can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / NAME, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunFailed(f"another run of experiment {folder.name} goes on: wait for it, or stop it first") from None
        (folder / _END).unlink(missing_ok=True)
        file.truncate(0)
        file.write(server)
        file.flush()
        yield


def holder(folder: Path) -> str:
    """Return the server whose run holds the experiment's lock, or did last."""
    return (folder / NAME).read_text()


@contextlib.contextmanager
def asked_to_end(folder: Path) -> Iterator[None]:
    """Ask the run of an experiment to end after its round, as long as the context lasts."""
    (folder / _END).touch()
    try:
        yield
    finally:
        (folder / _END).unlink(missing_ok=True)


def is_to_end(folder: Path) -> bool:
    """Return whether the run is asked to end after its round."""
    return (folder / _END).exists()


def beat(folder: Path) -> None:
    """Leave a sign of life for `beaten`."""
    os.utime(folder / NAME)


def beaten(folder: Path) -> float:
    """Return when the last sign of life was left, on the file system's clock."""
    return (folder / NAME).stat().st_mtime


def held(folder: Path) -> bool:
    """Return whether a run holds the experiment's lock."""
    with open(folder / NAME) as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False
