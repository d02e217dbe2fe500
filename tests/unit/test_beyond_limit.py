"""A play's hosts that --limit does not keep out: what the callback beyond_limit adds to it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOSTS = {
    "all": {"hosts": {"server": {}}, "children": {"devices": {"hosts": dict.fromkeys(("one", "two", "three"), {})}}}
}
SAY = [{"debug": {"msg": "HOSTS {{ ansible_play_hosts_all | sort | join(' ') }}"}, "run_once": True}]
PLAYS = [{"hosts": hosts, "gather_facts": False, "connection": "local", "tasks": SAY} for hosts in ("localhost", "all")]


@pytest.mark.parametrize(
    ("beyond", "limit", "hosts", "output"),
    [
        (["localhost", "server"], [], ["localhost", "one server three two"], "flowerbed"),
        (["localhost", "server"], ["--limit", "two"], ["localhost", "server two"], "minimal"),
        (["localhost", "server"], ["--limit", "localhost,server,two"], ["localhost", "server two"], "flowerbed"),
        (["localhost", "server"], ["--limit", "devices:!two:!server"], ["localhost", "one server three"], "flowerbed"),
        ([], ["--limit", "two"], ["two"], "flowerbed"),
    ],
)
def test_a_limit_is_widened_by_what_a_play_names(tmp_path, beyond, limit, hosts, output):
    (tmp_path / "hosts.yml").write_text(json.dumps(HOSTS))
    plays = [{**PLAYS[0], "vars": {"flowerbed_beyond_limit": beyond}} if beyond else PLAYS[0], PLAYS[1]]
    (tmp_path / "play.yml").write_text(json.dumps(plays))
    command = [Path(sys.executable).with_name("ansible-playbook"), "-i", tmp_path / "hosts.yml", tmp_path / "play.yml"]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_STDOUT_CALLBACK": output}
    done = subprocess.run([*command, *limit], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=100)
    assert done.returncode == 0, done.stdout + done.stderr
    found = [line.partition("HOSTS ")[2].strip('"') for line in done.stdout.splitlines() if "HOSTS " in line]
    assert [sorted(each.split()) for each in found] == [sorted(each.split()) for each in hosts]
