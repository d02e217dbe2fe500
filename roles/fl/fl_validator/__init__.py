"""Check a whole inventory before anything else happens: every problem at once, each one a sentence."""

from typing import Any

from . import addresses, groups, names, places, run, values
from .fleet import Fleet
from .report import sentences

CHECKS = (
    groups.no_devices, groups.one_server, groups.one_group_each,
    names.unknown, names.undefined,
    values.types_and_limits, values.weights, values.same_everywhere,
    addresses.server_in_reach, addresses.server_listens, addresses.examples, addresses.boards,
    places.homes, places.ports,
    run.task, run.min_clients, run.experiment, run.rounds,
)  # fmt: skip


def validate(fleet: Fleet) -> list[str]:
    """Return all that is wrong with `fleet`, a sentence each; an empty list if nothing is."""
    return sentences([problem for check in CHECKS for problem in check(fleet)], fleet)


def typed_values(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Return every host's variables by name, of a fleet without problems, each with its proper type."""
    return {
        host.name: {name: values.typed(value, fleet.options.get(name)) for name, value in host.values.items()}
        for host in fleet.hosts
    }
