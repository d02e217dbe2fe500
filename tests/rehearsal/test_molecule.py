"""Each role's molecule scenario, on boards of its own: check, converge, idempotence, verify, reset, verify."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boards import docker, making_images
from engine import needs_engine
from fleet import wait_until

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ROLES = sorted(path.parents[2].name for path in ROOT.glob("roles/*/molecule/default/molecule.yml"))
LINES = 120  # of what a failed scenario said


@needs_engine
@pytest.mark.parametrize("role", ROLES)
def test_scenario(role, tmp_path):
    command = [BIN / "molecule", "--base-config", ROOT / ".config/molecule/config.yml", "test"]
    environment = {
        **os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "NO_COLOR": "1",
        "MOLECULE_COMMAND_BORDERS": "false", "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path / "molecule"),
    }  # fmt: skip
    label = f"label=flowerbed.rehearsal=mol-{role.replace('_', '-')}"
    with (tmp_path / "log").open("w") as log, making_images():
        scenario = subprocess.Popen(
            command, cwd=ROOT / "roles" / role, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        wait_until(
            lambda: scenario.poll() is not None or docker("ps", "--quiet", "--filter", label), 1200,
            "the scenario's images", every=1,
        )  # fmt: skip
    scenario.wait()
    failure, *_ = (tmp_path / "log").read_text().partition("An error occurred during the test sequence")
    assert scenario.returncode == 0, "\n".join(failure.splitlines()[-LINES:])  # what follows it cleans up
