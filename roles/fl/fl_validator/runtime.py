"""Whether this version of Flowerbed can run on a host, and on which Python."""

from collections.abc import Iterator

from .fleet import Fleet, Problem


def docker(fleet: Fleet) -> Iterator[Problem]:
    """No host waits for a runtime that this version does not have."""
    for host in fleet.hosts:
        if host.values.get("fl_runtime") == "docker":
            text = (
                "is docker, which comes with Flowerbed's next version: today, boards with Python 3.11 or newer work "
                "over SSH, with fl_runtime: process and their own fl_python"
            )
            yield Problem(host.name, "fl_runtime", text)


def python(fleet: Fleet) -> Iterator[Problem]:
    """A device on another machine has a Python of its own: the default is this machine's."""
    for host in fleet.devices:
        if host.remote and host.values.get("fl_runtime") == "process" and "fl_python" not in host.given:
            text = "is this machine's: give the board's, 3.11 or newer, with the packages of requirements.txt"
            yield Problem(host.name, "fl_python", text)
