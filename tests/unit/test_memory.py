"""What a large model takes: it is aggregated a part at a time, to the same bits, and held as seldom as can be."""

import contextlib
import gc
import tracemalloc
import weakref
from collections.abc import Iterator

import flwr.serverapp.strategy as flower
import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, Message, MessageType, MetricRecord, RecordDict

from flowerbed import flower_private, parts, tensors
from flowerbed.link.content import make_content, read_content
from flowerbed.rounds import checkpoint, needs, sound, strategy
from flowerbed.rounds.strategy import Aggregation

flower_private.allow_messages()
ARGUMENTS = {
    "Bulyan": {"num_malicious_nodes": 1}, "FedAvgM": {"server_momentum": 0.9, "server_learning_rate": 0.7},
    "FedProx": {"proximal_mu": 0.1}, "FedTrimmedAvg": {"beta": 0.3}, "Krum": {"num_malicious_nodes": 2},
    "MultiKrum": {"num_malicious_nodes": 2, "num_nodes_to_select": 3}, "QFedAvg": {"client_learning_rate": 0.1},
}  # fmt: skip
DEVICES = 9  # so many that a sum in another order is another
SIZE = 4_000_000  # bytes of the large model


@contextlib.contextmanager
def traced() -> Iterator[list[int]]:
    """Trace what is allocated; yields a list that then has the peak, in bytes, above what there was before."""
    peak: list[int] = []
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        yield peak
        peak.append(tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()


def model(seed: int) -> dict[str, np.ndarray]:
    """Return tensors of all sorts; some are many blocks, some less than one."""
    random = np.random.default_rng(seed)
    return {
        "scale": np.array(random.normal(), np.float32),
        "one": random.normal(size=1).astype(np.float32),
        "small": random.normal(size=(3, 4)).astype(np.float64),
        "large": random.normal(size=(7, 53)).astype(np.float32),
        "row": random.normal(size=(1, 129)).astype(np.float32),
        "empty": np.zeros((0, 3), np.float32),
    }


def all_at_once(kind: type, arguments: dict, rounds: list) -> Iterator[dict[str, np.ndarray]]:
    """Yield what Flower's strategy makes of each round's updates when it gets them as a whole."""
    ours = {"weighted_by_key": "weight", "train_loss_key": "loss"}
    taken = kind.__init__.__annotations__
    made = kind(**arguments, **{key: value for key, value in ours.items() if key in taken})
    for number, (before, updates) in enumerate(rounds, 1):
        arrays = ArrayRecord({name: Array(before[name]) for name in sorted(before)})
        grid = type("Grid", (), {"get_node_ids": lambda self: list(range(DEVICES))})()
        made.configure_train(number, arrays, strategy.ConfigRecord(), grid)
        replies = [
            Message(
                RecordDict({
                    "arrays": ArrayRecord({name: Array(update[name]) for name in sorted(update)}),
                    "metrics": MetricRecord(told),
                }),
                0, MessageType.TRAIN,
            )
            for _, (update, told) in sorted(updates.items())
        ]  # fmt: skip
        yield {name: array.numpy() for name, array in made.aggregate_train(number, replies)[0].items()}


@pytest.mark.parametrize("name", strategy.names())
def test_a_model_in_blocks_is_flower_s_own_bit_by_bit(name, monkeypatch):
    monkeypatch.setattr(strategy, "BLOCK", 64)
    told = [{"weight": (m + 1) / 45, "loss": 0.5 + m / 7, "accuracy": 0.5} for m in range(DEVICES)]
    rounds = [
        (model(1000 * r), {f"d{m}": (model(1000 * r + m + 1), told[m]) for m in range(DEVICES)}) for r in range(3)
    ]
    arguments = strategy.DEFAULTS.get(name, {}) | ARGUMENTS.get(name, {})
    aggregation = Aggregation(name, arguments, set())
    wanted = all_at_once(getattr(flower, name), arguments, rounds)
    for number, ((before, updates), whole) in enumerate(zip(rounds, wanted, strict=True), 1):
        aggregation.choose("train", number, before, list(range(DEVICES)), 0)
        after = aggregation.aggregate(number, sound.outline(before), dict(reversed(updates.items())))
        assert after.keys() == before.keys()
        for key, array in after.items():
            assert array.dtype == before[key].dtype and array.shape == before[key].shape
            assert array.tobytes() == whole[key].astype(array.dtype).tobytes(), (number, key)


def test_blocks_are_all_of_a_model_and_none_is_large(monkeypatch):
    monkeypatch.setattr(strategy, "BLOCK", 64)
    found = {name: [] for name in model(0)}
    for block in strategy._blocks(model(0)):
        pieces = [strategy._part(model(0)[name], part) for name, part in block]
        assert sum(piece.size for piece in pieces) <= 64
        for (name, _), piece in zip(block, pieces, strict=True):
            found[name].append(piece.reshape(-1))
    for name, array in model(0).items():
        np.testing.assert_array_equal(np.concatenate(found[name]), array.reshape(-1))
        assert all(piece.size != 1 for piece in found[name]) or array.size == 1  # NumPy sums one column otherwise


@pytest.mark.parametrize("shapes", [[(SIZE // 4,)], [(SIZE // 1000,)] * 250])
@pytest.mark.parametrize("name", ["FedAvg", "FedProx", "FedMedian", "FedTrimmedAvg"])
def test_an_aggregate_takes_the_new_model_and_little_else(name, shapes, monkeypatch, caplog):
    caplog.set_level("WARNING", "flwr")  # as the server does
    monkeypatch.setattr(strategy, "BLOCK", 1 << 12)
    before, *given = [
        {f"t{n}": np.full(shape, value, np.float32) for n, shape in enumerate(shapes)} for value in range(4)
    ]
    updates = {f"d{m}": (update, {"weight": 1 / 3, "loss": 1.0}) for m, update in enumerate(given)}
    aggregation = Aggregation(name, {}, set())
    before = sound.outline(before)
    with traced() as peak:
        after = aggregation.aggregate(1, before, updates)
    assert after["t0"][0] == 2 and peak[0] < 1.3 * SIZE


def large(value: int) -> dict[str, np.ndarray]:
    return {"w": np.full(SIZE // 4, value, np.float32)}


def of_two_rounds(name: str, folder) -> float:
    """Return how often the server held the model at most, in what a round is but for its way to DEVICES and back."""
    aggregation = Aggregation(name, ARGUMENTS.get(name, {}), set())
    told = {f"d{m}": {"weight": 1 / DEVICES, "loss": 1.0 + m} for m in range(DEVICES)}
    with traced() as peak:
        packed = tensors.pack(large(0))
        for number in (1, 2):
            state = tensors.unpack(packed)
            aggregation.choose("train", number, state, list(range(DEVICES)), 0)
            updates = {device: (large(number + m), told[device]) for m, device in enumerate(told)}
            before, state, packed = sound.outline(state), {}, b""
            packed = tensors.pack(aggregation.aggregate(number, before, {name: updates.pop(name) for name in told}))
            tensors_, rest = aggregation.remember()
            checkpoint.save(folder, checkpoint.Checkpoint(number, tensors.unpack(packed), tensors_, rest))
            del tensors_
    return peak[0] / SIZE


@pytest.mark.parametrize("name", strategy.names())
def test_the_server_takes_what_is_said(name, tmp_path, monkeypatch, caplog):
    caplog.set_level("WARNING", "flwr")
    monkeypatch.setattr(strategy, "BLOCK", 1 << 14)
    said = needs.of_a_round(SIZE, name, DEVICES, "stream")["server_bytes"] / SIZE
    assert 0.7 * said < of_two_rounds(name, tmp_path) < said + 0.7


def test_an_outline_takes_nothing_but_for_what_is_looked_at():
    masked = np.array([-np.inf, 1], np.float32)
    large = {"w": np.ones(SIZE // 4, np.float32), "mask": masked, "n": np.array(2**60)}
    with traced() as peak:
        outline = sound.outline(large)
    assert peak[0] < SIZE / 10
    assert outline["w"].shape == large["w"].shape and outline["w"].dtype == np.float32 and outline["w"][5] == 0
    assert outline["mask"].tolist() == masked.tolist() and outline["n"] == 2**60


def test_a_checkpoint_is_written_without_a_copy(tmp_path):
    large = {"w": np.ones(SIZE // 4, np.float32)}
    with traced() as peak:
        checkpoint.save(tmp_path, checkpoint.Checkpoint(1, large))
    assert peak[0] < SIZE / 2
    np.testing.assert_array_equal(checkpoint.load(checkpoint.path_of(tmp_path, 1)).model["w"], large["w"])


def test_parts_are_joined_with_one_copy_and_split_with_none():
    with traced() as peak:
        data = bytes(SIZE)
        pieces = parts.Parts(bytes(part) for part in parts.split(data))
        del data
        data = parts.join(pieces)
        split = parts.split(data)
    assert len(data) == SIZE and not pieces and sum(map(len, split)) == SIZE
    assert peak[0] < 2.4 * SIZE


def test_a_content_that_was_read_is_gone_with_its_last_name():
    gc.disable()
    try:
        content = make_content(tensors.pack({"w": np.ones(3)}), {"a": 1})
        gone = weakref.ref(content)
        assert read_content(content)[1] == {"a": 1}
        del content
        assert gone() is None
    finally:
        gc.enable()


def test_updates_are_gone_once_they_are_aggregated():
    gc.disable()
    try:
        update = np.ones(10, np.float32)
        gone = weakref.ref(update)
        updates = {"d0": ({"w": update}, {"weight": 1.0, "loss": 1.0})}
        aggregation = Aggregation("FedAvg", {}, set())
        aggregation.aggregate(1, {"w": np.zeros(10, np.float32)}, updates)
        del update, updates
        assert gone() is None
    finally:
        gc.enable()
