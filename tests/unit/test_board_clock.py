"""The command with which the role board sets a board's clock, against a stand-in for timedatectl."""

import subprocess
from pathlib import Path

import pytest
import yaml

TASKS = Path(__file__).parents[2] / "roles" / "board" / "tasks" / "clock.yml"
(COMMAND,) = [
    task["ansible.builtin.command"]["argv"][:3] for task in yaml.safe_load(TASKS.read_text()) if "set-time" in str(task)
]


@pytest.mark.parametrize("status", [0, 1])
def test_the_time_service_is_on_again_whether_or_not_the_time_could_be_set(tmp_path, status):
    stand_in = tmp_path / "timedatectl"
    stand_in.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/calls\n[ "$1" != set-time ] || exit {status}\n')
    stand_in.chmod(0o755)
    done = subprocess.run([*COMMAND, "sh", "@5"], env={"PATH": f"{tmp_path}:/usr/bin:/bin"})
    assert done.returncode == status
    assert (tmp_path / "calls").read_text().split("\n")[:-1] == ["set-ntp false", "set-time @5", "set-ntp true"]
