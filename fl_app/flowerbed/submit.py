"""Do the run that run.json describes, on its link: python -m flowerbed.submit run.json.

Progress goes to the experiment's metrics.jsonl. Exits 0 when all rounds are done; 1 with one sentence when not; 130
when stopped by a signal or because the process that started it is gone: then it stops on all devices.
"""

import dataclasses
import os
import signal
import sys
import threading
from pathlib import Path
from types import ModuleType

from flowerbed.rounds.config import RunConfig, RunFailed, RunStopped
from flowerbed.trainer.task import task_hash

STOPPED = 130


def main() -> int:
    """Run, print a sentence about the outcome, and return the exit code."""
    if len(sys.argv) != 2:
        print("usage: python -m flowerbed.submit run.json", file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    owner = int(os.environ.get("FLOWERBED_OWNER") or os.getppid())  # the ansible-playbook, where there is one
    threading.Thread(target=_watch, args=(os.getppid(), owner, stop), daemon=True).start()
    try:
        run = RunConfig.load(sys.argv[1])
        if not Path(run.task).exists():
            raise RunFailed(f"the task {run.task} (fl_task) is not there")
        run = dataclasses.replace(run, task_hash=task_hash(run.task))
        print(_link(run.link).do(run, sys.argv[1], stop))
        return 0
    except RunStopped:
        print("the run was stopped; the finished rounds stay", file=sys.stderr)
        return STOPPED
    except (RunFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def _link(name: str) -> ModuleType:
    """Return the link's way to do a run."""
    if name == "superlink":
        from flowerbed.link.superlink import submit
    else:
        from flowerbed.link.stream import submit
    return submit


def _watch(parent: int, owner: int, stop: threading.Event) -> None:
    """Stop when the process that started this one, or the one it works for, ends without a signal to this one."""
    while not stop.wait(0.5):
        if os.getppid() != parent or not Path(f"/proc/{owner}").exists():
            stop.set()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # at once: a signal while Python takes itself apart would be the exit code
