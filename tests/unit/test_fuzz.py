"""Whatever comes from outside is taken or refused with a sentence: nothing else is raised, and nothing hangs.

The examples follow from each test's own source (derandomize), so a failure comes back.
"""

import contextlib
import json
import math
import os
import socket
import socketserver
import struct
import threading
import unicodedata

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from authority import Authority
from flowerbed import metrics, tensors, words
from flowerbed.dataset import DatasetError, arrays
from flowerbed.link.content import QUERY, make_content, read_content
from flowerbed.link.stream import frames, wire
from flowerbed.link.stream.grid import StreamGrid
from flowerbed.parts import PART, Parts
from flowerbed.rounds import fleet as fleets
from flowerbed.rounds import loop, needs, replies, weights
from flowerbed.rounds.config import RunConfig
from flowerbed.rounds.experiment import Experiment
from flowerbed.rounds.fleet import Reply
from flowerbed.rounds.patience import Patience
from flowerbed.server import control
from flowerbed.trainer import http as trainer_http
from flowerbed.trainer import worker as workers
from flowerbed.trainer.jobs import Jobs

fuzzed = settings(
    derandomize=True, deadline=None, max_examples=80,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip

# What is hostile by experience, and what nobody thought of
WORDS = st.text() | st.sampled_from([
    "\x1b[2J\x1b]0;x\x07", "{{ lookup('pipe', 'id') }}", "{% raw %}", "../../etc/passwd", "/etc/passwd", "a\nb",
    "\u202ea", "\ud800", "x" * 7_000, "\x00", "NaN", "-", "",
])  # fmt: skip
NUMBERS = st.integers() | st.floats() | st.sampled_from([
    10**400, -(10**400), 2**63, -(2**63) - 1, 1e308, -1e308, math.inf, -math.inf, math.nan, -0.0, 5e-324, True,
])  # fmt: skip


def nested(depth: int) -> list:
    value: list = []
    for _ in range(depth):
        value = [value]
    return value


def json_of(keys: st.SearchStrategy[str]) -> st.SearchStrategy:
    """Return any JSON value; of the objects in it, most have `keys`."""
    plain = st.none() | st.booleans() | NUMBERS | WORDS | st.sampled_from([nested(100), nested(600)])
    return st.recursive(plain, lambda inner: st.lists(inner) | st.dictionaries(keys | WORDS, inner), max_leaves=12)


def of(*names: str) -> st.SearchStrategy:
    """Return objects, many with these names, and any JSON values for them."""
    return st.dictionaries(st.sampled_from(names), json_of(st.sampled_from(names))) | json_of(st.sampled_from(names))


def is_line(text: str, longest: int = words.LONGEST) -> bool:
    """Return whether a text is one printable line."""
    return len(text) <= longest and not any(unicodedata.category(letter) in words._UNPRINTABLE for letter in text)


# -- Words -------------------------------------------------------------------------------------------------------------


@fuzzed
@given(json_of(WORDS), st.integers(1, 400))
def test_any_value_becomes_a_line_and_stays_one(value, longest):
    once = words.clean(value, longest)
    assert is_line(once, longest) and words.clean(once, longest) == once
    assert all(is_line(line, words.LONGEST + 8) for line in words.clean_trace(value))


def texts(value):
    if isinstance(value, str):
        yield value
    for part in (
        [*value, *(value.values() if isinstance(value, dict) else ())] if isinstance(value, list | dict) else ()
    ):
        yield from texts(part)


@fuzzed
@given(json_of(WORDS))
def test_every_text_of_any_value_becomes_a_line(value):
    assert all(map(is_line, texts(words.clean_all(value))))


# -- Tensors -----------------------------------------------------------------------------------------------------------

ENTRY = st.fixed_dictionaries({
    "dtype": st.sampled_from(["F32", "U8", "BOOL", "I64", "F8", 3, None, []]),
    "shape": st.lists(NUMBERS, max_size=4) | st.just([2**63] * 40) | st.sampled_from([[2], [2, 1], [], "2", None, {}]),
    "data_offsets": st.lists(NUMBERS, max_size=3) | st.sampled_from([[0, 8], [0, 4], [8, 0], "08", None]),
})  # fmt: skip
HEADER = st.dictionaries(WORDS, ENTRY | json_of(WORDS), max_size=4) | json_of(WORDS)
BODY = st.binary(max_size=16)


def buffer(header, body: bytes, off: int = 0) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode("utf-8", "surrogatepass")
    return struct.pack("<Q", max(0, len(text) + off)) + text + body


PACKED = st.binary(max_size=64) | st.builds(buffer, HEADER | st.binary(max_size=40), BODY, st.integers(-3, 3))


@fuzzed
@given(PACKED)
def test_any_bytes_are_tensors_or_refused(packed):
    for read in (tensors.unpack, tensors.metadata):
        try:
            found = read(packed)
        except tensors.TensorError:
            continue
        assert all(array.nbytes <= len(packed) for array in found.values() if read is tensors.unpack)


@fuzzed
@given(st.data())
def test_a_flipped_byte_is_read_or_refused(data):
    packed = bytearray(tensors.pack({"weight": np.ones((2, 3), np.float32), "count": np.array(3)}, {"a": "b"}))
    for _ in range(data.draw(st.integers(1, 4))):
        packed[data.draw(st.integers(0, len(packed) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(tensors.TensorError):
        tensors.unpack(packed)


@pytest.mark.parametrize("shape", [[2**62] * 1_000_000, [10**4000] * 3000])
def test_a_shape_whose_size_takes_hours_to_reckon_is_refused_at_once(shape):
    packed = buffer({"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 8]}}, b"12345678")
    with pytest.raises(tensors.TensorError, match="more than 32 dimensions"):
        tensors.unpack(packed)


MODEL = {"conv.weight": np.zeros((2, 3), np.float32), "bn.running_var": np.ones(2, np.float32), "bn.n": np.array(5)}
TYPES = {name: array.dtype for name, array in MODEL.items()}


def test_a_header_that_would_take_all_memory_is_not_read():
    packed = buffer(b'{"a":[' + b"[]," * 500_000 + b"[]]}", b"")
    with pytest.raises(
        ValueError, match="d1 sent an update that cannot be read: the tensor buffer's header has 1500010 b"
    ):
        replies.update(Reply("d1", packed, {}, None, 0.1), MODEL, TYPES)
    own = tensors.pack({f"layer.{name}": np.zeros((1,) * 8, np.float32) for name in range(2000)})
    model = tensors.unpack(own)
    assert struct.unpack("<Q", own[:8])[0] <= tensors.longest_header(model)
    assert replies.update(Reply("d1", own, {}, None, 0.1), model, {name: a.dtype for name, a in model.items()})


VALUES = {
    name: st.lists(st.floats(width=64) | st.sampled_from([1e19, 1e200, -1.0]), min_size=size, max_size=size)
    for name, size in (("conv.weight", 6), ("bn.running_var", 2), ("bn.n", 1))
}
TYPED = st.sampled_from(["<f8", "<f4", "<f2", "<i8", "|u1", "|b1"])


@fuzzed
@given(st.fixed_dictionaries(VALUES), TYPED)
def test_an_update_of_any_numbers_can_be_averaged_or_is_refused(values, kind):
    with np.errstate(all="ignore"):
        state = {name: np.array(values[name]).astype(kind).reshape(MODEL[name].shape) for name in MODEL}
    try:
        update = replies.update(Reply("d1", tensors.pack(state), {}, None, 0.1), MODEL, TYPES)
    except ValueError as error:
        assert is_line(str(error)) and "d1 sent an update with" in str(error)
        return
    assert {name: (array.dtype, array.shape) for name, array in update.items()} == {
        name: (array.dtype, array.shape) for name, array in MODEL.items()
    }
    assert all(np.isfinite(array.astype(np.float64) ** 2).all() for array in update.values())
    assert (update["bn.running_var"] >= 0).all()


@fuzzed
@given(PACKED)
def test_an_update_of_any_bytes_is_refused_in_a_line(packed):
    with pytest.raises(ValueError) as caught:
        replies.update(Reply("d1", packed, {}, None, 0.1), MODEL, TYPES)
    assert is_line(str(caught.value), 400) and str(caught.value).startswith("d1 sent an update")


# -- What a device says ------------------------------------------------------------------------------------------------

REPLY = of(
    "examples", "metrics", "loss", "seconds_train", "seconds_client", "peak_memory_bytes", "error", "trace", "tried"
)
SOUND = {"examples": 3, "metrics": {"loss": 0.5}, "seconds_train": 1.0}


@example({**SOUND, "examples": 2**63})
@example({**SOUND, "seconds_train": -1e299})
@fuzzed
@given(
    REPLY
    | st.builds(
        lambda change: {**SOUND, **change},
        st.dictionaries(
            st.sampled_from([*SOUND, "seconds_client", "seconds_load", "peak_memory_bytes"]), json_of(WORDS), max_size=2
        ),
    )
)
def test_any_answer_is_measured_or_refused_in_a_line(values):
    message = reply_with(values)
    reply = fleets._read("d1", message, 0.1, 60)
    assert reply.error is None or is_line(reply.error)
    assert all(is_line(line, words.LONGEST + 8) for line in reply.trace)
    try:
        measured = replies.trained(reply)
    except ValueError as error:
        assert is_line(str(error), 700) and "d1" in str(error)
        return
    assert 1 <= measured["examples"] < 2**53 and all(map(is_line, measured["metrics"]))
    for name, value in measured.items():
        assert name == "metrics" or 0 <= value < 1e16
    assert 0 < weights.resolve({"d1": "examples"}, {"d1": measured["examples"]})["d1"] <= 1


def reply_with(values) -> Message:
    asked = Message(make_content(b"", {}), 1, "train")
    asked.metadata.__dict__["_message_id"] = "1"
    return Message(make_content(b"", values), reply_to=asked)


@fuzzed
@given(json_of(WORDS))
def test_any_metrics_are_checked(value):
    try:
        found = metrics.checked(value)
    except metrics.MetricError as error:
        assert len(str(error)) < 500
        return
    assert isinstance(found["loss"], float) and all(map(is_line, found))


ABOUT = (
    "name", "ready", "problem", "starting", "task_hash", "fingerprint", "classes", "memory_left",
    "container_memory_left", "client_memory_left", "heldout_examples", "examples", "facts", "python", "torch",
    "device", "tried",
)  # fmt: skip


class Grid:
    """A SuperLink's grid of one node, which answers each message twice, and some that nobody sent."""

    def __init__(self, values) -> None:
        self.values = values

    def get_node_ids(self) -> list[int]:
        return [1]

    def push_messages(self, messages: list[Message]) -> list[str]:
        self.asked = messages[0]
        self.asked.metadata.__dict__["_message_id"] = "1"
        return ["1"]

    def pull_messages(self, ids: list[str]) -> list[Message]:
        stray = Message(make_content(b"", {}), 1, QUERY)
        stray.metadata.__dict__["_message_id"] = "of another round"
        content = make_content(b"", self.values)
        return [Message(content, reply_to=asked) for asked in (stray, self.asked, self.asked)]


@example(values={"memory_left": -(10**400)}, ready=True)
@example(values={"fingerprint": "x" * 100_000}, ready=True)
@fuzzed
@given(st.dictionaries(st.sampled_from(ABOUT), json_of(st.sampled_from(ABOUT))), st.booleans())
def test_whatever_a_device_says_of_itself_ends_no_run(tmp_path_factory, values, ready):
    run = RunConfig(
        "e", str(tmp_path_factory.mktemp("e")), 1, "stream", "task.py", "t.sock", {"d1": "examples"}, {},
        task_hash="new", dataset={"fingerprints": {"d1": "print"}}, wait_clients=0,
    )  # fmt: skip
    grid = Grid({**values, "name": "d1", **({"ready": True} if ready else {})})
    work = loop._Run(grid, run, Experiment(run), threading.Event())
    try:
        assert work.fleet.refresh() == ["d1"]
        assert work.fleet.settled("d1") in (True, False)
        why = work._why_not("d1")
        assert why is None or is_line(why, 700)
        lacking = needs.lacking("d1", work.fleet.about["d1"], 10**6, "stream")
        assert lacking is None or is_line(lacking)
        assert all(is_line(text, 80) for text in work.fleet.runs_on("d1").values())
        [reply] = work.fleet.exchange(["d1"], "train", make_content(b"", {}), 5, Patience("all", 0, 1, 1), 1)
        assert reply.device == "d1"
    finally:
        work.close()


@fuzzed
@given(json_of(WORDS) | st.binary(), st.binary() | st.none(), st.booleans())
def test_any_content_of_a_message_is_ours_or_refused(value, packed, odd):
    text = value if isinstance(value, bytes) else json.dumps(value)
    content = RecordDict({"config": ConfigRecord({"json": [text] if odd else text})})
    if packed is not None:
        content["arrays"] = ArrayRecord({"packed": Array("uint8", (len(packed),), "safetensors", packed)})
    try:
        got, values = read_content(content)
    except ValueError:
        return
    assert got == packed and isinstance(values, dict)


@fuzzed
@given(WORDS)
def test_an_error_of_flower_s_is_a_line(reason):
    asked = Message(make_content(b"", {}), 1, "train")
    asked.metadata.__dict__["_message_id"] = "1"
    reply = fleets._read("d1", Message(Error(code=1, reason=reason), reply_to=asked), 0.1, 60)
    assert is_line(reply.error)


# -- The stream --------------------------------------------------------------------------------------------------------

MESSAGES = st.lists(st.builds(
    wire.Message, st.integers(0, 3), st.sampled_from(wire.KINDS), of("name", "examples"),
    st.binary(max_size=300).map(lambda data: Parts([data])),
), max_size=3)  # fmt: skip
CUTS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=3), st.integers(0, 9)), max_size=3)


def framed(messages: list[wire.Message]) -> bytes:
    parts = [part for message in messages for part in [*wire.write(message), None]]
    return b"".join(frames._HEAD.pack(part is None, len(part or b"")) + (part or b"") for part in parts)


@fuzzed
@given(st.binary(max_size=100) | MESSAGES.map(framed), CUTS, st.integers(1, 64))
def test_any_bytes_on_a_connection_are_messages_or_end_it(sent, cuts, step):
    for where, instead, length in cuts:
        place = int(where * len(sent))
        sent = sent[:place] + instead + sent[place + length :]
    got, ended = [], []

    def accept(header):
        if header.tensors > 300:
            raise wire.ProtocolError("it sent too much")
        return header.id < 2

    reader = wire.Reader(accept)

    def received(data, apart):
        if not apart and (message := reader.feed(data)) is not None:
            got.append(message)

    connection = frames.Frames(received, ended.append)
    connection.most = PART
    while sent:
        room = connection.get_buffer(-1)
        assert 0 < len(room) <= PART
        taken, sent = sent[: min(step, len(room))], sent[min(step, len(room)) :]
        room[: len(taken)] = taken
        connection.buffer_updated(len(taken))
    assert len(ended) <= 1 and all(isinstance(why, wire.ProtocolError) for why in ended)
    assert all(message.id < 2 and sum(map(len, message.tensors)) <= 300 for message in got)


@fuzzed
@given(st.binary(max_size=60) | of("instance", "version", "kind", "why").map(lambda value: json.dumps(value).encode()))
def test_any_first_and_last_words_are_those_or_refused(data):
    for kind in (wire.Hello, wire.Bye, wire.Header):
        try:
            said = kind.parse(data)
        except wire.ProtocolError as error:
            assert is_line(str(error))
            continue
        assert all(is_line(str(value)) for value in vars(said).values())


# -- The sockets -------------------------------------------------------------------------------------------------------

METHODS = st.sampled_from(["GET", "POST", "PUT", "\x1b[2J", ""]) | st.text(max_size=5)
PATHS = st.sampled_from(["/health", "/train", "/initial", "/status", "/run", "/../x", "//", "*"]) | st.text(max_size=9)
LENGTHS = st.sampled_from(["", "-1", "0", "5", "1e3", "9" * 30, "x", "1073741825", "+2", " 3", "٣"])
CONFIGS = st.sampled_from(["{}", "[]", "{", "[" * 30_000, '{"a":' * 9_000, "NaN", '"\\ud800"', "1" * 5000, "\x1b[2J"])


def request(method: str, path: str, length: str, config: str, body: bytes, more: bytes) -> bytes:
    head = f"{method} {path} HTTP/1.1\r\nContent-Length: {length}\r\nFlowerbed-Config: {config}\r\n\r\n"
    return head.encode("utf-8", "replace") + body + more


REQUESTS = st.binary(max_size=200) | st.builds(
    request, METHODS, PATHS, LENGTHS, CONFIGS | st.builds(json.dumps, of("experiment", "rounds", "weights", "privacy")),
    st.binary(max_size=12), st.just(b"") | st.binary(max_size=12) | st.just(b"{}"),
)  # fmt: skip
RUNS = st.builds(
    lambda run: request("POST", "/run", str(len(json.dumps(run))), "", json.dumps(run).encode(), b""),
    of("experiment", "directory", "rounds", "link", "task", "trainer", "weights", "config", "dataset", "strategy"),
)  # fmt: skip


def talk(path: str, data: bytes) -> bytes:
    """Return what is answered to `data`, until the other side closes."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(60)
        connection.connect(path)
        answer = b""
        try:
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while part := connection.recv(1 << 16):
                answer += part
        except (BrokenPipeError, ConnectionResetError):  # it wanted no more
            pass
        return answer


@pytest.fixture
def faults(monkeypatch):
    """What handlers of requests have raised."""
    raised = []
    monkeypatch.setattr(socketserver.BaseServer, "handle_error", lambda *_: raised.append(os.sys.exc_info()[1]))
    return raised


@pytest.fixture(scope="module")
def trainer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("t")
    worker = workers.Worker({"name": "d0", "task": str(folder / "missing.py"), "data": "", "threads": 1})
    server = trainer_http.serve(str(folder / "s"), worker, Jobs())
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield str(folder / "s")
    server.shutdown()
    server.server_close()


@example(request("POST", "/train", "0", "[" * 30_000, b"", b""))
@fuzzed
@given(REQUESTS)
def test_a_trainer_answers_any_request_or_closes(trainer, faults, capfd, data):
    answer = talk(trainer, data)
    assert faults == []
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"application/json" in head:
        assert "error" in json.loads(body) or b"/health" in data
    assert b"d0" in talk(trainer, b"GET /health HTTP/1.1\r\n\r\n")
    assert "\x1b" not in capfd.readouterr().err


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("c")
    Authority(folder / "tls").server()
    grid = StreamGrid("127.0.0.1:0", ["d0"], folder / "tls")
    threading.Thread(target=control.serve, args=(str(folder / "s"), grid), daemon=True).start()
    while not (folder / "s").exists():
        pass
    return str(folder / "s")


@example(request("POST", "/run", "100000", "", b"[" * 100_000, b""))
@fuzzed
@given(REQUESTS | RUNS)
def test_the_server_answers_any_request_or_closes(server, faults, tmp_path, monkeypatch, data):
    monkeypatch.chdir(tmp_path)  # a run's folder may be any name
    answer = talk(server, data)
    assert faults == []
    head, _, body = answer.partition(b"\r\n\r\n")
    if b"application/json" in head:
        assert {"message", "devices"} & json.loads(body).keys()
    assert b'"run": null' in talk(server, b"GET /status HTTP/1.1\r\n\r\n")


# -- A device's own data -----------------------------------------------------------------------------------------------


@fuzzed
@given(
    st.sampled_from([".npz", ".npy", ".csv"]),
    st.binary(max_size=80) | st.builds(str.encode, st.text(max_size=80)),
    st.booleans(),
)
def test_any_file_of_data_is_read_or_refused(tmp_path, ending, content, like):
    path = tmp_path / f"train{ending}"
    if like and ending != ".csv":
        np.savez(path, x=np.zeros(3), y=np.zeros(3)) if ending == ".npz" else np.save(path, np.zeros(3))
        whole = path.read_bytes()
        content = whole[: len(whole) // 2] + content + whole[len(whole) // 2 + len(content) :]
    path.write_bytes(content)
    try:
        arrays.read_file(str(path))
    except DatasetError as error:
        assert "train" in str(error)
