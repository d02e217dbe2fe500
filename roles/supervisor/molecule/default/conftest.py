"""The folder of the scenario's hosts, and what runs in it."""

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]).parents[1] / ".flowerbed/mol-supervisor"


@pytest.fixture
def folder():
    return FOLDER


@pytest.fixture
def running():
    """How many processes run in each host's folder."""
    counts = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            place = (process / "cwd").readlink()
        except OSError:
            continue  # gone by now, or another user's
        if place.is_relative_to(FOLDER):
            counts[place.name] = counts.get(place.name, 0) + 1
    return counts
