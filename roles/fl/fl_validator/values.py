"""Values of variables: their types, choices and limits, weights, and what must be the same everywhere."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from .fleet import Fleet, Problem
from .names import nearest
from .report import listed

SAME_EVERYWHERE = ("fl_link", "fl_task", "fl_privacy")

Limit = tuple[Callable[[float], bool], str]
AT_LEAST_0: Limit = (lambda number: number >= 0, " of at least 0")
AT_LEAST_1: Limit = (lambda number: number >= 1, " of at least 1")
ABOVE_0: Limit = (lambda number: number > 0, " above 0")
PORT: Limit = (lambda number: 1 <= number <= 65535, " from 1 to 65535")
LIMITS: dict[str, Limit] = {
    "fl_batch_size": AT_LEAST_1,
    "fl_local_epochs": AT_LEAST_1,
    "fl_learning_rate": ABOVE_0,
    "fl_threads": AT_LEAST_0,
    "fl_seed": (lambda number: 0 <= number < 2**32, " from 0 to 4294967295"),
    "fl_round_timeout": ABOVE_0,
    "fl_round_retries": AT_LEAST_0,
    "fl_target_seconds": AT_LEAST_0,
    "fl_min_clients": AT_LEAST_1,
    "fl_wait_clients": AT_LEAST_0,
    "fl_keep_checkpoints": AT_LEAST_1,
    "fl_examples_cap": (lambda number: number > 1, " above 1"),
    "fl_server_port": PORT,
    "fl_node_port": PORT,
    "identity_days": AT_LEAST_1,
    "identity_authority_days": AT_LEAST_1,
    "raspberry_pi_swap": AT_LEAST_0,
    "jetson_swap": AT_LEAST_0,
}
KINDS = {"int": "a whole number", "float": "a number", "bool": "true or false", "dict": "a mapping",
         "list": "a list", "str": "text", "path": "a path"}  # fmt: skip
EXPONENT = re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+")
MAPPINGS = ("fl_config", "fl_strategy_args", "fl_privacy")  # of values whose types nobody says
MAY_BE_EMPTY = ("fl_initial",)
TRUE = ("yes", "true", "on", "1")
BOOLEANS = (*TRUE, "no", "false", "off", "0")


def whole(value: Any) -> int | None:
    """Return `value` as a whole number, from a number or from text as -e gives it; None if it is not one."""
    result = number(value)
    return int(result) if result is not None and result.is_integer() and "." not in str(value) else None


def number(value: Any) -> float | None:
    """Return `value` as a finite number, from a number or from text as -e gives it; None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        result = float(value)
    except ValueError:
        return None
    return result if math.isfinite(result) else None


def _is(kind: str, value: Any) -> bool:
    if kind == "int":
        return whole(value) is not None
    if kind == "float":
        return number(value) is not None
    if kind == "bool":
        return str(value).lower() in BOOLEANS
    if kind in ("str", "path"):
        return isinstance(value, (str, int, float)) and bool(str(value).strip())
    return isinstance(value, {"dict": dict, "list": (list, str)}.get(kind, object))


def wrong(name: str, value: Any, option: Mapping[str, Any]) -> str | None:
    """Return what is wrong with a variable's value, a sentence's end, or None. `option` is its argument spec."""
    if (value == "" and name in MAY_BE_EMPTY) or (value in (None, "") and not name.startswith("fl_")):
        return None  # a role's way to say that it is not set
    kind = option.get("type", "str")
    holds, limit = LIMITS.get(name, (lambda number: True, ""))
    if not _is(kind, value) or (kind in ("int", "float") and not holds(number(value))):
        return f"is {value!r}, but must be {KINDS[kind]}{limit}"
    choices = option.get("choices", ())
    if choices and str(value) not in map(str, choices):
        near = nearest(str(value), map(str, choices)) if len(choices) > 5 else None
        allowed = f"did you mean {near}?" if near else f"choose {listed(choices, 'or', len(choices))}"
        return f"is {value!r}, which is not one of its choices: {allowed}"
    return None


def typed(value: Any, option: Mapping[str, Any] | None) -> Any:
    """Return a valid value as what its argument spec says it is: -e and templates give numbers as text."""
    converters = {"int": whole, "float": number, "str": str, "path": str, "raw": number, "list": _listed,
                  "bool": lambda value: str(value).lower() in TRUE}  # fmt: skip
    convert = converters.get(option.get("type", "str")) if option else None
    converted = convert(value) if convert else None
    return value if converted is None else converted


