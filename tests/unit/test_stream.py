"""The stream's server with devices made by hand: what each may do wrong, and what that costs the others. Real TLS."""

import contextlib
import gc
import shutil
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
from flwr.app import Message

import fleet
from authority import Authority
from device import Device
from flowerbed.link import identity
from flowerbed.link.content import make_content, read_content
from flowerbed.link.stream import connections, wire
from flowerbed.link.stream.grid import StreamGrid
from flowerbed.parts import PART, split

WORDS = {"loss": 1.0}


class Lab:
    """An authority, and the identities that it gave: the server's, and the devices', each in a folder of its own."""

    def __init__(self, folder: Path, *names: str) -> None:
        self.folder, self.authority = folder, Authority(folder / "server")
        self.authority.server()
        for name in names:
            self.authority.device(folder / name, name)
        self.grid = StreamGrid(f"127.0.0.1:{fleet.free_port()}", list(names), folder / "server")
        self.grid.start()
        self.address = self.grid._connections._address

    def device(self, name: str, *arguments, **named) -> Device:
        """Connect a device, with the identity of the folder `name`."""
        return Device(self.address, self.folder / name, *arguments, **named)


@pytest.fixture
def lab(tmp_path):
    return Lab(tmp_path, "d0", "d1")


@pytest.fixture
def grid(lab):
    return lab.grid


def joined(grid: StreamGrid, *nodes: int) -> None:
    fleet.wait_until(lambda: grid.get_node_ids() == list(nodes), 20, f"{nodes} to be connected", every=0.005)


def ask(grid: StreamGrid, node: int = 1, packed: bytes = b"model", kind: str = "train", ttl: float = 20) -> str:
    return grid.push_messages([Message(make_content(packed, {"round": 1}), node, kind, ttl=ttl)])[0]


def reply(grid: StreamGrid, identifier: str, seconds: float = 20):
    return fleet.wait_until(lambda: grid.pull_messages([identifier]), seconds, "a reply", every=0)[0]


def answer(message: wire.Message, tensors: bytes = b"", **changes):
    return wire.write(wire.Message(**{"id": message.id, "kind": message.kind, "words": WORDS} | changes,
                                   tensors=split(tensors)))  # fmt: skip


def failure(lab: Lab, answer_with, **asked) -> tuple[str, Device]:
    """Return why d0 gave no reply, and d0, whose answers `answer_with` makes."""
    with lab.device("d0", answer_with) as device:
        joined(lab.grid, 1)
        got = reply(lab.grid, ask(lab.grid, **asked))
        assert device.ended.wait(20)
    return got.error.reason, device


def held(grid: StreamGrid) -> int:
    return len(grid._replies) + len(grid._pending)


def test_what_is_asked_and_answered_arrives_whole(lab, grid):
    seen = []

    def answer_with(message):
        seen.append((message.kind, b"".join(message.tensors), message.words))
        if message.kind == "query":
            return answer(message, words={"name": "d0"})
        return answer(message, bytes(3 * PART) if message.kind == "train" else b"")

    with lab.device("d0", answer_with):
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


def test_one_content_goes_to_many_and_is_encoded_once(lab, grid, monkeypatch):
    made = []
    monkeypatch.setattr(wire, "body", lambda *parts, make=wire.body: made.append(make(*parts)) or made[-1])
    with lab.device("d0", answer), lab.device("d1", answer):
        joined(grid, 1, 2)
        content = make_content(b"model", {})
        assert len(grid.send_and_receive([Message(content, node, "train", ttl=20) for node in (1, 2)])) == 2
    assert len(made) == 1


def test_a_device_that_calls_itself_by_another_s_name_is_not_that_one(lab, grid):
    with lab.device("d0", lambda message: answer(message, words={"name": "d1"})):
        joined(grid, 1)
        assert reply(grid, ask(grid, kind="query")).error.reason == "it connected as d0, and calls itself d1 now"


def test_a_node_that_is_not_connected_is_answered_for_at_once(grid):
    assert reply(grid, ask(grid, node=2)).error.reason == "it is not connected"


# -- Answers -----------------------------------------------------------------------------------------------------------


def test_an_answer_too_many_is_let_go_and_the_next_request_gets_its_own(lab, grid):
    def twice(message):
        for number in (message.id, message.id, message.id + 1000):
            yield from answer(message, b"update", id=number)

    with lab.device("d0", twice) as device:
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
def test_a_device_that_breaks_the_protocol_is_cut_and_named(lab, grid, caplog, name, answer_with, sentence):
    with caplog.at_level("INFO", "flowerbed.server"):
        reason, device = failure(lab, answer_with)
        joined(grid)
    assert reason.startswith("it broke the protocol: it ") and sentence in reason
    assert device.bye.kind == wire.Bye.BROKEN and sentence in device.reason
    assert [message for message in caplog.messages if "d0 disconnected (it " in message and sentence in message]


