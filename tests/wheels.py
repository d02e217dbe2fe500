"""Ask the package index for what a board can install: wheels for arm64."""

import subprocess
import sys
from pathlib import Path

import pytest

LOCK = Path(__file__).resolve().parents[1] / "requirements-lock.txt"


def uv_pip(command: str, python: str, *arguments: str | Path, stdin: str = "") -> subprocess.CompletedProcess:
    """Run uv pip for an arm64 board with the Python of that version; without an index, the test is left out."""
    done = subprocess.run(
        [Path(sys.executable).with_name("uv"), "pip", command, "--quiet", "--python-version", python,
         "--python-platform", "aarch64-manylinux_2_28", "--only-binary", ":all:", *arguments],
        input=stdin, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode and "Failed to fetch" in done.stderr:
        pytest.skip("the package index can't be reached")
    return done
