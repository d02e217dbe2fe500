"""The shards of a data set: each device's train and held-out split, the server's test set, and their manifest."""

import hashlib
import importlib
import warnings
from types import ModuleType

import numpy as np

from flowerbed.dataset import Data, DatasetWarning
from flowerbed.dataset.config import SERVER, Config
from flowerbed.dataset.shards import heldout_count

Shards = dict[str, tuple[np.ndarray, np.ndarray]]


def loader(config: Config) -> ModuleType:
    """Return the module that loads the data set called `config.name`."""
    return importlib.import_module(f"flowerbed.dataset.{config.name}")


def build(config: Config) -> tuple[Shards, dict]:
    """Return the shards, (x, y) by file name ("rpi-1/train.npz"), and their manifest. Raises DatasetError."""
    from flowerbed.dataset.partition import partition

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DatasetWarning)
        data = _with_test(loader(config).load(config), config)
    x, y = data.train
    shards, devices = {}, {}
    if data.test:
        shards[f"{SERVER}/heldout.npz"] = data.test
    for device, share in zip(config.devices, partition(y, config), strict=True):
        count = heldout_count(len(share), config.heldout)  # the share's order is random by seed already
        for split, part in (("train", share[count:]), ("heldout", share[:count])):
            if len(part):
                shards[f"{device}/{split}.npz"] = x[part], y[part]
        labels, counts = np.unique(y[share], return_counts=True)
        devices[device] = {
            "train": len(share) - count,
            "heldout": count,
            "labels": {data.classes[label]: int(count) for label, count in zip(labels, counts, strict=True)},
        }
    return shards, {
        "name": config.name,
        "classes": data.classes,
        "shape": list(x.shape[1:]),
        "partition": config.partition,
        "alpha": config.alpha if config.partition == "dirichlet" else None,
        "seed": config.seed,
        "heldout": config.heldout,
        "devices": devices,
        "test": len(data.test[1]) if data.test else 0,
        "fingerprint": _fingerprint(shards),
        "warnings": [str(warning.message) for warning in caught] + _warnings(devices, config),
    }


def _with_test(data: Data, config: Config) -> Data:
    """Split the fraction `config.test` off the training examples for the server, where the set has no test split."""
    x, y = data.train
    count = heldout_count(len(y), config.test)
    if data.test or not count:
        return data
    # Not the seed of the partition: the two shuffles are independent of each other.
    order = np.random.default_rng([config.seed, 1]).permutation(len(y))
    train, test = np.sort(order[count:]), np.sort(order[:count])
    return Data((x[train], y[train]), (x[test], y[test]), data.classes)


def _fingerprint(shards: Shards) -> str:
    digest = hashlib.sha256()
    for name, (x, y) in shards.items():
        digest.update(f"{name} {x.dtype} {x.shape} {y.dtype}\n".encode())
        digest.update(np.ascontiguousarray(x))
        digest.update(np.ascontiguousarray(y))
    return digest.hexdigest()


def _warnings(devices: dict, config: Config) -> list[str]:
    found = []
    for device, share in devices.items():
        if len(share["labels"]) == 1:
            found.append(f"{device} holds examples of one class only, {next(iter(share['labels']))}")
        if config.heldout and not share["heldout"]:
            found.append(f"{device} has a single example, so it holds none out")
    return found
