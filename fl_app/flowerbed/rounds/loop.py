"""One run: `rounds` more rounds of an experiment, over any `Grid`.

Each round minimises L(θ) = Σ p_m L_m(θ) a step further: the devices train from θ, and the strategy makes the next θ
from their updates, weighted by p_m.
"""

import contextlib
import dataclasses
import gc
import itertools
import json
import logging
import math
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from flwr.serverapp import Grid

from .. import metrics, privacy, tensors
from ..link.content import make_content
from ..trainer_socket import TrainerError
from ..words import clean
from . import advice, fitting, initial, lock, needs, patience, replies, sound, steps, strategy, weights
from .checkpoint import Checkpoint, path_of
from .config import RunConfig, RunFailed, RunStopped, TooFew
from .evaluator import Evaluator
from .experiment import Experiment
from .fleet import Fleet, Reply
from .private import Accountant, Privacy, unfit
from .sound import State
from .strategy import Aggregation

log = logging.getLogger("flowerbed.rounds")

POLL_SECONDS = 0.2
QUERY_SECONDS = 15  # for a device to say who it is, at least; its client asks its trainer for 10
ANSWER_SECONDS = 5  # after which a device that has not said who it is counts as waited for
SAY_SECONDS = 2  # between two lines about that
BACK_SECONDS = 5  # for a device that was cut to come back, before the next round goes on without it
CARRY = "carry"  # of fl_late


def run_rounds(grid: Grid, run: RunConfig, stop: threading.Event) -> str:
    """Do the run and return a sentence about it. Raises RunFailed or RunStopped; what was finished stays on disk."""
    experiment = Experiment(run)
    run = dataclasses.replace(run, experiment_id=experiment.id)
    gc.collect()
    gc.freeze()  # Flower collects garbage for each update that it unpacks: not among all that is imported, too
    try:
        with contextlib.closing(_Run(grid, run, experiment, stop)) as work:
            message = work.all_rounds()
    except Exception as error:
        status = "stopped" if isinstance(error, RunStopped) else "failed"
        message = str(error) or "stopped before its first round"
        if not isinstance(error, (RunFailed, RunStopped, OSError)):
            message = f"Flowerbed did not foresee this: {type(error).__name__}: {error}"
        with contextlib.suppress(OSError):  # its disk may be what failed
            experiment.events.record({"event": "run-ended", "status": status, "message": message})
        raise
    experiment.events.record({"event": "run-ended", "status": "finished", "message": message})
    return message


