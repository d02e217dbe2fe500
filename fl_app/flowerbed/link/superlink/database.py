"""Make a SuperLink's database, whole or not at all: python -m flowerbed.link.superlink.database FILE.

With a database that a SuperLink began to make, and was killed, none starts again.
"""

import sys
from pathlib import Path

from ...flower_private import make_database


def make(file: Path) -> None:
    """Make the database unless it is there. It has its name only once Flower has made all of it."""
    if file.exists():
        return
    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)  # it has what opens a run to its programs
    make_database(f"sqlite:///{new}")
    new.rename(file)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
