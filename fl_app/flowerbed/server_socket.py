"""The caller's side of the stream server's control socket: what it is doing, and whether it answers."""

import http.client
import json
import os
import time
from typing import Any

from .unix_http import UnixConnection


def status(path: str, devices: list[str], wait_seconds: float | None = None) -> dict[str, Any]:
    """Return the server's status; with `wait_seconds`, once all `devices` are connected.

    Raises OSError with a sentence when no server answers, or when devices are still missing after that time.
    """
    deadline = time.monotonic() + (wait_seconds or 0)
    while True:
        problem: str | None = None
        state: dict[str, Any] = {}
        try:
            connection = UnixConnection(path)
            connection.request("GET", "/status")
            state = json.loads(connection.getresponse().read())
            missing = [name for name in devices if not state["devices"].get(name, {}).get("connected")]
            if missing and wait_seconds is not None:
                names = ", ".join(missing)
                problem = (
                    f"not connected to the server after {wait_seconds:g} s: {names}; see logs/client.log there, or "
                    "docker logs flowerbed-client"
                )
        except (OSError, http.client.HTTPException):
            problem = f"no server answers on {os.path.abspath(path)}: see logs/server.log"
        if problem is None:
            return state
        if time.monotonic() >= deadline:
            raise OSError(problem)
        time.sleep(0.1)


def answers(path: str) -> bool:
    """Return whether a server answers on the Unix socket `path`."""
    try:
        status(path, [])
    except OSError:
        return False
    return True