def test_a_score_has_no_tensors(lab):
    reason, _ = failure(lab, lambda message: answer(message, b"x"), kind="evaluate")
    assert "1 bytes of tensors, and 0 are the most" in reason


def test_a_part_beyond_all_limits_ends_the_connection_before_it_is_read(lab):
    reason, _ = failure(lab, lambda message: [wire.Header(message.id, "train", 0, 5).pack(), bytes(900_000)])
    assert reason == f"it broke the protocol: it sent a part of 900000 bytes, and {PART} are the most"
    assert held(lab.grid) == 0


@pytest.mark.parametrize("data", [b"x", b"{}", b"x" * 2000])
def test_apart_from_messages_a_device_only_shows_that_it_lives(lab, data):
    with lab.device("d0") as device:
        joined(lab.grid, 1)
        device.send([data], apart=True)
        assert device.ended.wait(20) and device.bye.kind == wire.Bye.BROKEN and device.reason.startswith("it sent ")


def test_nothing_of_an_answer_stays_once_its_reply_was_taken(lab, grid):
    with lab.device("d0", lambda message: answer(message, b"update")):
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


def test_when_a_reply_came_is_known_whenever_it_is_taken(lab, grid):
    with lab.device("d0", answer):
        joined(grid, 1)
        before = time.monotonic()
        identifier = ask(grid)
        fleet.wait_until(lambda: identifier in grid._replies, 20, "the reply")
        after = time.monotonic()
        time.sleep(0.2)
        assert before <= reply(grid, identifier).arrived <= after


def test_a_device_that_goes_is_noticed_at_once(lab, grid):
    began = threading.Event()
    with lab.device("d0", lambda message: began.set() or ()) as device:
        joined(grid, 1)
        identifier = ask(grid)
        assert began.wait(20)
        before = time.time()
        device.stop()
        assert reply(grid, identifier).error.reason == "its connection ended before it answered"
    joined(grid)
    assert before - 5 < grid.last_seen("d0") <= time.time() and grid.last_seen("d1") is None


def test_of_a_device_that_says_it_has_no_more_to_say_and_goes_no_ghost_stays(lab, grid):
    for _ in range(100):
        with lab.device("d0", answer):
            joined(grid, 1)
        joined(grid)


# -- Late, stopped, abandoned ------------------------------------------------------------------------------------------


def test_who_is_late_is_cut_and_what_still_comes_is_let_go(lab, grid):
    asked = []
    reason, device = failure(lab, lambda message: asked.append(message) or (), ttl=1)
    assert reason == "it did not answer within 1 s"
    assert device.bye.kind == wire.Bye.LATE
    with lab.device("d0") as again:  # with what the first one was asked
        joined(grid, 1)
        again.send(answer(asked[0], b"update"))
        again._answer = answer
        assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
        assert held(grid) == 0


def test_what_is_abandoned_is_cut_short_and_nothing_of_it_is_kept(lab, grid):
    def slow(message):  # begins to answer, and goes on when nobody waits any more
        yield wire.Header(message.id, "train", 0, 5).pack()
        went_on.wait(20)
        yield b"12345"

    went_on = threading.Event()
    with lab.device("d0", slow) as device, lab.device("d1", answer):
        joined(grid, 1, 2)
        at_work, done, queried = ask(grid), ask(grid, node=2), ask(grid, node=2, kind="query")
        fleet.wait_until(lambda: done in grid._replies, 20, "d1's answer")
        grid.abandon([at_work, done, queried, "unknown"])
        joined(grid, 2)  # who is not at work is not cut
        went_on.set()
        assert device.ended.wait(20) and "nobody waits for its answer" in device.reason
        assert held(grid) == 0


def test_send_and_receive_keeps_nothing_of_those_it_no_longer_waits_for(lab, grid):
    with lab.device("d0"):
        joined(grid, 1)
        assert grid.send_and_receive([Message(make_content(b"", {}), 1, "train", ttl=20)], timeout=0.2) == []
        joined(grid)
    assert held(grid) == 0


@pytest.fixture
def impatient(monkeypatch):
    for name, seconds in {
        "PING_SECONDS": 0.2,
        "GONE_SECONDS": 4.0,
        "LOOK_SECONDS": 0.05,
    }.items():
        monkeypatch.setattr(connections, name, seconds)


