"""Flower's strategies, by name: what they are given, what they give back, and what they remember between rounds."""

import contextlib
import copy
import functools
import inspect
import itertools
import json
import math
import random
from collections.abc import Callable, Iterator, Mapping
from typing import Any, get_args

import flwr.serverapp.strategy as flower
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.strategy import (
    FedAdagrad,
    FedAdam,
    FedAvg,
    FedAvgM,
    FedMedian,
    FedTrimmedAvg,
    FedYogi,
    QFedAvg,
)

from . import sound
from .config import RunFailed
from .sound import State

WEIGHT, LOSS = "weight", "loss"
# Flower's are 0.1, with which an optimiser on the server moves a model ten times as far as its training did.
DEFAULTS: dict[str, dict[str, Any]] = {"FedAdam": {"eta": 0.01}, "FedAdagrad": {"eta": 0.01}}
# An optimiser on the server moves what is learnt; moved likewise, BatchNorm's variances would turn negative.
_SERVER_OPTIMISERS = (FedAdagrad, FedAdam, FedYogi, FedAvgM, QFedAvg)
# In these, what becomes of an element depends on no other: they take any part of a model by itself.
_BY_ELEMENT = (FedAvg.aggregate_train, FedMedian.aggregate_train, FedTrimmedAvg.aggregate_train)
_OF_THE_MEAN = (FedAdagrad, FedAdam, FedYogi, FedAvgM)  # which begin with FedAvg's, and use nothing else of updates
BLOCK = 1 << 18  # elements that are aggregated at a time
_ARRAYS = (np.ndarray, np.generic)  # reckoning makes a NumPy scalar of an array without axes
_OURS = ("weighted_by_key", "arrayrecord_key", "configrecord_key", "train_loss_key")
_ABOVE_0 = (lambda value: value > 0, " above 0")
_AT_LEAST_0 = (lambda value: value >= 0, " of at least 0")
_AT_LEAST_1 = (lambda value: value >= 1, " of at least 1")
_BELOW_1 = (lambda value: 0 <= value < 1, " from 0 to below 1")
_LIMITS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "fraction_train": (lambda value: 0 < value <= 1, " above 0, and at most 1"),
    "fraction_evaluate": (lambda value: 0 <= value <= 1, " from 0 to 1"),
    "min_train_nodes": _AT_LEAST_1, "min_evaluate_nodes": _AT_LEAST_1, "min_available_nodes": _AT_LEAST_1,
    "eta": _ABOVE_0, "eta_l": _ABOVE_0, "tau": _ABOVE_0, "beta_1": _BELOW_1, "beta_2": _BELOW_1,
    "server_learning_rate": _ABOVE_0, "client_learning_rate": _ABOVE_0, "server_momentum": _BELOW_1,
    "beta": (lambda value: 0 <= value < 0.5, " from 0 to below 0.5"),
    "proximal_mu": _AT_LEAST_0, "q": _AT_LEAST_0,
    "num_malicious_nodes": _AT_LEAST_0, "num_nodes_to_select": _AT_LEAST_1,
}  # fmt: skip
_UP_TO_DEVICES = ("min_train_nodes", "min_available_nodes", "num_nodes_to_select")
_UNFIT = ("FedXgbBagging", "FedXgbCyclic")  # trees, not tensors


def names() -> list[str]:
    """Return the names of the strategies that can be chosen."""
    return sorted(
        name for name, item in vars(flower).items()
        if inspect.isclass(item) and issubclass(item, FedAvg) and name not in _UNFIT
    )  # fmt: skip


def check(name: str, arguments: Mapping[str, Any], devices: int | None = None) -> dict[str, Any]:
    """Return a strategy's arguments as what it takes them for: a number may come as text.

    Raises RunFailed with all that is wrong with them, if need be for so many devices that train.
    """
    if name not in names():
        raise RunFailed(f"fl_strategy is {name}, which Flower does not have; it has {', '.join(names())}")
    given, problems = fitting(name, arguments, devices)
    if problems:
        raise RunFailed(f"fl_strategy_args do not fit {name}: {'; '.join(problems)}")
    return given


