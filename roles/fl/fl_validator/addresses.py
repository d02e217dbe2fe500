"""Addresses: can devices reach the server, and do examples still stand where real addresses belong?"""

import ipaddress
import re
import socket
from collections.abc import Iterator

from .fleet import Fleet, Host, Problem

# RFC 5737, RFC 3849
EXAMPLES = [*map(ipaddress.ip_network, ("192.0.2.0/24", "198.51.100.0/24", "203.0.113.0/24", "2001:db8::/32"))]
NAME = re.compile(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9])?\.?")


def _parse(address: object) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(str(address))
    except ValueError:
        return None


def _only_here(address: object) -> bool:
    """Whether an address or name means the very machine that uses it."""
    parsed = _parse(address)
    if parsed is None:
        return str(address).rstrip(".").split(".")[-1] == "localhost"
    return parsed.is_loopback or parsed.is_unspecified


def _is_here(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    """Whether an address is one of this machine."""
    try:
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def listen(server_host: object) -> str:
    """Return where to listen for devices that reach the server at `server_host`: there, if this machine is that."""
    parsed = _parse(server_host)
    if parsed is None:
        return "127.0.0.1" if _only_here(server_host) else "0.0.0.0"
    return str(parsed) if _is_here(parsed) else "0.0.0.0" if parsed.version == 4 else "::"


def _example(address: object) -> bool:
    parsed = _parse(address)
    return parsed is not None and any(parsed in network for network in EXAMPLES)


def _malformed(address: object) -> str | None:
    """Return what is wrong with what should be an address or a name and nothing else."""
    right = _parse(address) is not None or NAME.fullmatch(str(address))
    return None if right or address == "" else f"is {address!r}, but must be an address or a name alone"


def server_in_reach(fleet: Fleet) -> Iterator[Problem]:
    """Each device has an address of the server that it can reach."""
    for device in fleet.devices:
        address = device.values.get("fl_server_host", "")
        if text := _malformed(address):
            yield Problem(device.name, "fl_server_host", text)
        elif device.remote and _only_here(address):
            text = f"is {address}, where another machine cannot reach the server: give its address in the network"
            yield Problem(device.name, "fl_server_host", text)


def server_listens(fleet: Fleet) -> Iterator[Problem]:
    """The server listens where devices on other machines can reach it."""
    remote = [device for device in fleet.devices if device.remote]
    for server in fleet.servers:
        address = server.values.get("fl_listen", "")
        if text := _malformed(address):
            yield Problem(server.name, "fl_listen", text)
        elif remote and _only_here(address) and not getattr(_parse(address), "is_unspecified", False):
            text = f"is {address}, where {remote[0].name} cannot reach the server: 0.0.0.0 listens everywhere"
            yield Problem(server.name, "fl_listen", text)
        else:
            yield from _beside(fleet, server)


def _beside(fleet: Fleet, server: Host) -> Iterator[Problem]:
    """Yield the devices that would reach this machine at another address than that at which the server listens."""
    here = _parse(server.values.get("fl_listen", ""))
    if here is None or here.is_unspecified or "fl_listen" in server.given:
        return
    for device in fleet.devices:
        address = _parse(device.values.get("fl_server_host", ""))
        if address not in (None, here) and _is_here(address):
            text = f"is {address}, but the server listens at {here} alone: set fl_listen: 0.0.0.0 for {server.name}"
            yield Problem(device.name, "fl_server_host", text)


def examples(fleet: Fleet) -> Iterator[Problem]:
    """No address is still one of those that exist nowhere."""
    for host in fleet.hosts:
        if _example(host.values.get("ansible_host")):
            yield Problem(host.name, "ansible_host", "is still an example: write the board's own address")
    for device in fleet.devices:
        if _example(device.values.get("fl_server_host")):
            text = "is still an example: write the server's address, as boards see it"
            yield Problem(device.name, "fl_server_host", text)


def boards(fleet: Fleet) -> Iterator[Problem]:
    """No two devices are the same board."""
    first: dict[tuple[str, str], str] = {}
    for device in fleet.devices:
        if device.remote and first.setdefault(device.machine, device.name) != device.name:
            text = f"is {device.machine[0]}, as for {first[device.machine]}: each device needs its own"
            yield Problem(device.name, "ansible_host", text)
