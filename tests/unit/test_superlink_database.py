"""A SuperLink's database that was not made to its end is removed; one that is whole stays."""

import os
import socket
import subprocess
import sys

import fleet


def prepare(address: str, file, process: int) -> None:
    subprocess.run(
        [sys.executable, "-m", "flowerbed.server.database", address, file, str(process)],
        env=fleet.ENVIRONMENT, check=True, timeout=30,
    )  # fmt: skip


def test_a_database_is_kept_once_somebody_has_listened(tmp_path):
    file, made = tmp_path / "superlink.db", tmp_path / "superlink.db.made"
    file.write_text("half of it")
    with socket.create_server(("127.0.0.1", 0)) as superlink:
        prepare(f"127.0.0.1:{superlink.getsockname()[1]}", file, os.getpid())
        assert not file.exists()
        fleet.wait_until(made.exists, 20, "the note that the database is whole")
    file.write_text("all of it")
    prepare(f"127.0.0.1:{fleet.free_port()}", file, 2**22 + 1)
    assert file.read_text() == "all of it"
