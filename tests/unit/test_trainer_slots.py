"""Trainers on one machine take turns: real processes, one of which holds the only slot."""

import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import fleet

# Says when it has the slot, and gives it back when its standard input ends.
HOLDER = """
import os, sys
from flowerbed.trainer import slots
slots.WAKE_SECONDS = float(sys.argv[2])
with slots.Slots(sys.argv[1], len(os.sched_getaffinity(0))).take():
    print("taken", flush=True)
    sys.stdin.read()
"""


@contextmanager
def holder(folder: Path, wake: float) -> Iterator[subprocess.Popen]:
    """Start a process that wants the slot; without a ring of the bell it looks again after `wake` seconds."""
    command = [sys.executable, "-c", HOLDER, str(folder), str(wake)]
    with subprocess.Popen(
        command, env=fleet.ENVIRONMENT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def takes_slot(process: subprocess.Popen, seconds: float = 30) -> bool:
    """Return whether `process` has the slot within `seconds`."""
    return bool(select.select([process.stdout], [], [], seconds)[0]) and process.stdout.readline() == "taken\n"


def test_a_freed_slot_is_taken_by_one_that_waits_for_the_bell_alone(tmp_path):
    with holder(tmp_path, 600) as first:
        assert takes_slot(first)
        with holder(tmp_path, 600) as second:
            assert not takes_slot(second, 2)
            first.stdin.close()
            assert takes_slot(second)


def test_the_slot_of_a_trainer_that_was_killed_is_taken(tmp_path):
    with holder(tmp_path, 0.1) as first:
        assert takes_slot(first)
        with holder(tmp_path, 0.1) as second:
            assert not takes_slot(second, 2)
            first.kill()
            assert takes_slot(second)
