"""The shards of a data set: each device's train and held-out split, the server's test set, and their manifest."""

import hashlib
import importlib
import json
import warnings
from dataclasses import asdict
from types import ModuleType

import numpy as np

from flowerbed.dataset import Data, DatasetWarning
from flowerbed.dataset.config import SERVER, Config
from flowerbed.dataset.shards import SPLITS, heldout_count
from flowerbed.dataset.split import Split, split

Shards = dict[str, tuple[np.ndarray, np.ndarray]]
NOT_OF_THE_SPLIT = ("devices", "only", "sizes", "output", "path", "limit")  # keys that say not what is split, nor how


def loader(config: Config) -> ModuleType:
    """Return the module that loads the data set called `config.name`."""
    return importlib.import_module(f"flowerbed.dataset.{config.name}")


def build(config: Config, known: Split | None = None) -> tuple[Shards, dict, Split]:
    """Return the shards, (x, y) by file name ("rpi-1/train.npz"), their manifest, and who has which examples.

    `known` says who had which before. Raises DatasetError.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("ignore")
        warnings.simplefilter("always", DatasetWarning)
        data = _with_test(loader(config).load(config), config)
    x, y = data.train
    shares = split(y, _identity(data, config), config, known)
    shards, devices = {}, {}
    if data.test:
        shards[f"{SERVER}/heldout.npz"] = data.test
    for device, share in shares.devices.items():
        for kind, part in zip(SPLITS, share, strict=True):
            if len(part):
                shards[f"{device}/{kind}.npz"] = x[part], y[part]
        devices[device] = {
            "train": len(share.train),
            "heldout": len(share.heldout),
            "labels": _counts(y[np.concatenate(share)], data.classes),
        }
    fingerprint = _fingerprint(shards)
    shares.first = shares.first or fingerprint
    return (
        shards,
        {
            "name": config.name,
            "classes": data.classes,
            "shape": list(x.shape[1:]),
            "partition": config.partition,
            "alpha": config.alpha if config.partition == "dirichlet" else None,
            "seed": config.seed,
            "heldout": config.heldout,
            "devices": devices,
            "test": len(data.test[1]) if data.test else 0,
            "fingerprint": fingerprint,
            "split": shares.first,
            "warnings": [str(warning.message) for warning in caught] + _warnings(devices, config),
        },
        shares,
    )


def _counts(labels: np.ndarray, classes: list[str]) -> dict[str, int]:
    """Return how many examples there are of each class; of numbers to predict there are none."""
    pairs = zip(*np.unique(labels, return_counts=True), strict=True) if classes else ()
    return {classes[label]: int(count) for label, count in pairs}


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


def _identity(data: Data, config: Config) -> str:
    """Return a fingerprint of what is split, and how: as long as it is the same, devices keep their shares."""
    how = {key: value for key, value in asdict(config).items() if key not in NOT_OF_THE_SPLIT}
    how["alpha"] = config.alpha if config.partition == "dirichlet" else None
    examples = _fingerprint({name: pair for name, pair in (("train", data.train), ("test", data.test)) if pair})
    return hashlib.sha256(json.dumps([how, data.classes, examples]).encode()).hexdigest()


def _fingerprint(shards: Shards) -> str:
    digest = hashlib.sha256()
    for name, (x, y) in shards.items():
        digest.update(f"{name} {x.dtype} {x.shape} {y.dtype}\n".encode())
        digest.update(np.ascontiguousarray(x))
        digest.update(np.ascontiguousarray(y))
    return digest.hexdigest()


def _warnings(devices: dict, config: Config) -> list[str]:
    sentences = []
    for device, share in devices.items():
        if len(share["labels"]) == 1:
            sentences.append(f"{device} holds examples of one class only, {next(iter(share['labels']))}")
        if config.heldout and not share["heldout"]:
            few = "has a single example" if share["train"] == 1 else "got none that others held out"
            sentences.append(f"{device} {few}, so it holds none out")
    return sentences
