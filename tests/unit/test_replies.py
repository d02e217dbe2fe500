"""What devices send, checked: an update that could spoil the sum is refused with what is wrong, on which device."""

import re
import tracemalloc

import numpy as np
import pytest

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed import tensors
from flowerbed.rounds import replies, sound
from flowerbed.rounds.config import RunFailed
from flowerbed.rounds.fleet import Reply
from flowerbed.rounds.strategy import Aggregation, names
from flowerbed.trainer import worker

INF = np.inf
LOWEST = np.finfo(np.float32).min
MODEL = {
    "conv.weight": np.array([1, -2, 3], np.float32),
    "bn.running_var": np.array([0, 1, 2], np.float32),
    "bn.num_batches_tracked": np.array(5),
    "mask": np.array([0, -INF, LOWEST], np.float32),
    "seen": np.array([True, False]),
    "half": np.array([1, 2], np.float16),
    "wide": np.array([1.0, 2.0]),
}
TYPES = {name: array.dtype for name, array in MODEL.items()}
LATER = {**MODEL, "bn.num_batches_tracked": np.array(5.5)}  # the mean of counters, of a round before
BUFFERS = {"bn.running_var", "bn.num_batches_tracked", "mask", "seen"}


def sent(**changes):
    """Return what comes of an update that is the model but for `changes`, with dots for __."""
    state = {**MODEL, **{name.replace("__", "."): array for name, array in changes.items()}}
    return replies.update(Reply("d1", tensors.pack(state), {}, None, 0.1), LATER, TYPES)


def test_an_update_comes_in_the_model_s_own_types_whatever_it_was_sent_in():
    state = sent(
        conv__weight=np.array([4, 5, 6], np.float16), bn__running_var=np.array([1, 2, 3]),
        bn__num_batches_tracked=np.array(6.0), seen=np.array([1.0, 1.0]), half=np.array([1.0, 2.0]),
        wide=np.array([3, 4], np.float32),
    )  # fmt: skip
    assert {name: array.dtype for name, array in state.items()} == TYPES
    np.testing.assert_array_equal(state["conv.weight"], [4, 5, 6])
    assert state["bn.num_batches_tracked"] == 6 and state["seen"].all()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"conv__weight": np.array([1, np.nan, 1])}, r"NaN or infinite values \(as float32\) in conv.weight"),
        ({"conv__weight": np.array([1e300, 1, 1])}, r"NaN or infinite values \(as float32\) in conv.weight"),
        ({"half": np.array([7e4, 1], np.float32)}, r"NaN or infinite values \(as float16\) in half"),
        ({"conv__weight": np.array([3e38, 1, 1], np.float32)}, "values beyond 1.8e.19 .* in conv.weight"),
        ({"conv__weight": np.array([1, -(2.0**64), 1], np.float32)}, "values beyond 1.8e.19 .* in conv.weight"),
        ({"wide": np.array([1, 1e200])}, "values beyond 1.3e.154 .* in wide"),
        ({"bn__running_var": np.array([1, -1e-6, 1], np.float32)}, "negative variances in bn.running_var"),
        ({"bn__num_batches_tracked": np.array(1.5)}, "values that no int64 can be in bn.num_batches_tracked"),
        ({"bn__num_batches_tracked": np.array(np.nan)}, "values that no int64 can be in bn.num_batches_tracked"),
        ({"bn__num_batches_tracked": np.array(2.0**63)}, "values that no int64 can be in bn.num_batches_tracked"),
        ({"bn__num_batches_tracked": np.array(2**63, np.uint64)}, "values that no int64 can be"),
        ({"bn__num_batches_tracked": np.array(2**60)}, "whole numbers beyond 2.53 in bn.num_batches_tracked"),
        ({"seen": np.array([2, 0])}, "values that no bool can be in seen"),
        ({"mask": np.array([-INF, -INF, LOWEST], np.float32)}, "NaN or infinite values .* in mask"),
        ({"mask": np.array([0, INF, LOWEST], np.float32)}, "NaN or infinite values .* in mask"),
        ({"mask": np.array([0, np.nan, LOWEST], np.float32)}, "NaN or infinite values .* in mask"),
    ],
)  # fmt: skip
def test_an_update_that_would_spoil_the_model_is_refused(changes, sentence):
    with pytest.raises(replies.Unsound, match=f"^d1 sent an update with {sentence}"):
        sent(**changes)