def fitting(name: str, arguments: Mapping[str, Any], devices: int | None) -> tuple[dict[str, Any], list[str]]:
    """Return the arguments of Flower's strategy `name`, and what is wrong with them, phrases.

    What Flower takes without a word, and then waits for ever, fails a round or makes NaN, is wrong, too.
    """
    known = _parameters(getattr(flower, name))
    given: dict[str, Any] = {}
    problems: list[str] = []
    for argument, value in arguments.items():
        if argument not in known:
            problems.append(f"{argument} is not one of its arguments, which are {', '.join(sorted(known))}")
            continue
        converted, wanted = _converted(value, known[argument])
        holds, limit = _LIMITS.get(argument, (lambda value: True, ""))
        if converted is None or not holds(converted):
            problems.append(f"{argument} is {repr(value)[:40]}, but must be {wanted}{limit}")
        else:
            given[argument] = converted
    parameters = inspect.signature(getattr(flower, name).__init__).parameters
    needed = [key for key in known if parameters[key].default is inspect.Parameter.empty]
    problems += [f"{key} is missing" for key in needed if key not in arguments]
    if not problems and devices is not None:
        problems += _for_devices(name, given, devices)
    return given, problems


def _for_devices(name: str, given: Mapping[str, Any], devices: int) -> Iterator[str]:
    for argument in _UP_TO_DEVICES:
        if given.get(argument, 0) > devices:
            yield f"{argument} is {given[argument]}, more than the devices that train ({devices})"
    liars = given.get("num_malicious_nodes", 0)
    if devices < (needed := least(name, given)) > 1:
        yield f"num_malicious_nodes is {liars}, for which it needs {needed} devices, but {devices} train"
    elif 2 * liars >= devices:
        yield f"num_malicious_nodes is {liars}, but must be fewer than half of the {devices} devices that train"


def averages(name: str) -> bool:
    """Return whether what a strategy uses of updates is their mean by p_m."""
    kind = getattr(flower, name)
    return kind.aggregate_train is FedAvg.aggregate_train or issubclass(kind, _OF_THE_MEAN)


def averaging() -> str:
    """Return the names of the strategies that average by p_m, in words."""
    return ", ".join(filter(averages, names()))


def least(name: str, given: Mapping[str, Any]) -> int:
    """Return of how many updates a strategy makes a model, at least."""
    return 4 * given.get("num_malicious_nodes", 0) + 3 if name == "Bulyan" else 1


def _converted(value: Any, kind: type) -> tuple[Any, str]:
    """Return a value as what an argument is (text is taken for the number that it spells), or None; and the kind."""
    if kind in (float, int):
        wanted = "a number" if kind is float else "a whole number"
        try:
            number = None if isinstance(value, bool) or not isinstance(value, int | float | str) else float(value)
        except (ValueError, OverflowError):
            return None, wanted
        if number is None or not math.isfinite(number) or (kind is int and not number.is_integer()):
            return None, wanted
        return kind(number), wanted
    return value if isinstance(value, kind) else None, {str: "text", bool: "true or false"}[kind]


