"""What the role trainer runs and shows, with its own tasks and templates: what a board says may be anything."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[2]
FILTERS = ROOT / "plugins/filter/trainer.py"


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
        trainer_image="a/b:1", trainer_gpu="", trainer_gpu_options={"": []}, trainer_environment=variables,
    )  # fmt: skip
    command = asked["ansible.builtin.command"]
    expected = ["docker", "run", "--rm", "--network=none", "--entrypoint", "python3", *options, "a/b:1", "-c", "1"]
    assert (command["argv"], command["stdin"]) == (expected, lines) and "environment" not in asked


EVIL = "a\x1b[2J\x1b]0;b\x07c\nd {{ lookup('pipe', 'echo run') }} \u202e" + "x" * 400
CLEAN = "ac d {{ lookup('pipe', 'echo run') }} x"
HEALTH = {"ready": True, "busy": False, "problem": None, "task_hash": "0123", "examples": 5, "heldout_examples": 6}
SAID = {
    "good": json.dumps({**HEALTH, "warnings": []}),
    "evil": json.dumps({**HEALTH, "problem": EVIL, "task_hash": EVIL, "examples": [EVIL], "warnings": [EVIL]}),
    "odd": json.dumps({"ready": 1, "warnings": None}),
    "noise": "Segmentation fault\x1b[2J",
}
NO_OBJECT = ["", "[1]", "1", "null", "{", "[" * 100_000, '{"ready": ' + "9" * 5000 + "}"]
PLAYBOOK = """
- name: Ask boards
  hosts: all
  gather_facts: false
  tasks:
    - {name: Wait, ansible.builtin.import_role: {name: trainer, tasks_from: ready}}
    - {name: Ask, ansible.builtin.import_role: {name: trainer, tasks_from: status}}
    - name: Write
      ansible.builtin.copy:
        content: "{{ lookup('ansible.builtin.template', fl_checkout ~ '/templates/status.txt.j2') }}"
        dest: "{{ fl_home }}/status.txt"
        mode: "0644"
      run_once: true
"""


def test_what_is_no_object_is_an_empty_one():
    spec = importlib.util.spec_from_file_location("trainer_filters", FILTERS)
    filters = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(filters)
    assert [filters.answer(said) for said in NO_OBJECT] == [{}] * len(NO_OBJECT)
    assert filters.answer(SAID["good"]) == {**HEALTH, "warnings": []}


def test_what_a_board_says_takes_no_terminal_and_no_other_boards_line(tmp_path):
    for name, text in SAID.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "play.yml").write_text(PLAYBOOK)
    hosts = {name: {"fl_runtime": "process"} for name in SAID}
    variables = {
        "trainer_question": ["sh", "-c", f"cat '{tmp_path}'/{{{{ inventory_hostname }}}}"], "fl_home": str(tmp_path),
        "fl_checkout": str(ROOT), "fl_server_name": "good", "fl_fleet": {"hosts": hosts}, "client_container": "",
    }  # fmt: skip
    done = subprocess.run(
        [Path(sys.executable).parent / "ansible-playbook", "-i", ",".join(SAID) + ",", "-c", "local",
         "-e", json.dumps(variables), tmp_path / "play.yml"],
        cwd=ROOT, env={**os.environ, "NO_COLOR": "1"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count(CLEAN) == 1 and "\x1b" not in done.stdout and "\u202e" not in done.stdout
    assert "x" * 300 not in done.stdout
    table = (tmp_path / "status.txt").read_text()
    assert [line.split()[:2] for line in table.splitlines()[1 : 1 + len(SAID)]] == [
        ["good", "ready"], ["evil", "problem"], ["odd", "ready"], ["noise", "stopped"],
    ]  # fmt: skip
    problem = table.splitlines()[-1]
    assert problem.startswith(f"evil: {CLEAN}") and len(problem) == len("evil: ") + 300
    assert "\x1b" not in table and "\u202e" not in table and len(table.splitlines()) == 2 + len(SAID)
