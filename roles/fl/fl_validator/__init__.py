"""Check a whole inventory before anything else happens: every problem at once, each one a sentence."""

import sys
from pathlib import Path

# Checks import what they need of it when they are made: those of the controller come first.
sys.path.insert(0, str(Path(__file__).parents[3] / "fl_app"))
from . import addresses, chosen, deployed, groups, names, places, run, runtime, values, waiting
from .fleet import Fleet
from .report import sentences

CHECKS = (
    groups.no_devices, groups.one_server, groups.not_two_groups,
    names.unknown, names.undefined,
    values.types_and_limits, values.weights, values.strategy_arguments, values.privacy, values.metric,
    values.same_everywhere,
    addresses.server_in_reach, addresses.server_listens, addresses.examples, addresses.boards,
    runtime.docker, runtime.python, runtime.environment, runtime.superlink, places.paths, places.homes, places.ports,
    chosen.devices, waiting.enough, waiting.averaged,
    run.task, run.min_clients, run.experiment, run.rounds,
)  # fmt: skip


def validate(fleet: Fleet, as_deployed: bool = False) -> list[str]:
    """Return all that is wrong with `fleet`, a sentence each; an empty list if nothing is.

    With `as_deployed`, a good fleet must be the deployed one, in all that only a deployment can change.
    """
    problems = [problem for check in CHECKS for problem in check(fleet)]
    if as_deployed and not problems:
        problems = list(deployed.changed(fleet))
    return sentences(problems, fleet)
