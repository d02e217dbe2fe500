"""Do the run that run.json describes, on its link: python -m flowerbed.run run.json.

Progress goes to the experiment's metrics.jsonl. Exits 0 when all rounds are done; 1 with one sentence when not; 130
when stopped by a signal or because the process that started it is gone: then it stops on all devices.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import signal
import sys
import threading
from pathlib import Path
from types import FrameType

from flowerbed.rounds import lock
from flowerbed.rounds.config import RunConfig, RunFailed
from flowerbed.trainer.task import task_hash
from flowerbed.unix_http import UnixConnection

STOPPED = 130
_stopping = threading.Event()


def main() -> None:
    """Run, and turn the outcome into an exit code and a sentence."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m flowerbed.run run.json")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    owner = int(os.environ.get("FLOWERBED_OWNER") or os.getppid())  # the ansible-playbook, where there is one
    threading.Thread(target=_watch, args=(os.getppid(), owner), daemon=True).start()
    try:
        run = RunConfig.load(sys.argv[1])
        if not Path(run.task).is_file():
            raise RunFailed(f"the task file {run.task} (fl_task) is not there")
        run = dataclasses.replace(run, task_hash=task_hash(run.task))
        message = (run_on_superlink if run.link == "superlink" else run_on_stream)(run)
    except KeyboardInterrupt:
        print("the run was stopped; the finished rounds stay", file=sys.stderr)
        sys.exit(STOPPED)
    except (RunFailed, OSError) as error:
        sys.exit(str(error))
    print(message)


def run_on_stream(run: RunConfig) -> str:
    """Ask the server on its control socket to do the run. Raises RunFailed with a sentence."""
    connection = UnixConnection(run.control)
    try:
        connection.request("POST", "/run", json.dumps(dataclasses.asdict(run)))
        response = connection.getresponse()
        content = json.loads(response.read())
    except (ConnectionRefusedError, FileNotFoundError):
        raise RunFailed(f"no server answers on {run.control}: run deploy.yml") from None
    except (OSError, http.client.HTTPException, ValueError):
        raise RunFailed(
            f"the server ended in the middle of the run: see its logs/server.log. The finished rounds are in "
            f"{run.directory}; run again to go on from there"
        ) from None
    finally:
        connection.close()
    if response.status != 200:
        raise RunFailed(content["message"])
    return content["message"]


def run_on_superlink(run: RunConfig) -> str:
    """Hand the run to Flower's deployment engine. Raises RunFailed with a sentence."""
    from flowerbed.link import superlink

    with contextlib.ExitStack() as stack:
        stack.enter_context(lock.hold(Path(run.directory)))
        submitted = superlink.start(run, sys.argv[1])
        try:
            return submitted.result()
        except KeyboardInterrupt:
            stack.close()  # which the ServerApp takes as the word to stop
            submitted.wait_stopped()
            raise


def _stop(*_: int | FrameType | None) -> None:
    if not _stopping.is_set():  # a second signal must not end what the first one began
        _stopping.set()
        raise KeyboardInterrupt


def _watch(parent: int, owner: int) -> None:
    """Stop when the process that started this one, or the one it works for, ends without a signal to this one."""
    wait = threading.Event()
    while not wait.wait(0.5):
        if os.getppid() != parent or not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(ProcessLookupError):
                os.kill(os.getpid(), signal.SIGTERM)
            return


if __name__ == "__main__":
    main()
