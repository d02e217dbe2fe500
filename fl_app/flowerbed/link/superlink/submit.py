"""Hand a run to the SuperLink with `flwr run`, and wait for what it records."""

import contextlib
import http.client
import json
import os
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

from ...rounds import lock
from ...rounds.config import RunConfig, RunFailed, RunStopped
from .. import life

CONNECTION = "flowerbed"  # the name of the connection in $FLWR_HOME/config.toml
POLL_SECONDS = 0.2
STOP_SECONDS = 45.0
ANSWER_SECONDS = 10.0


def do(run: RunConfig, run_file: str, stop: threading.Event) -> str:
    """Hand the run to Flower's deployment engine. Raises RunFailed with a sentence, or RunStopped."""
    with contextlib.ExitStack() as stack:
        folder = Path(run.directory)
        stack.enter_context(lock.hold(folder, run.control))
        submitted = start(run, run_file)
        beats = [0.0]

        def alive() -> bool:
            before, beats[0] = beats[0], lock.beaten(folder)
            return beats[0] != before and answers(run.superlink["address"], Path(run.superlink["authority"]))

        try:
            return submitted.result(stop, stack.enter_context(life.watched(alive)))
        except RunStopped:
            stack.close()  # which the ServerApp takes as the word to stop
            submitted.wait_stopped()
            raise


def answers(address: str, authority: Path) -> bool:
    """Return whether the SuperLink at `address` (host:port), with a certificate of `authority`, answers."""
    try:
        context = ssl.create_default_context(cafile=str(authority))
        with contextlib.closing(http.client.HTTPSConnection(address, timeout=ANSWER_SECONDS, context=context)) as there:
            there.request("GET", "/")
            there.getresponse()
    except (OSError, http.client.HTTPException):
        return False
    return True


def start(run: RunConfig, run_file: str) -> "Submitted":
    """Hand the run to the SuperLink with `flwr run`."""
    folder = Path(run.directory)
    (folder / "logs").mkdir(parents=True, exist_ok=True)
    events = folder / "metrics.jsonl"
    begin = events.stat().st_size if events.exists() else 0
    config = f"run={json.dumps(os.path.abspath(run_file), ensure_ascii=False)} task-hash={json.dumps(run.task_hash)}"
    ours = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {**ours, "FLWR_HOME": run.superlink["flwr_home"], "FLWR_TELEMETRY_ENABLED": "0",
                   "FLWR_DISABLE_UPDATE_CHECK": "1", "NO_COLOR": "1", "COLUMNS": "200"}  # fmt: skip
    flwr = os.path.join(os.path.dirname(sys.executable), "flwr")
    with open(folder / "logs" / "flwr.log", "a") as log:
        process = subprocess.Popen(
            [flwr, "run", run.superlink["app"], CONNECTION, "--run-config", config, "--stream"],
            env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    return Submitted(run, process, events, begin)


class Submitted:
    """A run in the SuperLink's hands."""

    def __init__(self, run: RunConfig, process: subprocess.Popen, events: Path, begin: int) -> None:
        self.run = run
        self._process = process
        self._events = events
        self._begin = begin

    def result(self, stop: threading.Event, gone: threading.Event) -> str:
        """Wait for its end; return a sentence. Raises RunFailed with one, or RunStopped once `stop` is set.

        `gone` is set when it has shown no sign of life for too long.
        """
        while (ended := self._ended()) is None and self._process.poll() is None:
            if stop.wait(POLL_SECONDS):
                raise RunStopped
            if gone.is_set():
                break
        self._process.terminate()  # it would go on to follow the log
        ended = ended or self._ended()
        if ended is None:
            why = " and showed no sign of life" if gone.is_set() else ""
            raise RunFailed(
                f"the SuperLink at {self.run.superlink['address']} did not finish the run{why}: see "
                f"{self._events.parent}/logs/flwr.log and the server's logs/superlink.log. The finished rounds stay; "
                "run again to go on from there"
            )
        if ended["status"] != "finished":
            raise RunFailed(ended["message"])
        return ended["message"]

    def wait_stopped(self) -> None:
        """Wait until the ServerApp, which has seen that nobody holds the experiment's lock, has stopped the devices."""
        deadline = time.monotonic() + STOP_SECONDS
        while self._ended() is None and self._process.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL_SECONDS)
        self._process.terminate()

    def _ended(self) -> dict[str, Any] | None:
        """Return the `run-ended` event of this run, once it is there."""
        if not self._events.exists():
            return None
        with open(self._events, "rb") as file:
            file.seek(self._begin)
            ended = [json.loads(line) for line in file if b'"run-ended"' in line and line.endswith(b"\n")]
        return ended[-1] if ended else None
