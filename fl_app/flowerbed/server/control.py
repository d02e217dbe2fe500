"""The server's control socket: what it is doing, and doing a run. HTTP with JSON on a Unix socket.

    GET  /status   which devices are connected, and the run that goes on
    POST /run      do the run that the body (run.json) describes; answers when it has ended

A run lasts as long as its connection: when the caller goes away, for whatever reason, the run stops on all devices.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import socket
import socketserver
import threading
import time
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ..link.stream.grid import StreamGrid

log = logging.getLogger("flowerbed.server")

MOST_BYTES = 1 << 26  # of a run.json, which names every device


def serve(path: str, grid: StreamGrid) -> None:
    """Answer on the Unix socket `path` for ever."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    old = os.umask(0o177)
    try:
        server = _Server(path, _Handler)
    finally:
        os.umask(old)
    server.grid = grid
    server.serve_forever()


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True
    grid: StreamGrid
    run: dict[str, Any] | None = None
    lock = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        """Answer /status."""
        connected = set(self.server.grid.get_node_ids())
        devices = {
            name: {"connected": node in connected, "last_seen": self.server.grid.last_seen(name)}
            for node, name in self.server.grid.names.items()
        }
        run = self.server.run
        self._answer(200, {"devices": devices, "run": run and {**run, **_newest_round(Path(run["directory"]))}})

    def do_POST(self) -> None:
        """Do a run."""
        from ..rounds.config import RunConfig, RunFailed

        try:
            length = int(self.headers.get("Content-Length", ""))
            if not 0 <= length <= MOST_BYTES:
                raise RunFailed(f"the request has {length} bytes, and at most {MOST_BYTES} are taken")
            run = RunConfig.parse(json.loads(self.rfile.read(length)))
        except (ValueError, TypeError, RecursionError, RunFailed) as error:
            return self._answer(400, {"message": str(error)})
        with self.server.lock:
            if self.server.run is not None:
                other = self.server.run["experiment"]
                return self._answer(
                    409, {"message": f"a run of experiment {other} goes on: wait for it, or stop it first"}
                )
            self.server.run = {"experiment": run.experiment, "directory": run.directory, "since": time.time()}
        try:
            answer = self._run(run)
        finally:
            self.server.run = None
        return self._answer(*answer)

    def _run(self, run: Any) -> tuple[int, dict[str, Any]]:
        from ..rounds import lock
        from ..rounds.config import RunFailed, RunStopped
        from ..rounds.log import log_to
        from ..rounds.loop import run_rounds

        stop, done = threading.Event(), threading.Event()
        watcher = threading.Thread(target=_watch, args=(self.connection, stop, done), daemon=True)
        watcher.start()
        try:
            folder = Path(run.directory)  # another inventory's server may be at work in it
            with lock.hold(folder, run.control), log_to(folder / "logs" / "run.log"):
                return 200, {"message": run_rounds(self.server.grid, run, stop)}
        except RunFailed as error:
            return 422, {"message": str(error)}
        except RunStopped as error:
            log.info("the run was stopped: %s", error)
            return 499, {"message": str(error)}
        except OSError as error:
            return 422, {"message": f"the run's folder {run.directory} cannot be written: {error}"}
        except Exception:
            log.exception("the run failed in a way that Flowerbed did not foresee")
            return 500, {
                "message": "the server failed in a way that Flowerbed did not foresee: see its logs/server.log"
            }
        finally:
            done.set()

    def _answer(self, code: int, content: dict[str, Any]) -> None:
        data = json.dumps(content).encode()
        with contextlib.suppress(OSError):
            self.send_response(code)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    def address_string(self) -> str:
        """A Unix socket's peer has no address."""
        return "control"

    def log_message(self, format: str, *args: Any) -> None:
        """Keep the log to what happens to devices and runs."""


def _newest_round(folder: Path) -> dict[str, Any]:
    """Return the number of an experiment's newest round, and in words why a device is missing in it, by device."""
    from ..rounds.events import Events

    try:
        events = Events(folder / "metrics.jsonl").read()
    except OSError:
        return {}
    number = max((event["round"] for event in events if event.get("event") == "round"), default=0)
    missing = {
        str(event["device"]): ": ".join(str(event[key]) for key in ("status", "reason") if key in event)
        for event in events
        if event.get("event") == "device" and event.get("round") == number and event.get("status") != "ok"
    }
    return {"round": number, "missing": missing}


def _watch(connection: socket.socket, stop: threading.Event, done: threading.Event) -> None:
    """Set `stop` when the caller closes its connection."""
    with contextlib.suppress(OSError, ValueError):  # the answer was given, and the connection closed
        while not done.is_set():
            if select.select([connection], [], [], 0.2)[0] and not connection.recv(1, socket.MSG_PEEK):
                stop.set()
                return