def test_a_device_that_shows_no_sign_of_life_is_given_up(impatient, lab, grid, caplog):
    caplog.set_level("INFO", "flowerbed.server")
    with lab.device("d0", answers_pings=False) as dead, lab.device("d1") as idle:
        joined(grid, 1, 2)
        identifier = ask(grid)
        assert reply(grid, identifier).error.reason == "its connection ended before it answered"
        assert dead.ended.wait(20)
        time.sleep(5)  # longer than a silence may last
        assert grid.get_node_ids() == [2] and not idle.ended.is_set()
        assert idle.pings > 2
    assert any("d0 disconnected (it showed no sign of life for " in message for message in caplog.messages)


def test_30_seconds_are_enough_to_give_a_device_up():
    assert connections.GONE_SECONDS + connections.LOOK_SECONDS <= 30
    assert connections.PING_SECONDS + 10 < connections.GONE_SECONDS, "a device is asked more than once"


# -- Two of one name, and strangers ------------------------------------------------------------------------------------


def test_of_two_with_one_identity_the_newer_is_in_and_they_do_not_take_turns(lab, grid, caplog):
    caplog.set_level("INFO", "flowerbed.server")
    with lab.device("d0", answer, "card") as older:
        joined(grid, 1)
        identifier = ask(grid, packed=bytes(3 * PART))
        reply(grid, identifier)
        with lab.device("d0", answer, "copy") as newer:
            assert older.ended.wait(20) and older.bye.kind == wire.Bye.REPLACED
            assert older.reason == "a newer connection with its identity came from 127.0.0.1"
            for _ in range(4):
                with lab.device("d0", answer, "card") as again:
                    assert again.ended.wait(20) and again.bye.kind == wire.Bye.REPLACED and not again.pings
                assert "another one with the identity of d0, at 127.0.0.1, is connected." in again.reason
            assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
            assert not newer.ended.is_set()
        joined(grid)
        with lab.device("d0", answer, "card"):
            joined(grid, 1)
    assert sum("two devices have the identity of d0" in message for message in caplog.messages) == 1
    assert any(message.startswith("d0 disconnected (a newer connection") for message in caplog.messages)
    assert "d0 connected anew" in caplog.messages


def test_a_device_that_comes_back_before_its_old_connection_has_ended_needs_no_patience(lab, grid):
    with lab.device("d0", answers_pings=False, instance="same") as older:
        joined(grid, 1)
        identifier = ask(grid)
        with lab.device("d0", answer, instance="same"):
            assert older.ended.wait(15) and "a newer connection" in older.reason
            assert reply(grid, identifier).error.reason == "its connection ended before it answered"
            assert read_content(reply(grid, ask(grid)).content)[1] == WORDS


def test_of_many_connections_at_once_each_is_ended_but_the_last(lab, grid, caplog):
    devices = [lab.device("d0", answer, "same") for _ in range(50)]
    try:
        fleet.wait_until(lambda: sum(device.ended.is_set() for device in devices) == 49, 30, "all others to end")
        [device] = [device for device in devices if not device.ended.is_set()]
        assert {other.bye.kind for other in devices if other is not device} == {wire.Bye.REPLACED}
        assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
    finally:
        for device in devices:
            device.stop()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# -- Strangers ---------------------------------------------------------------------------------------------------------


def refused(lab: Lab, caplog, sentence: str, attempt, seen: bool = True) -> None:
    """Check that whoever comes is refused, twice, and that the log says once who and why."""
    with caplog.at_level("INFO", "flowerbed.server"):
        for _ in range(2):
            attempt()
        if seen:
            fleet.wait_until(lambda: [line for line in caplog.messages if "refused" in line], 20, "the word")
        time.sleep(0.1)
    lines = [line for line in caplog.messages if "refused" in line]
    assert lines == ([sentence] if seen else [])
    assert lab.grid.get_node_ids() == []


