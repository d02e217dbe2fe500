"""Each molecule scenario succeeds, and the roles that it covers really run in it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from boards import PATIENT, docker, making_images
from engine import needs_engine
from fleet import wait_until
from scenarios import ROOT, SCENARIOS, covered, on_boards

BIN = Path(sys.executable).parent
LINES = 120  # of what a failed scenario said


def molecule(scenario: str, folder: Path) -> subprocess.Popen:
    """Start a scenario, which logs into the folder."""
    command = [BIN / "molecule", "--base-config", ROOT / ".config/molecule/config.yml", "test"]
    environment = {
        **os.environ, **PATIENT, "PATH": f"{BIN}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "NO_COLOR": "1",
        "MOLECULE_COMMAND_BORDERS": "false", "MOLECULE_EPHEMERAL_DIRECTORY": str(folder / "molecule"),
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        return subprocess.Popen(
            command, cwd=ROOT / "roles" / scenario, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )


@pytest.mark.parametrize(  # without boards, it does what tests/e2e does, too
    "scenario", [pytest.param(name, marks=needs_engine if on_boards(name) else pytest.mark.long) for name in SCENARIOS]
)
def test_scenario(scenario, tmp_path):
    if on_boards(scenario):
        label = f"label=flowerbed.rehearsal=mol-{scenario.replace('_', '-')}"
        with making_images():
            running = molecule(scenario, tmp_path)
            wait_until(
                lambda: running.poll() is not None or docker("ps", "--quiet", "--filter", label), 1200,
                "the scenario's images", every=1,
            )  # fmt: skip
    else:
        running = molecule(scenario, tmp_path)
    running.wait()
    log = (tmp_path / "log").read_text()
    failure, *_ = log.partition("An error occurred during the test sequence")
    assert running.returncode == 0, "\n".join(failure.splitlines()[-LINES:])  # what follows it cleans up
    done = [task for task in log.split("\nTASK [") if re.search(r"(?m)^(ok|changed): \[", task)]
    ran = {named[1] for task in done if (named := re.match(r"(\w+) : ", task))}
    assert set(covered()[scenario]) - ran == set()
