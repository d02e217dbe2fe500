"""The roles can be read about: each variable that a user may set is described where its default stands."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
ROLES = sorted(path.name for path in (ROOT / "roles").iterdir())
OF_THE_COMMAND_LINE = {"server": {"rounds", "experiment", "force"}}  # without a default among the role's


@pytest.fixture(scope="module")
def described():
    """What ansible-doc says of every role."""
    command = [
        Path(sys.executable).with_name("ansible-doc"),
        "--type",
        "role",
        "--roles-path",
        "roles",
        "--json",
        *ROLES,
    ]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("role", ROLES)
def test_every_default_is_described_and_nothing_else_is(role, described):
    entry = described[role]["entry_points"]["variables"]
    assert entry["short_description"] and entry["description"]
    options = entry.get("options", {})
    defaults = ROOT / "roles" / role / "defaults/main.yml"
    named = set(yaml.safe_load(defaults.read_text()) if defaults.exists() else {})
    assert set(options) == named | OF_THE_COMMAND_LINE.get(role, set())
    assert all(option["description"] and option["type"] for option in options.values())


def test_no_role_is_called_only_for_its_variables():
    plays = [play for path in ROOT.glob("playbooks/*.yml") for play in yaml.safe_load(path.read_text())]
    roles = [role for play in plays for role in play.get("roles", []) if isinstance(role, dict)]
    assert roles and [role for role in roles if role.get("when") is False] == []
