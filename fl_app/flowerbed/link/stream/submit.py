"""Ask the server on its control socket to do a run."""

import contextlib
import dataclasses
import http.client
import json
import select
import threading

from ... import server_socket
from ...rounds.config import RunConfig, RunFailed, RunStopped
from ...unix_http import UnixConnection
from .. import life

POLL_SECONDS = 0.2


def do(run: RunConfig, run_file: str, stop: threading.Event) -> str:
    """Ask the server on its control socket to do the run. Raises RunFailed with a sentence, or RunStopped."""
    with contextlib.ExitStack() as stack:
        connection = stack.enter_context(contextlib.closing(UnixConnection(run.control)))  # its end is the word to stop
        try:
            connection.request("POST", "/run", json.dumps(dataclasses.asdict(run)))
            gone = stack.enter_context(life.watched(lambda: server_socket.answers(run.control)))
            while not select.select([connection.sock], [], [], POLL_SECONDS)[0]:
                if stop.is_set():
                    raise RunStopped
                if gone.is_set():
                    raise RunFailed(
                        f"the server has not answered on {run.control} for {life.GONE_SECONDS:g} s: see its "
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
