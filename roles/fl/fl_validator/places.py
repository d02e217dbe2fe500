"""Folders, paths and ports: what can stand in a path, and what hosts on one machine must not share."""

import os
from collections.abc import Iterator

from .fleet import Fleet, Host, Problem

# Paths on a host, which programs there get as they are. (In those on the server, ~ is its user's home.)
ON_HOST = ("fl_root", "fl_home", "fl_python", "supervisor_bin", "trainer_slots", "dataset_device_path")
# What they cannot have in them, nor fl_runs: PYTHONPATH and Docker's volumes end at a colon, Ansible fills in a $,
# supervisor looks for files by * ? and [, env takes = for a variable, and Flower's own settings are quoted.
UNFIT = ':$*?[="\\'
JINJA = ("{{", "{%", "{#")

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


def forbidden(path: str, unfit: str = UNFIT) -> str | None:
    """Return what `path` has in it that no path can have, or None."""
    characters = (character for character in path if character in unfit or not character.isprintable())
    return next(characters, None) or next((mark for mark in JINJA if mark in path), None)


def paths(fleet: Fleet) -> Iterator[Problem]:
    """No path has a character that something would misread on its way, and none needs a shell to be worked out."""
    if mark := forbidden(str(fleet.checkout)):
        text = f"this checkout, {str(fleet.checkout)!r}, has {mark!r} in its path, which Flowerbed cannot use: move it"
        yield Problem(None, None, text)
        return  # most paths begin with it
    for host in fleet.hosts:
        wrong = {}
        if "/" in host.name:
            yield Problem(host.name, None, f"has a / in its name in {fleet.inventory}, and its folder is called so")
        for name, value in host.values.items():
            if fleet.options.get(name, {}).get("type") == "path" and (text := _unfit(host, name, str(value))):
                wrong[name] = text
        if "fl_root" in wrong and "fl_home" not in host.given:
            wrong.pop("fl_home", None)  # it begins with the other
        for name, text in wrong.items():
            yield Problem(host.name, name, text)


def _unfit(host: Host, name: str, path: str) -> str | None:
    if mark := forbidden(path, UNFIT if name in (*ON_HOST, "fl_runs") else ""):
        return f"is {path!r}, but a path cannot have {mark!r} in it: choose another"
    if path.startswith("~") and name in ON_HOST:
        whole = path.replace("~", "/home/pi", 1) if host.remote else os.path.expanduser(path)
        return f"is {path}, but must be written out, such as {whole}"
    return None


def homes(fleet: Fleet) -> Iterator[Problem]:
    """Each host has its own folder, whose path is absolute and short enough for a Unix socket in it."""
    yield from _shared([(host, "fl_home") for host in fleet.hosts], "its own folder")
    longer = {}
    for host in fleet.hosts:
        home = str(host.values.get("fl_home", "/"))
        if not home.startswith(("/", "~")):
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
