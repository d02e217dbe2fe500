"""The stream's server with devices made by hand: what each may do wrong, and what that costs the others. Real gRPC."""

import asyncio
import gc
import socket
import threading
import time

import grpc
import pytest
from flwr.app import Message

import fleet
from device import Device
from flowerbed.link.content import make_content, read_content
from flowerbed.link.stream import connections, wire
from flowerbed.link.stream.grid import StreamGrid
from flowerbed.parts import PART, split

WORDS = {"loss": 1.0}


def grid_of(*names: str) -> StreamGrid:
    grid = StreamGrid(f"127.0.0.1:{fleet.free_port()}", list(names))
    grid.start()
    grid.address = grid._connections._address
    return grid


@pytest.fixture
def grid():
    return grid_of("d0", "d1")


def joined(grid: StreamGrid, *nodes: int) -> None:
    fleet.wait_until(lambda: grid.get_node_ids() == list(nodes), 20, f"{nodes} to be connected", every=0.005)


def ask(grid: StreamGrid, node: int = 1, packed: bytes = b"model", kind: str = "train", ttl: float = 20) -> str:
    return grid.push_messages([Message(make_content(packed, {"round": 1}), node, kind, ttl=ttl)])[0]


def reply(grid: StreamGrid, identifier: str, seconds: float = 20):
    return fleet.wait_until(lambda: grid.pull_messages([identifier]), seconds, "a reply", every=0)[0]


def answer(message: wire.Message, tensors: bytes = b"", **changes):
    return wire.write(wire.Message(**{"id": message.id, "kind": message.kind, "words": WORDS} | changes,
                                   tensors=split(tensors)))  # fmt: skip


def failure(grid: StreamGrid, answer_with, **asked) -> tuple[str, Device]:
    """Return why d0 gave no reply, and d0, whose answers `answer_with` makes."""
    with Device(grid.address, "d0", answer_with) as device:
        joined(grid, 1)
        got = reply(grid, ask(grid, **asked))
        assert device.ended.wait(20)
    return got.error.reason, device


def held(grid: StreamGrid) -> int:
    return len(grid._replies) + len(grid._pending)


def test_what_is_asked_and_answered_arrives_whole(grid):
    seen = []

    def answer_with(message):
        seen.append((message.kind, b"".join(message.tensors), message.words))
        if message.kind == "query":
            return answer(message, words={"name": "d0"})
        return answer(message, bytes(3 * PART) if message.kind == "train" else b"")

    with Device(grid.address, "d0", answer_with):
        joined(grid, 1)
        packed, words = read_content(reply(grid, ask(grid, packed=bytes(4 * PART))).content)
        assert (len(packed), words) == (3 * PART, WORDS)
        assert read_content(reply(grid, ask(grid, kind="evaluate")).content) == (b"", WORDS)
        assert read_content(reply(grid, ask(grid, packed=b"", kind="query")).content) == (b"", {"name": "d0"})
    assert seen == [
        ("train", bytes(4 * PART), {"round": 1}),
        ("evaluate", b"model", {"round": 1}),
        ("query", b"", None),
    ]
    assert held(grid) == 0


def test_one_content_goes_to_many_and_is_encoded_once(grid, monkeypatch):
    made = []
    monkeypatch.setattr(wire, "body", lambda *parts, make=wire.body: made.append(make(*parts)) or made[-1])
    with Device(grid.address, "d0", answer), Device(grid.address, "d1", answer):
        joined(grid, 1, 2)
        content = make_content(b"model", {})
        assert len(grid.send_and_receive([Message(content, node, "train", ttl=20) for node in (1, 2)])) == 2
    assert len(made) == 1


def test_a_device_that_calls_itself_by_another_s_name_is_not_that_one(grid):
    with Device(grid.address, "d0", lambda message: answer(message, words={"name": "d1"})):
        joined(grid, 1)
        assert reply(grid, ask(grid, kind="query")).error.reason == "it connected as d0, and calls itself d1 now"


def test_a_node_that_is_not_connected_is_answered_for_at_once(grid):
    assert reply(grid, ask(grid, node=2)).error.reason == "it is not connected"


# -- Answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_too_many_is_let_go_and_the_next_request_gets_its_own(grid):
    def twice(message):
        for number in (message.id, message.id, message.id + 1000):
            yield from answer(message, b"update", id=number)

    with Device(grid.address, "d0", twice) as device:
        joined(grid, 1)
        device.send(wire.write(wire.Message(77, "train", {"loss": 9.0}, split(b"unasked"))))
        for _ in range(5):
            packed, words = read_content(reply(grid, ask(grid)).content)
            assert (packed, words) == (b"update", WORDS)
        assert not device.ended.is_set() and grid.get_node_ids() == [1]
    assert held(grid) == 0


