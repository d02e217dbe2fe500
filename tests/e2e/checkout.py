"""A copy of this checkout with a small fleet of its own, driven the way its user does: through ansible-playbook."""

import contextlib
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from flowerbed import tensors
from flowerbed.trainer_socket import TrainerError, TrainerSocket
from packages import wheel

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
GROUPS = {"rpi": "rpi-1", "jetson_2gb": "jetson-2gb-1", "jetson_4gb": "jetson-4gb-1"}
TWO_GROUPS = {"rpi": "rpi-1", "jetson_4gb": "jetson-4gb-1"}
needs_superlink = pytest.mark.skipif(sys.version_info < (3, 11), reason="the superlink link needs Python 3.11 or 3.12")
TEST_TASK = """

import os
import time

_train = train


def train(model, data, config):
    # In small steps, for a job is cancelled between two of them; 0 takes none.
    end = time.monotonic() + config.get("seconds", 0)
    while time.monotonic() < end:
        time.sleep(0.02)
    while os.path.exists(config.get("hold", "")):
        time.sleep(0.02)
    if config.get("fail"):
        raise RuntimeError("the sensor is unplugged")
    path = os.path.join(config["state"], "rounds")
    with open(path, "a") as file:
        file.write("x")
    return dict(_train(model, data, config), rounds_seen=os.path.getsize(path))
"""
# Of a task that is a folder: its modules, and a package that no index has
HELPED = """
from flowerbed_example import WIDTH
from .lenet import build_model, evaluate, load_data
from lenet import train

assert WIDTH == 3
"""


# What a shell may have that would keep devices from their server, or spoil what runs: none of it reaches the programs.
# Nothing listens on that port.
SHELL = {
    **dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"),
                    "http://127.0.0.1:9"),
    "no_proxy": "", "NO_PROXY": "", "LC_ALL": "C.UTF-8",
}  # fmt: skip
AWKWARD = "it's 5 % ;#é"  # a name for a folder
PATIENCE = 300  # seconds: a wait ends with what it waits for, and the machine may be busy


class Played(NamedTuple):
    """What an ansible-playbook left behind: exit status, output, and by host how many tasks changed something."""

    status: int
    text: str
    changed: dict[str, int]

    @property
    def words(self) -> str:
        """The output on one line: Ansible folds long sentences."""
        return " ".join(self.text.split())


