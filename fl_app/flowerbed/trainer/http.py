"""The trainer's HTTP on a Unix socket: bounded requests, JSON errors of one sentence, cancelled by closing."""

import json
import os
import select
import socket
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

from ..tensors import MOST_BYTES, TensorError
from ..words import clean
from .worker import Refused

READ_SECONDS = 60
_JOBS = {"initial": "build_model", "train": "train", "evaluate": "evaluate"}  # and the task's function for each


class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    """A thread a connection; jobs themselves run one at a time."""

    daemon_threads = True
    request_queue_size = 16
    worker = jobs = None

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.waiting = set()  # the handlers of requests whose job has not ended

    def farewell(self):
        """Tell all who wait for a job that it ends because this process was told to; not for lack of memory."""
        for handler in list(self.waiting):
            handler._answer(503, {"error": "the trainer was stopped"})


def serve(path, worker, jobs):
    """Return a bound server for `worker` on the Unix socket `path`; the warm-up starts at once, as the first job.

    Raises OSError if another trainer answers on that socket.
    """
    if os.path.exists(path):
        probe = socket.socket(socket.AF_UNIX)
        try:
            probe.connect(path)
        except OSError:
            os.unlink(path)  # left by a trainer that was killed
        else:
            raise OSError("another trainer already answers on %s: stop it first" % os.path.abspath(path))
        finally:
            probe.close()
    old = os.umask(0o177)
    try:
        server = Server(path, Handler)
    finally:
        os.umask(old)
    server.worker, server.jobs = worker, jobs
    jobs.submit(worker.warm_up)
    return server


class Handler(BaseHTTPRequestHandler):
    """One request and its answer."""

    timeout = READ_SECONDS
    server_version = "flowerbed-trainer"

    def do_GET(self):
        """Answer /health."""
        if self.path != "/health":
            return self._answer(404, {"error": "there is no %s here; GET /health is" % self.path})
        worker, jobs = self.server.worker, self.server.jobs
        if worker.try_again():
            jobs.submit(worker.warm_up)
        return self._answer(200, worker.health(jobs.busy))

    def do_POST(self):
        """Answer /initial, /train and /evaluate."""
        name = self.path.lstrip("/")
        if name not in _JOBS:
            return self._answer(404, {"error": "there is no %s here; POST goes to %s" % (self.path, ", ".join(_JOBS))})
        try:
            config, body = self._read()
        except Refused as error:
            return self._answer(400, {"error": str(error)})
        except OSError:
            self.close_connection = True
            return None
        worker = self.server.worker

        def work():
            worker.check(config)
            with worker.slots.take():
                return getattr(worker, name)(body, config)

        job = self.server.jobs.submit(work)
        if not self._wait(job):
            return None
        if job.error is None:
            (result, metrics), job.result = job.result, None  # the thread of jobs has it until it has another
            return self._answer(200, result, metrics)
        if isinstance(job.error, (Refused, TensorError)):
            return self._answer(409 if isinstance(job.error, Refused) else 400, {"error": str(job.error)})
        # A task's own ValueError is taken to be a sentence.
        kind = "" if type(job.error) is ValueError else type(job.error).__name__ + ": "
        sentence = "%s of the task failed: %s%s" % (_JOBS[name], kind, str(job.error).rstrip("."))
        return self._answer(500, {"error": sentence, "trace": job.trace.strip().splitlines()[-12:]})

    def _read(self):
        try:
            length = int(self.headers.get("Content-Length", ""))
        except ValueError:
            raise Refused("the request needs a Content-Length") from None
        if not 0 <= length <= MOST_BYTES:
            raise Refused("the request has %d bytes; at most %d are taken" % (length, MOST_BYTES))
        try:
            config = json.loads(self.headers.get("Flowerbed-Config") or "{}")
        except (ValueError, RecursionError):
            raise Refused("the header Flowerbed-Config is not JSON") from None
        if not isinstance(config, dict):
            raise Refused("the header Flowerbed-Config is not a JSON object")
        body = bytearray(length)
        came = self.rfile.readinto(body)
        if came != length:
            raise Refused("the request ended after %d of %d bytes" % (came, length))
        return config, body

    def _wait(self, job):
        """Wait for the job; cancel it when the other side closes the connection. Returns whether it ended by itself."""
        ready, wake = socket.socketpair()
        threading.Thread(target=_signal_end, args=(job, wake), daemon=True).start()
        self.server.waiting.add(self)
        try:
            select.select([self.connection, ready], [], [])
            if job.done.is_set():
                return True
            self.server.jobs.cancel(job)  # readable before the end: closed, or a second request, which none sends
            self.close_connection = True
            return False
        finally:
            self.server.waiting.discard(self)
            ready.close()

    def _answer(self, status, body, metrics=None):
        packed = isinstance(body, (bytes, bytearray))
        data = body if packed else json.dumps(body).encode("utf-8")
        try:
            self.send_response(status)
            self.send_header("Content-Type", "application/octet-stream" if packed else "application/json")
            self.send_header("Content-Length", str(len(data)))
            if metrics is not None:
                self.send_header("Flowerbed-Metrics", json.dumps(metrics))
            self.end_headers()
            self.wfile.write(data)
        except OSError:
            pass  # the other side has gone; there is nobody to tell
        self.close_connection = True

    def address_string(self):
        """A Unix socket's peer has no address."""
        return "client"

    def log_message(self, format, *args):
        """Keep the log to what went wrong."""
        if len(args) > 1 and str(args[1]) >= "400":
            super().log_message("%s", clean(format % args))


def _signal_end(job, wake):
    job.done.wait()
    wake.close()