class Aggregation:
    """A strategy of `flwr.serverapp.strategy` in use. `buffers` names the tensors of a model that are not learnt.

    With `noisy` updates, a variance that noise has made negative is taken without its sign.
    """

    def __init__(self, name: str, arguments: Mapping[str, Any], buffers: set[str], noisy: bool = False) -> None:
        given = check(name, arguments)
        kind = getattr(flower, name)
        ours = {"weighted_by_key": WEIGHT, "train_loss_key": LOSS}
        defaults = dict.fromkeys(("min_train_nodes", "min_evaluate_nodes", "min_available_nodes"), 1)
        defaults |= DEFAULTS.get(name, {})
        taken = inspect.signature(kind.__init__).parameters
        try:
            self.strategy = kind(**{key: value for key, value in {**defaults, **given, **ours}.items() if key in taken})
        except Exception as error:  # Flower has one of its own for some of them
            raise RunFailed(f"fl_strategy_args do not fit {name}: {error}") from None
        self.name = name
        self.strategy.min_train_nodes = max(self.strategy.min_train_nodes, least(name, given))
        self._arguments, self._noisy = dict(arguments), noisy
        self._buffers = buffers if isinstance(self.strategy, _SERVER_OPTIMISERS) else set()

    def choose(self, kind: str, round_number: int, state: State, nodes: list[int], seed: int) -> tuple[list[int], dict]:
        """Return which of `nodes` take part (in order), and what the strategy adds to their configuration."""
        strategy = self.strategy
        least = strategy.min_train_nodes if kind == "train" else strategy.min_evaluate_nodes
        least = max(strategy.min_available_nodes, least)
        if least > len(nodes):
            raise RunFailed(f"{self._called()} asks for at least {least} devices, but only {len(nodes)} can {kind}")
        random.seed(f"{seed}/{round_number}/{kind}")  # Flower samples with the module's own generator
        configure = strategy.configure_train if kind == "train" else strategy.configure_evaluate
        config = ConfigRecord()
        try:
            arrays = _record(self._learnt(_calm(state, _kept(state))))
            messages = list(configure(round_number, arrays, config, _Nodes(nodes)))
        except Exception as error:
            raise self._failed(f"choose the devices of round {round_number}", error) from None
        values = {key.replace("-", "_"): value for key, value in config.items() if key != "server-round"}
        return sorted(message.metadata.dst_node_id for message in messages), values

    def aggregate(
        self, round_number: int, before: State, updates: Mapping[str, tuple[State, dict[str, float]]]
    ) -> State:
        """Return the new global model from `updates`: each device's tensors, and its weight, loss and accuracy.

        Raises RunFailed if the strategy cannot make a model of them, or makes one that cannot be trained from.
        """
        strategy = _copy(self.strategy)
        after = self._made(round_number, before, updates)
        fault = self._fault(after, before)
        if not fault:
            return after
        single = []
        for device in updates if len(updates) > 1 else ():
            self.strategy = _copy(strategy)
            with contextlib.suppress(RunFailed):
                others = {name: update for name, update in updates.items() if name != device}
                if not self._fault(self._made(round_number, before, others), before):
                    single.append(f"{device} (loss {updates[device][1]['loss']:g})")
        cause = "no single update is the cause: change fl_strategy_args, or the local training"
        if 0 < len(single) < len(updates):
            cause = f"it would not be so without the update of {', '.join(single)}"
        raise RunFailed(
            f"{self._called()} made a model with {fault} in round {round_number}, which is not saved; {cause}. "
            f"Round {round_number - 1} is the last one finished"
        )

    def _made(self, round_number: int, before: State, updates: Mapping[str, tuple[State, dict[str, float]]]) -> State:
        """Return what the strategy makes of updates."""
        kept = _kept(before)
        given = [updates[device] for device in sorted(updates)]
        aggregate = functools.partial(self.strategy.aggregate_train, round_number)
        mean = functools.partial(FedAvg.aggregate_train, self.strategy, round_number)
        learnt = self._learnt(before)
        try:
            with np.errstate(all="ignore"):  # what comes of it is looked at
                if type(self.strategy).aggregate_train in _BY_ELEMENT:
                    after = _in_blocks(aggregate, learnt, kept, given)
                elif isinstance(self.strategy, _OF_THE_MEAN):
                    one = _in_blocks(mean, _calm(learnt, kept), kept, given)
                    after = _at_once(aggregate, learnt, [(one, dict.fromkeys(given[0][1], 1.0))])
                else:
                    after = _at_once(aggregate, learnt, [(_calm(self._learnt(a), kept), told) for a, told in given])
                after |= _in_blocks(mean, self._only_buffers(before), kept, given)
        except _NoModel:
            sentence = f"{self.name} made no model of the {len(updates)} updates of round {round_number}"
            raise RunFailed(sentence) from None
        except Exception as error:
            raise self._failed(f"aggregate round {round_number}", error) from None
        after = {name: after[name] for name in before}
        for name in kept:
            held = [places for state, _ in updates.values() if (places := sound.extreme(state[name])) is not None]
            after[name] = np.where(np.any(held, axis=0), before[name], after[name]) if held else after[name]
        return {
            name: np.abs(array) if self._noisy and sound.is_variance(name) else array for name, array in after.items()
        }

    def _fault(self, after: State, before: State) -> str:
        """Return what is wrong with a model that was made, or with what the strategy remembers of it."""
        fault = sound.faults(after, before, {name: array.dtype for name, array in after.items()})
        memory = ", ".join(sound.not_finite(self.remember()[0])[:3])
        return fault or (f"NaN or infinite values in its own {memory}" if memory else "")

    def _failed(self, what: str, error: Exception) -> RunFailed:
        """Flower checks few of a strategy's arguments: a bad one may raise anything, and only now."""
        return RunFailed(f"{self._called()} could not {what}: {type(error).__name__}: {error}")

    def _called(self) -> str:
        return self.name + (f" with fl_strategy_args {json.dumps(self._arguments)}" if self._arguments else "")

    def _learnt(self, state: State) -> State:
        """Return what Flower gets, in an order of our own: some strategies make lists of it, and go by places."""
        return {name: state[name] for name in sorted(state) if name not in self._buffers}

    def _only_buffers(self, state: State) -> State:
        return {name: array for name, array in state.items() if name in self._buffers}

    # -- What a strategy remembers from round to round -----------------------------------------------------------------

    def remember(self) -> tuple[State, str]:
        """Return the strategy's memory (momenta and the like) as tensors, and the rest as JSON."""
        tensors: State = {}
        rest: dict[str, Any] = {}
        for attribute, value in vars(self.strategy).items():
            if isinstance(value, ArrayRecord):
                value = {name: array.numpy() for name, array in value.items()}
                rest[attribute] = "record"
            elif isinstance(value, list) and value and all(isinstance(item, _ARRAYS) for item in value):
                value = {str(index): item for index, item in enumerate(value)}
                rest[attribute] = "list"
            elif isinstance(value, dict) and value and all(isinstance(item, _ARRAYS) for item in value.values()):
                rest[attribute] = "dict"
            else:
                continue
            tensors |= {f"{attribute}/{name}": np.asarray(array) for name, array in value.items()}
        return tensors, json.dumps({"strategy": self.name, "attributes": rest})

    def recall(self, tensors: State, rest: str, model: State) -> str | None:
        """Restore what `remember` returned; the memory of another strategy, with other units, is of no use.

        Memory of other tensors than those learnt of `model` is dropped as a whole: then returns a sentence about it.
        """
        memory = json.loads(rest)
        if memory.get("strategy") != self.name:
            return None
        learnt = self._learnt(model)
        restored: dict[str, Any] = {}
        for attribute, kind in memory["attributes"].items():
            parts = {
                name.partition("/")[2]: array for name, array in tensors.items() if name.split("/")[0] == attribute
            }
            value = {name: np.array(parts[name]) for name in sorted(parts)}
            wanted = {str(index): array for index, array in enumerate(learnt.values())} if kind == "list" else learnt
            if value and _shapes(value) != _shapes(wanted):  # QFedAvg leaves an empty record
                return (
                    f"what {self.name} remembers of the rounds before is of other tensors than are learnt now: it is "
                    f"dropped, and {self.name} begins without, as in a first round"
                )
            restored[attribute] = _record(value) if kind == "record" else value
            if kind == "list":
                restored[attribute] = [value[str(index)] for index in range(len(value))]
        vars(self.strategy).update(restored)
        return None


