"""Folders and ports: hosts that share a machine must not share them."""

import os
from collections.abc import Iterator

from .fleet import Fleet, Host, Problem

LONGEST_SOCKET = "/supervisord.sock.4194304"  # supervisor's first name for it, with its process id (see proc(5))
SOCKET_BYTES = 107


def _shared(hosts: list[tuple[Host, str]], need: str) -> Iterator[Problem]:
    """Yield a problem for each (host, variable) whose value another one on its machine has already."""
    first: dict[tuple[object, str], str] = {}
    for host, name in hosts:
        value = host.values.get(name)
        if value is not None and first.setdefault((host.machine, str(value)), host.name) != host.name:
            other = first[host.machine, str(value)]
            yield Problem(host.name, name, f"is {value}, as for {other}: each needs {need}")


def homes(fleet: Fleet) -> Iterator[Problem]:
    """Each host has its own folder, whose path is absolute and short enough for a Unix socket in it."""
    yield from _shared([(host, "fl_home") for host in fleet.hosts], "its own folder")
    longer = {}
    for host in fleet.hosts:
        home = str(host.values.get("fl_home", "/"))
        if not home.startswith("/"):
            yield Problem(host.name, "fl_home", f"is {home}, but must be an absolute path")
        elif (excess := len(os.fsencode(home)) + len(LONGEST_SOCKET) - SOCKET_BYTES) > 0:
            longer[host.name] = excess
    for name in longer:
        text = f"is {max(longer.values())} bytes too long for Unix sockets: set an fl_root that is so much shorter"
        yield Problem(name, "fl_home", text)


def ports(fleet: Fleet) -> Iterator[Problem]:
    """On the superlink link, the server and each device of a machine have a port of their own."""
    if any(host.values.get("fl_link") == "superlink" for host in fleet.hosts):
        ours = [(server, "fl_server_port") for server in fleet.servers]
        yield from _shared([*ours, *((device, "fl_node_port") for device in fleet.devices)], "its own port")
