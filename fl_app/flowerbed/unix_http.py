"""HTTP to a Unix socket, for the trainer's and the server's."""

import http.client
import socket


class UnixConnection(http.client.HTTPConnection):
    """A connection to the Unix socket `path`."""

    def __init__(self, path: str) -> None:
        super().__init__("flowerbed")
        self._path = path

    def connect(self) -> None:
        """Connect to the socket."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)
