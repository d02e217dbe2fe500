"""What the README tells its reader to call exists, and can be called."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PLAYBOOKS = sorted(set(re.findall(r"ansible-playbook (?:-i (\S+) )?(\S+\.yml)", README)))


def test_every_make_target_exists():
    targets = set(re.findall(r"(?m)^make (\S+)$", README)) | set(re.findall(r"`make (\w+)`", README))
    assert {"demo", "test", "help"} <= targets
    makefile = (ROOT / "Makefile").read_text()
    assert all(re.search(rf"(?m)^{target}:", makefile) for target in targets)


@pytest.mark.parametrize(("inventory", "playbook"), PLAYBOOKS)
def test_every_playbook_can_be_called(inventory, playbook):
    given = ["-i", inventory] if inventory else []
    command = ["ansible-playbook", "--syntax-check", *given, playbook]
    checked = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.parametrize("inventory", ["local", "lab"])
def test_an_inventory_can_be_read_as_a_graph(inventory):
    command = ["ansible-inventory", "-i", f"inventory/{inventory}", "--graph"]
    graph = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "@jetson_4gb" in graph and "rpi-3" in graph
