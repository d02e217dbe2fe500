"""Who gets which examples: Flower's own partitioners over a shuffled table of labels."""

import sys
import types
import warnings

import numpy as np

from flowerbed.dataset import DatasetError
from flowerbed.dataset.config import Config

LEAST = 2  # examples of a device under Dirichlet: one to train on, one to hold out


def partition(labels: np.ndarray, config: Config) -> list[np.ndarray]:
    """Return the indices into `labels` that each of `config.devices` gets, in random order.

    No index is given twice, and all are given, unless `config.sizes` asks for fewer. Raises DatasetError.
    """
    devices, total = len(config.devices), len(labels)
    if total < devices:
        raise DatasetError(f"{devices} devices cannot share {total} training examples: use a larger set")
    if config.partition == "sizes" and (asked := sum(config.sizes.values())) > total:
        raise DatasetError(f"dataset_size adds up to {asked} examples, but {config.name} has {total} to train on")
    # Sets often come sorted, by class or by writer; without this shuffle so would the shares.
    order = np.random.default_rng(config.seed).permutation(total)
    try:
        with warnings.catch_warnings():  # of examples left unused, and at each new try of Dirichlet
            warnings.simplefilter("ignore")
            return _partition(order, labels[order], config)
    except ValueError as error:
        raise DatasetError(
            f"dataset_alpha {config.alpha} left a device fewer than {LEAST} of the {total} training examples "
            "every time it was tried: raise it, or use fewer devices"
        ) from error


def _partition(indices: np.ndarray, labels: np.ndarray, config: Config) -> list[np.ndarray]:
    # Half of its import is matplotlib, for pictures, which leaves a list of fonts in the user's home, too.
    sys.modules.setdefault("flwr_datasets.visualization", types.ModuleType("flwr_datasets.visualization"))
    from datasets import Dataset
    from flwr_datasets import partitioner as flower

    devices = config.devices
    if config.partition == "iid":
        partitioner = flower.IidPartitioner(len(devices))
    elif config.partition == "sizes":
        partitioner = flower.SizePartitioner([config.sizes[device] for device in devices])
    else:
        partitioner = flower.DirichletPartitioner(
            len(devices), "label", float(config.alpha), min_partition_size=LEAST, seed=config.seed
        )
    partitioner.dataset = Dataset.from_dict({"index": indices, "label": labels}).with_format("numpy")
    return [np.asarray(partitioner.load_partition(number)["index"][:]) for number in range(len(devices))]
