"""What the processes below this one use, CPU seconds and memory, and how to wait for them and end them all.

Orphans are adopted, so every process that a system started, daemons and short-lived ones included, stays below this
one, and its CPU seconds pass on to whoever waited for it.
"""

import contextlib
import ctypes
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
TICK = 1 / os.sysconf("SC_CLK_TCK")


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message is a sentence."""


class Process(NamedTuple):
    """A line of /proc/PID/stat; `seconds` is its CPU time and that of the children it has waited for."""

    parent: int
    state: str
    seconds: float


class Memory(NamedTuple):
    """MB (10^6 bytes) of a device's processes: all of them, and those that don't train."""

    whole: float
    outside: float


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it. Raises BenchmarkError where Linux refuses."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise BenchmarkError("this kernel does not let a process adopt orphans: CPU seconds cannot be counted here")


def below(root: int) -> dict[int, Process]:
    """Return the processes below `root`, without it, by process id."""
    everyone: dict[int, Process] = {}
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            try:
                fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
            except OSError:  # it ended meanwhile
                continue
            pid, ticks = int(entry.name), sum(map(int, fields[11:15]))
            everyone[pid] = Process(int(fields[1]), fields[0], ticks * TICK)
            children.setdefault(int(fields[1]), []).append(pid)
    found, waiting = {}, children.get(root, [])
    while waiting:
        pid = waiting.pop()
        found[pid] = everyone[pid]
        waiting += children.get(pid, [])
    return found


def cpu_seconds() -> float:
    """Return the CPU seconds (user and system) of all that ran below this process, since its start."""
    while True:
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        running = below(os.getpid())
        if below(os.getpid()).keys() == running.keys():  # else a process that ended in between is missed or twice in
            return used.ru_utime + used.ru_stime + sum(process.seconds for process in running.values())


def memory(root: int, training: str) -> Memory:
    """Return the proportional set size of `root` and all below it; `training` is in the command line of what trains."""
    whole = outside = 0.0
    for pid in [root, *below(root)]:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
            command = Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            continue
        megabytes = sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) * 1024 / 1e6
        whole += megabytes
        outside += 0 if training in command.replace("\0", " ") else megabytes
    return Memory(whole, outside)


class MemoryWatch:
    """Samples a device's memory on a thread of its own, while the context lasts; `peak` is the most of each sum."""

    def __init__(self, root: int, training: str, interval: float = 0.05) -> None:
        self.peak = Memory(0, 0)
        self._root, self._training, self._interval = root, training, interval
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def _sample(self) -> None:
        while not self._over.wait(self._interval):
            self.peak = Memory(*map(max, self.peak, memory(self._root, self._training)))

    def __enter__(self) -> "MemoryWatch":
        self._thread.start()
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._over.set()
        self._thread.join()


def wait_until(condition: Callable[[], object], what: str, seconds: float, interval: float = 0.05) -> None:
    """Return when `condition()` is true. Raises BenchmarkError, naming `what` was waited for, after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise BenchmarkError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(interval)


def end_all(seconds: float = 15) -> None:
    """End every process below this one: politely, then by force."""

    def living() -> list[int]:
        return [pid for pid, process in below(os.getpid()).items() if process.state != "Z"]

    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in living():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)
        with contextlib.suppress(BenchmarkError):
            wait_until(lambda: not living(), "every process to end", seconds)
            break
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    if stubborn := living():
        raise BenchmarkError(f"these processes do not end: {stubborn}")
