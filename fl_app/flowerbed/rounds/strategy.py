"""Flower's strategies, by name: what they are given, what they give back, and what they remember between rounds."""

import contextlib
import copy
import inspect
import json
import random
from collections.abc import Mapping
from typing import Any

import flwr.serverapp.strategy as flower
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MessageType, MetricRecord, RecordDict
from flwr.serverapp.exception import AppExitException
from flwr.serverapp.strategy import FedAvg, FedAvgM, QFedAvg
from flwr.serverapp.strategy.fedopt import FedOpt
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords

from . import sound
from .config import RunFailed
from .sound import State

WEIGHT = "weight"
# An optimiser on the server moves what is learnt; moved likewise, BatchNorm's variances would turn negative.
_SERVER_OPTIMISERS = (FedOpt, FedAvgM, QFedAvg)
_UNFIT = ("FedXgbBagging", "FedXgbCyclic")  # trees, not tensors


def names() -> list[str]:
    """Return the names of the strategies that can be chosen."""
    return sorted(
        name for name, item in vars(flower).items()
        if inspect.isclass(item) and issubclass(item, FedAvg) and name not in _UNFIT
    )  # fmt: skip


class Aggregation:
    """A strategy of `flwr.serverapp.strategy` in use. `buffers` names the tensors of a model that are not learnt."""

    def __init__(self, name: str, arguments: Mapping[str, Any], buffers: set[str]) -> None:
        if name not in names():
            raise RunFailed(f"fl_strategy is {name}, which Flower does not have; it has {', '.join(names())}")
        kind = getattr(flower, name)
        known = _parameters(kind)
        defaults = {"min_train_nodes": 1, "min_evaluate_nodes": 1, "min_available_nodes": 1, "train_loss_key": "loss"}
        given = {key: value for key, value in defaults.items() if key in known} | dict(arguments)
        if name == "FedAvgM":
            given.setdefault("server_momentum", 0.0)
        try:
            _check_arguments(arguments, known)
            self.strategy = kind(**given, weighted_by_key=WEIGHT)
        except (TypeError, ValueError, AppExitException) as error:
            raise RunFailed(
                f"fl_strategy_args do not fit {name}: {error}; it takes {', '.join(sorted(known))}"
            ) from None
        self.name = name
        self._arguments = dict(arguments)
        self._apart = buffers if isinstance(self.strategy, _SERVER_OPTIMISERS) else set()

    def choose(self, kind: str, round_number: int, state: State, nodes: list[int], seed: int) -> tuple[list[int], dict]:
        """Return which of `nodes` take part (in order), and what the strategy adds to their configuration."""
        strategy = self.strategy
        least = strategy.min_train_nodes if kind == "train" else strategy.min_evaluate_nodes
        least = max(strategy.min_available_nodes, least)
        if least > len(nodes):
            raise RunFailed(
                f"fl_strategy_args of {self.name} ask for at least {least} devices, but only {len(nodes)} can {kind}"
            )
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
        devices = sorted(updates)
        kept = _kept(before)
        given = [(_calm(updates[device][0], kept), updates[device][1]) for device in devices]
        try:
            with np.errstate(all="ignore"):  # what comes of it is looked at
                record, _ = self.strategy.aggregate_train(
                    round_number, [_reply(self._learnt(arrays), metrics) for arrays, metrics in given]
                )
        except Exception as error:
            raise self._failed(f"aggregate round {round_number}", error) from None
        if record is None or record.keys() != self._learnt(before).keys():
            raise RunFailed(f"{self.name} made no model of the {len(updates)} updates of round {round_number}")
        state = {name: np.asarray(array.numpy()) for name, array in record.items()}
        if self._apart:
            rest = [_content(self._only_apart(arrays), metrics) for arrays, metrics in given]
            state |= {name: array.numpy() for name, array in aggregate_arrayrecords(rest, WEIGHT).items()}
        with np.errstate(all="ignore"):
            after = {name: _as_before(state[name], array) for name, array in before.items()}
        for name in kept:
            held = [places for state, _ in updates.values() if (places := sound.extreme(state[name])) is not None]
            after[name] = np.where(np.any(held, axis=0), before[name], after[name]) if held else after[name]
        return after

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
        return {name: state[name] for name in sorted(state) if name not in self._apart}

    def _only_apart(self, state: State) -> State:
        return {name: array for name, array in state.items() if name in self._apart}

    # -- What a strategy remembers from round to round -----------------------------------------------------------------

    def remember(self) -> tuple[State, str]:
        """Return the strategy's memory (momenta and the like) as tensors, and the rest as JSON."""
        tensors: State = {}
        rest: dict[str, Any] = {}
        for attribute, value in vars(self.strategy).items():
            if isinstance(value, ArrayRecord):
                value = {name: array.numpy() for name, array in value.items()}
                rest[attribute] = "record"
            elif isinstance(value, list) and value and all(isinstance(item, np.ndarray) for item in value):
                value = {str(index): item for index, item in enumerate(value)}
                rest[attribute] = "list"
            elif isinstance(value, dict) and value and all(isinstance(item, np.ndarray) for item in value.values()):
                rest[attribute] = "dict"
            else:
                continue
            tensors |= {f"{attribute}/{name}": np.asarray(array) for name, array in value.items()}
        return tensors, json.dumps({"strategy": self.name, "attributes": rest})

    def recall(self, tensors: State, rest: str) -> None:
        """Restore what `remember` returned; the memory of another strategy, with other units, is of no use."""
        memory = json.loads(rest)
        if memory.get("strategy") != self.name:
            return
        for attribute, kind in memory["attributes"].items():
            here = {name.partition("/")[2]: array for name, array in tensors.items() if name.split("/")[0] == attribute}
            value = {name: np.array(here[name]) for name in sorted(here)}
            restored = _record(value) if kind == "record" else value
            if kind == "list":
                restored = [value[str(index)] for index in range(len(value))]
            setattr(self.strategy, attribute, restored)


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