class View(Array):
    """A Flower Array over an ndarray that is there already, without serialising it."""

    def __init__(self, array: np.ndarray) -> None:
        super().__init__(dtype=str(array.dtype), shape=array.shape, stype="numpy.ndarray", data=b"")
        self.__dict__["_ndarray"] = array

    def numpy(self) -> np.ndarray:
        """Return a new ndarray, as Flower's own does: some strategies work in place."""
        return np.array(self.__dict__["_ndarray"])


class _Nodes:
    """All that a strategy asks of a grid when it chooses."""

    def __init__(self, nodes: list[int]) -> None:
        self._nodes = nodes

    def get_node_ids(self) -> list[int]:
        return self._nodes


def _parameters(kind: type) -> dict[str, type]:
    """Return the types of the arguments that a strategy can be given: no functions, and no names that are ours."""
    known = inspect.signature(kind.__init__, eval_str=True).parameters
    types = {name: _plain(parameter.annotation) for name, parameter in known.items()}
    return {name: plain for name, plain in types.items() if plain in (float, int, str, bool) and name not in _OURS}


def _plain(annotation: Any) -> Any:
    """Return the type that an argument has when it is given: an optional one, too, is given to be something."""
    rest = [item for item in get_args(annotation) if item is not type(None)]
    return rest[0] if len(rest) == 1 else annotation


