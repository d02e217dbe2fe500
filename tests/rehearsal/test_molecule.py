"""Each role's molecule scenario, on boards of its own: check, converge, idempotence, verify, reset, verify."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from boards import making_images
from engine import needs_engine

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
ROLES = sorted(path.parents[2].name for path in ROOT.glob("roles/*/molecule/default/molecule.yml"))
LINES = 120  # of what a failed scenario said


@needs_engine
@pytest.mark.parametrize("role", ROLES)
def test_scenario(role, tmp_path):
    with making_images():
        pass  # those that other tests make are there now
    done = subprocess.run(
        [BIN / "molecule", "--base-config", ROOT / ".config/molecule/config.yml", "test"], cwd=ROOT / "roles" / role,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, text=True,
        env={**os.environ, "PATH": f"{BIN}:{os.environ['PATH']}", "LC_ALL": "C.UTF-8", "NO_COLOR": "1",
             "MOLECULE_COMMAND_BORDERS": "false", "MOLECULE_EPHEMERAL_DIRECTORY": str(tmp_path)},
    )  # fmt: skip
    failure, *_ = done.stdout.partition("An error occurred during the test sequence")  # what follows cleans up
    assert done.returncode == 0, "\n".join(failure.splitlines()[-LINES:])
