"""Which hosts there are: devices, each in one group, and one server."""

from collections.abc import Iterator

from .fleet import Fleet, Problem
from .report import listed


def no_devices(fleet: Fleet) -> Iterator[Problem]:
    """There is at least one device."""
    if not fleet.devices:
        text = f"{fleet.inventory} has no devices: put hosts into a group below devices, such as rpi"
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


def one_group_each(fleet: Fleet) -> Iterator[Problem]:
    """Each device is in exactly one of the groups below devices that have no groups below themselves."""
    for device in fleet.devices:
        mine = sorted(device.groups & fleet.leaf_groups)
        if len(mine) > 1:
            yield Problem(device.name, None, f"is in the groups {listed(mine)} of {fleet.inventory}: keep one")
        elif not mine:
            choice = listed(sorted(fleet.leaf_groups), "or") or "a group below devices"
            yield Problem(device.name, None, f"is in no device group of {fleet.inventory}: add it to {choice}")
