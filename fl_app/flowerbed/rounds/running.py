"""Which experiments a server runs: python -m flowerbed.rounds.running RUNS CONTROL, with its control socket.

Prints their names, as JSON. With --end it asks these runs to end after their round, and waits until they have.
"""

import argparse
import contextlib
import json
import time
from pathlib import Path

from . import lock

POLL_SECONDS = 0.2


def experiments(runs: Path, control: str) -> list[Path]:
    """Return the folders in `runs` of the experiments that the server with this control socket runs."""
    return [path.parent for path in sorted(runs.glob("*/run.json")) if _by(path, control) and _held(path.parent)]


def _by(path: Path, control: str) -> bool:
    try:
        return json.loads(path.read_text())["control"] == control
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _held(folder: Path) -> bool:
    try:
        return lock.held(folder)
    except OSError:  # no run came so far
        return False


def main() -> None:
    """Print them; with --end, once they have ended."""
    parser = argparse.ArgumentParser(prog="flowerbed.rounds.running", description=__doc__)
    parser.add_argument("runs", type=Path, help="folder of the experiments")
    parser.add_argument("control", help="the server's control socket")
    parser.add_argument("--end", action="store_true", help="let them end after their round")
    options = parser.parse_args()
    found = experiments(options.runs, options.control)
    if options.end:
        with contextlib.ExitStack() as stack:
            for folder in found:
                stack.enter_context(lock.asked_to_end(folder))
            while any(map(_held, found)):
                time.sleep(POLL_SECONDS)
    print(json.dumps([folder.name for folder in found]))


if __name__ == "__main__":
    main()
