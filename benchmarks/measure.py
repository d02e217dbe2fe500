"""What the processes below this one use, CPU seconds and memory, and how to wait for them and end them all.

Orphans are adopted, so every process that a system started, daemons and short-lived ones included, stays below this
one, and its CPU seconds pass on to whoever waited for it.
"""

import contextlib
import ctypes
import os
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import psutil

PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h


class BenchmarkError(Exception):
    """The benchmark cannot go on; the message is a sentence."""


class Memory(NamedTuple):
    """MB (10^6 bytes) of a device's processes: all of them, and those that don't train."""

    whole: float
    outside: float


def adopt_orphans() -> None:
    """Make this process the parent of every orphan below it. Raises BenchmarkError where Linux refuses."""
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise BenchmarkError("this kernel does not let a process adopt orphans: CPU seconds cannot be counted here")


def cpu_seconds() -> float:
    """Return the CPU seconds (user and system) of all that ran below this process, since its start."""
    this = psutil.Process()
    while True:
        own = this.cpu_times()
        running = this.children(recursive=True)
        with contextlib.suppress(psutil.NoSuchProcess):
            used = own.children_user + own.children_system + sum(sum(each.cpu_times()[:4]) for each in running)
            if set(this.children(recursive=True)) == set(running):  # else one that ended is missed, or in it twice
                return used


def memory(root: int, training: str) -> Memory:
    """Return the proportional set size of `root` and all below it; `training` is in the command line of what trains."""
    whole = outside = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        top = psutil.Process(root)
        for process in [top, *top.children(recursive=True)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                megabytes = process.memory_full_info().pss / 1e6
                whole += megabytes
                outside += 0 if training in " ".join(process.cmdline()) else megabytes
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


def in_folder(work: Callable[[Path], Any]) -> Any:
    """Return what `work` returns, done in a folder of its own, which goes; every process ends, whatever happens.

    Exits with a sentence where the benchmark cannot go on, and the logs stay, or where it is stopped.
    """
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this in the background
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="fb-"))  # short: sockets' paths have at most 107 bytes
    try:
        adopt_orphans()
        result = work(folder)
    except BenchmarkError as error:
        sys.exit(f"{error}\nThe logs stay in {folder}")
    except KeyboardInterrupt:
        end_all()
        shutil.rmtree(folder)
        sys.exit("stopped")
    finally:
        end_all()
    shutil.rmtree(folder)
    return result


def end_all(seconds: float = 15) -> None:
    """End every process below this one: politely, then by force."""

    def living() -> list[psutil.Process]:
        return [process for process in psutil.Process().children(recursive=True) if _lives(process)]

    for end in (psutil.Process.terminate, psutil.Process.kill):
        for process in living():
            with contextlib.suppress(psutil.NoSuchProcess):
                end(process)
        with contextlib.suppress(BenchmarkError):
            wait_until(lambda: not living(), "every process to end", seconds)
            break
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            continue
    if stubborn := living():
        raise BenchmarkError(f"these processes do not end: {stubborn}")


def _lives(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return process.status() != psutil.STATUS_ZOMBIE
    return False
