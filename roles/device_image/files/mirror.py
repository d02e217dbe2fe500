"""A read-only mirror of a registry, for as long as a deployment lasts: what ten devices pull, it fetches once.

Distribution, the usual pull-through registry, fetches twice what it does not have yet, and once more for each device
that asks meanwhile. Here all who ask for a layer get it from the one download of it while that goes on. Layers stay in
the folder, and a download that broke off goes on where it was.

Usage: mirror.py ADDRESS PORT UPSTREAM FOLDER PROCESS. It says that it is ready, and ends when the process has.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

PIECE = 1 << 18
TIMEOUT = 60  # seconds without a byte
TRIES = 2  # an engine itself tries six times
QUESTION = re.compile(r"/v2/([a-z0-9][a-z0-9._/-]*)/(manifests|blobs)/([\w.:-]+)")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Upstream:
    """The registry that is mirrored."""

    def __init__(self, address: str) -> None:
        self._address = address.rstrip("/")
        self._tokens: dict[str, str] = {}

    def open(self, repository: str, path: str, headers: dict[str, str]) -> Any:
        """Return the answer to a question about a repository, as anyone gets it. Raises OSError."""
        request = urllib.request.Request(f"{self._address}/v2/{repository}/{path}", headers=headers)
        try:
            return self._opened(request, repository)
        except urllib.error.HTTPError as error:
            if error.code != 401 or not (challenge := error.headers.get("WWW-Authenticate", "")).startswith("Bearer "):
                raise
            self._tokens[repository] = self._token(challenge)
            return self._opened(request, repository)

    def _opened(self, request: urllib.request.Request, repository: str) -> Any:
        if token := self._tokens.get(repository):
            request.add_unredirected_header("Authorization", f"Bearer {token}")  # is not for where the layers lie
        return urllib.request.urlopen(request, timeout=TIMEOUT)

    @staticmethod
    def _token(challenge: str) -> str:
        fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
        query = urllib.parse.urlencode({key: fields[key] for key in ("service", "scope") if key in fields})
        with urllib.request.urlopen(f"{fields['realm']}?{query}", timeout=TIMEOUT) as answer:
            document = json.load(answer)
        return document.get("token") or document["access_token"]


class Download(threading.Thread):
    """One layer on its way into a file, which others read meanwhile."""

    def __init__(self, upstream: Upstream, repository: str, digest: str, path: Path) -> None:
        super().__init__(daemon=True)
        self._upstream, self._repository, self._digest, self._path = upstream, repository, digest, path
        self._part = path.with_suffix(".part")
        self._changed = threading.Condition()
        self._size: int | None = None
        self._there = 0
        self._error: OSError | None = None

    def run(self) -> None:
        """Fetch; try again from where it broke off."""
        for attempt in range(TRIES):
            try:
                self._fetch()
                if _digest(self._part) == self._digest:
                    self._part.rename(self._path)
                else:  # who reads it finds out, too
                    self._part.unlink()
                return
            except (OSError, HTTPException, ValueError) as error:
                status = error.code if isinstance(error, urllib.error.HTTPError) else 500
                if status == 416:  # all of it was there already, or more than that
                    self._part.unlink()
                elif status < 500 or attempt == TRIES - 1:
                    with self._changed:
                        self._error = error if isinstance(error, OSError) else OSError(str(error))
                        self._changed.notify_all()
                    return
                time.sleep(2**attempt)

    def _fetch(self) -> None:
        start = self._part.stat().st_size if self._part.exists() else 0
        headers = {"Range": f"bytes={start}-"} if start else {}
        with self._upstream.open(self._repository, f"blobs/{self._digest}", headers) as answer:
            start = start if answer.status == 206 else 0
            length = answer.headers["Content-Length"]  # not every registry, or proxy before it, says it
            with open(self._part, "ab" if start else "wb", buffering=0) as file:
                self._tell(start, start + int(length) if length else None)
                while piece := answer.read(PIECE):
                    file.write(piece)
                    self._tell(self._there + len(piece), self._size)
            self._tell(self._there, self._there if self._size is None else self._size)
        if self._there != self._size:
            raise OSError(f"the registry broke off after {self._there} of {self._size} bytes")

    def _tell(self, there: int, size: int | None) -> None:
        with self._changed:
            self._there, self._size = there, size
            self._changed.notify_all()

    def size(self) -> int:
        """Wait for the size; where the registry does not say it, for all. Raises OSError if there is no such layer."""
        with self._changed:
            self._changed.wait_for(lambda: self._size is not None or self._error)
            if self._size is None:
                raise self._error or OSError("no size")
            return self._size

    def pieces(self, start: int) -> Iterator[bytes]:
        """Yield what is there from `start` on, and then what comes. Raises OSError when it breaks off."""
        size = self.size()
        for path in (self._part, self._path):  # the latter, when it is whole by now
            with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
                file.seek(start)
                while file.tell() < size:
                    yield file.read(min(PIECE, self._wait(file.tell()) - file.tell()))
                return

    def _wait(self, place: int) -> int:
        """Wait until there is more than up to `place`; return up to where. Raises OSError when it breaks off."""
        with self._changed:
            self._changed.wait_for(lambda: self._there > place or self._error)
            if self._there <= place:
                raise self._error or OSError("nothing came")
            return self._there


class Mirror:
    """What was fetched, in a folder."""

    def __init__(self, upstream: Upstream, folder: Path) -> None:
        self._upstream, self._folder = upstream, folder
        self._lock = threading.Lock()
        self._downloads: dict[str, Download] = {}
        folder.mkdir(parents=True, exist_ok=True)

    def manifest(self, repository: str, reference: str, accept: str) -> tuple[bytes, str]:
        """Return a manifest and its type. What a tag means is asked anew, unless nobody answers. Raises OSError."""
        wanted = f"{repository}:{reference}:{accept}".encode()
        path = self._folder / f"manifest-{hashlib.sha256(wanted).hexdigest()}"
        if not (DIGEST.fullmatch(reference) and path.exists()):
            try:
                headers = {"Accept": accept} if accept else {}
                with self._upstream.open(repository, f"manifests/{reference}", headers) as answer:
                    content = answer.read()
                    if DIGEST.fullmatch(reference) and reference != f"sha256:{hashlib.sha256(content).hexdigest()}":
                        raise OSError(f"it gives something else as {reference}")
                    write(path, (answer.headers["Content-Type"] or "").encode() + b"\n" + content)
            except (OSError, HTTPException) as error:
                if not path.exists() or isinstance(error, urllib.error.HTTPError) and error.code < 500:
                    raise
        kind, _, content = path.read_bytes().partition(b"\n")
        return content, kind.decode()

    def blob(self, repository: str, digest: str) -> Download | Path:
        """Return the file of a layer, or the download of it, which is started if nobody has."""
        path = self._folder / digest.replace(":", "-")
        with self._lock:
            download = self._downloads.get(digest)
            if download is not None and download.is_alive():
                return download
            if path.exists():  # asked in this order, for a download that ends in between has made it
                return path
            download = self._downloads[digest] = Download(self._upstream, repository, digest, path)
            download.start()
            return download


class Handler(BaseHTTPRequestHandler):
    """Answers a Docker engine."""

    protocol_version = "HTTP/1.1"
    mirror: Mirror

    def do_GET(self) -> None:
        """Answer a question."""
        if self.path in ("/v2/", "/v2"):
            return self._answer(200, b"{}", {"Content-Type": "application/json"})
        asked = QUESTION.fullmatch(self.path.partition("?")[0])
        if not asked or asked[2] == "blobs" and not DIGEST.fullmatch(asked[3]):
            return self._refuse(404, "this mirror has manifests and layers only")
        try:
            if asked[2] == "manifests":
                accept = ", ".join(self.headers.get_all("Accept", []))
                content, kind = self.mirror.manifest(asked[1], asked[3], accept)
                digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
                return self._answer(200, content, {"Content-Type": kind, "Docker-Content-Digest": digest})
            return self._blob(self.mirror.blob(asked[1], asked[3]), asked[3])
        except urllib.error.HTTPError as error:
            return self._refuse(error.code if error.code < 500 else 502, f"the registry says {error}")
        except (OSError, HTTPException, ValueError) as error:
            return self._refuse(502, f"the registry does not answer: {error}")

    do_HEAD = do_GET

    def _blob(self, source: Download | Path, digest: str) -> None:
        size = source.stat().st_size if isinstance(source, Path) else source.size()
        begin = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = min(int(begin[1]), size) if begin else 0
        headers = {"Content-Type": "application/octet-stream", "Docker-Content-Digest": digest}
        if start:
            headers["Content-Range"] = f"bytes {start}-{size - 1}/{size}"
        self._head(206 if start else 200, size - start, headers)
        if self.command == "HEAD":
            return
        try:
            for piece in _pieces(source, start) if isinstance(source, Path) else source.pieces(start):
                self.wfile.write(piece)
        except OSError:  # of the one side or the other: the engine notices that bytes are missing
            self.close_connection = True

    def _head(self, status: int, length: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Docker-Distribution-Api-Version": "registry/2.0", **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def _answer(self, status: int, content: bytes, headers: dict[str, str]) -> None:
        self._head(status, len(content), headers)
        if self.command == "GET":
            self.wfile.write(content)

    def _refuse(self, status: int, message: str) -> None:
        code = "NAME_UNKNOWN" if status == 404 else "UNAVAILABLE"
        content = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
        self._answer(status, content, {"Content-Type": "application/json"})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of what goes well."""


def _pieces(path: Path, start: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        yield from iter(lambda: file.read(PIECE), b"")


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    for piece in _pieces(path, 0):
        digest.update(piece)
    return f"sha256:{digest.hexdigest()}"


def write(path: Path, content: bytes) -> None:
    """Write a file that is never seen half."""
    temporary = path.with_suffix(f".{threading.get_ident()}")
    temporary.write_bytes(content)
    temporary.rename(path)


def main(address: str, port: str, upstream: str, folder: str, process: str) -> None:
    """Serve until the process has ended."""
    Handler.mirror = Mirror(Upstream(upstream), Path(folder))
    ThreadingHTTPServer.address_family = socket.AF_INET6 if ":" in address else socket.AF_INET
    try:
        server = ThreadingHTTPServer((address, int(port)), Handler)
    except OSError as error:
        sys.exit(f"{error.strerror or error}: {address} port {port}")
    with server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        print("ready", flush=True)
        with contextlib.suppress(ProcessLookupError):
            while True:
                os.kill(int(process), 0)
                time.sleep(1)
        server.shutdown()


if __name__ == "__main__":
    main(*sys.argv[1:])