def knock(lab: Lab, folder: str, hello: bytes | None = None) -> Device:
    with lab.device(folder, hello=hello) as device:
        assert device.ended.wait(20) and not device.pings
    return device


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("of another authority", "refused 127.0.0.1: its certificate is not of this fleet's authority"),
        ("expired", "refused 127.0.0.1: its certificate has expired"),
        ("of tomorrow", "refused 127.0.0.1: its certificate is not valid yet: is the clock right?"),
        ("a server's", "refused 127.0.0.1: its certificate is not for this purpose"),
        ("replaced", "refused d0 at 127.0.0.1: its certificate is not the one that the last deployment recorded for "
         "it: run deploy.yml"),
        ("removed", "refused d7 at 127.0.0.1: no such device is deployed: it was taken out, or reset"),
        ("with an odd name", "refused d0 d9 at 127.0.0.1: no such device is deployed: it was taken out, or reset"),
    ],
)  # fmt: skip
def test_who_shows_another_certificate_is_refused(lab, caplog, name, sentence):
    folder = lab.folder / "stranger"
    if name == "of another authority":
        Authority(lab.folder / "other").device(folder, "d0")
        shutil.copy(lab.folder / "d0/authority.pem", folder)  # it trusts ours
    elif name == "a server's":
        shutil.copytree(lab.folder / "server", folder)
    elif name == "with an odd name":
        lab.authority.device(folder, "d0\n\x1b[2Jd9", recorded=False)
    else:
        days = {"expired": (-9, -1), "of tomorrow": (1, 9)}.get(name, (-1, 9))
        lab.authority.device(folder, "d7" if name == "removed" else "d0", days, recorded=False)
    refused(lab, caplog, sentence, lambda: knock(lab, "stranger"))


def test_who_shows_no_certificate_is_refused(lab, caplog):
    def attempt():
        context = ssl.create_default_context(cafile=lab.folder / "d0/authority.pem")
        with socket.create_connection(lab.address.split(":")) as plain, contextlib.suppress(OSError):
            assert context.wrap_socket(plain, server_hostname="127.0.0.1").recv(1) == b""

    refused(lab, caplog, "refused 127.0.0.1: it shows no certificate", attempt)


def test_tls_below_1_2_is_refused(lab, caplog):
    def attempt():
        context = identity.context(lab.folder / "d0", ssl.Purpose.SERVER_AUTH)
        context.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
        with socket.create_connection(lab.address.split(":")) as plain, pytest.raises(OSError):
            context.wrap_socket(plain, server_hostname="127.0.0.1")

    refused(lab, caplog, "refused 127.0.0.1: it speaks a TLS older than 1.2", attempt)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "HTTP/2"), (b"GET / HTTP/1.1\r\n\r\n", "HTTP"),
        (b"POST /run HTTP/1.1\r\n\r\n", "HTTP"), (b"\x1b[2J\x00", "something"),
    ],
)  # fmt: skip
def test_who_speaks_no_tls_is_refused(lab, caplog, data, what):
    def attempt():
        with socket.create_connection(lab.address.split(":")) as plain:
            plain.sendall(data)
            plain.settimeout(20)
            with contextlib.suppress(ConnectionResetError):
                assert plain.recv(1) == b""

    refused(lab, caplog, f"refused 127.0.0.1: it speaks {what} without TLS", attempt)


def test_a_port_scan_is_no_news(lab, caplog):
    refused(lab, caplog, "", lambda: socket.create_connection(lab.address.split(":")).close(), seen=False)


@pytest.mark.parametrize(
    ("hello", "sentence"),
    [
        (b'{"instance": "a", "version": 2}', "it is of another version of Flowerbed: run deploy.yml for all"),
        (b"[]", "it sent no hello"), (b"", "it sent no hello"),
        (b"x" * 5000, "it sent a part of 5000 bytes, and 1024 are the most"),
    ],
)  # fmt: skip
def test_a_device_that_says_no_hello_is_told_so(lab, hello, sentence):
    assert sentence in knock(lab, "d0", hello).reason


def test_a_name_is_what_the_certificate_says_whatever_the_device_says(lab, grid):
    with lab.device("d1", lambda message: answer(message, words={"name": "d0"})):
        joined(grid, 2)
        assert reply(grid, ask(grid, 2, kind="query")).error.reason == "it connected as d1, and calls itself d0 now"


def test_a_certificate_that_is_no_longer_recorded_ends_its_connection(lab, grid, monkeypatch, caplog):
    monkeypatch.setattr(connections, "LOOK_SECONDS", 0.05)
    caplog.set_level("INFO", "flowerbed.server")
    with lab.device("d0", answer) as gone, lab.device("d1", answer) as stays:
        joined(grid, 1, 2)
        identifier = ask(grid)
        reply(grid, identifier)
        lab.authority.forget("d0")
        assert gone.ended.wait(20) and gone.reason == "its certificate is no longer accepted"
        assert "no such device" in knock(lab, "d0").reason and not stays.ended.is_set()
        lab.authority.device(lab.folder / "d0", "d0")
        time.sleep(1.5)  # until it was looked at again
        with lab.device("d0", answer):
            joined(grid, 1, 2)


