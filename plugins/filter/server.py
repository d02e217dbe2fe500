"""Which hosts have something of Flowerbed's, and what is still to be done there, in the server's hosts.json."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

STOP = "stop"
RESET = "reset"


def deployed(hosts: dict[str, str], tried: Collection[str], done: Collection[str]) -> dict[str, str]:
    """Return `hosts` after a deployment that `tried` some of them: with those that are `done`, nothing is left to do.

    One that failed may run all the same, so it stays known. It is meant to run now: no stop is owed to it.
    """
    return hosts | {host: RESET if hosts.get(host) == RESET and host not in done else "" for host in tried}


def stopped(hosts: dict[str, str], asked: Collection[str], done: Collection[str]) -> dict[str, str]:
    """Return `hosts` after those that were `asked` for were to be stopped. One that is to be reset still is."""
    now = {host: "" if host in done else STOP for host in asked if host in hosts and hosts[host] != RESET}
    return hosts | now


def reset(hosts: dict[str, str], asked: Collection[str], done: Collection[str]) -> dict[str, str]:
    """Return `hosts` after those that were `asked` for were to be reset."""
    return {host: RESET if host in asked else left for host, left in hosts.items() if host not in done}


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"server_deployed": deployed, "server_stopped": stopped, "server_reset": reset}
