"""The server's own trainer: it makes new models, and evaluates the global one on the test set."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import Any

from ..trainer_socket import LOG, START_SECONDS, TrainerDied, TrainerError, TrainerSocket
from .config import RunStopped

POLL_SECONDS = 0.2
MODEL_SECONDS = 600  # for a task's build_model, however large the model


@dataclass(frozen=True)
class Job:
    """What the trainer was asked, and until when (on the monotonic clock) its answer is waited for."""

    name: str
    answer: Future
    seconds: float
    deadline: float


class Evaluator:
    """The trainer on the Unix socket `path`, for one run: `stop` ends every wait for it."""

    def __init__(self, path: str, stop: threading.Event) -> None:
        self._trainer = TrainerSocket(path)
        self._stop = stop
        self._pool = ThreadPoolExecutor(1)

    def initial(self, config: dict[str, Any]) -> tuple[bytes, dict[str, Any], bool]:
        """Return a new model's tensors, its metrics, and whether the server holds a test set.

        Waits for a trainer that is being started. Raises TrainerError, or RunStopped.
        """
        return self.result(self._begin("initial", START_SECONDS + MODEL_SECONDS, self._make, config))

    def _make(self, config: dict[str, Any]) -> tuple[bytes, dict[str, Any], bool]:
        try:
            made = self._trainer.call("initial", b"", config)
        except TrainerDied:  # a moment ago, perhaps: it is started again
            made = self._trainer.call("initial", b"", config)
        return *made, self._trainer.wait_ready(START_SECONDS)["heldout_examples"] > 0

    def begin(self, packed: bytes, config: dict[str, Any], seconds: float) -> Job:
        """Begin to evaluate packed tensors on the test set, for at most `seconds` from now on."""
        return self._begin("evaluate", seconds, self._trainer.call, "evaluate", packed, config)

    def _begin(self, name: str, seconds: float, call: Callable[..., Any], *arguments: Any) -> Job:
        return Job(name, self._pool.submit(call, *arguments), seconds, time.monotonic() + seconds)

    def result(self, job: Job) -> Any:
        """Wait for a job's answer, and return it. Raises TrainerError, once it takes too long, too; or RunStopped."""
        while not wait([job.answer], POLL_SECONDS).done:
            if self._stop.is_set():
                raise RunStopped
            if time.monotonic() > job.deadline:
                self._give_up()
                raise TrainerError(
                    f"{job.name} did not end within {job.seconds:g} s: it was cancelled, and a trainer that does not "
                    f"heed that is started again; see {LOG}"
                )
        return job.answer.result()

    def _give_up(self) -> None:
        """Cancel what the trainer does; another connection is for what it is asked next."""
        self._trainer.cancel()
        self._trainer = TrainerSocket(self._trainer.path)

    def close(self) -> None:
        """Stop what it still does."""
        self._trainer.cancel()
        self._pool.shutdown(wait=False)
