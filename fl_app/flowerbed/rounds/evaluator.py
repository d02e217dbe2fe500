"""The server's own trainer: it makes new models, and evaluates the global one on the test set."""

import threading
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Any

from ..client.trainer import Trainer
from .config import RunStopped

POLL_SECONDS = 0.2


class Evaluator:
    """The trainer on the Unix socket `path`, for one run: `stop` ends every wait for it."""

    def __init__(self, path: str, stop: threading.Event) -> None:
        self._trainer = Trainer(path)
        self._stop = stop
        self._pool = ThreadPoolExecutor(1)

    @property
    def has_test(self) -> bool:
        """Whether the server holds a test set. Raises TrainerError."""
        return self._trainer.health()["heldout_examples"] > 0

    def begin(self, job: str, packed: bytes, config: dict[str, Any]) -> Future:
        """Begin a job (initial or evaluate) on packed tensors."""
        return self._pool.submit(self._trainer.call, job, packed, config)

    def result(self, job: Future) -> tuple[bytes, dict[str, Any]]:
        """Wait for a job; return its tensors and metrics. Raises TrainerError, or RunStopped."""
        while not wait([job], POLL_SECONDS).done:
            if self._stop.is_set():
                raise RunStopped
        return job.result()

    def close(self) -> None:
        """Stop what it still does."""
        self._trainer.cancel()
        self._pool.shutdown(wait=False)
