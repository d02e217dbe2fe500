"""The caller's side of a trainer's Unix socket: its client's, its server's, or of whoever asks for its state."""

import contextlib
import http.client
import json
import os
import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from .parts import Parts, drain, join, read, split
from .tensors import too_large
from .unix_http import SECONDS, UnixConnection
from .words import clean, clean_all, clean_trace

LOG = os.environ.get("FLOWERBED_TRAINER_LOG", "logs/trainer.log")  # how its log is looked at
START_SECONDS = 120
RETRY_SECONDS = 0.2
MOST_NAMES = 10_000  # of classes
_CANCELLED = "the call was cancelled"


class TrainerError(RuntimeError):
    """The trainer refused or failed; the message is a sentence, `trace` the last lines of the task's traceback."""

    def __init__(self, message: str, trace: list[str] | None = None) -> None:
        super().__init__(message)
        self.trace = trace or []


class TrainerDied(TrainerError):
    """The trainer's process ended in the middle of a job, by itself or because it was told to."""


@dataclass
class TrainerSocket:
    """The trainer on the Unix socket `path`. One request at a time; `cancel` may come from another thread."""

    path: str
    _connection: UnixConnection | None = None
    _cancelled: threading.Event = field(default_factory=threading.Event)

    def health(self) -> dict[str, Any]:
        """Return the trainer's own account of itself. Raises TrainerError when it doesn't answer."""
        try:
            answer = b"".join(self._request("GET", "/health", {}, Parts(), SECONDS)[0])
            return clean_all(json.loads(answer), most=MOST_NAMES)
        except (OSError, http.client.HTTPException, ValueError, RecursionError) as error:
            raise TrainerError(f"no trainer answers on {self.path} ({_cause(error)}): see {LOG}") from None

    def wait_ready(self, seconds: float, again: bool = False) -> dict[str, Any]:
        """Return its health once it is ready. Raises TrainerError at once if it has a problem, or after `seconds`.

        With `again`, only a problem that is found from now on counts: what was wrong may have been put right since.
        """
        since = time.monotonic() if again else 0.0  # one clock for all processes of a Linux
        deadline = time.monotonic() + seconds
        while True:
            sentence = f"the trainer on {self.path} was still loading after {seconds:g} s: see {LOG}"
            try:
                health = self.health()
                if health["problem"] and health["tried"] >= since:
                    raise _Unusable(health["problem"])
                if health["ready"]:
                    return health
            except _Unusable:
                raise
            except TrainerError as error:
                sentence = str(error)
            if time.monotonic() > deadline:
                raise TrainerError(sentence)
            if self._cancelled.wait(RETRY_SECONDS):
                raise _Unusable(_CANCELLED)

    def call(self, job: str, body: bytes, config: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
        """Run `job` (initial, train or evaluate) on tensors `body`; return the tensors and metrics it gives.

        Waits for a trainer that is just starting. Raises TrainerError when it refuses, fails, dies or is cancelled.
        """
        result, metrics = self.call_in_parts(job, split(body), config)
        return join(result), metrics

    def call_in_parts(self, job: str, body: Parts, config: dict[str, Any]) -> tuple[Parts, dict[str, Any]]:
        """Do as `call`; `body` is empty afterwards."""
        _check_size(body)
        before = self.wait_ready(START_SECONDS)
        try:
            data, headers = self._request("POST", f"/{job}", {"Flowerbed-Config": json.dumps(config)}, body, None)
        except (OSError, http.client.HTTPException) as error:
            raise self._broken(job, before, error) from None
        _check_size(data)
        return data, json.loads(headers.get("Flowerbed-Metrics") or "{}")

    def _broken(self, job: str, before: dict[str, Any], error: Exception) -> TrainerError:
        """Return what became of a trainer whose health was `before`, and whose connection broke during a job."""
        if self._cancelled.is_set():
            return TrainerError(_CANCELLED)
        try:
            if self.health().get("tried") == before.get("tried"):
                return TrainerError(f"the connection to the trainer broke during {job} ({_cause(error)}): see {LOG}")
        except TrainerError:
            pass
        return TrainerDied(
            f"the trainer died during {job} ({_cause(error)}), perhaps for lack of memory: it is started again; "
            f"see {LOG}"
        )

    def cancel(self) -> None:
        """End the call under way, the job it waits for, and every later call."""
        self._cancelled.set()
        connection = self._connection
        if connection is not None and connection.sock is not None:
            with contextlib.suppress(OSError):
                connection.sock.shutdown(socket.SHUT_RDWR)

    def _request(
        self, method: str, path: str, headers: dict[str, str], body: Parts, timeout: float | None
    ) -> tuple[Parts, Any]:
        connection = self._connection = UnixConnection(self.path)
        try:
            connection.connect()
            if self._cancelled.is_set():
                raise TrainerError(_CANCELLED)
            connection.sock.settimeout(timeout)  # None: whoever waits for a job ends it by `cancel`
            headers = {**headers, "Content-Length": str(sum(map(len, body)))}
            connection.request(method, path, drain(body), headers)
            response = connection.getresponse()
            data = read(response.read)
        finally:
            self._connection = None
            connection.close()
        if response.status != 200:
            raise _failure(b"".join(data), TrainerDied if response.status == 503 else TrainerError)
        return data, response.headers


class _Unusable(TrainerError):
    """The trainer runs, but its task or data cannot be used."""


def _check_size(parts: Parts) -> None:
    problem = too_large(sum(map(len, parts)))
    if problem:
        raise TrainerError(problem)


def _failure(data: bytes, kind: type[TrainerError]) -> TrainerError:
    try:
        answer = json.loads(data)
        return kind(clean(answer["error"]), clean_trace(answer.get("trace")))
    except (ValueError, KeyError, TypeError, RecursionError):
        return TrainerError("the trainer gave an answer that cannot be read")


def _cause(error: Exception) -> str:
    return os.strerror(error.errno) if isinstance(error, OSError) and error.errno else type(error).__name__
