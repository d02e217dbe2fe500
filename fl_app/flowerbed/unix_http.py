"""HTTP to a Unix socket, for the trainer's and the server's."""

import http.client
import socket

SECONDS = 10.0


class UnixConnection(http.client.HTTPConnection):
    """A connection to the Unix socket `path`. Each step takes at most `SECONDS`: a stopped process answers none."""

    def __init__(self, path: str) -> None:
        super().__init__("flowerbed", timeout=SECONDS)
        self._path = path

    def connect(self) -> None:
        """Connect to the socket. Raises OSError, at once if more wait already than its listener takes."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
