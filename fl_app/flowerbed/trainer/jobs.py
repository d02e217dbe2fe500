"""One job at a time on one warm thread, each of which can be cancelled while it runs."""

import ctypes
import os
import queue
import sys
import threading
import traceback

CANCEL_SECONDS = 10


class Cancelled(BaseException):
    """Raised inside a running job; a BaseException, so that a task's `except Exception` does not swallow it."""


class Jobs:
    """A queue of callables and the thread that runs them. torch has a pool of threads for each calling thread."""

    def __init__(self):
        self._queue = queue.Queue()
        self._running = None
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="jobs", daemon=True)
        self._thread.start()

    @property
    def busy(self):
        """Whether a job is running."""
        return self._running is not None

    def submit(self, function):
        """Queue `function` (no arguments) and return its Job."""
        job = Job(function)
        self._queue.put(job)
        return job

    def cancel(self, job):
        """Stop `job`, whether it waits or runs. A task stuck in native code ends the process: it is started anew."""
        with self._lock:
            job.cancelled = True
            if self._running is not job:
                job.done.set()  # it waits, and is never run; or it has ended
                return
            raise_in(self._thread, Cancelled)
        if not job.done.wait(CANCEL_SECONDS):
            sys.stderr.write("a cancelled job did not stop within %d s: restarting the trainer\n" % CANCEL_SECONDS)
            sys.stderr.flush()
            os._exit(1)

    def _run(self):
        while True:
            try:
                job = self._queue.get()
                with self._lock:
                    if job.cancelled:
                        continue
                    self._running = job
                try:
                    job.result = job.function()
                except Cancelled:
                    raise
                except BaseException as error:  # a task's SystemExit too: it must not end this thread
                    job.error = error
                    job.trace = traceback.format_exc()
                with self._lock:
                    self._running = None
                job.done.set()
            except Cancelled:  # wherever the thread was: inside the job, or just past its end
                with self._lock:
                    self._running = None
                job.done.set()


class Job:
    """A queued call: `done` is set at its end; then `result` or `error` and `trace` hold what came of it."""

    def __init__(self, function):
        self.function = function
        self.done = threading.Event()
        self.cancelled = False
        self.result = None
        self.error = None
        self.trace = ""


def raise_in(thread, exception):
    """Raise `exception` in another Python thread, at its next bytecode."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_long(thread.ident), ctypes.py_object(exception))
