"""What the role trainer runs and shows, with its own tasks and templates: what a board says may be anything."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[2]


def task(file: str, name: str) -> dict[str, Any]:
    """Return a task of the role."""
    tasks = yaml.safe_load((ROOT / "roles/trainer/tasks" / file).read_text())
    return next(task for task in tasks if task["name"] == name)


def rendered(value: Any, **variables: Any) -> Any:
    return Templar(DataLoader(), variables=variables).template(value)


@pytest.mark.parametrize(("variables", "options", "lines"), [
    ({"KEY": "it's; #5 $x", "A": 0}, ["--env-file", "/dev/stdin"], "KEY=it's; #5 $x\nA=0"),
    ({}, [], ""),  # Docker would wait for a standard input that does not end
])  # fmt: skip
def test_an_image_gets_the_environment_where_no_other_user_can_read_it(variables, options, lines):
    """Not on a command line, and Ansible puts a task's own environment on its shell's."""
    probe = task("container.yml", "Ask the image what it has")
    asked = rendered(
        {key: value for key, value in probe.items() if key != "register"}, trainer_python="python3", trainer_probe="1",
        trainer_image="a/b:1", trainer_on_jetson=False, trainer_environment=variables,
    )  # fmt: skip
    command = asked["ansible.builtin.command"]
    expected = ["docker", "run", "--rm", "--entrypoint", "python3", *options, "a/b:1", "-c", "1"]
    assert (command["argv"], command["stdin"]) == (expected, lines) and "environment" not in asked
