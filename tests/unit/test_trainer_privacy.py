"""A worker in this process whose updates are clipped and blurred before they leave it."""

import numpy as np
import pytest

import fleet
from flowerbed import privacy, tensors
from flowerbed.trainer import worker as workers
from flowerbed.trainer.state import Refused

TASK = (
    fleet.TASK.read_text()
    + """

class Larger(LeNet5):
    def __init__(self, channels, classes):
        super().__init__(channels, classes)
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
        self.register_buffer("seen", torch.zeros(3))
        self.tied = self.classifier[-1]
        self.frozen = nn.BatchNorm1d(4).requires_grad_(False)


def build_model(config):
    return Larger(int(config["channels"]), int(config["classes"]))


_train = train


def train(model, data, config):
    model.seen += 1
    return _train(model, data, config)
"""
)
CONFIG = {"batch_size": 16, "local_epochs": 1, "learning_rate": 0.01, "channels": 1, "classes": fleet.CLASSES}
STILL = {
    "mask", "seen", "frozen.weight", "frozen.bias", "frozen.running_mean", "frozen.running_var",
    "frozen.num_batches_tracked", "features.1.num_batches_tracked", "features.5.num_batches_tracked",
}  # fmt: skip


@pytest.fixture
def make(tmp_path):
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "data").mkdir()
    x, y = fleet.shard(1, 64)
    np.savez(tmp_path / "data/train.npz", x=x, y=y)

    def make(**config):
        about = {"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path / "data"), "threads": 1}
        worker = workers.Worker({**about, **config})
        worker.warm_up()
        return worker

    return make


def trained(worker, config):
    """Return the tensors before and after a training."""
    packed, _ = worker.initial(b"", config)
    result, about = worker.train(bytearray(packed), config)
    assert about["examples"] == 64
    return tensors.unpack(packed), tensors.unpack(bytes(result))


def moved(before, after):
    return {name for name in before if not np.array_equal(before[name], after[name])}


@pytest.mark.parametrize(
    ("asked", "deployed"),
    [({"clip": 1e-3, "noise": 0}, {}), ({}, {"clip": 1e-3, "noise": 0}),
     ({"clip": 1, "noise": 0}, {"clip": 1e-3, "noise": 0})],
)  # fmt: skip
def test_an_update_is_no_longer_than_the_run_and_the_deployment_allow(make, asked, deployed):
    worker = make(privacy=deployed)
    before, after = trained(worker, {**CONFIG, "privacy": asked} if asked else CONFIG)
    assert moved(before, after) == set(before) - STILL
    names = [name for name in sorted(moved(before, after)) if not name.startswith("tied.")]
    assert 0.9e-3 < privacy.length(before, after, names) <= 1e-3


def test_an_update_has_noise_that_is_another_each_time_and_the_same_in_tied_tensors(make):
    worker = make(privacy={"clip": 2, "noise": 3})
    (before, one), (_, other) = trained(worker, CONFIG), trained(worker, CONFIG)
    assert moved(before, one) == set(before) - STILL
    name = "classifier.1.weight"
    assert (one[name] - other[name]).std() == pytest.approx(np.sqrt(2) * 2 * 3, rel=0.05)
    assert np.array_equal(one["tied.weight"], one["classifier.5.weight"])


def test_without_privacy_all_that_was_trained_leaves(make):
    before, after = trained(make(), CONFIG)
    assert {"seen", "features.1.num_batches_tracked"} <= moved(before, after)


def test_a_device_with_noise_trains_the_same_model_as_one_without(make):
    """What it sends is blurred, and no more than that."""
    plain, private = make(), make(privacy={"clip": 1e9, "noise": 0})
    after, sent = trained(plain, CONFIG)[1], trained(private, CONFIG)[1]
    for name in set(after) - STILL:
        np.testing.assert_allclose(sent[name], after[name], rtol=1e-6, atol=1e-7)


def test_a_run_that_asks_for_nonsense_is_refused(make):
    with pytest.raises(Refused, match="fl_privacy has clip -1, but it must be a number above 0"):
        trained(make(), {**CONFIG, "privacy": {"clip": -1, "noise": 1}})
