"""Do the run that run.json describes, on its link: python -m flowerbed.run run.json.

Progress goes to the experiment's metrics.jsonl. Exits 0 when all rounds are done; 1 with one sentence when not; 130
when stopped by a signal or because the process that started it is gone: then it stops on all devices.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from flowerbed.rounds import lock
from flowerbed.rounds.config import RunConfig, RunFailed, RunStopped
from flowerbed.server import control
from flowerbed.trainer.task import task_hash
from flowerbed.unix_http import UnixConnection

STOPPED = 130
POLL_SECONDS = 0.2
LOOK_SECONDS = 30.0  # between two looks at whether there is still life at the other end of a long wait
GONE_SECONDS = 300.0  # without any, after which it is waited for no longer


def main() -> int:
    """Run, print a sentence about the outcome, and return the exit code."""
    if len(sys.argv) != 2:
        print("usage: python -m flowerbed.run run.json", file=sys.stderr)
        return 2
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    owner = int(os.environ.get("FLOWERBED_OWNER") or os.getppid())  # the ansible-playbook, where there is one
    threading.Thread(target=_watch, args=(os.getppid(), owner, stop), daemon=True).start()
    try:
        run = RunConfig.load(sys.argv[1])
        if not Path(run.task).is_file():
            raise RunFailed(f"the task file {run.task} (fl_task) is not there")
        run = dataclasses.replace(run, task_hash=task_hash(run.task))
        print((run_on_superlink if run.link == "superlink" else run_on_stream)(run, stop))
        return 0
    except RunStopped:
        print("the run was stopped; the finished rounds stay", file=sys.stderr)
        return STOPPED
    except (RunFailed, OSError) as error:
        print(error, file=sys.stderr)
        return 1


def run_on_stream(run: RunConfig, stop: threading.Event) -> str:
    """Ask the server on its control socket to do the run. Raises RunFailed with a sentence, or RunStopped."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(UnixConnection(run.control)))  # its end is the word to stop
        try:
            connection.request("POST", "/run", json.dumps(dataclasses.asdict(run)))
            gone = stack.enter_context(_looked_at(lambda: control.answers(run.control)))
            while not select.select([connection.sock], [], [], POLL_SECONDS)[0]:
                if stop.is_set():
                    raise RunStopped
                if gone.is_set():
                    raise RunFailed(
                        f"the server has not answered on {run.control} for {GONE_SECONDS:g} s: see its "
                        f"logs/server.log. The finished rounds are in {run.directory}"
                    )
            response = connection.getresponse()
            content = json.loads(response.read())
        except (ConnectionRefusedError, FileNotFoundError):
            raise RunFailed(f"no server answers on {run.control}: run deploy.yml") from None
        except (OSError, http.client.HTTPException, ValueError):
            raise RunFailed(
                f"the server ended in the middle of the run: see its logs/server.log. The finished rounds are in "
                f"{run.directory}; run again to go on from there"
            ) from None
    if response.status != 200:
        raise RunFailed(content["message"])
    return content["message"]


def run_on_superlink(run: RunConfig, stop: threading.Event) -> str:
    """Hand the run to Flower's deployment engine. Raises RunFailed with a sentence, or RunStopped."""
    from flowerbed.link import superlink

    with contextlib.ExitStack() as stack:
        folder = Path(run.directory)
        stack.enter_context(lock.hold(folder))
        submitted = superlink.start(run, sys.argv[1])
        beats = [0.0]

        def alive() -> bool:
            before, beats[0] = beats[0], lock.beaten(folder)
            return beats[0] != before and superlink.answers(run.superlink["address"])

        try:
            return submitted.result(stop, stack.enter_context(_looked_at(alive)))
        except RunStopped:
            stack.close()  # which the ServerApp takes as the word to stop
            submitted.wait_stopped()
            raise


@contextlib.contextmanager
def _looked_at(alive: Callable[[], bool]) -> Iterator[threading.Event]:
    """Ask again and again whether what is waited for is `alive`; set the event once it has not been for too long."""
    gone, done = threading.Event(), threading.Event()

    def look() -> None:
        last = time.monotonic()
        while not done.wait(LOOK_SECONDS):
            answers = False
            with contextlib.suppress(OSError, ValueError):
                answers = alive()
            if answers:
                last = time.monotonic()
            elif time.monotonic() > last + GONE_SECONDS:
                gone.set()

    threading.Thread(target=look, daemon=True).start()
    try:
        yield gone
    finally:
        done.set()


def _watch(parent: int, owner: int, stop: threading.Event) -> None:
    """Stop when the process that started this one, or the one it works for, ends without a signal to this one."""
    while not stop.wait(0.5):
        if os.getppid() != parent or not Path(f"/proc/{owner}").exists():
            stop.set()


if __name__ == "__main__":
    code = main()
    sys.stdout.flush()
    os._exit(code)  # at once: a signal while Python takes itself apart would be the exit code
