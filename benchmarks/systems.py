"""The four ways to do a round, each started, run and stopped the way its user does it."""

import contextlib
import json
import os
import socket
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from measure import BenchmarkError, end_all, wait_until

HERE = Path(__file__).resolve().parent
CHECKOUT = HERE.parent
BIN = Path(sys.executable).parent
GROUPS = {"rpi": 3, "jetson-2gb": 2, "jetson-4gb": 5}  # the tutorial's boards
DEVICES = [f"{group}-{number}" for group, count in GROUPS.items() for number in range(1, count + 1)]
TRAINING = {"batch_size": 32, "local_epochs": 1, "learning_rate": 0.001}
START_SECONDS = 300
ROUND_SECONDS = 900


@dataclass(frozen=True)
class Case:
    """What the rounds do: a task file, its configuration beyond TRAINING, and the variables that choose its data."""

    name: str
    title: str
    task: Path
    config: dict[str, Any] = field(default_factory=dict)
    data: dict[str, Any] = field(default_factory=dict)


class System(ABC):
    """One way to do a round. `training` tells, by command line, the process of a device that trains."""

    letter: str
    title: str
    training = ""

    def __init__(self, folder: Path, shards: Callable[[], list[str]]) -> None:
        self.folder = folder / self.letter
        self.folder.mkdir()
        self.shards = shards
        self.started = 0

    @abstractmethod
    def start(self, case: Case) -> None:
        """Start everything that lives longer than a run, and wait until the devices are connected."""

    @abstractmethod
    def launch(self, case: Case, rounds: int) -> tuple[subprocess.Popen, Path]:
        """Start a run; return its process and the file to which it appends an event a round."""

    def device(self) -> int | None:
        """Return the process above all of one device's processes, or None where there is no such thing."""
        return None

    def stop(self) -> None:
        """Stop everything."""
        end_all()

    def spawn(self, name: str, *command: object, **environment: str) -> subprocess.Popen:
        """Start a command in a session of its own; its output goes to the log `name`."""
        environment = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}", **environment}
        with open(self.log(name), "wb") as log:
            return subprocess.Popen(list(map(str, command)), cwd=CHECKOUT, env=environment, start_new_session=True,
                                    stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)  # fmt: skip

    def log(self, name: str) -> Path:
        """Return the path of a log."""
        return self.folder / f"{name}.log"

    def fresh_events(self) -> Path:
        """Return a file for the events of a new run, not there yet."""
        self.started += 1
        return self.folder / f"events-{self.started}.jsonl"


class BareFlower(System):
    """Flower's own commands: a SuperLink, ten SuperNodes, `flwr run`; torch and the data in the ClientApp."""

    letter, title, training = "a", "bare Flower, as its embedded example does it", "flwr-clientapp"

    def start(self, case: Case) -> None:
        """Start the SuperLink, then the SuperNodes."""
        port = free_ports(1 + len(DEVICES))
        home = self.folder / "flwr"
        home.mkdir(exist_ok=True)
        (home / "config.toml").write_text(f'[superlink.benchmark]\naddress = "127.0.0.1:{port}"\ninsecure = true\n')
        self.environment = {
            "FLWR_HOME": str(home), "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1",
            "PYTHONPATH": str(CHECKOUT / "fl_app"), "OMP_NUM_THREADS": "1",  # one thread a device, as everywhere here
        }  # fmt: skip
        self.spawn("superlink", BIN / "flower-superlink", "--insecure", "--port", port,
                   "--disable-runtime-dependency-installation", **self.environment)  # fmt: skip
        wait_until(lambda: port_open(port), f"the SuperLink on port {port} ({self.log('superlink')})", START_SECONDS)
        self.nodes = [
            self.spawn(f"supernode-{index}", BIN / "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{port}",
                       "--port", port + 1 + index, "--node-config", f'data="{shard}"', **self.environment)
            for index, shard in enumerate(self.shards())
        ]  # fmt: skip
        for index in range(len(self.nodes)):
            log = self.log(f"supernode-{index}")
            wait_until(lambda log=log: "SuperNode ID" in log.read_text(), f"a node to connect ({log})", START_SECONDS)

    def launch(self, case: Case, rounds: int) -> tuple[subprocess.Popen, Path]:
        """Run the Flower App in benchmarks/bare."""
        events = self.fresh_events()
        config = {
            "rounds": rounds, "clients": len(DEVICES), "task": str(case.task), "events": str(events),
            "task-config": json.dumps(task_config(case)),
        }  # fmt: skip
        toml = self.folder / "run.toml"  # a JSON string without control characters is a TOML string, too
        toml.write_text("".join(f"{key} = {json.dumps(value)}\n" for key, value in config.items()))
        run = self.spawn("run", BIN / "flwr", "run", HERE / "bare", "benchmark", "--stream", "--run-config", toml,
                         **self.environment)  # fmt: skip
        return run, events

    def device(self) -> int:
        """Return the first SuperNode, which starts its ClientApps."""
        return self.nodes[0].pid


