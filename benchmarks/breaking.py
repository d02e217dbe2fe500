"""A fleet of processes that can be broken: deployed by deploy.yml in a copy of this checkout, on a network of its own.

Network and mounts are the process's own (`unshare`), so what is cut, slowed down or filled up is nobody else's.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from measure import BenchmarkError, wait_until
from systems import CHECKOUT, HERE

sys.path[:0] = [str(CHECKOUT / part) for part in ("fl_app", "tests", "tests/e2e")]
import checkout  # noqa: E402
from checkout import Checkout, Playing, processes, remove  # noqa: E402

from flowerbed import server_socket  # noqa: E402
from flowerbed.rounds.events import Events  # noqa: E402

GROUPS = {"rpi": "rpi-1", "jetson_2gb": "jetson-2gb-1", "jetson_4gb": "jetson-4gb-1"}
ADDRESSES = {device: f"127.0.0.{number}" for number, device in enumerate(GROUPS.values(), 11)}  # of the server, for it
DISK_MEGABYTES = 200
PATIENCE = checkout.PATIENCE = 1200  # seconds that a wait may take


def apart() -> None:
    """Go on in a network and with mounts of this process's own. Raises BenchmarkError where that is not allowed."""
    if "FLOWERBED_APART" in os.environ:
        call("ip", "link", "set", "lo", "up", "mtu", "1500")
        return
    command = ["unshare", "--net", "--mount", sys.executable, *sys.argv]
    try:
        os.execvpe(command[0], command, {**os.environ, "FLOWERBED_APART": "1"})
    except OSError as error:
        raise BenchmarkError(f"unshare cannot be run: {error}") from None


def call(*command: str) -> None:
    """Run a command. Raises BenchmarkError with what it says where it fails."""
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except (OSError, subprocess.CalledProcessError) as error:
        said = getattr(error, "stderr", "") or error
        raise BenchmarkError(f"{' '.join(command)}: {str(said).strip()}") from None


