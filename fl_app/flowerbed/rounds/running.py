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
    folders = sorted(path.parent for path in runs.glob(f"*/{lock.NAME}"))
    return [folder for folder in folders if _goes_on(folder, control)]


def _goes_on(folder: Path, control: str) -> bool:
    try:
        return lock.held(folder) and lock.holder(folder) == control
    except (OSError, ValueError):  # it is another user's, or none of ours
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
            while any(_goes_on(folder, options.control) for folder in found):
                time.sleep(POLL_SECONDS)
    print(json.dumps([folder.name for folder in found]))


if __name__ == "__main__":
    main()