@pytest.mark.parametrize("kind", ["bool", "uint8", "int32", "uint32"])
def test_whole_numbers_of_up_to_4_bytes_are_not_looked_at_one_by_one(kind):
    state = {"quantised": np.full(1_000_000, 1, kind)}
    model = {"quantised": np.full(1_000_000, 0.5)}  # the mean of a round before
    types = {"quantised": np.dtype(kind)}
    tracemalloc.start()
    try:
        assert sound.faults(sound.brought(state, types), model, types) == ""
        assert tracemalloc.get_traced_memory()[1] < 100_000  # bytes
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("largest", [np.float32(1.8446742e19), np.float32(-1.8446742e19)])
def test_what_can_be_squared_is_no_fault(largest):
    assert np.isfinite(np.square(largest))
    assert sent(conv__weight=np.array([largest, 0, 0]))["conv.weight"][0] == largest


def test_a_model_may_be_marked_by_nan_where_every_update_is():
    model = {"unset": np.array([np.nan, 1], np.float32)}
    reply = Reply("d1", tensors.pack(model), {}, None, 0.1)
    assert np.isnan(replies.update(reply, model, {"unset": np.dtype("float32")})["unset"][0])


def aggregate(name, updates, model=MODEL, arguments=None, losses=None):
    aggregation = Aggregation(name, arguments or {}, BUFFERS)
    devices = [f"d{index}" for index in range(len(updates))]
    aggregation.choose("train", 1, model, list(range(len(updates))), seed=0)
    metrics = [
        {"weight": 1 / len(updates), "loss": loss, "accuracy": 0.5} for loss in losses or [1.0] * len(updates)
    ]  # fmt: skip
    after = aggregation.aggregate(1, model, dict(zip(devices, zip(updates, metrics, strict=True), strict=True)))
    return after, aggregation


@pytest.mark.parametrize("name", names())
def test_a_mask_of_the_lowest_numbers_goes_through_every_strategy_and_disturbs_none(name):
    arguments = {"QFedAvg": {"client_learning_rate": 0.1}}.get(name)
    near, far = np.array([1, 1, 1], np.float32), np.array([9, 9, 9], np.float32)
    updates = [sent(conv__weight=array) for array in (far, near, near, near)]
    after, _ = aggregate(name, updates, arguments=arguments)
    np.testing.assert_array_equal(after["mask"], MODEL["mask"])
    without = {key: array for key, array in MODEL.items() if key != "mask"}
    updates = [{key: array for key, array in update.items() if key != "mask"} for update in updates]
    alone, _ = aggregate(name, updates, without, arguments)
    np.testing.assert_array_equal(after["conv.weight"], alone["conv.weight"])
    assert {key: array.dtype for key, array in after.items() if key not in ("bn.num_batches_tracked", "seen")} == {
        key: dtype for key, dtype in TYPES.items() if key not in ("bn.num_batches_tracked", "seen")
    }


def test_half_precision_is_summed_in_single():
    model = {"weight": np.zeros(1, np.float16)}
    after, _ = aggregate("FedAvg", [{"weight": np.array([1000], np.float16)}] * 30, model)
    assert after["weight"].dtype == np.float16
    assert after["weight"][0] == 1000  # in half precision, the sum is 1001.5


def test_a_model_that_cannot_be_trained_from_is_never_made_and_the_arguments_are_named():
    updates = [sent(conv__weight=np.array([1, -2, 4], np.float32))] * 2  # the first two do not move
    with pytest.raises(RunFailed) as failed:
        aggregate("FedAdam", updates, arguments={"tau": 1e-60})
    sentence = str(failed.value)
    assert 'FedAdam with fl_strategy_args {"tau": 1e-60} made a model with NaN or infinite values' in sentence
    assert "in conv.weight" in sentence and "no single update is the cause" in sentence
    assert "Round 0 is the last one finished" in sentence


def test_the_update_that_spoils_the_model_is_named():
    updates = [sent(), sent(conv__weight=np.array([2, 2, 2], np.float32)), sent()]
    with pytest.raises(RunFailed, match=r"it would not be so without the update of d1 \(loss -1\)"):
        aggregate("QFedAvg", updates, arguments={"client_learning_rate": 0.1}, losses=[1.0, -1.0, 1.0])


def test_what_a_strategy_remembers_is_looked_at_too():
    updates = [sent(conv__weight=np.array([1e19, 1, 1], np.float32))]
    with pytest.raises(RunFailed, match="NaN or infinite values in its own v_t/conv.weight"):
        aggregate("FedAdagrad", [{**updates[0], "conv.weight": np.array([1.5e19, 1, 1], np.float32)}],
                  {**MODEL, "conv.weight": np.array([-1.5e19, 1, 1], np.float32)})  # fmt: skip


