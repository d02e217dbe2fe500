"""Variables that no role knows, and templates that lack a variable."""

from collections.abc import Iterable, Iterator
from difflib import get_close_matches

from .fleet import Fleet, Problem

# Of the command line, without a role's prefix
PLAYBOOK_VARIABLES = ("rounds", "experiment", "devices", "confirm", "force", "trust")


def nearest(name: str, known: Iterable[str], cutoff: float = 0.7) -> str | None:
    """Return the known name that is most like `name`, or None."""
    return next(iter(get_close_matches(name, known, n=1, cutoff=cutoff)), None)


def unknown(fleet: Fleet) -> Iterator[Problem]:
    """Every variable with a role's prefix is one of the role's, and no -e name is nearly a playbook's."""
    for host in fleet.hosts:
        for name in sorted(host.given - set(fleet.options)):
            if name.startswith(fleet.prefixes):
                yield Problem(host.name, name, _unknown(nearest(name, fleet.options)))
    for name in fleet.extra:
        if name.startswith(fleet.prefixes) and name not in fleet.options:
            yield Problem(None, name, _unknown(nearest(name, fleet.options)))
        elif name not in PLAYBOOK_VARIABLES and (near := nearest(name, PLAYBOOK_VARIABLES, cutoff=0.8)):
            yield Problem(None, name, _unknown(near))


def _unknown(near: str | None) -> str:
    return "is no variable of Flowerbed" + (f"; did you mean {near}?" if near else ": take it out")


def undefined(fleet: Fleet) -> Iterator[Problem]:
    """Every variable's template can be filled in."""
    for host in fleet.hosts:
        for name, lacks in host.undefined.items():
            yield Problem(host.name, name, f"cannot be worked out: {lacks}")