def _shapes(state: State) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in state.items()}


def _kept(state: State) -> list[str]:
    """Return the names of tensors with values that devices only hand on, as a mask of -inf."""
    return [name for name, array in state.items() if sound.extreme(array) is not None]


def _calm(state: State, kept: list[str]) -> State:
    """Return tensors that Flower can reckon with: 0 for the extremes in those of `kept`, and none in half precision."""
    result = {}
    for name, array in state.items():
        if name in kept and (places := sound.extreme(array)) is not None:
            array = np.where(places, array.dtype.type(0), array)
        result[name] = array.astype(np.float32) if array.dtype == np.float16 else array
    return result


def _copy(strategy: FedAvg) -> FedAvg:
    """Return a strategy that goes on by itself: Flower's replace what they remember, but empty a record."""
    other = copy.copy(strategy)
    vars(other).update({name: item.copy() for name, item in vars(other).items() if isinstance(item, ArrayRecord)})
    return other


class _NoModel(Exception):
    """A strategy made nothing, or something else than a model."""


def _in_blocks(aggregate: Callable, before: State, kept: list[str], given: list) -> State:
    """Return what `aggregate` makes of the tensors of `before` in the updates `given`, some at a time."""
    after: State = {}
    for block in _blocks(before):
        updates = [
            (_calm({name: _part(arrays[name], part) for name, part in block}, kept), metrics)
            for arrays, metrics in given
        ]
        made = _at_once(aggregate, {name: before[name] for name, _ in block}, updates)
        for name, part in block:
            if part is None:
                after[name] = made[name]
            else:
                if name not in after:
                    after[name] = np.empty(before[name].shape, made[name].dtype)
                after[name].reshape(-1)[part] = made[name]
    return after


def _at_once(aggregate: Callable, before: State, given: list) -> State:
    """Return what `aggregate` makes of updates, in the float types of `before`."""
    replies = [_reply(arrays, metrics) for arrays, metrics in given]
    record, _ = aggregate(replies)
    for reply in replies:  # which Flower ties to itself, until Python collects garbage
        reply.content["arrays"].clear()
    if record is None or record.keys() != before.keys():
        raise _NoModel
    return {name: _as_before(np.asarray(array.numpy()), before[name]) for name, array in record.items()}


def _blocks(state: State) -> Iterator[list[tuple[str, slice | None]]]:
    """Yield the names of tensors, some at a time, and of each larger one which part, in one dimension (None: all)."""
    block, elements = [], 0
    for name, array in state.items():
        count = math.ceil(array.size / BLOCK)
        edges = [array.size * index // count for index in range(count + 1)] if count > 1 else [0, array.size]
        for begin, end in itertools.pairwise(edges):
            if block and elements + end - begin > BLOCK:
                yield block
                block, elements = [], 0
            block.append((name, slice(begin, end) if count > 1 else None))
            elements += end - begin
    if block:
        yield block


def _part(array: np.ndarray, part: slice | None) -> np.ndarray:
    return array if part is None else array.reshape(-1)[part]


def _record(state: State) -> ArrayRecord:
    record = ArrayRecord()  # its constructor would make copies of the Arrays, as plain ones
    for name, array in state.items():
        record[name] = View(array)
    return record


def _reply(state: State, metrics: dict[str, float]) -> Message:
    return Message(RecordDict({"arrays": _record(state), "metrics": MetricRecord(metrics)}), 0, MessageType.TRAIN)


def _as_before(array: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Keep a tensor's float type; a mean of counters (integers) stays exact, as float64."""
    return array.astype(before.dtype, copy=False) if before.dtype.kind == "f" else array
