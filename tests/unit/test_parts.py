"""Tensors in parts: what is let go of is given back."""

import subprocess
import sys
from pathlib import Path

from flowerbed import parts

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = """
from pathlib import Path
from flowerbed import parts

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

parts.return_freed_memory()
data = bytes(parts.PART * 200)
kept, before = [], resident()
for _ in range(3):  # an update after the other, and what is small in between
    update = parts.split(data)
    for part in parts.drain(update):
        kept.append((bytes(2000), bytearray(part)[:1]))
del part, update
print((resident() - before) // parts.PART)
"""


def test_split_and_drain():
    data = bytes(range(256)) * 3000
    pieces = parts.split(data)
    assert len(pieces) == 3 and b"".join(parts.drain(pieces)) == data
    assert not pieces


def test_freed_parts_are_given_back():
    left = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        text=True,
        capture_output=True,
        check=True,
        env={"PYTHONPATH": "fl_app"},
        cwd=ROOT,
    )
    assert int(left.stdout) < 20