@pytest.mark.parametrize(
    ("name", "answer_with", "sentence"),
    [
        ("no header", lambda message: [b"what"], "it sent no header where one was to come"),
        ("another kind", lambda message: answer(message, kind="evaluate"), "it answered train with evaluate"),
        ("too large", lambda message: answer(message, bytes(wire.MORE + 11)), "65547 bytes of tensors, and 65546 are"),
        ("too many words", lambda message: answer(message, words="x" * (1 << 16)), "65538 bytes of words, and 65536"),
        ("more than announced", lambda message: [wire.Header(message.id, "train", 0, 3).pack(), b"abcd"],
         "it sent another number of bytes than it had announced"),
        ("small parts", lambda message: [wire.Header(message.id, "train", 0, 9).pack(), b"a"],
         "it sent another number of bytes than it had announced"),
        ("nested words", lambda message: [wire.Header(message.id, "train", 1972).pack(), b"[" * 986 + b"]" * 986],
         "it sent words that"),
        ("no JSON", lambda message: [wire.Header(message.id, "train", 3).pack(), b"{no"], "words that are not JSON"),
    ],
)  # fmt: skip
def test_a_device_that_breaks_the_protocol_is_cut_and_named(grid, caplog, name, answer_with, sentence):
    with caplog.at_level("INFO", "flowerbed.server"):
        reason, device = failure(grid, answer_with)
        joined(grid)
    assert reason.startswith("it broke the protocol: it ") and sentence in reason
    assert device.status is grpc.StatusCode.INVALID_ARGUMENT and sentence in device.reason
    assert [message for message in caplog.messages if "d0 disconnected (it " in message and sentence in message]


def test_a_score_has_no_tensors(grid):
    reason, _ = failure(grid, lambda message: answer(message, b"x"), kind="evaluate")
    assert "1 bytes of tensors, and 0 are the most" in reason


def test_a_message_beyond_all_limits_ends_the_connection(grid):
    reason, device = failure(grid, lambda message: [wire.Header(message.id, "train", 0, 5).pack(), bytes(900_000)])
    assert reason == "its connection ended before it answered" and held(grid) == 0


def test_nothing_of_an_answer_stays_once_its_reply_was_taken(grid):
    with Device(grid.address, "d0", lambda message: answer(message, b"update")):
        joined(grid, 1)
        for _ in range(20):
            reply(grid, ask(grid))
        device = grid._connections._devices[1]
        fleet.wait_until(lambda: not device.waiting, 20, "the last one to be taken in")
        gc.collect()
        ours = [item for item in gc.get_objects() if isinstance(item, wire.Body | connections.Order)]
        assert not ours and not device.timers and held(grid) == 0
        timers = [handle for handle in grid._connections._loop._scheduled if not handle.cancelled()]
        assert len(timers) < 5, timers


def test_when_a_reply_came_is_known_whenever_it_is_taken(grid):
    with Device(grid.address, "d0", answer):
        joined(grid, 1)
        before = time.monotonic()
        identifier = ask(grid)
        fleet.wait_until(lambda: identifier in grid._replies, 20, "the reply")
        after = time.monotonic()
        time.sleep(0.2)
        assert before <= reply(grid, identifier).arrived <= after


def test_a_device_that_goes_is_noticed_at_once(grid):
    began = threading.Event()
    with Device(grid.address, "d0", lambda message: began.set() or ()) as device:
        joined(grid, 1)
        identifier = ask(grid)
        assert began.wait(20)
        before = time.time()
        device.stop()
        assert reply(grid, identifier).error.reason == "its connection ended before it answered"
    joined(grid)
    assert before - 5 < grid.last_seen("d0") <= time.time() and grid.last_seen("d1") is None


def test_of_a_device_that_says_it_has_no_more_to_say_and_goes_no_ghost_stays(grid):
    for _ in range(100):
        with Device(grid.address, "d0", answer):
            joined(grid, 1)
        joined(grid)


# -- Late, stopped, abandoned ------------------------------------------------------------------------------------------


def test_who_is_late_is_cut_and_what_still_comes_is_let_go(grid):
    asked = []
    reason, device = failure(grid, lambda message: asked.append(message) or (), ttl=0.3)
    assert reason == "it did not answer within 0.3 s"
    assert device.status is grpc.StatusCode.DEADLINE_EXCEEDED
    with Device(grid.address, "d0") as again:  # with what the first one was asked
        joined(grid, 1)
        again.send(answer(asked[0], b"update"))
        again._answer = answer
        assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
        assert held(grid) == 0


