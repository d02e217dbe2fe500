"""bootstrap.sh: which Python it takes, what it refuses, when it leaves .venv alone, and who installs into it.

The interpreters are this test's own, told to be another one; uv and pip install a package made here, without a network.
"""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "bootstrap.sh"
PYTHON_39 = "import sys; sys.version_info = (3, 9, 18, 'final', 0)"
PYTHON_311 = "import sys; sys.version_info = (3, 11, 2, 'final', 0)"
PYTHON_312 = "import sys; sys.version_info = (3, 12, 3, 'final', 0)"
PYTHON_313 = "import sys; sys.version_info = (3, 13, 5, 'final', 0)"


class Machine:
    """A checkout with bootstrap.sh and the programs on its PATH."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.checkout = folder / "the checkout"
        self.programs = folder / "bin"
        self.checkout.mkdir()
        self.programs.mkdir()
        shutil.copy(SCRIPT, self.checkout)
        self.pin("1.0")
        (self.checkout / "requirements-lock.txt").touch()
        for program in ("sh", "cat", "cmp", "dirname", "rm", "sed", "sort", "uname"):
            (self.programs / program).symlink_to(shutil.which(program))
        self.program("apt-cache", "exit 100")

    def program(self, name: str, script: str) -> None:
        """Put a shell script on PATH."""
        path = self.programs / name
        path.unlink(missing_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)

    def python(self, name: str, lie: str) -> None:
        """Put this Python on PATH, with `lie` (Python code) run before what it is given with -c."""
        base = getattr(sys, "_base_executable", sys.executable)
        self.program(name, f'[ "$2" = -c ] || exec "{base}" "$@"\nexec "{base}" -I -c "{lie}\n$3"')

    def pin(self, version: str) -> None:
        """Pin the package `tiny` of the folder's wheels."""
        (self.checkout / "requirements.txt").write_text(f"tiny=={version}\n")

    def bootstrap(self, **environment: str) -> subprocess.CompletedProcess:
        """Run the script as make does; pip finds the folder's wheels, and no index."""
        return self.bootstrap_plainly(**{"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.folder.as_uri(), **environment})

    def bootstrap_plainly(self, **environment: str) -> subprocess.CompletedProcess:
        """Run the script as make does, with a pip that is not set up; no index can be reached."""
        environment = {
            "PATH": str(self.programs),
            "PIP_CONFIG_FILE": os.devnull,
            "PIP_RETRIES": "0",
            "UV_CACHE_DIR": str(self.folder / "cache"),
            "ALL_PROXY": "http://127.0.0.1:9",
            **environment,
        }
        command = [self.checkout / "bootstrap.sh", "requirements.txt"]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)

    def refusal(self, **environment: str) -> str:
        """Return the one sentence with which the script refuses."""
        result = self.bootstrap(**environment)
        assert result.returncode == 1
        assert not (self.checkout / ".venv").exists()
        (sentence,) = (result.stdout + result.stderr).splitlines()
        return sentence

    def installed(self) -> str:
        """Return the version of `tiny` in .venv."""
        (metadata,) = self.checkout.glob(".venv/lib/python*/site-packages/tiny-*.dist-info")
        return metadata.name.removeprefix("tiny-").removesuffix(".dist-info")

    def installer(self) -> str:
        """Return who has installed `tiny`."""
        (file,) = self.checkout.glob(".venv/lib/python*/site-packages/tiny-*.dist-info/INSTALLER")
        return file.read_text().strip()


def make_wheel(folder: Path, version: str) -> None:
    info = f"tiny-{version}.dist-info"
    with zipfile.ZipFile(folder / f"tiny-{version}-py3-none-any.whl", "w") as wheel:
        wheel.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: tiny\nVersion: {version}\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")


@pytest.fixture
def machine(tmp_path):
    return Machine(tmp_path)


def test_old_python_is_refused_with_the_package_to_install(machine):
    machine.python("python3", PYTHON_39)
    machine.program("apt-cache", '[ "$2" = python3.11-venv ]')
    sentence = machine.refusal()
    assert "python3 is Python 3.9" in sentence
    assert "apt install python3.11 python3.11-venv" in sentence


def test_new_python_is_refused_where_apt_knows_no_other(machine):
    machine.python("python3", PYTHON_313)
    sentence = machine.refusal()
    assert "python3 is Python 3.13" in sentence
    assert "make PYTHON=" in sentence


def test_no_python_is_refused(machine):
    assert "there is none on PATH" in machine.refusal()


def test_python_that_does_not_run_is_passed_over(machine):
    machine.program("python3.12", "echo no such version >&2; exit 127")
    machine.python("python3.11", PYTHON_313)
    assert "python3.11 is Python 3.13" in machine.refusal()


def test_missing_venv_module_is_refused_with_the_package_to_install(machine):
    machine.python("python3.11", f"{PYTHON_311}; sys.modules['ensurepip'] = None")
    machine.python("python3", PYTHON_39)
    sentence = machine.refusal()
    assert "python3.11 cannot make virtual environments" in sentence
    assert "apt install python3.11-venv" in sentence


def test_32_bit_python_is_refused(machine):
    machine.python("python3", f"{PYTHON_312}; import struct; struct.calcsize = lambda kind: 4")
    assert "32-bit" in machine.refusal()


def test_other_libc_is_refused(machine):
    machine.python("python3", f"{PYTHON_312}; import os; os.confstr = lambda name: None")
    assert "glibc" in machine.refusal()


@pytest.mark.parametrize("system", ["Darwin arm64", "Linux armv7l", "MINGW64_NT-10.0 x86_64"])
def test_other_platforms_are_refused(machine, system):
    name, processor = system.split()
    machine.python("python3", PYTHON_312)
    machine.program("uname", f"[ $1 = -s ] && echo {name} || echo {processor}")
    assert machine.refusal().endswith(f"this is {name} on {processor}")


def test_given_python_is_the_only_one_tried(machine):
    machine.python("python3.12", PYTHON_312)
    machine.python("python3.9", PYTHON_39)
    assert "python3.9 is Python 3.9" in machine.refusal(PYTHON="python3.9")
    assert "/no where/python does not run" in machine.refusal(PYTHON="/no where/python")


def test_best_python_on_path_is_taken(machine):
    machine.python("python3.12", f"{PYTHON_312}; sys._base_executable = '/the/best'")
    machine.python("python3.11", PYTHON_311)
    machine.python("python3", PYTHON_39)
    assert "Making .venv with Python 3.12 (/the/best)" in machine.bootstrap().stdout


def test_what_a_linked_venv_leads_to_is_not_emptied(machine, tmp_path):
    machine.python("python3.11", PYTHON_311)
    (tmp_path / "another").mkdir()
    (tmp_path / "another" / "mine").touch()
    (machine.checkout / ".venv").symlink_to(tmp_path / "another")
    done = machine.bootstrap()
    assert done.returncode == 1 and "is a link, and to make it anew would empty the folder" in done.stderr
    assert (tmp_path / "another" / "mine").exists()


@pytest.mark.long
def test_venv_is_made_once_and_follows_its_pins(machine, tmp_path):
    make_wheel(tmp_path, "1.0")
    machine.python("python3", "pass")
    leftover = machine.checkout / ".venv" / "bin" / "leftover"
    leftover.parent.mkdir(parents=True)
    leftover.touch()

    # A .venv that was not made to the end is made anew.
    made = machine.bootstrap(PIP_USER="1", PIP_TARGET=str(tmp_path / "elsewhere"))
    assert made.returncode == 0, made.stderr
    assert "Making .venv" in made.stdout
    assert not leftover.exists()
    assert machine.installed() == "1.0"

    # The same pins: nothing to do.
    (machine.checkout / "requirements.txt").touch()
    assert machine.bootstrap().stdout == ""

    # Other pins that can't be installed, which is said, and which must not pass for done the second time either.
    machine.pin("2.0")
    for _ in range(2):
        failed = machine.bootstrap()
        assert failed.returncode == 1
        assert "pip could not install requirements.txt" in failed.stderr.splitlines()[-1]
    make_wheel(tmp_path, "2.0")
    updated = machine.bootstrap()
    assert "Making" not in updated.stdout
    assert "Installing" in updated.stdout
    assert machine.installed() == "2.0"

    # Back to pins that were installed before an interrupted update: they are installed again.
    machine.pin("3.0")
    machine.bootstrap()
    machine.pin("2.0")
    assert "Installing" in machine.bootstrap().stdout

    # Another lock file means other versions.
    (machine.checkout / "requirements-lock.txt").write_text("other==1.0\n")
    assert "Installing" in machine.bootstrap().stdout

    # Scripts in .venv name their own path, so a checkout that moved needs a new one.
    machine.checkout = machine.checkout.rename(tmp_path / "moved")
    moved = machine.bootstrap()
    assert "Making .venv" in moved.stdout
    assert machine.installed() == "2.0"


def test_an_included_list_is_part_of_a_list(machine, tmp_path):
    machine.python("python3", "pass")
    make_wheel(tmp_path, "1.0")
    make_wheel(tmp_path, "2.0")
    (machine.checkout / "requirements-device.txt").write_text("tiny==1.0\n")
    (machine.checkout / "requirements.txt").write_text("-r requirements-device.txt\n")
    machine.bootstrap()
    assert machine.installed() == "1.0" and machine.bootstrap().stdout == ""
    (machine.checkout / "requirements-device.txt").write_text("tiny==2.0\n")
    assert "Installing requirements.txt" in machine.bootstrap().stdout
    assert machine.installed() == "2.0"


def test_pip_installs_where_it_is_set_up(machine, tmp_path):
    machine.python("python3", "pass")
    make_wheel(tmp_path, "1.0")
    make_wheel(tmp_path, "2.0")
    variables = machine.bootstrap(PIP_DEFAULT_TIMEOUT="30", PIP_DISABLE_PIP_VERSION_CHECK="1")
    assert "\npip installs, not uv, for pip is set up here: find-links no-index\n" in variables.stdout
    assert machine.installed() == "1.0" and machine.installer() == "pip"

    machine.pin("2.0")
    arguments = machine.bootstrap_plainly(PIP_ARGS=f"--no-index --find-links {tmp_path}")
    assert "pip is set up here: PIP_ARGS\n" in arguments.stdout
    assert machine.installed() == "2.0"

    machine.pin("1.0")
    (tmp_path / "pip.conf").write_text(f"[global]\ntimeout = 30\n[install]\nno-index = 1\nfind-links = {tmp_path}\n")
    file = machine.bootstrap_plainly(PIP_CONFIG_FILE=str(tmp_path / "pip.conf"))
    settings = file.stdout.partition("pip is set up here:")[2].split()  # and this machine's own
    assert {"find-links", "no-index"} <= set(settings) and "timeout" not in settings
    assert machine.installed() == "1.0"


def test_uv_installs_where_it_can(machine, tmp_path):
    machine.python("python3", "pass")
    make_wheel(tmp_path, "1.0")
    machine.bootstrap()
    machine.pin("2.0")
    make_wheel(tmp_path, "2.0")

    # It is not there yet, and pip, which would fetch it, reaches no index.
    without = machine.bootstrap_plainly()
    assert "\npip installs, for uv cannot: it cannot be fetched\n" in without.stdout
    assert "pip could not install requirements.txt" in without.stderr.splitlines()[-1]

    # It is there, but reaches no index.
    (machine.checkout / ".venv/bin/uv").symlink_to(Path(sys.executable).with_name("uv"))
    cut_off = machine.bootstrap_plainly(UV_HTTP_RETRIES="0")
    (reason,) = [line for line in cut_off.stdout.splitlines() if line.startswith("pip installs, for uv cannot: ")]
    assert "Connection refused" in reason
    assert machine.installed() == "1.0"

    # It finds what it needs; make passes PIP_ARGS on, if nothing is in it, too.
    (tmp_path / "uv.toml").write_text(f'no-index = true\nfind-links = ["{tmp_path}"]\n')
    with_uv = machine.bootstrap_plainly(UV_CONFIG_FILE=str(tmp_path / "uv.toml"), PIP_ARGS="")
    assert with_uv.returncode == 0 and "pip" not in with_uv.stdout
    assert machine.installed() == "2.0" and machine.installer() == "uv"
    assert machine.bootstrap_plainly().stdout == ""
