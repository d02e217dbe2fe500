"""Whether this version of Flowerbed can run on a host, and on which Python."""

import sys
from collections.abc import Iterator

from .fleet import Fleet, Problem


def docker(fleet: Fleet) -> Iterator[Problem]:
    """No host waits for a runtime that this version does not have."""
    for host in fleet.hosts:
        if host.values.get("fl_runtime") == "docker":
            text = (
                "is docker, which comes with Flowerbed's next version: today, boards with Python 3.10 or newer work "
                "over SSH, with fl_runtime: process and their own fl_python"
            )
            yield Problem(host.name, "fl_runtime", text)


def python(fleet: Fleet) -> Iterator[Problem]:
    """A device on another machine has a Python of its own: the default is this machine's."""
    for host in fleet.devices:
        if host.remote and host.values.get("fl_runtime") == "process" and "fl_python" not in host.given:
            text = "is this machine's: give the board's, 3.10 or newer, with the packages of requirements.txt"
            yield Problem(host.name, "fl_python", text)


def superlink(fleet: Fleet) -> Iterator[Problem]:
    """Flower's last version for Python 3.10 has another deployment engine than the one that fl_link means."""
    for host in fleet.servers:
        if host.values.get("fl_link") == "superlink" and sys.version_info < (3, 11):
            text = "is superlink, which needs Python 3.11 or 3.12: make .venv with one of these, or take stream"
            yield Problem(host.name, "fl_link", text)
