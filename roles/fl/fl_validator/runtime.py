"""Whether Flowerbed can run on a host the way that is asked for."""

import re
import sys
from collections.abc import Iterator

from .fleet import Fleet, Problem

VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def docker(fleet: Fleet) -> Iterator[Problem]:
    """Docker is for devices, each with a folder of its own on the device: the default one is this checkout's."""
    for server in fleet.servers:
        if server.values.get("fl_runtime") == "docker":
            yield Problem(server.name, "fl_runtime", "is docker, which is for devices: set it for the group devices")
    for device in fleet.devices:
        if device.values.get("fl_runtime") == "docker" and not {"fl_root", "fl_home"} & device.given:
            text = "is a folder of this machine: give one on the board, such as /opt/flowerbed"
            yield Problem(device.name, "fl_root", text)


def python(fleet: Fleet) -> Iterator[Problem]:
    """A device on another machine has a Python of its own: the default is this machine's."""
    for host in fleet.devices:
        if host.remote and host.values.get("fl_runtime") == "process" and "fl_python" not in host.given:
            text = "is this machine's: give the board's, 3.10 or newer, with the packages of requirements-device.txt"
            yield Problem(host.name, "fl_python", text)


def environment(fleet: Fleet) -> Iterator[Problem]:
    """What a trainer gets in its environment is a name and one line each, and none of what Flowerbed sets there."""
    for host in fleet.hosts:
        given = host.values.get("trainer_environment")
        for name, value in given.items() if isinstance(given, dict) else ():
            line = not isinstance(value, (dict, list)) and str(value).isprintable()
            if not isinstance(name, str) or not VARIABLE.fullmatch(name) or not line:
                text = f"has {name!r}: {value!r}, but must have names of variables, and for each a line of text"
                yield Problem(host.name, "trainer_environment", text)
            elif name == "PYTHONPATH":
                text = "has PYTHONPATH, which Flowerbed sets: install the package for the trainer's Python, or add its "
                yield Problem(host.name, "trainer_environment", text + "folder to sys.path in the task")
            elif name.startswith("FLOWERBED_"):
                text = f"has {name}, but names that begin with FLOWERBED_ are Flowerbed's own: take another"
                yield Problem(host.name, "trainer_environment", text)


def superlink(fleet: Fleet) -> Iterator[Problem]:
    """Flower's last version for Python 3.10 has another deployment engine than the one that fl_link means."""
    for host in fleet.servers:
        if host.values.get("fl_link") == "superlink" and sys.version_info < (3, 11):
            text = "is superlink, which needs Python 3.11 or 3.12: make .venv with one of these, or take stream"
            yield Problem(host.name, "fl_link", text)
