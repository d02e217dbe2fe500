"""ansible-doc describes every plugin of plugins/, and the module that the role fl keeps."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = ROOT / "plugins"
OF_A_ROLE = ROOT / "roles/fl/library"
NAMES = {
    "module": {path.stem for folder in ("modules", "action") for path in (PLUGINS / folder).glob("*.py")}
    | {path.stem for path in OF_A_ROLE.glob("*.py")},
    "filter": {name for path in (PLUGINS / "filter").glob("*.py")
               for name in re.findall(r'"(\w+)": \w+', path.read_text().partition("def filters")[2])},
    "callback": {path.stem for path in (PLUGINS / "callback").glob("*.py")},
}  # fmt: skip


def ansible_doc(*arguments: str) -> str:
    command = [Path(sys.executable).with_name("ansible-doc"), *arguments]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("kind", NAMES)
def test_ansible_doc_describes_each(kind):
    assert NAMES[kind]
    own = ["--module-path", str(OF_A_ROLE)] if kind == "module" else []
    found = json.loads(ansible_doc("--json", "--type", kind, *own, *NAMES[kind]))
    assert set(found) == NAMES[kind]
    for name, plugin in found.items():
        assert plugin["doc"]["short_description"] and plugin["doc"]["description"], name
        assert kind == "callback" or (plugin["examples"] and plugin["return"]), name
        described = [plugin["doc"], *plugin["doc"].get("options", {}).values(), *(plugin["return"] or {}).values()]
        assert all(each["description"] for each in described), name


def test_every_plugin_stands_in_a_folder_that_ansible_reads():
    folders = set(re.findall(r"(?m)^\w+ = plugins/(\w+)$", (ROOT / "ansible.cfg").read_text()))
    # By plugin_utils, collections mean what plugins share; plugins find it by its path.
    assert {path.name for path in PLUGINS.iterdir() if path.name != "__pycache__"} == folders | {"plugin_utils"}
