"""Say whether an address can be listened on and, if not, who holds it."""

import errno
import os
import socket
from pathlib import Path

_LISTEN = "0A"


def problem(address: str, variable: str = "fl_server_port") -> str | None:
    """Return why `address` (host:port) can't be listened on, as a sentence's end, or None if it can.

    `variable` is where its port was chosen.
    """
    host, _, port = address.rpartition(":")
    try:
        with socket.create_server(
            (host.strip("[]"), int(port)), family=socket.AF_INET6 if "[" in host else socket.AF_INET
        ):
            return None
    except OSError as error:
        if (error.errno or 0) < 0:  # a gaierror's, which create_server makes an OSError of
            return f"{host} is not a name this machine knows; set fl_listen to one of its addresses, or to 0.0.0.0"
        if error.errno == errno.EADDRINUSE:
            return f"port {port} is in use by {holder(int(port))}; stop it, or choose another {variable}"
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine; set fl_listen to one that is, or to 0.0.0.0"
        return f"{os.strerror(error.errno or 0)}; choose another {variable} or fl_listen"
    except (ValueError, OverflowError):
        return "that is not host:port"


def holder(port: int) -> str:
    """Return the process that listens on TCP `port`, as far as this user may know. See proc(5)."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:] if Path(table).exists() else []:
            fields = line.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if any(os.readlink(link) in inodes for link in (process / "fd").iterdir()):
                command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
                return f"process {process.name} ({command[:80]})"
        except OSError:
            continue  # another user's, or gone by now
    return "a process of another user"


if __name__ == "__main__":
    import sys

    wrong = problem(*sys.argv[1:])
    sys.exit(f"it is not possible to listen on {sys.argv[1]}: {wrong}" if wrong else 0)
