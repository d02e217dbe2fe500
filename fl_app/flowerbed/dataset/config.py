"""dataset.json: which data set, split how, over which devices."""

import difflib
import json
import math
import os
from collections.abc import Collection
from dataclasses import MISSING, dataclass, field, fields, replace

from flowerbed.dataset import DatasetError
from flowerbed.dataset.files import LIMIT

LOADERS = ("digits", "cifar10", "fashion_mnist", "folder", "hub")
PARTITIONS = ("iid", "dirichlet", "sizes")
SERVER = "server"  # the folder of the server's test set, beside the devices' own


@dataclass(frozen=True)
class Config:
    """The keys of dataset.json; in the inventory each is called `dataset_<key>`.

    But for `devices`, those of the inventory, and `only`, those of them that are deployed to, where these are not all.
    """

    name: str
    devices: list[str]
    output: str
    only: list[str] | None = None
    path: str = ""  # with `hub`, where what is fetched is kept
    hub: str = ""
    subset: str = ""
    features: list[str] = field(default_factory=list)
    label: str = ""
    partition: str = "iid"
    alpha: float = 0.5
    sizes: dict[str, int] = field(default_factory=dict)
    heldout: float = 0.1
    test: float = 0.2
    seed: int = 0
    image_size: list[int] | None = None
    limit: int = LIMIT  # MiB


def read(path: str) -> Config:
    """Return the checked configuration in the JSON file `path`. Raises DatasetError."""
    try:
        with open(path, encoding="utf-8") as file:
            keys = json.load(file)
    except (OSError, ValueError) as error:
        raise DatasetError(f"{path} cannot be read as JSON: {error}") from error
    if not isinstance(keys, dict):
        raise DatasetError(f"{path} holds no JSON object")
    for key in keys:
        known(key, [each.name for each in fields(Config)], f"a key of {path}")
    for each in fields(Config):
        if each.default is MISSING and each.default_factory is MISSING and each.name not in keys:
            raise DatasetError(f"{path} lacks {each.name}")
    config = Config(**keys)
    _check(config)
    here = os.path.dirname(os.path.abspath(path))
    return replace(config, path=os.path.join(here, config.path), output=os.path.join(here, config.output))


def _check(config: Config) -> None:
    for name in ("name", "path", "hub", "subset", "label", "partition", "output"):
        if not isinstance(getattr(config, name), str):
            raise DatasetError(f"dataset_{name} is {getattr(config, name)!r}, not a text")
    if config.name == "device":
        raise DatasetError("dataset_name device means that the data already lies on the devices: nothing to split")
    known(config.name, LOADERS, "dataset_name")
    known(config.partition, PARTITIONS, "dataset_partition")
    if not isinstance(config.features, list) or not all(isinstance(name, str) for name in config.features):
        raise DatasetError(f"dataset_features is {config.features!r}, not a list of columns")
    if not config.path and config.name == "hub":
        raise DatasetError("dataset_path and dataset_hub are empty: give the folder or the name of the data set")
    if not config.path and config.name != "digits":
        raise DatasetError(f"dataset_path is empty: say where {config.name} lies")
    devices = config.devices if isinstance(config.devices, list) else []
    if not devices or not all(isinstance(device, str) for device in devices) or len(set(devices)) < len(devices):
        raise DatasetError("devices must be a list of host names, at least one and each once")
    for device in devices:
        if device == SERVER or device.startswith(".") or os.path.basename(device) != device:
            raise DatasetError(f"{device!r} cannot be a device's name, for its data lies in a folder of that name")
    if not _is_number(config.alpha) or not 0 < config.alpha < math.inf:
        raise DatasetError(f"dataset_alpha is {config.alpha!r}, not a number above 0")
    for name in ("heldout", "test"):
        fraction = getattr(config, name)
        if not _is_number(fraction) or not 0 <= fraction < 1:
            raise DatasetError(f"dataset_{name} is {fraction!r}, not a fraction from 0 up to but not 1")
    if not _is_count(config.seed, least=0):
        raise DatasetError(f"dataset_seed is {config.seed!r}, not a whole number from 0")
    if not _is_count(config.limit):
        raise DatasetError(f"dataset_limit is {config.limit!r}, not a whole number of MiB")
    size = config.image_size
    if size is not None and not (isinstance(size, list) and len(size) == 2 and all(map(_is_count, size))):
        raise DatasetError(f"dataset_image_size is {size!r}, not [height, width] in pixels")
    if config.partition == "sizes":
        _check_sizes(config)


def _check_sizes(config: Config) -> None:
    if not isinstance(config.sizes, dict):
        raise DatasetError("sizes must give each device its number of examples")
    for device in config.sizes:
        known(device, config.devices, "the device in dataset_size")
    for device in config.devices:
        if not _is_count(config.sizes.get(device)):
            problem = repr(config.sizes[device]) if device in config.sizes else "missing"
            raise DatasetError(f"dataset_size of {device} is {problem}: give its number of examples, 1 or more")


def known(value: object, names: Collection[str], what: str) -> None:
    """Raise DatasetError, with what it may be instead, where `value` is none of `names`."""
    if value not in names:
        close = difflib.get_close_matches(str(value), names, n=1, cutoff=0.5)
        hint = f"did you mean {close[0]}?" if close else f"it can be {', '.join(names)}"
        raise DatasetError(f"{value!r} is not {what}: {hint}")


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
