"""Make a SuperLink's database, whole or not at all: python -m flowerbed.server.database FILE.

With a database that a SuperLink began to make, and was killed, none starts again.
"""

import sys
from pathlib import Path


def make(file: Path) -> None:
    """Make the database unless it is there. It has its name only once Flower has made all of it."""
    if file.exists():
        return
    from flwr.supercore.state.alembic.utils import run_migrations  # seconds of imports, and only needed now
    from sqlalchemy import create_engine

    new = file.with_name(f"{file.name}.new")
    new.unlink(missing_ok=True)
    engine = create_engine(f"sqlite:///{new}")
    run_migrations(engine)
    engine.dispose()
    new.rename(file)


if __name__ == "__main__":
    make(Path(sys.argv[1]))
