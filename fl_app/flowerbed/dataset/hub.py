"""A Hugging Face data set: fetched by its name, or from a folder that `save_to_disk` of `datasets` has written.

Its image column is read as class folders are. Where there is none, its columns of numbers are the examples, float32.
"""

import functools
import io
import os
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from flowerbed.dataset import Data, DatasetError, files, folder
from flowerbed.dataset.config import Config, known

TESTS = ("test", "validation")  # of these splits, the first that is there is the server's
LABELS = ("label", "labels", "class", "target", "y")  # columns, where none says that it holds classes
NUMBER = re.compile(r"u?int\d+|float\d+|bool")


def sources(config: Config) -> list[str]:
    """Return the files that `load` would read: none of what is fetched by name, which is fetched once."""
    return [] if config.hub else folder.sources(config)


def load(config: Config) -> Data:
    """Return the data set as `Data`; `x` is uint8 images, or float32 (N, columns), and `y` classes, or numbers."""
    where = config.hub or config.path
    splits = _fetch(config) if config.hub else _read(config.path)
    train = splits.get("train") or (next(iter(splits.values())) if len(splits) == 1 else None)
    if not train:
        raise DatasetError(f"{where} has no examples in a split called train, but has {', '.join(splits) or 'nothing'}")
    test = next((splits[name] for name in TESTS if splits.get(name)), None)
    parts = {"train": train, **({"test": test} if test is not None and test is not train else {})}
    label = _label(train.features, config, where)
    columns = _columns(train.features, label, config, where)
    for name, part in parts.items():
        for column in {label, *columns} - set(part.features):
            raise DatasetError(f"{where} has no column {column} in its {name} split")
    y, classes = _labels(parts, label, where)
    if not classes and config.partition == "dirichlet":
        raise DatasetError(f"dataset_partition dirichlet needs classes, but {label} in {where} holds numbers: use iid")
    read = _images if _is_image(train.features[columns[0]]) else _numbers
    x = read(parts, columns, where, config)
    pairs = list(zip(_cut(x, parts), _cut(y, parts), strict=True))
    return Data(pairs[0], pairs[1] if len(pairs) > 1 else None, classes)


def _cut(array: np.ndarray, parts: Mapping[str, Any]) -> list[np.ndarray]:
    return np.split(array, np.cumsum([len(part) for part in parts.values()])[:-1])


def _read(path: str) -> Mapping[str, Any]:
    import datasets

    try:
        saved = datasets.load_from_disk(path)
    except FileNotFoundError as error:
        raise DatasetError(f"{path} is no folder that save_to_disk of the package datasets has written") from error
    except MemoryError:
        raise
    except Exception as error:  # a damaged one raises many kinds
        raise DatasetError(f"{path} is damaged ({files.reason(error)}): save it again") from error
    return saved if isinstance(saved, dict) else {"train": saved}


def _fetch(config: Config) -> Mapping[str, Any]:
    os.environ.setdefault("HF_HUB_CACHE", os.path.join(config.path, "files"))  # not in the user's home
    import datasets

    datasets.disable_progress_bars()
    try:
        return datasets.load_dataset(config.hub, config.subset or None, cache_dir=os.path.join(config.path, "tables"))
    except datasets.exceptions.DatasetNotFoundError as error:
        raise DatasetError(f"dataset_hub {config.hub} is not to be had: {' '.join(str(error).split())}") from error
    except ConnectionError as error:
        advice = "where there is a network, save it with save_to_disk, and set dataset_path to that folder"
        raise DatasetError(f"{config.hub} cannot be fetched, for the hub cannot be reached: {advice}") from error
    except MemoryError:
        raise
    except Exception as error:  # of the hub, of its files, of the disk
        text = " ".join(str(error).split())
        if text.startswith("Config name is missing"):
            raise DatasetError(f"{config.hub} has several subsets: set dataset_subset ({text})") from error
        raise DatasetError(f"{config.hub} cannot be loaded ({text})") from error


def _is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image"


def _is_number(feature: Any) -> bool:
    return type(feature).__name__ == "Value" and bool(NUMBER.fullmatch(feature.dtype))


def _label(features: Mapping[str, Any], config: Config, where: str) -> str:
    if config.label:
        known(config.label, list(features), f"a column of {where}")
        return config.label
    candidates = [name for name, feature in features.items() if type(feature).__name__ == "ClassLabel"]
    candidates = candidates or [name for name in LABELS if name in features]
    if len(candidates) > 1:
        text = f"several columns that may be the labels: set dataset_label to one of {', '.join(candidates)}"
        raise DatasetError(f"{where} has {text}")
    if not candidates:
        text = f"no column that is known to be the labels: set dataset_label to one of {', '.join(features)}"
        raise DatasetError(f"{where} has {text}; or lay data without labels on the devices, for dataset_name device")
    return candidates[0]