def test_a_strategy_is_as_it_was_when_who_is_to_blame_was_looked_for():
    """Leaving updates out one by one must not be what the sentence speaks of."""
    updates = [sent(), sent(), sent()]
    aggregation = Aggregation("FedMedian", {}, BUFFERS)
    before = {**MODEL, "conv.weight": np.zeros(3, np.float32)}
    bad = [{**update, "conv.weight": np.array([INF, 0, 0], np.float32)} for update in updates]
    given = {f"d{index}": (update, {"weight": 1 / 3, "loss": 1.0, "accuracy": 0.5}) for index, update in enumerate(bad)}
    with pytest.raises(RunFailed, match="no single update is the cause"):
        aggregation.aggregate(3, before, given)


@pytest.mark.parametrize("name", names())
def test_the_order_in_which_a_device_sends_its_tensors_changes_nothing(name):
    """Several strategies make lists of an update's tensors: swapped ones of one shape would be taken for each other."""
    model = {"a": np.array([1, 2], np.float32), "b": np.array([30, 40], np.float32)}
    types = {key: array.dtype for key, array in model.items()}
    arguments = {"QFedAvg": {"client_learning_rate": 0.1}, "FedAvgM": {"server_momentum": 0.9}}.get(name)
    made = []
    for order in (list, reversed):
        updates = [{key: model[key] + index for key in order(model)} for index in range(4)]
        read = [
            replies.update(Reply("d1", tensors.pack(update), {}, None, 0.1), model, types) for update in updates[:3]
        ]
        made.append(aggregate(name, [*read, updates[3]], model, arguments)[0])
    for key in model:
        np.testing.assert_array_equal(made[0][key], made[1][key])
        assert np.abs(made[0][key] - model[key]).max() < 4


MEASURED = {"examples": 10, "metrics": {"loss": 1.0, "accuracy": 0.5}, "seconds_evaluate": 0.1}


@pytest.mark.parametrize("check", [replies.trained, replies.scored])
@pytest.mark.parametrize("accuracy", [28.1, -0.1, 1e6])
def test_an_accuracy_that_is_no_share_is_refused_by_name(check, accuracy):
    with pytest.raises(
        ValueError, match=rf"d1 sent accuracy = {re.escape(f'{accuracy}')}, which is not a share, from 0 to 1"
    ):
        check(Reply("d1", b"", {**MEASURED, "metrics": {"loss": 1, "accuracy": accuracy}}, None, 0.1))


@pytest.mark.parametrize("check", [replies.trained, replies.scored])
@pytest.mark.parametrize(
    ("metrics", "sentence"),
    [
        (None, "None, which is not a dict of metrics"), ({"f1": 1}, "no loss among its metrics"),
        ({"loss": 1, "f1": {"a": 1}}, "f1 = {'a': 1}, which is not a number"),
        ({"loss": 1, "f1": [[1]]}, r"f1.0. = .1., which is not a number"),
        ({"loss": 1, "x" * 61: 1}, "a metric named 'xxx"),
    ],
)  # fmt: skip
def test_metrics_that_are_none_are_refused_by_name(check, metrics, sentence):
    with pytest.raises(ValueError, match=f"^d1 sent {sentence}"):
        check(Reply("d1", b"", {**MEASURED, "metrics": metrics}, None, 0.1))


def test_a_loss_that_is_not_finite_speaks_of_divergence():
    with pytest.raises(replies.Unsound, match="d1 sent loss = inf, which is not a finite number"):
        replies.trained(Reply("d1", b"", {**MEASURED, "metrics": {"loss": INF}}, None, 0.1))


def test_a_mean_of_ones_in_single_precision_is_one():
    reply = Reply("d1", b"", {**MEASURED, "metrics": {"loss": 1, "accuracy": 1.0000001}}, None, 0.1)
    assert replies.scored(reply)["metrics"] == {"loss": 1, "accuracy": 1}


def test_a_trainer_that_says_that_a_loss_is_nan_speaks_of_divergence_too():
    with pytest.raises(worker.Refused) as refused:
        worker._measured("train", {"loss": float("nan")})
    with pytest.raises(replies.Unsound, match="d1 gave no update: train of the task returned loss = nan"):
        replies.trained(Reply("d1", b"", {}, str(refused.value), 0.1))
    with pytest.raises(ValueError) as failed:
        replies.trained(Reply("d1", b"", {}, "the sensor is unplugged", 0.1))
    assert not isinstance(failed.value, replies.Unsound)
