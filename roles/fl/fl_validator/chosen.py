"""Which devices take part in a run: -e devices=…, else fl_devices."""

from collections.abc import Iterator
from typing import Any

from .fleet import Fleet, Problem
from .names import nearest
from .values import number


def devices(fleet: Fleet) -> Iterator[Problem]:
    """What chooses the devices of a run names some."""
    for server in fleet.servers[:1] if fleet.devices else ():
        given = "devices" in fleet.extra
        for text in _chosen(fleet)[2]:
            yield Problem(None if given else server.name, "devices" if given else "fl_devices", text)


def chosen(fleet: Fleet) -> dict[str, Any]:
    """Return of a fleet without problems the names of the devices of a run, and the fraction that trains in a round."""
    names, fraction, _ = _chosen(fleet)
    return {"names": names, "fraction": fraction}


def _chosen(fleet: Fleet) -> tuple[list[str], float, list[str]]:
    """Return names, fraction, and what is wrong, the ends of sentences."""
    value = fleet.extra.get("devices", fleet.servers[0].values.get("fl_devices", "devices"))
    items = value if isinstance(value, list) else value.split(",") if isinstance(value, str) else [value]
    groups = {name: [host.name for host in fleet.devices if name in host.groups] for name in _groups(fleet)}
    groups |= {host.name: [host.name] for host in fleet.devices}
    names: set[str] = set()
    fractions, wrong = [], []
    for item in items:
        text = item.strip() if isinstance(item, str) else str(item)
        if text in groups:
            names.update(groups[text])
        elif (share := number(item)) is not None:
            fractions.append(share)
        else:
            near = nearest(text, groups)
            hint = f"did you mean {near}?" if near else f"the groups are {', '.join(sorted(_groups(fleet)))}"
            wrong.append(f"has {text!r}, which is no device of the inventory and no group of them: {hint}")
    if len(fractions) > 1 or not all(0 < share <= 1 for share in fractions):
        wrong.append(f"is {value!r}, but a fraction of the devices is one number above 0, and at most 1")
    if not items:
        wrong.append("names no device: name some, or a group, or write a fraction such as 0.5")
    ordered = [host.name for host in fleet.devices if host.name in names or not names]
    return ordered, fractions[0] if fractions else 1.0, wrong


def _groups(fleet: Fleet) -> set[str]:
    return {group for host in fleet.devices for group in host.groups}