def _columns(features: Mapping[str, Any], label: str, config: Config, where: str) -> list[str]:
    for name in config.features:
        known(name, list(features), f"a column of {where}")
    others = config.features or [name for name in features if name != label]
    images = [name for name in others if _is_image(features[name])]
    numbers = [name for name in others if _is_number(features[name])]
    if config.features and len(images or numbers) < len(others):
        unfit = next(name for name in others if name not in (images or numbers))
        raise DatasetError(f"dataset_features has {unfit}, which holds {_kind(features[unfit])}: it is one column of "
                           "images, or columns of numbers")  # fmt: skip
    if len(images) > 1:
        raise DatasetError(f"{where} has several columns of images: set dataset_features to one of {', '.join(images)}")
    if not images and not numbers:
        kinds = ", ".join(f"{name} ({_kind(features[name])})" for name in others) or "no other column"
        raise DatasetError(f"{where} has neither images nor numbers besides {label}, but {kinds}: make numbers of "
                           "them, or lay them on the devices, for dataset_name device")  # fmt: skip
    return images or numbers


def _kind(feature: Any) -> str:
    return getattr(feature, "dtype", None) if type(feature).__name__ == "Value" else type(feature).__name__


def _column(part: Any, column: str, where: str) -> Any:
    """Return a column as Arrow has it, with a value in every row."""
    values = part.select_columns([column]).with_format("arrow")[:].column(column)
    if values.null_count:
        raise DatasetError(f"{where} has {values.null_count} rows without a value in {column}: leave these out")
    return values


def _labels(parts: Mapping[str, Any], column: str, where: str) -> tuple[np.ndarray, list[str]]:
    """Return the labels of all parts, and the names of the classes; or numbers to predict, which have no classes."""
    feature = next(iter(parts.values())).features[column]
    values = np.concatenate([_column(part, column, where).to_numpy() for part in parts.values()])
    if type(feature).__name__ == "ClassLabel":
        names, y = list(feature.names), values.astype(np.int64)
        if len(y) and not 0 <= y.min() <= y.max() < len(names):
            text = f"the labels {y.min()} to {y.max()} in {column}, but {len(names)} classes: leave the others out"
            raise DatasetError(f"{where} has {text}")
    elif type(feature).__name__ == "Value" and re.fullmatch(r"u?int\d+|bool|(large_)?string", feature.dtype):
        classes, y = np.unique(values, return_inverse=True)
        names = [str(value) for value in classes]
    elif _is_number(feature):
        _check_finite(values, column, where)
        return values.astype(np.float32), []
    else:
        raise DatasetError(f"{where} has {_kind(feature)} in {column}, but a label is a class (a whole number or a "
                           "text) or a fraction to predict")  # fmt: skip
    for name in names:
        if not folder.is_printable(name):
            raise DatasetError(f"{where} has a class {name}, in whose name are characters that cannot be shown")
    return y.astype(np.int64), names


def _images(parts: Mapping[str, Any], columns: list[str], where: str, config: Config) -> np.ndarray:
    from datasets import Image

    encoded = {name: part.cast_column(columns[0], Image(decode=False)) for name, part in parts.items()}
    rows = {f"row {row} of {name}": (name, row) for name, part in parts.items() for row in range(len(part))}

    @functools.lru_cache(maxsize=1)  # its size is asked for, then it is read
    def content(key: str) -> bytes:
        name, row = rows[key]
        image = encoded[name][row][columns[0]]
        if image is None:
            raise DatasetError(f"{key} in {where} has no image in {columns[0]}: leave it out")
        if image["bytes"] is not None:
            return image["bytes"]
        with files.open_regular(image["path"]) as file:
            return files.read(file, key, config.limit)

    images = folder.Files(list(rows), lambda key: io.BytesIO(content(key)), lambda key: len(content(key)))
    return folder.stack(where, images.names, images, config.image_size, config.limit)


def _numbers(parts: Mapping[str, Any], columns: list[str], where: str, config: Config) -> np.ndarray:
    files.check(4 * len(columns) * sum(map(len, parts.values())), f"what {where} holds", config.limit)
    x = np.concatenate(
        [
            np.stack([_column(part, name, where).to_numpy().astype(np.float32) for name in columns], axis=1)
            for part in parts.values()
        ]
    )
    for name, values in zip(columns, x.T, strict=True):
        _check_finite(values, name, where)
    return x


def _check_finite(values: np.ndarray, column: str, where: str) -> None:
    if not np.isfinite(values).all():
        raise DatasetError(f"{where} has values in {column} that are not finite numbers (NaN, for one)")