def test_what_is_abandoned_is_cut_short_and_nothing_of_it_is_kept(grid):
    def slow(message):  # begins to answer, and goes on when nobody waits any more
        yield wire.Header(message.id, "train", 0, 5).pack()
        went_on.wait(20)
        yield b"12345"

    went_on = threading.Event()
    with Device(grid.address, "d0", slow) as device, Device(grid.address, "d1", answer):
        joined(grid, 1, 2)
        at_work, done, queried = ask(grid), ask(grid, node=2), ask(grid, node=2, kind="query")
        fleet.wait_until(lambda: done in grid._replies, 20, "d1's answer")
        grid.abandon([at_work, done, queried, "unknown"])
        joined(grid, 2)  # who is not at work is not cut
        went_on.set()
        assert device.ended.wait(20) and "nobody waits for its answer" in device.reason
        assert held(grid) == 0


def test_send_and_receive_keeps_nothing_of_those_it_no_longer_waits_for(grid):
    with Device(grid.address, "d0"):
        joined(grid, 1)
        assert grid.send_and_receive([Message(make_content(b"", {}), 1, "train", ttl=20)], timeout=0.2) == []
        joined(grid)
    assert held(grid) == 0


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in {
        "PING_SECONDS": 0.2,
        "GONE_SECONDS": 4.0,
        "ANSWER_SECONDS": 2.0,
        "LOOK_SECONDS": 0.05,
    }.items():
        monkeypatch.setattr(connections, name, seconds)


def test_a_device_that_shows_no_sign_of_life_is_given_up(impatient, grid, caplog):
    caplog.set_level("INFO", "flowerbed.server")
    with Device(grid.address, "d0", answers_pings=False) as dead, Device(grid.address, "d1") as idle:
        joined(grid, 1, 2)
        identifier = ask(grid)
        assert reply(grid, identifier).error.reason == "its connection ended before it answered"
        assert dead.ended.wait(20)
        time.sleep(5)  # longer than a silence may last
        assert grid.get_node_ids() == [2] and not idle.ended.is_set()
        assert len([message for message in idle.received if message.kind == wire.PING]) > 2
    assert any("d0 disconnected (it showed no sign of life for " in message for message in caplog.messages)


def test_30_seconds_are_enough_to_give_a_device_up():
    assert connections.GONE_SECONDS + connections.LOOK_SECONDS <= 30
    assert connections.PING_SECONDS + 10 < connections.GONE_SECONDS, "a device is asked more than once"


# -- Two of one name, and strangers ------------------------------------------------------------------------------------


def test_of_two_of_one_name_the_older_stays_as_long_as_it_answers(impatient, grid, caplog):
    with caplog.at_level("INFO", "flowerbed.server"), Device(grid.address, "d0", answer, "card") as older:
        joined(grid, 1)
        for _ in range(4):
            with Device(grid.address, "d0", answer, "copy") as newer:
                assert newer.ended.wait(20)
            assert newer.status is grpc.StatusCode.ALREADY_EXISTS and not newer.received
            assert "another device called d0, at 127.0.0.1, is connected and answers" in newer.reason
        assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
        assert not older.ended.is_set()
        [sentence] = [message for message in caplog.messages if "two devices call themselves d0" in message]
        assert "the one at 127.0.0.1 is held back" in sentence
        older.answers_pings = False
        with Device(grid.address, "d0", answer, "copy") as newer:
            assert older.ended.wait(20)
            fleet.wait_until(lambda: newer.received, 20, "the newer to be let in")
            assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
    assert "d0 connected anew" in caplog.messages


def test_a_device_that_comes_back_before_its_old_connection_has_ended_needs_no_patience(grid):
    with Device(grid.address, "d0", answers_pings=False, instance="same") as older:
        joined(grid, 1)
        identifier = ask(grid)
        with Device(grid.address, "d0", answer, instance="same"):
            assert older.ended.wait(15) and "connected anew" in older.reason
            assert reply(grid, identifier).error.reason == "its connection ended before it answered"
            assert read_content(reply(grid, ask(grid)).content)[1] == WORDS


def test_strangers_do_not_silence_the_word_on_two_of_one_name(impatient, grid, caplog):
    caplog.set_level("INFO", "flowerbed.server")
    for number in range(connections.MOST_LOGGED + 1):
        with Device(grid.address, f"stranger {number}") as device:
            assert device.ended.wait(20)
    assert sum("refused a device" in message for message in caplog.messages) == connections.MOST_LOGGED
    with Device(grid.address, "d0", answer, "card"):
        joined(grid, 1)
        with Device(grid.address, "d0", answer, "copy") as newer:
            assert newer.ended.wait(20)
    assert any("two devices call themselves d0" in message for message in caplog.messages)


