"""A host's programs under supervisor: in a folder of any name, with an environment that is chosen, not inherited."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
sys.path.insert(0, str(ROOT / "roles/fl"))

from fl_validator.places import LONGEST_SOCKET, SOCKET_BYTES, forbidden  # noqa: E402

# All that the validator lets through, but for letters and digits
NASTY = "it's 5 %(here)s ;#é 花~&(y)`z`!,@+-|<g>^{}"
SAY = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd(), dict(os.environ)]), flush=True)"


def templar(home: Path) -> Templar:
    """Return what renders for a host with the folder `home`."""
    variables = yaml.safe_load((ROOT / "roles/supervisor/vars/main.yml").read_text())
    return Templar(DataLoader(), variables={
        **variables, "fl_home": str(home), "fl_python": sys.executable, "supervisor_bin": str(BIN),
        "groups": {"devices": ["a"]}, "ansible_managed": "Ansible managed", "digest": "0123",
    })  # fmt: skip


def place(home: Path, program: dict) -> None:
    """Place the supervisor's configuration in `home`, with one program."""
    render = templar(home)
    render.available_variables["supervisor_program"] = program
    for name, path in {"supervisord.conf": "supervisord.conf", "program.conf": "programs/one.conf"}.items():
        (home / path).parent.mkdir(parents=True, exist_ok=True)
        (home / path).write_text(render.template((ROOT / f"templates/{name}.j2").read_text(), convert_data=False))


@contextlib.contextmanager
def supervisor(home: Path, before: str = "", **shell: str) -> Iterator[subprocess.Popen]:
    """Start the supervisor of `home` from a shell with these variables, after a command; once it runs or has failed."""
    command = f"{before} {templar(home).template('{{ supervisor_start }}')} --nodaemon"
    with subprocess.Popen(
        ["sh", "-c", command], env={**os.environ, **shell}, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None and not (home / "supervisord.pid").exists():  # written once it listens
            time.sleep(0.05)
        yield process
        process.terminate()


def said(home: Path, argument: str, variables: dict, **shell: str) -> list:
    """Return what a program in `home` says: its arguments, its folder, its environment."""
    place(home, {"name": "one", "command": [sys.executable, "-c", SAY, argument], "environment": variables})
    log = home / "logs/one.log"
    with supervisor(home, **shell) as process:
        while not (log.exists() and log.read_text().endswith("\n")):
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        tell = [str(BIN / "supervisorctl"), "-c", "supervisord.conf", "shutdown"]
        subprocess.run(tell, cwd=home, check=True, capture_output=True, timeout=60)
    return json.loads(log.read_text().splitlines()[0])


def test_any_folder_and_argument_arrives_as_it_is():
    assert forbidden(NASTY) is None
    with tempfile.TemporaryDirectory(dir="/tmp") as short:  # for a socket
        arguments, folder, environment = said(Path(short, NASTY), NASTY, {"ALSO": NASTY})
    assert arguments == [NASTY] and folder == f"{short}/{NASTY}"
    assert environment["ALSO"] == NASTY and environment["PYTHONPATH"] == f"{folder}/app"


def test_a_program_has_the_environment_that_is_chosen_for_it(tmp_path):
    shell = {"https_proxy": "http://127.0.0.1:9", "OMP_NUM_THREADS": "3", "PYTHONWARNINGS": "error", "LC_ALL": "C"}
    _, folder, environment = said(tmp_path, "", {"CUDA_VISIBLE_DEVICES": 1}, **shell)
    assert {name for name in environment if not name.startswith("SUPERVISOR_")} == {
        "HOME", "USER", "PATH", "LC_ALL", "FLOWERBED_HOME", "FLOWERBED_FILES", "PYTHONPATH", "PYTHONUNBUFFERED",
        "GLIBC_TUNABLES", "CUDA_VISIBLE_DEVICES",
    }  # fmt: skip
    assert environment["LC_ALL"] == "C.UTF-8" and environment["CUDA_VISIBLE_DEVICES"] == "1"
    assert environment["HOME"] == os.environ["HOME"] and environment["FLOWERBED_HOME"] == folder == str(tmp_path)


@pytest.mark.parametrize(("limit", "runs"), [(256, True), (255, False)])
def test_few_open_files_do(tmp_path, limit, runs):
    place(tmp_path, {"name": "one", "command": ["true"]})
    with supervisor(tmp_path, before=f"ulimit -n {limit} && ") as process:
        assert (process.poll() is None) == runs
        assert runs or "file descriptors" in process.stderr.read()  # by which the role knows it


@pytest.mark.parametrize(("excess", "runs"), [(0, True), (len("4194304"), False)])
def test_a_home_as_long_as_allowed_is_not_too_long_for_supervisord(tmp_path, excess, runs):
    """Its longest socket has its process id in its name, which has one to seven digits."""
    room = SOCKET_BYTES - len(LONGEST_SOCKET) - len(str(tmp_path)) + excess
    if room < 2:
        pytest.skip(f"{tmp_path} is too long itself")
    home = tmp_path / ("x" * (room - 1))
    place(home, {"name": "one", "command": ["true"]})
    with supervisor(home) as process:
        assert (process.poll() is None) == runs == (home / "supervisord.sock").exists()