class Flowerbed(System):
    """Flowerbed through its own playbooks, with ten local devices."""

    training = "flowerbed.trainer"
    link: str

    def start(self, case: Case) -> None:
        """Write the inventory, then deploy. Data and folders of a case stay for the next time."""
        root = self.folder / case.name
        port = free_ports(1 + len(DEVICES))
        variables = {
            "ansible_connection": "local", "ansible_python_interpreter": sys.executable, "fl_python": sys.executable,
            "fl_runtime": "process", "fl_link": self.link, "fl_root": str(root), "fl_runs": str(self.folder / "runs"),
            "fl_server_port": port, "fl_task": str(case.task), "fl_config": case.config, "fl_threads": 1, **case.data,
            **{f"fl_{name}": value for name, value in TRAINING.items()},
        }  # fmt: skip
        hosts = {device: {"fl_node_port": port + 1 + index} for index, device in enumerate(DEVICES)}
        groups = {
            group.replace("-", "_"): {"hosts": {name: own for name, own in hosts.items() if name.startswith(group)}}
            for group in GROUPS
        }
        fleet = {"all": {"hosts": {"server": None}, "vars": variables, "children": {"devices": {"children": groups}}}}
        self.inventory = self.folder / f"inventory-{case.name}"
        self.inventory.mkdir(exist_ok=True)
        (self.inventory / "hosts.json").write_text(json.dumps(fleet, indent=1))
        self.play("deploy.yml")
        self.home = root / DEVICES[0]

    def launch(self, case: Case, rounds: int) -> tuple[subprocess.Popen, Path]:
        """Run a new experiment."""
        experiment = self.fresh_events().stem
        run = self.playbook("run", "run_round.yml", "-e", json.dumps({"rounds": rounds, "experiment": experiment}))
        return run, self.folder / "runs" / experiment / "metrics.jsonl"

    def device(self) -> int:
        """Return the first device's supervisord."""
        return int((self.home / "supervisord.pid").read_text())

    def stop(self) -> None:
        """Stop as a user does, then whatever that left, e.g. where deploying failed."""
        with contextlib.suppress(BenchmarkError):
            self.play("playbooks/stop.yml")
        end_all()

    def play(self, book: str) -> None:
        """Run a playbook to its end. Raises BenchmarkError if it fails."""
        name = Path(book).stem
        run = self.playbook(name, book)
        wait_until(lambda: run.poll() is not None, f"{book} to end ({self.log(name)})", START_SECONDS)
        if run.returncode:
            raise BenchmarkError(f"{book} failed: {last_lines(self.log(name))}")

    def playbook(self, name: str, book: str, *arguments: str) -> subprocess.Popen:
        """Start a playbook."""
        return self.spawn(name, BIN / "ansible-playbook", "-i", self.inventory, book, *arguments)


class StreamLink(Flowerbed):
    """Flowerbed's default link."""

    letter, title, link = "b", "Flowerbed, stream link", "stream"


class SuperlinkLink(Flowerbed):
    """Flowerbed on Flower's deployment engine."""

    letter, title, link = "c", "Flowerbed, superlink link", "superlink"


class Floor(System):
    """The training alone, in two warm processes."""

    letter, title = "d", "the training alone, two processes"

    def start(self, case: Case) -> None:
        """Nothing lives longer than a run."""

    def launch(self, case: Case, rounds: int) -> tuple[subprocess.Popen, Path]:
        """Train the shards of all devices."""
        events = self.fresh_events()
        settings = {
            "task": str(case.task), "config": task_config(case), "shards": self.shards(), "rounds": rounds,
            "events": str(events),
        }  # fmt: skip
        path = self.folder / "floor.json"
        path.write_text(json.dumps(settings))
        return self.spawn("run", sys.executable, HERE / "floor.py", path, PYTHONPATH=str(CHECKOUT / "fl_app")), events


SYSTEMS = {system.letter: system for system in (BareFlower, StreamLink, SuperlinkLink, Floor)}


def task_config(case: Case) -> dict[str, Any]:
    """Return what the task receives where Flowerbed isn't there to say what CIFAR-10 is."""
    return {"channels": 3, "classes": 10, **TRAINING, **case.config}


def make_shards(data: Path, folder: Path) -> list[str]:
    """Split CIFAR-10 as Flowerbed's deploy.yml does, and return the folder of each device's part."""
    settings = {"name": "folder", "path": str(data), "heldout": 0.1, "devices": DEVICES, "output": str(folder)}
    path = folder.with_suffix(".json")
    path.write_text(json.dumps(settings))
    split = subprocess.run([sys.executable, "-m", "flowerbed.dataset", path], cwd=CHECKOUT / "fl_app", text=True,
                           capture_output=True)  # fmt: skip
    if split.returncode:
        raise BenchmarkError(f"{data} cannot be used: {split.stderr.strip()}")
    return [str(folder / device) for device in DEVICES]


def free_ports(count: int) -> int:
    """Return the first of `count` neighbouring ports that nobody listens on."""
    for first in range(21000, 32000, count):
        sockets = []
        try:
            for port in range(first, first + count):
                sockets.append(socket.socket())
                sockets[-1].bind(("127.0.0.1", port))
            return first
        except OSError:
            continue
        finally:
            for bound in sockets:
                bound.close()
    raise BenchmarkError(f"there are no {count} free neighbouring ports between 21000 and 32000")


def port_open(port: int) -> bool:
    """Return whether somebody listens on a local port."""
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def last_lines(log: Path, count: int = 15) -> str:
    """Return the last lines of a log, and where it is."""
    return f"{log} ends with\n" + "\n".join(log.read_text(errors="replace").splitlines()[-count:])