class _Run:
    def __init__(self, grid: Grid, run: RunConfig, experiment: Experiment, stop: threading.Event) -> None:
        self.run = run
        self.experiment = experiment
        self.stop = stop
        self.deployed = [device for device in run.devices if device not in run.undeployed]
        self.willing: list[str] = []  # those with a weight above 0, which train
        self.fleet = Fleet(grid, self.deployed, stop, max(run.wait_clients, QUERY_SECONDS))
        self.evaluator = Evaluator(run.trainer, stop)
        self.has_test = False
        self.tied: list[list[str]] = []  # the names of each tensor that has several
        self.frozen: set[str] = set()  # the names of tensors that training leaves alone
        self.classes: tuple[str, list[Any]] | None = None  # the run's, and the device that has them
        self.left_out: dict[str, str] = {}  # why, as it was said last
        self.needed, self.why = max(1, run.min_clients), f"fl_min_clients is {run.min_clients}"  # devices of a round
        self.round = self.last = 0
        self.packed = b""
        self.state: State = {}
        self.types: dict[str, np.dtype] = {}
        self.buffers: set[str] = set()  # the names of tensors that are not learnt
        self.bases: dict[int, State] = {}  # the models of rounds before that devices still train from
        self.cut: set[str] = set()  # devices that the last round did not wait for
        self.fitting = fitting.Fitting(run.target_seconds, experiment.events.read() if run.target_seconds else ())
        self.asked: dict[str, int] = {}  # how many steps a device was last asked for, if it was
        self.weighed: set[str] = set()  # devices whose memory was looked at
        self.said: set[tuple[str, ...]] = set()  # what is said once a run, by what it is about
        self.measured: dict[str, set[str]] = {}  # names of metrics, by the task's function
        self.privacy: Privacy | None = None
        self.leading = "" if run.metric == "auto" else run.metric  # the metric that chooses the best model

    def all_rounds(self) -> str:
        """Return a sentence about the rounds done."""
        self._check_weights()
        self._check_waiting()
        self.willing = [device for device in self.run.devices if weights.parse(self.run.weights[device]) != 0]
        willing = len(self.willing)
        given = strategy.check(self.run.strategy, self.run.strategy_args, willing)
        if (least := strategy.least(self.run.strategy, given)) > self.needed:
            self.needed, self.why = least, f"{self.run.strategy} needs {least}"
        if 0 < min(willing, self._drawn_at_once()) < self.needed:
            raise RunFailed(
                f"{self._drawn_at_once()} of {willing} devices train in a round (devices, fl_weight), but {self.why}"
            )
        private = self._check_privacy()
        built, self.buffers = self._initial()
        model, begins = self._first(built)
        checkpoint = self.experiment.open(model)
        self.round, self.types = checkpoint.round, {name: array.dtype for name, array in built.items()}
        self._hold(checkpoint.model)
        if private:
            accountant = Accountant(self.experiment.folder, begun=self.round > 0)
            names = privacy.moved(built, self.buffers, self.frozen, self.tied)
            self.privacy = Privacy(private, accountant, names, self.tied)
        aggregation = Aggregation(self.run.strategy, self.run.strategy_args, self.buffers, noisy=private is not None)
        if dropped := aggregation.recall(checkpoint.memory, checkpoint.memory_rest, self.state):
            self._problem(None, dropped)
        owed = {event["device"]: event["owes"] for event in checkpoint.events if event.get("owes")}
        del built, model, checkpoint  # which are as large as the model
        first, last = self.round + 1, self.round + self.run.rounds
        self.last = last
        self.experiment.events.record({
            "event": "run-started", "first_round": first, "last_round": last, "link": self.run.link,
            "strategy": self.run.strategy, "devices": len(self.run.devices), "initial": self.run.initial,
            "show": self.run.show,
        })  # fmt: skip
        if begins:
            log.info(begins)
            self.experiment.events.record({"event": "initial", "path": self.run.initial, "message": begins})
        for remark in advice.remarks(aggregation, self.run.strategy_args, willing):
            log.info(remark)
            self.experiment.events.record({"event": "strategy", "message": remark})
        if self.privacy:
            about = self.privacy.remark()
            log.info(about)
            self.experiment.events.record({"event": "privacy", "message": about})
        for device, number in owed.items():
            self._problem(device, f"the answer of {device} to round {number}, which was to be taken into a later one, "
                          "was lost with the run that waited for it")  # fmt: skip
        self._say_memory(max(1, self._wanted([], aggregation, {})))
        watch = advice.Watch(aggregation, self.run.experiment, self.experiment.events.read())
        self._wait_for_devices()
        try:
            while self.round < last:
                self._one_round(aggregation, watch)
                if lock.is_to_end(self.experiment.folder):
                    break
        except RunStopped:
            raise RunStopped(
                f"stopped in round {self.round + 1}; round {self.round} is the last one finished"
            ) from None
        done = f"rounds {first} to {self.round} are done" if self.round > first else f"round {self.round} is done"
        left = last - self.round
        return f"{done}; {left} more are left, for deploy.yml has waited for this round: run again" if left else done

    def _hold(self, model: State) -> None:
        """Hold the global model as it is sent: its tensors are views of that."""
        self.packed = tensors.pack(model)
        self.state = tensors.unpack(self.packed)

    def close(self) -> None:
        """Leave nothing at work on the server, and no answer waited for."""
        self.evaluator.close()
        self.fleet.close()

    # -- Before the first round ---------------------------------------------------------------------------------------

    def _check_weights(self) -> None:
        for device, sentence in weights.problems(self.run.weights):
            raise RunFailed(f"fl_weight of {device or 'all devices'} {sentence}")

    def _check_privacy(self) -> dict[str, Any] | None:
        """Return what fl_privacy asks for."""
        try:
            private = privacy.parse(self.run.privacy)
        except ValueError as error:
            raise RunFailed(f"fl_privacy {error}") from None
        if private and (problem := unfit(private["where"], self.run.strategy)):
            raise RunFailed(f"fl_privacy {problem}")
        if private and private["where"] == privacy.SERVER and self.run.target_seconds:
            raise RunFailed(
                f"fl_target_seconds is {self.run.target_seconds:g}, but fl_privacy has where server: an update that is "
                "normalised by its steps would be longer than its clip. Set it to 0, or where to device"
            )
        return private

    def _check_waiting(self) -> None:
        for variable, check, value in (
            ("fl_enough", patience.enough, self.run.enough), ("fl_grace", patience.grace, self.run.grace),
        ):  # fmt: skip
            try:
                check(value)
            except ValueError as error:
                raise RunFailed(f"{variable} {error}") from None
        if strategy.averages(self.run.strategy):
            return
        takes = f"but fl_strategy is {self.run.strategy}, which takes no mean by p_m"
        way_out = f"or set fl_strategy to one of {strategy.averaging()}"
        if self.run.late == CARRY:
            raise RunFailed(
                f"fl_late is carry, {takes}: a late answer could not count less there. Set it to drop, {way_out}"
            )
        if self.run.target_seconds:
            raise RunFailed(
                f"fl_target_seconds is {self.run.target_seconds:g}, {takes}: updates of different numbers of steps "
                f"could not be weighed there. Set it to 0, {way_out}"
            )

    def _initial(self) -> tuple[State, set[str]]:
        """Return the tensors of a new model, and the names of those that are not learnt."""
        try:
            packed, about, self.has_test = self.evaluator.initial(self.run.server_config(0, self.run.rounds))
        except TrainerError as error:
            self._log_trace("server", error.trace)
            raise RunFailed(f"the server's trainer made no model: {error}") from None
        problem = tensors.too_large(len(packed))
        if problem:
            raise RunFailed(problem)
        self.tied = json.loads(about["tied"])
        self.frozen = set(json.loads(about["frozen"]))
        return tensors.unpack(packed), set(json.loads(about["buffers"]))

    def _first(self, built: State) -> tuple[State, str]:
        """Return the model that a new experiment begins with, and what is to be said of it, before any is begun."""
        if self.experiment.begun:
            initial.check_begun(self.run.initial, self.run.experiment, self.experiment.events.read())
        elif self.run.initial:
            return initial.load(self.run.initial, built, self.tied)
        return built, ""

    def _say_memory(self, devices: int) -> None:
        """Say what the model needs, and whether the server has it."""
        event = needs.of_a_round(len(self.packed), self.run.strategy, devices, self.run.link)
        log.info(event["message"])
        self.experiment.events.record(event)
        if lacking := needs.lacking_at_the_server(event["server_bytes"]):
            self._problem(None, lacking)

    def _wait_for_devices(self) -> None:
        undeployed = [device for device in self.run.devices if device in self.run.undeployed]
        for device in undeployed:
            self.left_out[device] = self._why_not(device) or ""
            if device not in self.run.optional:
                self._problem(device, self.left_out[device])
        if not self.deployed:
            raise RunFailed("the last deployment of every device failed, or there was none: run deploy.yml")
        awaited = [device for device in self.deployed if device not in self.run.optional]
        joined = self._gather(
            lambda: (
                all(map(self.fleet.settled, awaited))
                and sum(map(self.fleet.settled, self.deployed)) >= self.run.min_clients
            )
        )
        missing = [device for device in self.deployed if device not in joined]
        if len(joined) < self.run.min_clients:
            names = ", ".join(missing + [f"{device} (to be deployed)" for device in undeployed])
            raise RunFailed(
                f"{len(joined)} of {len(self.run.devices)} devices connected within {self.run.wait_clients:g} s, but "
                f"fl_min_clients is {self.run.min_clients}; missing: {names}. "
                "Run playbooks/status.yml to see their state"
            )
        for device in missing:
            self._left_out(device, f"{device} is not connected, or does not answer")
        for device in joined:
            sentence = None if self._unfit(device) else self._other_classes(device)
            if sentence:
                raise RunFailed(sentence)

    def _gather(self, enough: Callable[[], bool]) -> list[str]:
        """Return the connected devices once they are `enough`, or no other is worth a wait, or after fl_wait_clients.

        Says whom it waits for: at once, and when that has changed.
        """
        deadline = time.monotonic() + self.run.wait_clients
        named: list[str] = []
        quiet_until = 0.0
        while True:
            connected = self.fleet.refresh(min(ANSWER_SECONDS, max(self.run.wait_clients, 1.0)))
            missing = [device for device in self.deployed if not self.fleet.settled(device)]
            missing = [device for device in missing if device not in self.run.optional] or missing
            now = time.monotonic()
            if enough() or not missing or now >= deadline:
                return connected
            if missing != named and now >= quiet_until:
                named, quiet_until = missing, now + SAY_SECONDS
                message = f"waits up to {deadline - now:.0f} s for {self._whom(missing)}"
                log.info(message)
                self.experiment.events.record({"event": "waiting", "devices": missing, "message": message})
            self.fleet.pause(POLL_SECONDS)
            self.fleet.ask_anew(missing)

    def _whom(self, missing: list[str]) -> str:
        loading = [device for device in missing if self.fleet.connected(device)]
        away = [device for device in missing if device not in loading]
        groups = {"not connected, or has not answered": away, "connected, but the trainer is still starting": loading}
        return "; ".join(f"{', '.join(devices)} ({what})" for what, devices in groups.items() if devices)

    def _other_classes(self, device: str) -> str | None:
        """Return a sentence if a label means another class on a device than in this run: an average makes no sense."""
        classes = self.fleet.about[device].get("classes")
        if not classes or not isinstance(classes, list):
            return None
        if self.classes is None:
            self.classes = device, classes
        one, first = self.classes
        if first == classes:
            return None
        pairs = enumerate(itertools.zip_longest(first, classes))
        begin = next(label for label, (left, right) in pairs if left != right)
        whence = f", from label {begin} on," if begin else ""
        return (
            f"a label means one class on {one} and another on {device}, which have{whence} {clean(first[begin:], 80)} "
            f"and {clean(classes[begin:], 80)}: put the same classes.txt, one name a line, beside the class folders of "
            "every device, then stop and deploy"
        )

    # -- A round -----------------------------------------------------------------------------------------------------

    def _one_round(self, aggregation: Aggregation, watch: advice.Watch) -> None:
        started = time.monotonic()
        number = self.round + 1
        chosen, extra, events, updates = self._trained(number, aggregation)
        shares = self._weigh(number, updates, events)
        self._normalise(number, updates, shares, events)
        if self.privacy:
            self.privacy.blur(updates, shares)
        told = {device: {"weight": shares[device], "loss": events[device]["loss"]} for device in updates}
        before, self.packed, self.state = sound.outline(self.state), b"", {}
        self._hold(aggregation.aggregate(number, before, {name: (updates.pop(name), told[name]) for name in told}))
        trained = self._means("train", number, {device: events[device]["metrics"] for device in told}, shares)
        self.fleet.ask_anew(filter(self._to_be_asked, self._able()))
        self.fleet.refresh()
        summary = self._evaluate(number, self._able(), aggregation, extra, events)

        memory, rest = aggregation.remember()
        path = path_of(self.experiment.checkpoints, number)
        done = {
            "event": "round", "round": number, **summary, "train_metrics": trained,
            "seconds": round(time.monotonic() - started, 4),
            "clients_wanted": self._wanted(chosen, aggregation, events), "clients_asked": len(chosen),
            "clients_answered": len(told),
            "checkpoint": str(path.relative_to(self.experiment.folder)),
        }  # fmt: skip
        if self.privacy:
            done["privacy"] = self.privacy.spent()
        done["metric"] = self._leading(done, number)
        self.experiment.save(Checkpoint(number, self.state, memory, rest, [*events.values(), done]))
        self.round = number
        trained = math.fsum(share * events[device]["loss"] for device, share in shares.items())
        if exploded := watch.after(number, summary, trained):
            log.warning(exploded)  # nothing is left out, as with a problem
            self.experiment.events.record({"event": "explosion", "round": number, "message": exploded})

    def _trained(
        self, number: int, aggregation: Aggregation
    ) -> tuple[list[str], dict[str, Any], dict[str, dict[str, Any]], dict[str, State]]:
        """Have a round's devices train, if need be several times.

        Returns who was chosen, what the strategy adds to their configuration, the devices' events and their updates.
        """
        retries = 0
        while True:
            try:
                clients = self._clients(number)
                events = self._begin(number, clients)
                chosen, extra = self._choose(number, clients, aggregation, events)
                return chosen, extra, events, self._collect(number, chosen, extra, events)
            except TooFew as error:
                if not error.again or retries == self.run.round_retries:
                    tried = f" Round {number} was tried {retries + 1} times." if retries else ""
                    raise RunFailed(f"{error}.{tried} Round {self.round} is the last one finished") from None
                retries += 1
                again = f"Round {number} is tried again ({retries} of {self.run.round_retries})"
                self._problem(None, f"{error}. {again}", number)

    def _begin(self, number: int, clients: list[str]) -> dict[str, dict[str, Any]]:
        """Return an event for each device, which says so of those that can't take part, or are still at work."""
        for device in sorted({*clients} - self.weighed):
            self.weighed.add(device)
            if lacking := needs.lacking(device, self.fleet.about[device], len(self.packed), self.run.link):
                self._problem(device, lacking, number)
        events = {
            device: {"event": "device", "round": number, "device": device, **self.fleet.runs_on(device)}
            for device in self.run.devices
        }
        for device in self.run.devices:
            reason = None if device in clients else self._why_not(device)
            if reason:
                events[device].update(status="absent" if self._absent(device) else "left-out", reason=reason)
                self._left_out(device, reason, number)
                continue
            self.left_out.pop(device, None)
            if self.fleet.busy(device):
                events[device].update(status="late", reason=f"{device} is still at work for a round before")
            if owed := self.fleet.owes(device):
                events[device].update(reason=f"{device} is still at work for round {owed}", owes=owed)
        return events

    def _clients(self, number: int) -> list[str]:
        """Return the devices that can take part now; wait for them if they are too few."""
        self.fleet.catch_up()
        self.fleet.ask_anew(filter(self._to_be_asked, self.run.devices))
        self.fleet.refresh()
        back = time.monotonic() + BACK_SECONDS
        while not all(map(self.fleet.connected, self.cut)) and time.monotonic() < back:
            self.fleet.pause(POLL_SECONDS)
            self.fleet.refresh()
        self.cut.clear()
        if len(self._able()) < self.needed:
            self._gather(lambda: len(self._able()) >= self.needed)
        able = self._able()
        while self._too_busy(able):
            self.fleet.pause(POLL_SECONDS)
            self.fleet.catch_up()
        if len(able) < self.needed:
            reasons = "; ".join(self._why_not(device) or "" for device in self.run.devices if device not in able)
            raise TooFew(
                f"{len(able)} devices can take part in round {number}, but {self.why}: {reasons}",
                again=not all(map(self.fleet.settled, self.deployed)),
            )
        return able

    def _too_busy(self, able: list[str]) -> bool:
        """Return whether too few devices can be asked, because others are at work on what nobody wants any more."""
        useful = [device for device in able if not self.fleet.busy(device) or self.fleet.owes(device)]
        return len(useful) < min(self.needed, len(able))

    def _to_be_asked(self, device: str) -> bool:
        """Return whether a device is to be asked anew what it is: one at work would not answer before it is done."""
        return not self.fleet.ready(device) and not self.fleet.busy(device)

    def _able(self) -> list[str]:
        """Return the devices that can take part, as far as they have said."""
        return [device for device in self.run.devices if self._why_not(device) is None]

    def _why_not(self, device: str) -> str | None:
        """Return why a device can't take part, or None."""
        if device in self.run.undeployed:
            return f"{device} is left out: its last deployment failed, or there was none: run deploy.yml"
        if not self.fleet.connected(device):
            return f"{device} is not connected, or does not answer"
        return self._unfit(device) or self._other_classes(device)

    def _unfit(self, device: str) -> str | None:
        """Return what a device said of itself that keeps it from taking part, whatever its classes, or None."""
        about = self.fleet.about[device]
        if about.get("problem"):
            return f"{device} cannot train: {about['problem']}"
        known = about.get("task_hash")
        if known and self.run.task_hash and known != self.run.task_hash:
            return f"{device} has task code {known}, but this run is of {self.run.task_hash}: run deploy.yml"
        if about.get("ready") and self.run.fingerprints:  # one that still loads compares it itself
            found, wanted = about.get("fingerprint"), self.run.fingerprints[device]
            if found != wanted:
                return (
                    f"{device} has data of another deployment ({clean(found, 40)}, but this run is of {wanted}): run "
                    "deploy.yml"
                )
        return None

    def _check_still_fit(self, device: str) -> None:
        """Raise ValueError if a device, whose trainer was perhaps started again, has become unfit."""
        sentence = self._unfit(device) or self._other_classes(device)
        if sentence:
            raise ValueError(sentence)

    def _choose(
        self, number: int, clients: list[str], aggregation: Aggregation, events: dict[str, dict[str, Any]]
    ) -> tuple[list[str], dict[str, Any]]:
        """Return the devices that are to train in a round, and what the strategy adds to their configuration.

        Where a strategy needs more than are free, it chooses among those that are still at work, too: none is asked.
        """
        willing = [device for device in clients if device in self.willing]
        for device in set(clients) - set(willing):
            events[device].update(status="skipped", reason=f"{device} has weight 0 and does not train", weight=0.0)
        if not willing:
            raise RunFailed(
                f"the devices that can take part in round {number}, {', '.join(clients[:5])}"
                f"{' and others' if len(clients) > 5 else ''}, have fl_weight 0 and do not train: wait for the others, "
                "or give one of these a weight above 0"
            )
        drawn = self._draw(number, willing)
        free = [device for device in drawn if not self.fleet.busy(device)]
        needed = max(1, aggregation.strategy.min_train_nodes, aggregation.strategy.min_available_nodes)
        places = [self.fleet.index(device) for device in (free if len(free) >= needed else drawn)]
        chosen, extra = aggregation.choose("train", number, self.state, places, self.run.seed)
        names = [self.fleet.name(index) for index in chosen]
        names = [device for device in names if "status" not in events[device]]
        for device in willing:
            if device not in names and "status" not in events[device]:
                by = self.run.strategy if device in drawn else f"the draw (devices, {self.run.fraction:g} of them)"
                reason = f"{by} did not choose {device} this round"
                events[device].update(status="skipped", reason=reason)
        return names, extra

    def _draw(self, number: int, able: list[str]) -> list[str]:
        """Return the devices on which the draw of a round falls: of those that are `able`, in the run's order.

        All devices that train are drawn from, in an order that the seed and the round give. So who is absent, or still
        at work, is replaced by others, and changes nothing else.
        """
        order = random.Random(f"{self.run.seed}/{number}/devices").sample(self.willing, len(self.willing))
        drawn = sorted([device for device in order if device in able], key=self.fleet.busy)[: self._drawn_at_once()]
        return [device for device in able if device in drawn]

    def _drawn_at_once(self) -> int:
        return max(1, int(round(self.run.fraction * len(self.willing), 6)))

    def _wanted(self, chosen: list[str], aggregation: Aggregation, events: dict[str, dict[str, Any]]) -> int:
        """Return how many devices would have been chosen, had all been there but those whose absence is no news."""
        absent = sum(events[device].get("status") == "absent" for device in self.willing if device in events)
        there = min(self._drawn_at_once(), len(self.willing) - absent)
        return max(len(chosen), int(aggregation.strategy.fraction_train * there))

    def _collect(
        self, number: int, chosen: list[str], extra: dict[str, Any], events: dict[str, dict[str, Any]]
    ) -> dict[str, State]:
        """Have the chosen devices train; return the usable updates, by device in the run's order."""
        config = {**self.run.task_config(number, self.last), **extra}
        if self.run.target_seconds:
            config["steps_by_device"] = self._fit(number, chosen, events)
        content = make_content(self.packed, config)
        updates: dict[str, State] = {}
        unsound: list[str] = []
        again = not chosen  # whether another try may give what this one does not
        waits = patience.Patience(self.run.enough, self.run.grace, len(chosen), self.needed)
        carry = self.run.late == CARRY
        if self.privacy:
            self.privacy.spend(chosen)
        with contextlib.closing(
            self.fleet.exchange(
                chosen, "train", content, self.run.round_timeout, waits, number, carry, carry and number < self.last
            )
        ) as arriving:
            for reply in arriving:
                device, event = reply.device, events[reply.device]
                late = number - reply.round
                base = self.bases[reply.round] if late else self.state
                event.update(bytes_down=len(self.packed), bytes_up=len(reply.packed))
                event.pop("owes", None)
                try:
                    updates[device] = self._check_update(reply, event, base)
                except ValueError as error:
                    reason = str(error) + (f"; it was late for round {reply.round}" if late else "")
                    event.update(status="late" if reply.late else "failed", reason=reason)
                    unsound += [device] if isinstance(error, replies.Unsound) else []
                    again |= not (isinstance(error, replies.Unsound) or reply.trace)  # those come of the same seed
                    if reply.late and not late:
                        event["seconds_waited"] = round(reply.seconds, 4)
                        self.fitting.take(event)
                    if waits.over and reply.late and not late:
                        self._not_waited_for(device, event)
                        continue
                    if not (reply.lost and device in self.run.optional):
                        self._problem(device, f"{reason}; it is left out of round {number}", number)
                    self._log_trace(device, reply.trace)
                    self.fleet.doubt(device)
                    self.cut |= {device} if reply.late else set()
                    continue
                if device in chosen:
                    waits.answered(reply.seconds)
                else:
                    waits.carried()
                    event.pop("reason", None)
                if late:
                    reason = f"{device} answered round {reply.round} late: it counts {steps.staleness(late):.3g} times"
                    event.update(status="carried", staleness=late, reason=reason)
        owed = {self.fleet.owes(device) for device in self.run.devices} - {None}
        self.bases = {round_: self.bases.get(round_, self.state) for round_ in owed}
        if len(updates) < self.needed:
            missing = [device for device in self.run.devices if events[device].get("status") in ("late", "failed")]
            raise TooFew(
                f"{len(updates)} of {len(chosen)} devices gave a usable update in round {number}, but {self.why}: "
                f"{'; '.join(events[device]['reason'] for device in missing)}"
                + (self._whose_fault() if unsound and len(unsound) == len(chosen) else ""),
                again,
            )
        return {device: updates[device] for device in self.run.devices if device in updates}

    def _not_waited_for(self, device: str, event: dict[str, Any]) -> None:
        """Take down what becomes of a device that a round did not wait for, and that is cut or still at work."""
        if not self.fleet.busy(device):
            self.cut.add(device)
            self.fleet.doubt(device)
        if owed := self.fleet.owes(device):
            event.update(owes=owed, reason=f"{event['reason']}; its answer is for a later round")

    def _moved(self, device: str, update: State, base: State) -> State:
        """Return an update of the model `base` as one of the model of now. Raises ValueError if it can't be used."""
        update = steps.moved(update, base, self.state, 1.0, self.buffers)
        if fault := sound.faults(update, self.state, self.types, self.privacy is not None):
            raise replies.Unsound(f"{device} sent an update that, taken from the model of now, has {fault}")
        return update

    def _check_update(self, reply: Reply, event: dict[str, Any], base: State) -> State:
        """Return a device's update of the model `base` as one of the model of now, and take down what it measured.

        Raises ValueError if it can't be used.
        """
        measured = replies.trained(reply)
        self._check_still_fit(reply.device)
        seconds_client = measured.pop("seconds_client", reply.seconds)
        seconds = round(max(0.0, reply.seconds - seconds_client), 4)
        if self.run.target_seconds:
            done = measured["metrics"].pop("steps", None)
            if isinstance(done, float) and 1 <= done <= fitting.MOST and done.is_integer():
                event["steps"] = int(done)
        event.update(_flat(measured["metrics"]), **measured, seconds_transfer=seconds)
        update = replies.update(reply, base, self.types, noisy=self.privacy is not None)
        if base is not self.state:
            update = self._moved(reply.device, update, base)
        if self.privacy:
            update, length = self.privacy.clipped(self.state, update)
            event |= {} if length is None else {"update_length": length}
        event["status"] = "ok"
        self.fitting.take(event)
        return update

    def _fit(self, number: int, chosen: list[str], events: dict[str, dict[str, Any]]) -> dict[str, int]:
        """Return how many steps devices are to do; of the others it is not known yet how fast they are."""
        asked = self.fitting.steps(chosen)
        for device in chosen:
            self.asked[device] = asked.get(device, 0)
            events[device]["steps_asked"] = self.asked[device] or self._usual_steps(device)
        for device, seconds in self.fitting.too_slow(chosen).items():
            self._once(
                ("target", device), device, f"{device} needs {seconds:.3g} s for a single step and to receive and send "
                f"a model, more than fl_target_seconds ({self.run.target_seconds:g}): it does one step a round", number
            )  # fmt: skip
        return asked

    def _usual_steps(self, device: str) -> int:
        """Return how many steps a device does that is not told, as far as can be known."""
        config = {**self.run.config, **self.run.overrides.get(device, {})}
        with contextlib.suppress(KeyError, TypeError, ValueError, ZeroDivisionError, OverflowError):
            batches = math.ceil(int(self.fleet.about[device]["examples"]) / int(config["batch_size"]))
            return max(1, batches * int(config["local_epochs"]))
        return 1

    def _normalise(
        self, number: int, updates: dict[str, State], shares: dict[str, float], events: dict[str, dict[str, Any]]
    ) -> None:
        """Make updates of different numbers of local steps comparable, as FedNova does."""
        if not self.run.target_seconds:
            return
        told = {device: events[device]["steps"] for device in updates if "steps" in events[device]}
        if silent := sorted(set(updates) - set(told)):
            self._once(
                ("steps",), None, f"train of the task does not return the number of its steps on "
                f"{', '.join(silent[:3])}{' and others' if len(silent) > 3 else ''}: they are not fitted to "
                "fl_target_seconds, and all updates count as they are. See docs/tasks.md", number
            )  # fmt: skip
            return
        known = {device: min(count, self.asked[device]) for device, count in told.items() if self.asked.get(device)}
        counts = weights.counts(told, known, self.run.examples_cap)
        for device, factor in steps.factors(counts, shares).items():
            if counts[device] != told[device]:
                events[device]["steps"] = counts[device]
                self._once(
                    (device, "steps"), device, f"{device} says that it did {told[device]} steps, more than it was to, "
                    f"or far more than others did: they count as {counts[device]}", number
                )  # fmt: skip
            if factor != 1:
                updates[device] = steps.moved(updates[device], self.state, self.state, factor, self.buffers)

    def _weigh(self, number: int, updates: dict[str, State], events: dict[str, dict[str, Any]]) -> dict[str, float]:
        """Return the p_m of each device whose update is used."""
        examples = self._counts("train", {device: events[device]["examples"] for device in updates}, number)
        for device, count in examples.items():
            if count != events[device]["examples"]:
                events[device].update(examples=count, examples_claimed=events[device]["examples"])
        try:
            late = {device: events[device].get("staleness", 0) for device in updates}
            factors = {device: steps.staleness(rounds) for device, rounds in late.items()}
            shares = weights.resolve(self.run.weights, examples, factors)
        except ValueError as error:
            raise RunFailed(f"round {number} has no weights: {error}") from None
        for device, share in shares.items():
            events[device]["weight"] = share
        return shares

    def _counts(self, split: str, claims: dict[str, int], number: int) -> dict[str, int]:
        """Return with how many examples of a split (train, heldout) devices count; name one that claims otherwise."""
        shares = self.run.dataset.get("devices", {})
        given = [device for device in claims if device in shares and device not in self.run.own_data]
        known = {device: shares[device][split] for device in given}
        cap = self.run.examples_cap if "examples" in self.run.weights.values() else math.inf
        counts = weights.counts(claims, known, cap)
        kind = {"train": "training", "heldout": "held-out"}[split]
        for device, claim in claims.items():
            if counts[device] == claim:
                continue
            why = (
                "the server gave it" if device in known
                else f"fl_examples_cap ({self.run.examples_cap:g}) times the median is"
            )  # fmt: skip
            self._once(
                (device, split), device, f"{device} says that it has {claim} {kind} examples, but {why} "
                f"{counts[device]}: it counts as such", number
            )  # fmt: skip
        return counts

    def _whose_fault(self) -> str:
        """Return sentences for when all devices diverge: it may not be theirs."""
        if not self.round:
            return ". All devices diverge from the first model: a smaller fl_learning_rate may help"
        path = path_of(self.experiment.checkpoints, self.round)
        return (
            f". All devices diverge from the model of round {self.round}, which may be what is wrong: try a smaller "
            f"fl_learning_rate; or, to go on from the round before, remove {path}"
        )

    def _evaluate(
        self, number: int, clients: list[str], aggregation: Aggregation, extra: dict[str, Any],
        events: dict[str, dict[str, Any]],
    ) -> dict[str, Any]:  # fmt: skip
        """Evaluate the new global model on the server's test set and on each client's held-out split, at once.

        A device gets the configuration with which it trained, `extra` included, and so keeps its model.
        """
        config = self.run.task_config(number, self.last)
        test = None
        if self.has_test:
            test = self.evaluator.begin(self.packed, self.run.server_config(number, self.last), self.run.round_timeout)
        clients = [device for device in clients if not self.fleet.busy(device)]
        for device in clients:
            if not self.fleet.ready(device):
                self._problem(device, f"{device} is still loading: round {number} is evaluated without it", number)
        able = [
            self.fleet.index(device) for device in clients
            if self.fleet.ready(device) and self.fleet.about[device].get("heldout_examples", 1)
        ]  # fmt: skip
        chosen: list[int] = []
        try:
            chosen = aggregation.choose("evaluate", number, self.state, able, self.run.seed)[0] if able else []
        except RunFailed as error:  # what was trained stays
            self._problem(None, f"no device evaluates round {number}: {error}", number)
        names = [self.fleet.name(index) for index in chosen]
        content = make_content(self.packed, {**config, **extra})
        scores: dict[str, dict[str, Any]] = {}
        unsound: list[str] = []
        waits = patience.Patience(self.run.enough, self.run.grace, len(names), 0)
        with contextlib.closing(
            self.fleet.exchange(names, "evaluate", content, self.run.round_timeout, waits, number)
        ) as arriving:
            for reply in arriving:
                device = reply.device
                try:
                    values = replies.scored(reply)
                    self._check_still_fit(device)
                    scores[device] = values
                    waits.answered(reply.seconds)
                except ValueError as error:
                    if waits.over and reply.late:
                        events[device]["heldout_reason"] = str(error)
                        self._not_waited_for(device, events[device])
                        continue
                    if not (reply.lost and device in self.run.optional):
                        self._problem(device, f"{error}; round {number} goes on without it", number)
                    self._log_trace(device, reply.trace)
                    self.fleet.doubt(device)
                    unsound += [device] if isinstance(error, replies.Unsound) else []
        scores = dict(sorted(scores.items()))
        if unsound and not scores:
            self._problem(
                None, f"the model of round {number} itself may be what is wrong: no device's loss is finite", number
            )
        counts = self._counts("heldout", {device: values["examples"] for device, values in scores.items()}, number)
        shares = dict.fromkeys(scores, 0.0)
        with contextlib.suppress(ValueError):  # those that count have no score: then there is no mean
            shares = weights.resolve(self.run.weights, counts)
        for device, values in scores.items():
            events[device].update(
                _flat(values["metrics"], "heldout_"), heldout_metrics=values["metrics"],
                heldout_examples=counts[device], heldout_weight=shares[device],
                seconds_evaluate=values["seconds_evaluate"],
            )  # fmt: skip
        means = self._means("evaluate", number, {device: each["metrics"] for device, each in scores.items()}, shares)
        result: dict[str, Any] = {
            "loss": None, "accuracy": None, "heldout_loss": None, "heldout_accuracy": None,
            **_flat(means, "heldout_"), "metrics": {}, "heldout_metrics": means,
        }  # fmt: skip
        if test is not None:
            try:
                _, answer = self.evaluator.result(test)
                measured = metrics.checked(answer.get("metrics"))
                result |= {**_flat(measured), "metrics": measured}
            except (TrainerError, ValueError) as error:
                sentence = f"the server could not evaluate round {number}: {error}; it goes on without a test score"
                self._problem(None, sentence, number)
                self._log_trace("server", getattr(error, "trace", []))
        return result

    # -- What was measured -------------------------------------------------------------------------------------------

    def _means(
        self, job: str, number: int, measured: dict[str, dict[str, Any]], shares: dict[str, float]
    ) -> dict[str, Any]:
        """Return the p_m-weighted mean of each metric that all devices have which count; say which others there are."""
        counting = {device: values for device, values in measured.items() if shares[device] > 0}
        names = list(dict.fromkeys(name for values in counting.values() for name in values))
        before = self.measured.setdefault(job, set(names))
        if names and before != set(names):
            came, went = sorted(set(names) - before), sorted(before - set(names))
            changed = " and ".join([f"{', '.join(came)} came"] * bool(came) + [f"{', '.join(went)} went"] * bool(went))
            self.measured[job] = set(names)
            self._problem(None, f"{job} of the task measures other things from round {number} on: {changed}", number)
        means = {}
        for name in names:
            having = [device for device in counting if name in counting[device]]
            mean = metrics.mean([counting[device][name] for device in having], [shares[device] for device in having])
            if len(having) == len(counting) and mean is not None:
                means[name] = mean
                continue
            lacking = ", ".join(device for device in counting if device not in having)
            why = f"{lacking} did not measure it" if lacking else "it is of different lengths"
            sentence = f"{name} of {job} has no mean from round {number} on: {why}"
            self._once((job, name, why), None, sentence, number)
        return means

    def _leading(self, done: dict[str, Any], number: int) -> str:
        """Return the name of the metric that chooses the best model; say so if nobody measures it."""
        measured = {**done["heldout_metrics"], **done["metrics"]}
        if not self.leading and measured:  # the first round with a score decides for the run
            self.leading = metrics.ACCURACY if isinstance(measured.get(metrics.ACCURACY), float) else metrics.LOSS
        name = self.leading or metrics.ACCURACY
        for wanted, variable in [(name, "fl_metric"), *((shown, "fl_show") for shown in self.run.show)]:
            value = measured.get(wanted)
            if value is None or (isinstance(value, list) and variable == "fl_metric"):
                what = "is a list" if value is not None else f"is not among what is measured ({', '.join(measured)})"
                end = ": no best model is chosen" if variable == "fl_metric" else ""
                sentence = f"{variable} is {wanted}, which {what} in round {number}{end}"
                if measured:
                    self._once((variable, wanted), None, sentence, number)
        return name

    # -- What went wrong ---------------------------------------------------------------------------------------------

    def _left_out(self, device: str, reason: str, number: int | None = None) -> None:
        """Say why a device is left out, once a reason, unless it may be absent."""
        if self.left_out.get(device) != reason:
            self.left_out[device] = reason
            if self._absent(device):
                return
            self._problem(device, f"{reason}: it is left out" + (f" from round {number} on" if number else ""), number)

    def _absent(self, device: str) -> bool:
        """Return whether a device is not there, which is no news."""
        there = device in self.deployed and self.fleet.connected(device)
        return device in self.run.optional and not there

    def _once(self, about: tuple[str, ...], device: str | None, message: str, number: int) -> None:
        """Say what is wrong, unless something has been said of that in this run."""
        if about not in self.said:
            self.said.add(about)
            self._problem(device, message, number)

    def _problem(self, device: str | None, message: str, number: int | None = None) -> None:
        """Say at once what is wrong, in the log and in the events."""
        log.warning(message)
        event: dict[str, Any] = {"event": "problem", "message": message}
        event |= {"device": device} if device else {}
        event |= {"round": number} if number else {}
        self.experiment.events.record(event)

    def _log_trace(self, device: str, trace: list[str]) -> None:
        if trace:
            log.warning("the last lines from %s:\n  %s", device, "\n  ".join(trace))


def _flat(measured: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return loss and accuracy, as far as they are measured, under the names that events have always had for them."""
    return {f"{prefix}{name}": measured[name] for name in (metrics.LOSS, metrics.ACCURACY) if name in measured}
