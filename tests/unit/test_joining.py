"""Who is asked what it is, how long for, and whom that keeps from a run; on a stand-in for a SuperLink's grid."""

import threading
import time
import uuid

from flwr.app import Error, Message

import flowerbed.link.stream.grid  # noqa: F401 - lets messages be made outside of a run of Flower's
from flowerbed.link.content import make_content
from flowerbed.rounds import loop
from flowerbed.rounds.config import RunConfig
from flowerbed.rounds.experiment import Experiment
from flowerbed.rounds.fleet import Fleet


class Nodes:
    """A grid of nodes that answer what `about` says; a node without it is silent, as a SuperLink says after a while."""

    def __init__(self, about: dict[int, dict | None]) -> None:
        self.about = about
        self.looks = 0
        self._sent: dict[str, tuple[Message, float]] = {}

    def get_node_ids(self) -> list[int]:
        return list(self.about)

    def push_messages(self, messages: list[Message]) -> list[str]:
        ids = [str(uuid.uuid4()) for _ in messages]
        self._sent |= {name: (message, time.monotonic()) for name, message in zip(ids, messages, strict=True)}
        for name, message in zip(ids, messages, strict=True):
            message.metadata.__dict__["_message_id"] = name
        return ids

    def pull_messages(self, ids: list[str]) -> list[Message]:
        self.looks += 1
        replies = []
        for name in ids:
            message, since = self._sent[name]
            about = self.about[message.metadata.dst_node_id]
            if about:
                replies.append(Message(make_content(b"", about), reply_to=message))
            elif time.monotonic() > since + message.metadata.ttl:
                replies.append(Message(Error(code=1, reason="Node Unavailable"), reply_to=message))
        return replies


def test_a_node_that_does_not_answer_is_waited_for_once():
    grid = Nodes({1: {"name": "a", "ready": True}, 2: None})
    fleet = Fleet(grid, ["a", "b"], threading.Event(), query_seconds=0.2)
    looks = []
    for _ in range(4):
        grid.looks, ends = 0, time.monotonic() + 0.25
        assert fleet.refresh() == ["a"]
        looks.append(grid.looks)
        fleet.pause(max(0, ends - time.monotonic()))  # the query ends, and the SuperLink says so
    assert looks[0] > 2 >= max(looks[1:]), looks
    grid.about[2] = {"name": "b", "ready": True}
    deadline = time.monotonic() + 10
    while fleet.refresh() != ["a", "b"]:
        assert time.monotonic() < deadline


def test_a_node_is_who_the_link_says_and_one_that_says_another_name_is_left_out():
    grid = Nodes({1: {"name": "a", "ready": True}, 2: {"name": "a", "ready": True}, 3: {"name": "c", "ready": True}})
    grid.names = {1: "a", 2: "b", 3: ""}
    fleet = Fleet(grid, ["a", "b", "c"], threading.Event(), query_seconds=20)
    assert fleet.refresh() == ["a", "b"]
    assert fleet.ready("a") and not fleet.ready("b")
    assert fleet.about["b"] == {"problem": "it is b by its key, but says that it is a: deploy again"}


def test_a_query_whose_node_has_gone_or_that_is_over_is_waited_for_no_more():
    grid = Nodes({1: None, 2: None})
    abandoned = []
    grid.abandon = abandoned.extend
    fleet = Fleet(grid, ["a", "b"], threading.Event(), query_seconds=60)
    fleet.refresh(patience=0)
    first, second = grid._sent
    del grid.about[1]
    fleet.refresh(patience=0)
    assert abandoned == [first]
    fleet.close()
    assert abandoned == [first, second]


def test_classes_are_compared_of_devices_that_can_take_part(tmp_path):
    about = {"ready": True, "task_hash": "new", "classes": ["cat", "dog"]}
    stale = {**about, "name": "a", "task_hash": "old", "classes": ["dog", "cat"]}
    run = RunConfig(
        "e", str(tmp_path), 1, "stream", "task.py", str(tmp_path / "t.sock"), dict.fromkeys("abc", 1), {},
        task_hash="new", wait_clients=5,
    )  # fmt: skip
    grid = Nodes({1: stale, 2: {**about, "name": "b"}, 3: {**about, "name": "c"}})
    work = loop._Run(grid, run, Experiment(run), threading.Event())
    try:
        work._wait_for_devices()
        assert work._able() == ["b", "c"]
        assert "a has task code old, but this run is of new" in work._why_not("a")
    finally:
        work.close()