def test_a_new_certificate_of_the_server_s_is_taken_up_as_it_runs(lab, grid):
    def shown() -> bytes:
        context = identity.context(lab.folder / "d0", ssl.Purpose.SERVER_AUTH)
        with socket.create_connection(lab.address.split(":")) as plain:
            return context.wrap_socket(plain, server_hostname="127.0.0.1").getpeercert(binary_form=True)

    with lab.device("d1", answer) as stays:
        before = shown()
        lab.authority.server("another.name")
        fleet.wait_until(lambda: shown() != before, 20, "the new certificate")
        (lab.folder / "server/key.pem").write_text("half a")
        time.sleep(1.5)
        assert shown() != before and not stays.ended.is_set()


def test_strangers_that_come_for_ever_keep_no_device_out(lab, grid):
    over = threading.Event()
    lab.authority.device(lab.folder / "stranger", "stranger", recorded=False)

    def stranger() -> None:
        while not over.is_set():
            with lab.device("stranger") as device:
                device.send([bytes(PART)] * 4)
                device.ended.wait(5)

    strangers = [threading.Thread(target=stranger) for _ in range(10)]
    idle = [socket.create_connection(lab.address.split(":")) for _ in range(100)]
    try:
        for thread in strangers:
            thread.start()
        with lab.device("d0", answer), lab.device("d1", answer):
            joined(grid, 1, 2)
            for _ in range(3):
                assert read_content(reply(grid, ask(grid)).content)[1] == WORDS
    finally:
        over.set()
        for thread in strangers:
            thread.join(20)
        for connection in idle:
            connection.close()


def test_who_says_nothing_takes_up_no_room_for_ever(lab, grid, monkeypatch, caplog):
    monkeypatch.setattr(connections, "MOST_GUESTS", 5)
    monkeypatch.setattr(connections, "HELLO_SECONDS", 1.0)
    caplog.set_level("INFO", "flowerbed.server")
    idle = [socket.create_connection(lab.address.split(":")) for _ in range(10)]
    for connection in idle:
        connection.settimeout(20)
        assert connection.recv(1) == b""
    assert sum("5 connections do not say whose they are" in message for message in caplog.messages) == 1
    with lab.device("d0", answer):
        joined(grid, 1)


def test_three_hundred_idle_devices_need_no_thread_each(tmp_path, monkeypatch):
    monkeypatch.setattr(connections, "PING_SECONDS", 1)
    lab = Lab(tmp_path, *(f"d{number}" for number in range(300)))
    before = threading.active_count()
    devices: list[Device] = []
    try:
        for begin in range(0, 300, 50):  # whose ends of all handshakes are this process's, too
            devices += [lab.device(f"d{number}") for number in range(begin, begin + 50)]
            fleet.wait_until(lambda: len(lab.grid.get_node_ids()) == len(devices), 60, "all of them to be connected")  # noqa: B023 - called at once
        fleet.wait_until(lambda: min(device.pings for device in devices) >= 3, 90, "each to be asked whether it lives")
        assert lab.grid.get_node_ids() == list(range(1, 301))
        assert threading.active_count() <= before
    finally:
        for device in devices:
            device.stop()


def test_a_device_on_a_slow_network_lives_as_long_as_it_takes_what_is_sent(impatient, lab, grid):
    """It answers no ping: all that shows is that what was sent arrives, a little at a time."""
    host, port = lab.address.split(":")
    arrived, over = threading.Event(), threading.Event()

    def pass_on(source: socket.socket, target: socket.socket, seconds: float) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(4096):
                target.sendall(data)
                time.sleep(seconds)
                arrived.set()

    with socket.create_server(("127.0.0.1", 0)) as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)

        def serve() -> None:
            near, _ = slow.accept()
            far = socket.socket()
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
            far.connect((host, int(port)))
            threading.Thread(target=pass_on, args=(near, far, 0), daemon=True).start()
            pass_on(far, near, 0.1)  # 40 KB a second
            over.set()

        threading.Thread(target=serve, daemon=True).start()
        device = Device(f"127.0.0.1:{slow.getsockname()[1]}", lab.folder / "d0", answer, answers_pings=False)
        joined(grid, 1)
        size = 400_000  # 10 s
        began = time.monotonic()
        identifier = ask(grid, packed=bytes(size), ttl=60)
        assert read_content(reply(grid, identifier, 60).content)[1] == WORDS
        assert time.monotonic() - began > 2 * connections.GONE_SECONDS, "it was not slow"
        device.stop()
