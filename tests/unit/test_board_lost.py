"""A board that answers the first time that the role board looks at it, and not the second time."""

import os
import subprocess
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[2]


def test_a_board_that_goes_between_two_looks_is_a_sentence(tmp_path):
    look = {"ansible.builtin.include_role": {"name": "board"}}
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}  # where nothing listens
    variables = {
        "fl_home": str(tmp_path), "fl_root": str(tmp_path), "fl_server_host": "127.0.0.1", "fl_server_port": 9,
        "fl_runtime": "process", "board_probes": [],
    }  # fmt: skip
    play = {
        "hosts": "rpi-1", "gather_facts": False, "connection": "local", "vars": variables,
        "tasks": [look, {"ansible.builtin.debug": {"msg": "seen"}}, look | {"vars": away}],
    }  # fmt: skip
    (tmp_path / "look.yml").write_text(yaml.safe_dump([play]))
    done = subprocess.run(
        [Path(sys.executable).with_name("ansible-playbook"), "-i", "rpi-1,", tmp_path / "look.yml"],
        cwd=ROOT, env={**os.environ, "ANSIBLE_STDOUT_CALLBACK": "default"}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    words = " ".join(done.stdout.split())
    assert done.returncode == 2 and "seen" in words, done.stdout
    assert "rpi-1 answered at first, and does no longer (" in words, done.stdout
    assert "look at its power and its network, and run the playbook again." in words