class Fleet(Checkout):
    """A server and three devices, each of which reaches the server at another address."""

    def __init__(self) -> None:
        super().__init__(GROUPS)
        self.mounts = [self.folder / "runs", self.home("rpi-1")]
        for folder in self.mounts:
            folder.mkdir(parents=True)
            call("mount", "-t", "tmpfs", "-o", f"size={DISK_MEGABYTES}m", "flowerbed", str(folder))
        for group, device in GROUPS.items():
            self.set_variables(group, fl_server_host=ADDRESSES[device])
        self.link("stream")

    def link(self, name: str) -> None:
        """Let the fleet be deployed with a link, and devices have a clock that can be set."""
        values = {"fl_link": name, "fl_listen": "0.0.0.0", "fl_wait_clients": 120, "server_ready_timeout": 120}
        self.set_variables(**values, **({"fl_python": str(python)} if (python := self._python()) else {}))

    def deploy(self, *arguments: str, **extra: object) -> None:
        """Deploy. Raises BenchmarkError where that fails."""
        played = self.begin("deploy", *arguments, **extra).end()
        if played.status:
            raise BenchmarkError(f"deploy.yml failed: {played.text[-3000:]}")

    def _python(self) -> Path | None:
        """Return a Python whose clock can be set, where this machine has a compiler."""
        folder = self.folder / "bin"
        if not folder.exists() and shutil.which("cc"):
            (folder / "clocks").mkdir(parents=True)
            call("cc", "-shared", "-fPIC", "-o", str(folder / "clock.so"), str(HERE / "clock.c"), "-ldl")
            bin = Path(sys.executable).parent
            for program in [Path(sys.executable), *bin.glob("supervisor*"), *bin.glob("flower-*"), *bin.glob("flwr*")]:
                wrapper = folder / (program.name if program != Path(sys.executable) else "python")
                preload = f"FAULTS_CLOCKS={folder}/clocks LD_PRELOAD={folder}/clock.so"
                wrapper.write_text(f'#!/bin/sh\n{preload} exec {program} "$@"\n')
                wrapper.chmod(0o755)
            for host in ["server", *self.devices]:
                self.clock(host).write_bytes(bytes(8))
        return folder / "python" if folder.exists() else None

    def close(self) -> None:
        """Stop and remove all of it."""
        for folder in self.mounts:
            for pid in processes(folder):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        super().close()
        for folder in self.mounts:
            subprocess.run(["umount", "--lazy", str(folder)], capture_output=True)
        wait_until(lambda: remove(self.outer) or not self.outer.exists(), "all that runs to end", 60, 0.2)

    # -- What runs ----------------------------------------------------------------------------------------------------

    def signal(self, host: str, program: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a program of a host."""
        os.kill(self.programs()[host, program], number)

    def freeze(self, pids: list[int], seconds: float) -> None:
        """Stop processes for a time."""
        for number, pause in ((signal.SIGSTOP, seconds), (signal.SIGCONT, 0)):
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            time.sleep(pause)

    def of_run(self) -> list[int]:
        """Return the process that a run's task has started."""
        return [pid for pid, command in self.processes().items() if re.match(r"\S+ -m flowerbed\.submit ", command)]

    def of_host(self, host: str) -> list[int]:
        """Return all processes of a host."""
        mark = os.fsencode(f"FLOWERBED_HOME={self.home(host)}\0")
        found = []
        for pid in self.processes():
            with contextlib.suppress(OSError):
                if mark in Path(f"/proc/{pid}/environ").read_bytes():
                    found.append(pid)
        return found

    def switch_off(self, *hosts: str) -> None:
        """End all that runs on hosts, at once."""
        for pid in [pid for host in hosts for pid in self.of_host(host)]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def switch_on(self, host: str) -> None:
        """Start what cron starts at boot."""
        text = (self.home(host) / "supervisord.conf").read_text()
        command = re.search(r"(?m)^; Started with: (.*)$", text)[1]
        subprocess.run(["sh", "-c", command], check=True, capture_output=True, env={**os.environ, "PATH": os.defpath})

    def wait_free(self) -> None:
        """Wait until nothing trains, and the server is there for another run."""
        control = str(self.home("server") / "control.sock")

        def free() -> bool:
            with contextlib.suppress(OSError):
                return not self.busy() and server_socket.status(control, [])["run"] is None
            return "superlink" in (self.inventory / "group_vars/all.yml").read_text() and not self.busy()

        wait_until(free, "the fleet to be free for another run", PATIENCE, 0.2)

    @property
    def hold(self) -> Path:
        """Return the file that holds up the training on all devices as long as it is there."""
        return self.folder / "hold"

    @contextlib.contextmanager
    def held(self):
        """Hold it up as long as the context lasts: a playbook may take longer to begin than a run to end."""
        self.hold.touch()
        try:
            yield
        finally:
            self.hold.unlink(missing_ok=True)

    def events(self, experiment: str, kind: str) -> list[dict[str, Any]]:
        """Return the events of one kind, of those that can be read."""
        found = Events(self.folder / "runs" / experiment / "metrics.jsonl").read()
        return [event for event in found if event.get("event") == kind]

    # -- Its surroundings ---------------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def cut(self, *devices: str):
        """Let no packet pass between devices and the server."""
        rules = [["INPUT", way, ADDRESSES[device], "-j", "DROP"] for device in devices for way in ("-s", "-d")]
        for rule in rules:
            call("iptables", "-I", *rule)
        try:
            yield
        finally:
            for rule in rules:
                call("iptables", "-D", *rule)

    @contextlib.contextmanager
    def slow(self, device: str, rate: str):
        """Let a device have a slow link, each way."""
        call("tc", "qdisc", "add", "dev", "lo", "root", "handle", "1:", "htb", "default", "1")
        call("tc", "class", "add", "dev", "lo", "parent", "1:", "classid", "1:1", "htb", "rate", "10gbit")
        for number, way in ((2, "src"), (3, "dst")):
            one = f"1:{number}"
            call("tc", "class", "add", "dev", "lo", "parent", "1:", "classid", one, "htb", "rate", rate, "burst", "2k")
            call("tc", "filter", "add", "dev", "lo", "parent", "1:", "protocol", "ip", "u32", "match", "ip", way,
                 f"{ADDRESSES[device]}/32", "flowid", one)  # fmt: skip
        try:
            yield
        finally:
            call("tc", "qdisc", "del", "dev", "lo", "root")

    @contextlib.contextmanager
    def full(self, folder: Path):
        """Let the disk of a folder be full."""
        filler = folder / "filler"
        try:
            with contextlib.suppress(OSError), open(filler, "wb", buffering=0) as file:
                while True:
                    file.write(bytes(4096))
            yield
        finally:
            filler.unlink(missing_ok=True)

    def expire(self, device: str, seconds: float) -> None:
        """Give a device a certificate that its server knows, and that expires so soon."""
        theirs, ours = self.home("server") / "tls", self.home(device) / "tls/certificate.pem"
        key = serialization.load_pem_private_key((theirs / "authority.key").read_bytes(), None)
        old = x509.load_pem_x509_certificate(ours.read_bytes())
        made = (
            x509.CertificateBuilder(old.issuer, old.subject, old.public_key(), x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - timedelta(days=1))
            .not_valid_after(datetime.now(UTC) + timedelta(seconds=seconds))
        )
        for extension in old.extensions:
            made = made.add_extension(extension.value, extension.critical)
        new = made.sign(key, hashes.SHA256())
        ours.write_bytes(new.public_bytes(serialization.Encoding.PEM))
        devices = json.loads((theirs / "devices.json").read_text())
        devices[device] = new.fingerprint(hashes.SHA256()).hex()
        (theirs / "devices.json").write_text(json.dumps(devices))

    def clock(self, host: str) -> Path:
        """Return the file that says how far a host's clock is ahead."""
        return self.folder / "bin" / "clocks" / host

    def set_clock(self, seconds: int, *hosts: str) -> None:
        """Let clocks jump."""
        for host in hosts:
            with open(self.clock(host), "r+b") as file:
                file.write(seconds.to_bytes(8, sys.byteorder, signed=True))


__all__ = ["Fleet", "Playing", "apart"]
