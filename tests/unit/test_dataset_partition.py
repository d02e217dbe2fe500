"""Who gets which examples, checked against plain numpy."""

import numpy as np
import pytest

from flowerbed.dataset import DatasetError
from flowerbed.dataset.config import Config
from flowerbed.dataset.partition import partition

DEVICES = [f"rpi-{number}" for number in range(1, 11)]
LABELS = np.repeat(np.arange(10), 104)[:1037]  # sorted by class, and no multiple of ten


def settings(partition_name: str = "iid", devices: list[str] = DEVICES, **keys) -> Config:
    return Config(name="folder", devices=devices, output="", partition=partition_name, **keys)


def spread(shares: list[np.ndarray]) -> float:
    """How far the devices' shares of a class lie apart: 0 where each device holds the same mixture."""
    counts = np.array([np.bincount(LABELS[share], minlength=10) for share in shares])
    return float((counts / counts.sum(axis=1, keepdims=True)).std(axis=0).mean())


@pytest.mark.parametrize("name", ["iid", "dirichlet"])
def test_every_example_goes_to_exactly_one_device(name):
    shares = partition(LABELS, settings(name))
    assert len(shares) == len(DEVICES)
    np.testing.assert_array_equal(np.sort(np.concatenate(shares)), np.arange(len(LABELS)))


def test_iid_gives_equal_shares_of_every_class():
    shares = partition(LABELS, settings())
    assert sorted(map(len, shares)) == [103] * 3 + [104] * 7
    assert all(len(np.unique(LABELS[share])) == 10 for share in shares)


def test_sizes_are_kept_and_disjoint():
    sizes = {device: 10 * number for number, device in enumerate(DEVICES, 1)}
    shares = partition(LABELS, settings("sizes", sizes=sizes))
    assert [len(share) for share in shares] == list(sizes.values())
    used = np.concatenate(shares)
    assert len(np.unique(used)) == len(used) == 550


def test_a_smaller_alpha_makes_devices_differ_more():
    spreads = [spread(partition(LABELS, settings("dirichlet", alpha=alpha))) for alpha in (0.1, 1.0, 100.0)]
    assert spreads[0] > 2 * spreads[1] > 4 * spreads[2]
    assert spreads[2] < 2 * spread(partition(LABELS, settings()))


@pytest.mark.parametrize("name", ["iid", "dirichlet", "sizes"])
def test_the_seed_decides(name):
    keys = {"sizes": dict.fromkeys(DEVICES, 50)}
    first, again, other = (partition(LABELS, settings(name, seed=seed, **keys)) for seed in (3, 3, 4))
    assert all(np.array_equal(one, two) for one, two in zip(first, again, strict=True))
    assert not all(np.array_equal(one, two) for one, two in zip(first, other, strict=True))


def test_one_device_gets_everything():
    (share,) = partition(LABELS, settings(devices=["rpi-1"]))
    np.testing.assert_array_equal(np.sort(share), np.arange(len(LABELS)))


@pytest.mark.parametrize(
    ("labels", "config", "sentence"),
    [
        (LABELS[:9], settings(), "10 devices cannot share 9 training examples"),
        (LABELS, settings("sizes", sizes=dict.fromkeys(DEVICES, 104)), "adds up to 1040 examples, but folder has 1037"),
        (LABELS[:300], settings("dirichlet", alpha=0.001), "dataset_alpha 0.001 left a device fewer than 2 of the 300"),
    ],
)
def test_a_share_that_cannot_be_given_is_refused(labels, config, sentence):
    with pytest.raises(DatasetError, match=sentence):
        partition(labels, config)
