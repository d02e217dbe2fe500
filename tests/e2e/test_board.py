"""A board on another machine, through SSH: a stand-in for ssh runs its commands here, a stand-in for cron remembers."""

import json
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
# Its last argument is the command; its options and the host do not matter here. The board may be off.
if [ -e "$(dirname "$0")/off" ]; then
    echo "ssh: connect to host 10.0.0.2 port 22: No route to host" >&2
    exit 255
fi
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


def variables(checkout: Checkout) -> dict[str, str]:
    """Return what makes a host a board."""
    return {
        "ansible_connection": "ssh", "ansible_host": "10.0.0.2", "ansible_ssh_transfer_method": "piped",
        "ansible_ssh_executable": str(checkout.folder / "bin/ssh"), "fl_python": sys.executable,
    }  # fmt: skip


@pytest.fixture(scope="module")
def board() -> Iterator[Checkout]:
    """A checkout whose one device is a board."""
    checkout = Checkout({"rpi": "rpi-1"})
    try:
        programs = checkout.folder / "bin"
        programs.mkdir()
        for name, text in {"ssh": SSH, "crontab": CRONTAB}.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        checkout.set_variables(fl_listen="0.0.0.0", fl_server_host=socket.gethostname())
        checkout.set_variables("rpi", **variables(checkout))
        yield checkout
    finally:
        checkout.close()


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
    until(lambda: not board.trainer("rpi-1"), "the trainer to be gone")
    subprocess.run(["sh", "-c", job], cwd="/", env={"PATH": "/usr/bin:/bin"}, check=True)
    until(lambda: board.trainer("rpi-1").get("ready"), "the trainer to be back")
    board.run("rebooted")
    board.play("playbooks/stop")
    assert "@reboot" not in crontab.read_text() and board.processes() == {}


def test_a_folder_with_other_things_is_refused_before_anything_is_done_there(board):
    mine = board.folder / "mine"
    (mine / "downloads").mkdir(parents=True)
    board.set_variables("rpi", **variables(board), fl_root=str(mine))
    try:
        words = board.fail("deploy")
    finally:
        board.set_variables("rpi", **variables(board))
    assert f"rpi-1: fl_root is {mine}, which already holds something else (downloads): set fl_root to a" in words
    assert [path.name for path in mine.rglob("*")] == ["downloads"]


def owed(board: Checkout) -> dict[str, str]:
    """Return what the server keeps in mind of its devices."""
    return json.loads((board.home("server") / "hosts.json").read_text())


def test_a_board_that_is_off_is_named_and_stopped_when_it_is_next_reached(board):
    off, sentence = board.folder / "bin/off", "rpi-1 does not answer at 10.0.0.2: look whether it is on"
    board.play("deploy")
    assert owed(board) == {"rpi-1": ""}
    off.touch()
    for playbook in ("deploy", "playbooks/preflight", "playbooks/status", "playbooks/stop"):
        played = board.begin(playbook).end()
        assert played.status != 0 and played.words.count(sentence) == 1, played.text
        assert "UNREACHABLE" not in played.text, played.text
        if playbook == "playbooks/status":
            assert re.search(r"rpi-1 +unreachable +– +yes", played.text), played.text
    assert "It is stopped when stop.yml or status.yml next reaches it." in played.words
    assert {host for host, _ in board.programs()} == {"rpi-1"} and owed(board) == {"rpi-1": "stop"}
    words = board.play("playbooks/support").words
    assert f"Not looked at: rpi-1, for it {sentence.partition(' ')[2]}" in words and "Support bundle, " in words
    off.unlink()
    words = board.play("playbooks/status").words
    assert "rpi-1 was not reached when it was to be stopped. It is stopped now." in words
    assert board.processes() == {} and owed(board) == {"rpi-1": ""}


@pytest.mark.long  # what is owed to a board is kept as in the test above
def test_a_board_that_is_off_is_reset_when_it_is_next_reached(board):
    off = board.folder / "bin/off"
    board.play("deploy")
    (board.home("rpi-1") / "notes.txt").write_text("mine")
    off.touch()
    words = board.fail("playbooks/reset", confirm=True)
    assert "has SSH enabled. It is not reset: call reset.yml again once it is reached." in words
    assert sorted(path.name for path in board.home("server").iterdir()) == [
        "addresses.json",
        "hosts.json",
        "placed.json",
    ]
    assert {host for host, _ in board.programs()} == {"rpi-1"} and owed(board) == {"rpi-1": "reset"}
    off.unlink()
    words = board.play("playbooks/reset", confirm=True).words
    assert f"rpi-1: {board.home('rpi-1')} stays, for it holds what Flowerbed did not make (notes.txt)" in words
    left = [path for path in (board.folder / ".flowerbed/local").rglob("*") if path.is_file()]
    assert left == [board.home("rpi-1") / "notes.txt"] and board.processes() == {}
    assert not any(board.play("playbooks/reset", confirm=True).changed.values())
