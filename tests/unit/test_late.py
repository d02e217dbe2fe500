"""What becomes of devices that a round does not wait for; on a stand-in for the links' grids."""

import threading
import uuid

import pytest
from flwr.app import Error, Message

import flowerbed.link.stream.grid  # noqa: F401 - lets messages be made outside of a run of Flower's
from flowerbed.link.content import QUERY, make_content
from flowerbed.rounds import fleet as fleets
from flowerbed.rounds.config import RunStopped
from flowerbed.rounds.fleet import Fleet
from flowerbed.rounds.patience import Patience

NAMES = ["a", "b", "c"]


class Held:
    """A grid, like a SuperLink's, whose nodes answer queries, and other messages once their name is in `done`."""

    def __init__(self) -> None:
        self.done: set[str] = set()
        self.gone: set[str] = set()
        self.sent: dict[str, Message] = {}
        self.answered: set[str] = set()

    def get_node_ids(self) -> list[int]:
        return [place + 1 for place, name in enumerate(NAMES) if name not in self.gone]

    def push_messages(self, messages: list[Message]) -> list[str]:
        ids = []
        for message in messages:
            ids.append(str(uuid.uuid4()))
            message.metadata.__dict__["_message_id"] = ids[-1]
            self.sent[ids[-1]] = message
        return ids

    def pull_messages(self, ids: list[str]) -> list[Message]:
        assert ids
        replies = []
        for identifier in ids:
            assert identifier not in self.answered  # each answer comes once
            message = self.sent[identifier]
            name = NAMES[message.metadata.dst_node_id - 1]
            if name in self.gone:
                replies.append(Message(Error(code=5, reason="it went"), reply_to=message))
            elif message.metadata.message_type == QUERY or name in self.done:
                content = make_content(b"x", {"name": name, "ready": True, "tried": 1.5})
                replies.append(Message(content, reply_to=message))
            else:
                continue
            self.answered.add(identifier)
        return replies


class Stream(Held):
    """One that can cut a device that is at work, as the stream's can."""

    def __init__(self) -> None:
        super().__init__()
        self.cut: list[str] = []

    def abandon(self, ids) -> None:
        self.cut += [NAMES[self.sent[name].metadata.dst_node_id - 1] for name in ids]


def fleet(grid, stop=None):
    made = Fleet(grid, NAMES, stop or threading.Event(), 10)
    assert made.refresh() == NAMES
    return made


def train(made, number=1, devices=NAMES, enough=1, grace=0, seconds=60, least=1, **options):
    waits = Patience(enough, grace, len(devices), least)
    for reply in made.exchange(devices, "train", make_content(b"", {}), seconds, waits, number, **options):
        if reply.error is None:
            waits.answered(reply.seconds) if reply.round == number else waits.carried()
        yield reply


def told(replies):
    return {(reply.device, reply.round): "late" if reply.late else reply.error or "ok" for reply in replies}


def test_a_device_that_is_not_waited_for_is_cut_where_that_is_possible():
    grid = Stream()
    made = fleet(grid)
    grid.done = {"a", "b"}
    replies = list(train(made))
    assert told(replies) == {("a", 1): "ok", ("b", 1): "ok", ("c", 1): "late"}
    assert replies[-1].lost and "had not answered after" in replies[-1].error and grid.cut == ["c"]
    assert not made.busy("c")


def test_where_it_is_not_possible_a_device_is_busy_until_it_has_answered_and_its_answer_is_let_go():
    grid = Held()
    made = fleet(grid)
    grid.done = {"a"}
    assert told(train(made)) == {("a", 1): "ok", ("b", 1): "late", ("c", 1): "late"}
    assert made.busy("b") and made.owes("b") is None
    grid.done |= {"b"}
    made.catch_up()
    assert not made.busy("b") and made.busy("c")
    grid.done |= {"c"}
    assert told(train(made, 2, ["a", "b"], late=True)) == {("a", 2): "ok", ("b", 2): "ok"}
    assert not made.busy("c")


def test_a_late_answer_is_kept_for_the_next_round_that_takes_some():
    grid = Stream()
    made = fleet(grid)
    grid.done = {"a"}
    list(train(made, 3, late=True, keep=True))
    assert made.owes("b") == made.owes("c") == 3 and grid.cut == []
    grid.done |= {"b"}
    waits = Patience("all", 0, 1, 0)
    scored = made.exchange(["a"], "evaluate", make_content(b"", {}), 60, waits, 3)
    assert told(scored) == {("a", 3): "ok"}  # what is no score is none, whenever it comes
    made.catch_up()
    assert made.owes("b") == 3
    assert told(train(made, 4, ["a"], late=True, keep=True)) == {("a", 4): "ok", ("b", 3): "ok"}
    assert made.owes("b") is None and made.owes("c") == 3
    made.close()
    assert grid.cut == ["c"]


def test_late_answers_are_waited_for_where_there_are_too_few_others():
    grid = Stream()
    made = fleet(grid)
    grid.done = {"a"}
    list(train(made, 1, late=True, keep=True))
    replies = train(made, 2, ["a"], least=3, late=True, keep=True)
    assert next(replies).device == "a"
    grid.done |= {"b", "c"}
    assert told(replies) == {("b", 1): "ok", ("c", 1): "ok"}


def test_late_answers_come_where_nobody_else_is_asked():
    grid = Stream()
    made = fleet(grid)
    grid.done = {"a"}
    list(train(made, 1, late=True, keep=True))
    grid.done |= {"b", "c"}
    made.catch_up()
    assert told(train(made, 2, [], late=True)) == {("b", 1): "ok", ("c", 1): "ok"}


def test_an_answer_that_will_not_come_is_said_to_be_lost():
    grid = Stream()
    made = fleet(grid)
    grid.done = {"a"}
    list(train(made, 1, late=True, keep=True))
    grid.gone = {"c"}
    made.catch_up()
    grid.done |= {"b"}
    assert told(train(made, 2, ["a"], late=True)) == {("a", 2): "ok", ("b", 1): "ok", ("c", 1): "it went"}


def test_a_late_device_s_own_deadline_still_counts(monkeypatch):
    monkeypatch.setattr(fleets, "GRACE_SECONDS", 0)
    grid = Stream()
    made = fleet(grid)
    grid.done = {"a"}
    list(train(made, 1, seconds=0.3, late=True, keep=True))
    while made.owes("b") and not grid.cut:
        made.catch_up()
    assert sorted(grid.cut) == ["b", "c"]
    last = list(train(made, 2, ["a"], late=True))
    assert told(last) == {("a", 2): "ok", ("b", 1): "late", ("c", 1): "late"}
    assert last[-1].error == "it did not answer within 0.3 s"


def test_an_answer_is_in_time_if_it_is_there_when_the_round_would_go_on():
    """b answers as a does, and the grace time is none: all that has come by then is taken before the round goes on."""
    grid = Held()
    made = fleet(grid)
    grid.done = {"a", "b", "c"}
    assert set(told(train(made)).values()) == {"ok"}


@pytest.mark.parametrize("grid", [Stream(), Held()])
def test_a_run_that_stops_leaves_nobody_at_work_that_can_be_stopped(grid):
    stop = threading.Event()
    made = fleet(grid, stop)
    grid.done = {"a"}
    with pytest.raises(RunStopped):
        for _ in train(made, enough="all", late=True, keep=True):
            stop.set()
    assert not isinstance(grid, Stream) or grid.cut == ["b", "c"]