def _check_arguments(arguments: Mapping[str, Any], known: set[str]) -> None:
    """Raise ValueError for what Flower would take without a word, and then wait for ever or fail a round."""
    unknown = sorted(str(name) for name in arguments if name not in known)
    if unknown:
        raise ValueError(f"{', '.join(unknown)} is not one of its arguments")
    for name, value in arguments.items():
        number = not isinstance(value, bool) and isinstance(value, int | float)
        if name.startswith("fraction_") and not (number and 0 <= value <= 1):
            raise ValueError(f"{name} is {value!r}, but must be a number from 0 to 1")
        if name == "beta" and not (number and 0 <= value < 0.5):
            raise ValueError(f"{name} is {value!r}, but must be a number from 0 to below 0.5")
        if name.startswith("min_") and not (number and value == int(value) >= 1):
            raise ValueError(f"{name} is {value!r}, but must be a whole number of at least 1")


def _parameters(kind: type) -> set[str]:
    known: set[str] = set()
    for base in kind.__mro__:
        known |= set(inspect.signature(base.__init__).parameters)
    return known - {"self", "args", "kwargs", "weighted_by_key", "arrayrecord_key", "configrecord_key",
                    "train_metrics_aggr_fn", "evaluate_metrics_aggr_fn"}  # fmt: skip


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


def _record(state: State) -> ArrayRecord:
    record = ArrayRecord()  # its constructor would make copies of the Arrays, as plain ones
    for name, array in state.items():
        record[name] = View(array)
    return record


def _content(state: State, metrics: dict[str, float]) -> RecordDict:
    return RecordDict({"arrays": _record(state), "metrics": MetricRecord(metrics)})


def _reply(state: State, metrics: dict[str, float]) -> Message:
    return Message(_content(state, metrics), 0, MessageType.TRAIN)


def _as_before(array: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Keep a tensor's float type; a mean of counters (integers) stays exact, as float64."""
    return array.astype(before.dtype, copy=False) if before.dtype.kind == "f" else array
