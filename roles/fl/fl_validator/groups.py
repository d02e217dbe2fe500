"""Which hosts there are: devices, none in two groups, and one server."""

from collections.abc import Iterator

from .fleet import Fleet, Problem
from .report import listed


def no_devices(fleet: Fleet) -> Iterator[Problem]:
    """There is at least one device."""
    if not fleet.devices:
        text = f"{fleet.inventory} has no devices: put hosts into the group devices, or into one below it such as rpi"
        if fleet.passed_over:
            files = listed(fleet.passed_over)
            text += f". Ansible passes over {files} because of its suffix: a file of hosts can be called just hosts"
        yield Problem(None, None, text)


def one_server(fleet: Fleet) -> Iterator[Problem]:
    """There is one server, and it is no device."""
    if not fleet.servers:
        text = f"{fleet.inventory} has no host named server: add it, with ansible_connection: local"
        yield Problem(None, None, text)
    elif len(fleet.servers) > 1:
        which = listed([host.name for host in fleet.servers])
        yield Problem(None, None, f"{fleet.inventory} has {len(fleet.servers)} servers ({which}): keep one")
    for server in fleet.servers:
        if server.name in {device.name for device in fleet.devices}:
            yield Problem(server.name, None, f"is the server and a device in {fleet.inventory}: choose one")


def not_two_groups(fleet: Fleet) -> Iterator[Problem]:
    """No device is in two of the groups below devices that have no groups below themselves: which one would count?"""
    for device in fleet.devices:
        mine = sorted(device.groups & fleet.leaf_groups)
        if len(mine) > 1:
            yield Problem(device.name, None, f"is in the groups {listed(mine)} of {fleet.inventory}: keep one")
