"""How long a round waits for devices, and what becomes of those that it does not wait for."""

from collections.abc import Iterator

from .fleet import Fleet, Problem
from .values import number


def enough(fleet: Fleet) -> Iterator[Problem]:
    """The answers that are enough, and the grace time for the rest, are what a run takes for such."""
    from flowerbed.rounds import patience

    for server in fleet.servers:
        for name, check in (("fl_enough", patience.enough), ("fl_grace", patience.grace)):
            if name not in server.values:
                continue
            try:
                found = check(server.values[name])
            except ValueError as error:
                yield Problem(server.name, name, str(error))
                continue
            if name == "fl_enough" and isinstance(found, int) and found > len(fleet.devices) > 0:
                text = f"is {found}, but the inventory has {len(fleet.devices)} devices: lower it, or write all"
                yield Problem(server.name, name, text)


def averaged(fleet: Fleet) -> Iterator[Problem]:
    """What needs a strategy that averages by p_m has one: late answers that are carried, and fitted steps."""
    for server in fleet.servers:
        strategy = server.values.get("fl_strategy", "FedAvg")
        carry, target = server.values.get("fl_late") == "carry", number(server.values.get("fl_target_seconds"))
        known = strategy in fleet.options["fl_strategy"]["choices"]
        if not (carry or target) or strategy == "FedAvg" or not known:
            continue
        try:
            from flowerbed.rounds.strategy import averages, averaging  # which takes a second
        except ImportError:  # Flower is the server's, which says itself what it lacks
            continue
        if averages(strategy):
            continue
        takes = f"but fl_strategy is {strategy}, which takes no mean by p_m"
        way_out = f"or set fl_strategy to one of {averaging()}"
        if carry:
            text = f"is carry, {takes}, so a late answer could not count less: write drop, {way_out}"
            yield Problem(server.name, "fl_late", text)
        if target:
            text = f"is {target:g}, {takes}, so updates of different numbers of steps could not be weighed: write 0, "
            yield Problem(server.name, "fl_target_seconds", text + way_out)