def _listed(value: Any) -> list[Any] | None:
    """Return a text with commas, as -e gives it, as a list; None if it is no text."""
    return [item.strip() for item in value.split(",") if item.strip()] if isinstance(value, str) else None


def numbers(value: Any) -> Any:
    """Return a value in which text like 1e-2 is the number that its user meant: YAML wants 1.0e-2 for that."""
    if isinstance(value, dict):
        return {key: numbers(item) for key, item in value.items()}
    if isinstance(value, list):
        return [numbers(item) for item in value]
    found = float(value) if isinstance(value, str) and EXPONENT.fullmatch(value) else math.inf
    return found if math.isfinite(found) else value


def typed_values(fleet: Fleet) -> dict[str, dict[str, Any]]:
    """Return every host's variables by name, of a fleet without problems, each with its proper type."""
    return {
        host.name: {
            name: numbers(value) if name in MAPPINGS else typed(value, fleet.options.get(name))
            for name, value in host.values.items()
        }
        for host in fleet.hosts
    }


def types_and_limits(fleet: Fleet) -> Iterator[Problem]:
    """Every variable of a role has the type, the choice and the size that it must have."""
    for host in fleet.hosts:
        for name, value in host.values.items():
            if name in fleet.options and (text := wrong(name, value, fleet.options[name])):
                yield Problem(host.name, name, text)


def weights(fleet: Fleet) -> Iterator[Problem]:
    """The devices' weights make sense together: Flowerbed's own rules say so."""
    from flowerbed.rounds.weights import problems

    given = {host.name: host.values["fl_weight"] for host in fleet.devices if "fl_weight" in host.values}
    for host, text in problems(given):
        yield Problem(host or next(iter(given)), "fl_weight", text)


def strategy_arguments(fleet: Fleet) -> Iterator[Problem]:
    """The strategy takes its arguments: Flower's signatures and Flowerbed's own rules say so."""
    for server in fleet.servers:
        name, given = server.values.get("fl_strategy"), server.values.get("fl_strategy_args", {})
        if name not in fleet.options["fl_strategy"]["choices"] or not isinstance(given, dict):
            continue
        if name == "FedAvg" and not given:
            continue
        try:
            from flowerbed.rounds.strategy import fitting  # which takes a second
        except ImportError:  # Flower is the server's, which says itself what it lacks
            continue
        for text in fitting(name, given, len(fleet.devices))[1]:
            yield Problem(server.name, "fl_strategy_args", f"does not fit {name}: {text}")


def privacy(fleet: Fleet) -> Iterator[Problem]:
    """What clips and blurs updates makes sense, and fits the strategy: Flowerbed's own rules say so."""
    for host in fleet.hosts:
        given = host.values.get("fl_privacy")
        if not given or not isinstance(given, dict):
            continue
        try:
            from flowerbed.privacy import parse
            from flowerbed.rounds.private import unfit
        except ImportError:  # NumPy is the server's, which says itself what it lacks
            return
        try:
            private = parse(given)
            text = unfit(private["where"], host.values.get("fl_strategy", "FedAvg")) if host in fleet.servers else None
        except ValueError as error:
            text = str(error)
        if text:
            yield Problem(host.name, "fl_privacy", text)


def metric(fleet: Fleet) -> Iterator[Problem]:
    """It is known whether more or less of the metric is better that chooses the best model."""
    from flowerbed.metrics import LOSS, is_share

    for server in fleet.servers:
        name = str(server.values.get("fl_metric", "auto"))
        known = name in ("auto", LOSS) or is_share(name)
        if not known and server.values.get("fl_metric_better", "auto") == "auto":
            yield Problem(server.name, "fl_metric_better", f"is auto, but fl_metric is {name}: say higher or lower")


def same_everywhere(fleet: Fleet) -> Iterator[Problem]:
    """What all hosts must agree on is the same for the devices as for the server."""
    for name in SAME_EVERYWHERE:
        for server in fleet.servers[:1]:
            expected = server.values.get(name)
            for device in fleet.devices:
                value = device.values.get(name, expected)
                if value != expected:
                    text = f"is {value!r}, but {expected!r} for {server.name}: it must be the same everywhere"
                    yield Problem(device.name, name, text)