class Playing:
    """An ansible-playbook that runs in a process group of its own, as from a terminal."""

    def __init__(self, command: list[str], folder: Path) -> None:
        self.log = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed by end
        environment = {key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        self.process = subprocess.Popen(
            command, cwd=folder, env={**environment, **SHELL}, start_new_session=True,
            stdin=subprocess.DEVNULL, stdout=self.log, stderr=subprocess.STDOUT,
        )  # fmt: skip

    @property
    def text(self) -> str:
        """What it has said so far."""
        return os.pread(self.log.fileno(), 1 << 24, 0).decode(errors="replace")

    def press_ctrl_c(self) -> None:
        """Send what a terminal sends: SIGINT to the whole group."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> Played:
        """Wait for its end; a traceback in what it said is an error of every playbook."""
        try:
            self.process.wait(2 * PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            raise AssertionError(f"{self.process.args} did not end within {2 * PATIENCE} s:\n{self.text}") from None
        text = self.text
        self.log.close()
        assert "Traceback" not in text, text
        recap = re.findall(r"(?m)^(\S+)\s+: ok=\d+\s+changed=(\d+)", text)
        return Played(self.process.returncode, text, {host: int(count) for host, count in recap})


class Checkout:
    """A copy of this checkout's files in a folder with a short path (Unix sockets allow 107 bytes), or in `name` there.

    Its inventory/local has one device of each group.
    """

    def __init__(self, groups: dict[str, str] = GROUPS, name: str = "", task: str = "test_task.py") -> None:
        remove_leftovers()
        self.outer = make_folder()
        self.folder = self.outer / name
        self.inventory = self.folder / "inventory" / "local"
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT, check=True, capture_output=True, text=True,
        )  # fmt: skip
        for name in filter(None, listed.stdout.split("\0")):
            if (ROOT / name).exists():  # and not deleted since it was added
                (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, self.folder / name, follow_symlinks=False)
        self.set_hosts(groups)
        self.task = task
        self._write_task((self.folder / "fl_app/task.py").read_text())
        self.set_variables()

    def _write_task(self, original: str) -> None:
        """Write the default task with what tests need: a file, or a folder with a module of its own and a package."""
        task = self.folder / self.task
        if task.suffix:
            task.write_text(original + TEST_TASK)
            return
        task.mkdir()
        (task / "lenet.py").write_text(original)
        (task / "task.py").write_text(HELPED + TEST_TASK)
        (task / "requirements.txt").write_text("flowerbed-example<4\n")
        wheel(task, "3.0")

    def set_hosts(self, groups: dict[str, str]) -> None:
        """Let the inventory have one device of each group."""
        self.devices = list(groups.values())
        children = {group: {"hosts": {host: None}} for group, host in groups.items() if group == "rpi"}
        jetsons = {group: {"hosts": {host: None}} for group, host in groups.items() if group != "rpi"}
        children["jetson"] = {"children": jetsons}
        hosts = {"all": {"hosts": {"server": None}, "children": {"devices": {"children": children}}}}
        (self.inventory / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))

    def set_variables(self, group: str = "all", **values: Any) -> None:
        """Let group_vars/<group>.yml be what it is here, and `values` besides."""
        original = ROOT / "inventory/local/group_vars" / f"{group}.yml"
        text = original.read_text() if original.exists() else "---\n"
        if group == "all":
            pip = ["--no-index", "--find-links", str(self.folder / self.task)]
            values = {"fl_task": self.task, "trainer_pip_args": pip, **values}
        own = yaml.safe_dump(values) if values else ""
        (self.inventory / "group_vars" / original.name).write_text(f"{text}\n{own}")

    # -- Playbooks ----------------------------------------------------------------------------------------------------

    def begin(self, playbook: str, *arguments: str, **extra: Any) -> Playing:
        """Start a playbook with `extra` variables."""
        given = ["--extra-vars", json.dumps(extra)] if extra else []
        return Playing([str(BIN / "ansible-playbook"), f"{playbook}.yml", *arguments, *given], self.folder)

    def play(self, playbook: str, *arguments: str, **extra: Any) -> Played:
        """Run a playbook that must succeed."""
        played = self.begin(playbook, *arguments, **extra).end()
        assert played.status == 0, played.text
        return played

    def fail(self, playbook: str, *arguments: str, **extra: Any) -> str:
        """Run a playbook that must not succeed; return its output on one line."""
        played = self.begin(playbook, *arguments, **extra).end()
        assert played.status != 0, played.text
        return played.words

    def close(self) -> None:
        """Stop all that runs, and remove the folder."""
        if (self.folder / ".flowerbed").exists():
            self.begin("playbooks/stop").end()
        remove(self.outer)

    # -- What runs ----------------------------------------------------------------------------------------------------

    def home(self, host: str) -> Path:
        """A host's folder."""
        return self.folder / ".flowerbed/local" / host

    def processes(self) -> dict[int, str]:
        """Return the command of every process that has to do with this checkout, by its id."""
        return processes(self.folder)

    def programs(self) -> dict[tuple[str, str], int]:
        """Return the process id of every program that a supervisor of this checkout runs, by (host, program)."""
        supervisors = {}
        for file in self.folder.glob(".flowerbed/local/*/supervisord.pid"):
            supervisors[int(file.read_text())] = file.parent.name
        found = {}
        for pid, command in self.processes().items():
            host = supervisors.get(_parent(pid))
            if host:
                kinds = {"trainer": "trainer", "client": "client|supernode", "server": "server|link.superlink.guard"}
                for kind, marks in kinds.items():  # none, of a supervisor's child that is about to become one
                    if re.search(rf"flower(bed\.|-)({marks})", command):
                        found[host, kind] = pid
                        break
        return found

    def kill(self, host: str, program: str) -> None:
        """End a program without a warning, and wait until its supervisor has started another."""
        old = self.programs()[host, program]
        os.kill(old, signal.SIGKILL)
        until(lambda: self.programs().get((host, program), old) != old, f"another {program} of {host}")

    def trainer(self, host: str) -> dict[str, Any]:
        """Return what a host's trainer says of itself; nothing while it doesn't answer."""
        try:
            return TrainerSocket(str(self.home(host) / "trainer.sock")).health()
        except TrainerError:
            return {}

    def busy(self) -> list[str]:
        """Return the devices that train now."""
        return [device for device in self.devices if self.trainer(device).get("busy")]

    # -- Experiments --------------------------------------------------------------------------------------------------

    def run(self, experiment: str, rounds: int = 1, **extra: Any) -> Played:
        """Train for some more rounds, which must succeed."""
        return self.play("run_round", experiment=experiment, rounds=rounds, **extra)

    def check(self, experiment: str, **extra: Any) -> None:
        """Check that the fleet works: every device takes part in one more round."""
        before = len(self.rounds(experiment))
        self.run(experiment, 1, **extra)
        done = self.events(experiment, "round")
        assert len(done) == before + 1 and done[-1]["clients_answered"] == len(self.devices), done

    def begin_slow_run(self, experiment: str, **extra: Any) -> Playing:
        """Start a run whose devices will not be done for an hour; return when they all train."""
        running = self.begin("run_round", experiment=experiment, rounds=2, fl_config={"seconds": 3600}, **extra)
        self.wait_for_training(running)
        return running

    def wait_for_training(self, running: Playing) -> None:
        """Wait until all devices train for a run, which must not have ended."""
        until(lambda: self.busy() == self.devices or running.process.poll() is not None, "training on all devices")
        assert running.process.poll() is None, running.text

    def events(self, experiment: str, kind: str) -> list[dict[str, Any]]:
        """Return the events of one kind."""
        file = self.folder / "runs" / experiment / "metrics.jsonl"
        events = map(json.loads, file.read_text().splitlines() if file.exists() else [])
        return [event for event in events if event["event"] == kind]

    def rounds(self, experiment: str) -> list[int]:
        """Return the numbers of the rounds that are finished."""
        return [event["round"] for event in self.events(experiment, "round")]

    def model(self, experiment: str) -> dict[str, Any]:
        """Return the tensors of the last global model."""
        return tensors.unpack((self.folder / "runs" / experiment / "model/last.safetensors").read_bytes())


def make_folder() -> Path:
    """Make a folder for a checkout that has its ports to itself."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f"fb-{os.getpid()}-", dir="/tmp"))
        others = {ROOT, *folder.parent.glob("fb-*")} - {folder}
        if not server_ports(folder) & {port for other in others for port in server_ports(other)}:
            return folder
        folder.rmdir()


def server_port(checkout: Path, inventory: str = "inventory/local") -> int:
    """Return what an inventory makes of its path: one of 300 ports, so some paths have the same."""
    digest = hashlib.sha256(str(checkout / inventory).encode()).hexdigest()
    return 20000 + 40 * (int(digest[:8], base=16) % 300)


def server_ports(checkout: Path) -> set[int]:
    """Return those of inventory/local and of all examples."""
    examples = [str(path.parent.relative_to(ROOT)) for path in ROOT.glob("examples/*/hosts.yml")]
    return {server_port(checkout, inventory) for inventory in ["inventory/local", *examples]}


def processes(folder: Path) -> dict[int, str]:
    """Return the command of every process that has to do with a folder, by its id."""
    mark = os.fsencode(folder)
    found = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
            if command and mark in command + (process / "environ").read_bytes() + os.readlink(process / "cwd").encode():
                found[int(process.name)] = command.replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue  # gone by now
    return found


def remove(folder: Path) -> None:
    """End all that runs in a folder, and remove it."""
    for pid in processes(folder):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)


def remove_leftovers() -> None:
    """Remove the checkouts of tests that were killed, and end what runs in them."""
    for folder in Path("/tmp").glob("fb-*-*"):
        if folder.owner() == Path.home().owner() and not Path("/proc", folder.name.split("-")[1]).exists():
            remove(folder)


def until(condition: Callable[[], bool], what: str) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"waited {PATIENCE} s for {what}"
        time.sleep(0.1)


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0
