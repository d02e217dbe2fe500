"""A small fleet of real processes: trainers, clients and a server on free ports, in a folder of the test's own."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from authority import Authority
from flowerbed import server_socket
from flowerbed.trainer.task import task_hash
from flowerbed.trainer_socket import TrainerSocket

APP = Path(__file__).parents[1] / "fl_app"
TASK = APP / "task.py"
SHAPE, CLASSES = (8, 8, 1), 4
PATIENCE = 120  # seconds: a wait ends with what it waits for, and the machine may be busy
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(APP), os.environ.get("PYTHONPATH", "")])}
_KEPT: list[socket.socket] = []


def shard(seed: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return images of `CLASSES` classes that can be told apart: bright quarters on noise."""
    random = np.random.default_rng(seed)
    y = random.integers(0, CLASSES, count)
    x = random.integers(0, 120, (count, *SHAPE))
    for image, label in zip(x, y, strict=True):
        image[4 * (label // 2) :, 4 * (label % 2) :][:4, :4] += 100
    return x.astype(np.uint8), y.astype(np.int64)


def free_port() -> int:
    """Return a port that this process of tests keeps for itself: no other gets it, nor does the kernel give it away."""
    for port in range(10_000, 12_000):  # below the kernel's own choices, and those of inventories
        kept, probe = socket.socket(socket.AF_UNIX), socket.socket()
        with contextlib.suppress(OSError), probe:
            kept.bind(f"\0flowerbed-test-port-{port}")
            probe.bind(("127.0.0.1", port))
            _KEPT.append(kept)
            return port
        kept.close()
    raise RuntimeError("no port is free")


def wait_until(condition, seconds: float, what: str, every: float = 0.05):
    """Return the first true value of `condition()`, tried `every` so many seconds; after `seconds`, fail for `what`."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"waited {seconds} s for {what}"
        time.sleep(every)
    return value


def start(program: str, config: Path, python: str = sys.executable) -> subprocess.Popen:
    """Start one of Flowerbed's programs in the folder of its configuration, beside which it logs.

    It ends with this process of tests, however that ends.
    """
    with open(config.with_suffix(".log"), "ab") as log:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", python, "-m", f"flowerbed.{program}", str(config)],
            cwd=config.parent, env=ENVIRONMENT, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip


@contextlib.contextmanager
def running(program: str, config: Path, python: str = sys.executable) -> Iterator[subprocess.Popen]:
    """Start a program; kill it in the end."""
    process = start(program, config, python)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


class Fleet:
    """`server` and devices `d0`, `d1`, …; device i has `sizes[i]` training examples.

    `pythons` run the parts of a device (trainer, client); `patience` is how many seconds a start or a run may take.
    """

    def __init__(
        self, folder: Path, sizes: list[int], task: Path = TASK,
        pythons: dict[str, str] | None = None, patience: float = PATIENCE,
    ) -> None:  # fmt: skip
        self.folder, self.task, self.pythons, self.patience = folder, task, pythons or {}, patience
        self.devices = [f"d{index}" for index in range(len(sizes))]
        self.address = f"127.0.0.1:{free_port()}"
        self.processes: dict[tuple[str, str], subprocess.Popen] = {}
        authority = Authority(folder / "server/tls")
        authority.server()
        self._place("server", heldout=shard(99, 64))
        for index, size in enumerate(sizes):
            self._place(f"d{index}", train=shard(index, size), heldout=shard(50 + index, 20))
            self._write(
                f"d{index}/client.json", {"name": f"d{index}", "server": self.address, "trainer": "trainer.sock"}
            )
            authority.device(folder / f"d{index}/tls", f"d{index}")
        self._write("server/server.json", {"address": self.address, "control": "control.sock", "devices": self.devices})
        try:
            self.start()
        except BaseException:
            self.stop()
            raise

    def _write(self, name: str, content: dict) -> None:
        (self.folder / name).write_text(json.dumps(content))

    def _place(self, host: str, **splits) -> None:
        (self.folder / host / "data").mkdir(parents=True)
        for split, (x, y) in splits.items():
            np.savez(self.folder / host / "data" / f"{split}.npz", x=x, y=y)
        config = {"name": host, "socket": "trainer.sock", "task": str(self.task), "data": "data", "threads": 1}
        self._write(f"{host}/trainer.json", config)

    def start(self) -> None:
        """Start what does not run, and wait until all of it is ready."""
        for host in ["server", *self.devices]:
            for part in ("trainer", "server" if host == "server" else "client"):
                if (host, part) not in self.processes or self.processes[host, part].poll() is not None:
                    python = self.pythons.get(part, sys.executable) if host != "server" else sys.executable
                    self.processes[host, part] = start(part, self.folder / host / f"{part}.json", python)
        for host in ["server", *self.devices]:
            self.trainer(host).wait_ready(self.patience)
        server_socket.status(str(self.folder / "server/control.sock"), self.devices, self.patience)

    def trainer(self, host: str) -> TrainerSocket:
        return TrainerSocket(str(self.folder / host / "trainer.sock"))

    def signal(self, host: str, part: str, number: int = signal.SIGKILL) -> None:
        self.processes[host, part].send_signal(number)
        if number == signal.SIGKILL:
            self.processes[host, part].wait()

    def config(self, experiment: str, **changes) -> dict:
        return {
            "experiment": experiment, "directory": str(self.folder / "runs" / experiment), "rounds": 1,
            "link": "stream", "task": str(self.task), "trainer": str(self.folder / "server/trainer.sock"),
            "control": str(self.folder / "server/control.sock"), "wait_clients": 10, "round_timeout": 60,
            "weights": dict.fromkeys(self.devices, "examples"),
            "config": {"batch_size": 16, "local_epochs": 1, "learning_rate": 0.01},
            "dataset": {"shape": list(SHAPE), "classes": [str(label) for label in range(CLASSES)]},
        } | changes  # fmt: skip

    def begin(self, experiment: str, **changes) -> subprocess.Popen:
        """Start a run, and return its process."""
        run = self.folder / f"{experiment}.json"
        run.write_text(json.dumps(self.config(experiment, **changes)))
        return subprocess.Popen(
            [sys.executable, "-m", "flowerbed.submit", str(run)],
            env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    def run(self, experiment: str, **changes) -> tuple[int, str]:
        """Do a run; return its exit status and the sentence it ended with."""
        process = self.begin(experiment, **changes)
        out, err = process.communicate(timeout=self.patience)
        return process.returncode, (out + err).strip()

    def events(self, experiment: str, kind: str) -> list[dict]:
        path = self.folder / "runs" / experiment / "metrics.jsonl"
        lines = path.read_text().splitlines() if path.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def wait_busy(self, host: str) -> None:
        wait_until(lambda: self.trainer(host).health()["busy"], PATIENCE, f"{host} to train")

    def wait_idle(self, host: str) -> None:
        wait_until(lambda: not self.trainer(host).health()["busy"], PATIENCE, f"{host} to stop training")

    def task_config(self, round_number: int) -> dict:
        """Return what the round loop sends to the trainers in a round."""
        run = self.config("")
        return run["config"] | {
            "channels": 1, "classes": CLASSES, "seed": 0, "round": round_number, "task_hash": task_hash(str(self.task))
        }  # fmt: skip

    def stop(self) -> None:
        for process in self.processes.values():
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            process.wait()
