"""A board on another machine, through SSH: a stand-in for ssh runs its commands here, a stand-in for cron remembers."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import Checkout, until

pytestmark = pytest.mark.e2e

SSH = """#!/bin/sh
# Its last argument is the command; its options and the host do not matter here.
for command; do :; done
PATH="$(dirname "$0"):$PATH" exec sh -c "$command"
"""
CRONTAB = """#!/bin/sh
file="$(dirname "$0")/crontab.txt"
case "$1" in
    -l) cat "$file" 2>/dev/null ;;
    *) [ ! -e "$file.deny" ] && cat "$1" > "$file" || { echo "pi is not allowed to use cron" >&2; exit 1; } ;;
esac
"""


@pytest.fixture
def board() -> Iterator[Checkout]:
    """A checkout whose one device is a board."""
    garden = Checkout({"rpi": "rpi-1"})
    try:
        programs = garden.folder / "bin"
        programs.mkdir()
        for name, text in {"ssh": SSH, "crontab": CRONTAB}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        garden.set_variables(fl_listen="0.0.0.0", fl_server_host=socket.gethostname())
        garden.set_variables(
            "rpi", ansible_connection="ssh", ansible_host="10.0.0.2", ansible_ssh_executable=str(programs / "ssh"),
            ansible_ssh_transfer_method="piped", fl_python=sys.executable,
        )  # fmt: skip
        yield garden
    finally:
        garden.close()


def test_a_board_starts_by_itself_after_a_reboot_until_it_is_stopped(board):
    crontab, deny = board.folder / "bin/crontab.txt", board.folder / "bin/crontab.txt.deny"
    deny.touch()
    words = board.play("deploy").words
    assert "rpi-1 cannot start Flowerbed at boot, so run deploy.yml after one: pi is not allowed to use cron" in words
    deny.unlink()
    assert {host for host, count in board.play("deploy").changed.items() if count} == {"rpi-1"}
    assert not any(board.play("deploy").changed.values())
    (job,) = re.findall(r"(?m)^@reboot (.*)$", crontab.read_text())
    mark = os.fsencode(f"FLOWERBED_HOME={board.home('rpi-1')}\0")
    for pid in board.processes():
        if mark in Path(f"/proc/{pid}/environ").read_bytes():
            os.kill(pid, signal.SIGKILL)
    until(lambda: not board.trainer("rpi-1"), 10, "the trainer to be gone")
    subprocess.run(["sh", "-c", job], cwd="/", env={"PATH": "/usr/bin:/bin"}, check=True)
    until(lambda: board.trainer("rpi-1").get("ready"), 60, "the trainer to be back")
    board.run("rebooted")
    board.play("playbooks/stop")
    assert "@reboot" not in crontab.read_text() and board.processes() == {}