def test_of_those_that_come_under_a_silent_device_s_name_one_waits_at_a_time(grid):
    with Device(grid.address, "d0", answers_pings=False) as silent:
        joined(grid, 1)
        others = [Device(grid.address, "d0", answer, f"copy {number}") for number in range(10)]
        fleet.wait_until(lambda: sum(other.ended.is_set() for other in others) == 9, 20, "the others to be told")
        assert silent.ended.wait(20)  # for one of them
        assert [other for other in others if not other.ended.is_set()] and grid.get_node_ids() == [1]
        for other in others:
            other.stop()


def test_of_many_calls_at_once_each_is_ended_but_the_last(grid, caplog):
    devices = [Device(grid.address, "d0", answer, "same") for _ in range(50)]
    try:
        fleet.wait_until(lambda: sum(device.ended.is_set() for device in devices) == 49, 20, "all others to end")
        [device] = [device for device in devices if not device.ended.is_set()]
        assert {other.status for other in devices if other is not device} == {grpc.StatusCode.ABORTED}
        assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
    finally:
        for device in devices:
            device.stop()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


@pytest.mark.parametrize(
    ("metadata", "sentence"),
    [
        ((), "the call says no device's name"),
        ((("flowerbed-name-bin", b"\xff\xfe"),), "the call says no device's name"),
        ((("flowerbed-name-bin", b"d0\n\x1b[2Jd9"),), "has no device d0 d9: run deploy.yml"),
        ((("flowerbed-name-bin", "dö".encode()),), "has no device dö: run deploy.yml"),
        ((("flowerbed-name-bin", b""),), "has no device : run deploy.yml"),
    ],
)
def test_a_stranger_s_call_ends_before_anything_is_read(grid, caplog, metadata, sentence):
    def flood():
        while not over.is_set():
            yield bytes(PART)

    over = threading.Event()
    with caplog.at_level("INFO", "flowerbed.server"), grpc.insecure_channel(grid.address) as channel:
        for _ in range(3):
            call = channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")(flood(), metadata=metadata)
            assert call.code() is grpc.StatusCode.PERMISSION_DENIED and sentence in call.details()
        over.set()
    refused = [message for message in caplog.messages if "refused a device" in message]
    assert len(refused) == ("has no device" in sentence) and "\x1b" not in "".join(refused)
    assert grid.get_node_ids() == []


def test_strangers_that_come_for_ever_keep_no_device_out(grid):
    over = threading.Event()

    def stranger(number: int) -> None:
        while not over.is_set():
            with Device(grid.address, f"stranger {number}") as device:
                device.send([bytes(PART)] * 4)
                device.ended.wait(5)

    strangers = [threading.Thread(target=stranger, args=(number,)) for number in range(10)]
    idle = [socket.create_connection(grid.address.split(":")) for _ in range(100)]
    try:
        for thread in strangers:
            thread.start()
        with Device(grid.address, "d0", answer), Device(grid.address, "d1", answer):
            joined(grid, 1, 2)
            for _ in range(3):
                assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
    finally:
        over.set()
        for thread in strangers:
            thread.join(20)
        for connection in idle:
            connection.close()


def test_three_hundred_idle_devices_need_no_thread_each(monkeypatch):
    monkeypatch.setattr(connections, "PING_SECONDS", 1)
    names = [f"d{number}" for number in range(300)]
    grid = grid_of(*names)
    pings = dict.fromkeys(names, 0)

    async def device(name: str) -> None:
        async with grpc.aio.insecure_channel(grid.address) as channel:
            call = channel.stream_stream(f"/{wire.SERVICE}/{wire.METHOD}")(metadata=((wire.NAME, name.encode()),))
            reader = wire.Reader()
            while pings[name] < 3:
                message = reader.feed(await call.read())
                for part in wire.write(message):
                    await call.write(part)
                pings[name] += 1
            await over.wait()
            call.cancel()

    async def all_devices() -> None:
        await asyncio.gather(*map(device, names))

    over = asyncio.Event()
    loop = asyncio.new_event_loop()
    before = threading.active_count()
    thread = threading.Thread(target=loop.run_until_complete, args=(all_devices(),))
    thread.start()
    try:
        fleet.wait_until(lambda: min(pings.values()) == 3, 60, "each device to be asked three times whether it lives")
        assert grid.get_node_ids() == list(range(1, 301))
        assert threading.active_count() <= before + 2, "the devices' own thread, and one of gRPC's"
    finally:
        loop.call_soon_threadsafe(over.set)
        thread.join(30)
