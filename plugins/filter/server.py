"""Which hosts have something of Flowerbed's, and what is still to be done there, in the server's hosts.json."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

STOP = "stop"
RESET = "reset"

# By what a device is reached, and what is where on it
REACHED = (
    "ansible_connection", "ansible_host", "ansible_port", "ansible_user", "ansible_python_interpreter",
    "ansible_private_key_file", "ansible_ssh_private_key_file", "ansible_ssh_common_args", "ansible_ssh_extra_args",
    "ansible_become_method", "ansible_become_user", "client_container", "trainer_container", "supervisor_bin",
)  # fmt: skip
PLACED = ("fl_root", "fl_home", "fl_runtime", "fl_python", "fl_server_host", "fl_server_port")


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


def addresses(
    hosts: Collection[str], variables: Mapping[str, Mapping[str, Any]], fleet: Mapping[str, Mapping[str, Any]]
) -> dict[str, dict[str, Any]]:
    """Return by what variables each of `hosts` is reached and stopped, of its own and of the fleet's; no passwords."""
    return {
        host: {
            **{name: fleet[host][name] for name in PLACED if name in fleet[host]},
            **{
                name: variables[host][name]
                for name in REACHED
                if name in variables[host] and "pass" not in str(variables[host][name]).lower()
            },
        }
        for host in hosts
    }


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "server_deployed": deployed,
            "server_stopped": stopped,
            "server_reset": reset,
            "server_addresses": addresses,
        }
