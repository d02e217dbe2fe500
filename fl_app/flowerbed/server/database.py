"""Keep no SuperLink's database that was not made to its end: python -m flowerbed.server.database HOST:PORT FILE PID.

A SuperLink that ends while it makes its tables leaves a file with which none starts again. It listens once they are
made, so a watcher then notes that the file is whole, in FILE.made; a file without that note is removed.
"""

import os
import socket
import sys
import time
from pathlib import Path

POLL_SECONDS = 0.2


def remove_unfinished(file: Path) -> None:
    """Remove a database that nothing says is whole."""
    if not note(file).exists():
        for path in (file, file.with_name(f"{file.name}-wal"), file.with_name(f"{file.name}-shm")):
            path.unlink(missing_ok=True)


def watch(address: str, file: Path, process: int) -> None:
    """Note that the database is whole once somebody listens on `address`; give up when `process` has ended."""
    host, _, port = address.rpartition(":")
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host.strip("[]"), host.strip("[]"))
    while Path(f"/proc/{process}").exists():
        try:
            socket.create_connection((host, int(port)), 5).close()
        except OSError:
            time.sleep(POLL_SECONDS)
        else:
            return note(file).touch()


def note(file: Path) -> Path:
    """Return the file that says that the database `file` is whole."""
    return file.with_name(f"{file.name}.made")


if __name__ == "__main__":
    remove_unfinished(Path(sys.argv[2]))
    if os.fork() == 0:
        watch(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
