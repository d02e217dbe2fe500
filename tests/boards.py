"""Rehearsal boards for a module of tests: real containers on a real engine, reached over real SSH."""

import fcntl
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
BIN = Path(sys.executable).parent


# Stand-ins for boards share this machine with all that is tested at the same time.
PATIENT = {"ANSIBLE_TIMEOUT": "60"}


def ansible(*command: str, **environment: str) -> subprocess.CompletedProcess:
    """Run one of Ansible's programs in this checkout."""
    done = subprocess.run(
        [BIN / command[0], *command[1:]], cwd=ROOT, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        env={**os.environ, **PATIENT, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8", **environment},
    )  # fmt: skip
    assert "Traceback" not in done.stdout + done.stderr
    return done


def play(book: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    """Run a playbook."""
    return ansible("ansible-playbook", f"{book}.yml", *arguments, **environment)


def docker(*command: str) -> list[str]:
    """Return the lines that docker prints."""
    done = subprocess.run(["docker", *command], capture_output=True, text=True)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout.splitlines()


class Rehearsal:
    """Boards rehearsed from inventory/lab, with a name and a subnet of their own and an inventory in `folder`.

    `variables` are more of the rehearsal's.
    """

    def __init__(self, name: str, subnet: str, boards: dict[str, int], folder: Path, **variables: Any) -> None:
        self.name = f"{name}-{os.getpid()}"
        self.inventory = folder / self.name  # by which the server's folder is called
        self.state = ROOT / ".flowerbed" / f"{self.name}-boards"
        self._variables = {
            "rehearsal_name": self.name, "rehearsal_subnet": subnet, "rehearsal_inventory": str(self.inventory),
            "rehearsal_boards": boards, "rehearsal_keep_images": True, **variables,
        }  # fmt: skip

    def rehearse(self, *arguments: str) -> subprocess.CompletedProcess:
        """Call the playbook."""
        with tempfile.NamedTemporaryFile("w", suffix=".json") as file:  # one variable may be a password
            json.dump(self._variables, file)
            file.flush()
            return play("playbooks/rehearsal", *arguments, "-e", f"@{file.name}")

    def play(self, book: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
        """Run a playbook on the boards."""
        return play(book, "-i", str(self.inventory), *arguments, **environment)

    def root(self, board: str, command: str) -> str:
        """Return what a command says on a board, without SSH and sudo, which may be what is broken."""
        return "\n".join(docker("exec", f"{self.name}-{board}", "sh", "-c", command))

    def wait_booted(self, board: str, seconds: float = 300) -> None:
        """Wait until a board that was rebooted is up.

        It may have to start twice: an engine that is slow to clean up after the container that ended does so with the
        one that was started in its place (containerd's `runc delete --force`, after "shim disconnected" in its log).
        """
        deadline = time.monotonic() + seconds
        booted = ["docker", "exec", f"{self.name}-{board}", "systemctl", "is-system-running", "--wait"]
        while (done := subprocess.run(booted, capture_output=True, text=True)).stdout.strip() != "running":
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(0.5)


@contextmanager
def making_images() -> Iterator[None]:
    """Wait while another of this checkout's test processes may be making images, so that each is made once."""
    checkout = os.open(ROOT, os.O_RDONLY)
    try:
        fcntl.flock(checkout, fcntl.LOCK_EX)
        yield
    finally:
        os.close(checkout)


def remove_leftovers(name: str) -> None:
    """Remove the boards and networks of rehearsals of that name whose tests were killed: they hold the subnet."""
    for network in docker("network", "ls", "--format", "{{.Name}}", "--filter", "label=flowerbed.rehearsal"):
        base, _, process = network.rpartition("-")
        running = Path("/proc", process, "cwd/tests/boards.py").exists()
        if base == name and not running:
            with tempfile.TemporaryDirectory() as folder:
                gone = {"state": "absent", "rehearsal_name": network, "rehearsal_inventory": f"{folder}/none"}
                done = play("playbooks/rehearsal", "-e", json.dumps({**gone, "rehearsal_keep_images": True}))
            assert done.returncode == 0, done.stdout + done.stderr


@contextmanager
def rehearsal(name: str, subnet: str, variables: dict[str, Any] | None = None, **boards: int) -> Iterator[Rehearsal]:
    """Start so many boards of each group; remove them, and all that is theirs, in the end."""
    remove_leftovers(name)
    with tempfile.TemporaryDirectory() as folder:
        ours = Rehearsal(name, subnet, {"rpi": 0, "jetson_2gb": 0, "jetson_4gb": 0, **boards}, Path(folder),
                         **(variables or {}))  # fmt: skip
        try:
            with making_images():
                done = ours.rehearse("-e", "state=present")
            assert done.returncode == 0, done.stdout + done.stderr
            yield ours
        finally:
            here = docker("ps", "--all", "--quiet", "--filter", f"label=flowerbed.rehearsal={ours.name}")
            volumes = docker("inspect", "--format", "{{range .Mounts}}{{println .Name}}{{end}}", *here) if here else []
            done = ours.rehearse("-e", "state=absent")
            assert done.returncode == 0, done.stdout + done.stderr
    everything = docker("ps", "--all", "--format", "{{.Names}}") + docker("network", "ls", "--format", "{{.Name}}")
    assert not [name for name in everything if name.startswith(ours.name)]
    assert not set(docker("volume", "ls", "--quiet")) & set(volumes)
    assert not ours.state.exists() and not (ROOT / ".flowerbed" / ours.name).exists()
