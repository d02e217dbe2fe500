"""What DATA gives to a device and to the server: a few batches of it."""

import json
import os
import warnings
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import DatasetError, DatasetWarning, arrays, build, config, npy, shards, store

DEVICE, SERVER = "device", config.SERVER
HELDOUT = 0.1  # of a file's examples


@dataclass(frozen=True)
class Data:
    """`folders` has each host's data, or None; `whole` the device's numbers of examples, were all of them tried.

    `manifest` is what a run knows of a data set; with `own` it knows nothing, for the data is the device's own.
    """

    name: str
    folders: dict[str, str | None]
    whole: dict[str, int]
    manifest: dict[str, Any]
    own: bool


def place(text: str, folder: Path, most: int, image_size: list[int] | None) -> Data:
    """Return at most `most` examples a split of what `text` names, placed in `folder`. Raises DatasetError.

    It is NAME or NAME:PATH, with a dataset_name and its dataset_path; or the path of class folders, or of a file that
    `arrays` reads.
    """
    name, _, path = text.partition(":")
    if name not in (*config.LOADERS, "device"):
        name, path = "device" if text.endswith(arrays.KINDS) else "folder", text
    path = os.path.abspath(os.path.expanduser(path)) if path else ""
    if name == "device":
        return _own(path, folder, most)
    settings = {"name": name, "path": path, "devices": [DEVICE], "output": "shards", "image_size": image_size}
    (folder / "dataset.json").write_text(json.dumps(settings))
    return _split(config.read(str(folder / "dataset.json")), most)


def _split(settings: config.Config, most: int) -> Data:
    """Split a data set as a deployment does, and leave out what is too much."""
    parts, manifest, shares = build.build(settings)
    share = manifest["devices"][DEVICE]
    whole = {split: share[split] for split in shards.SPLITS}
    share.update({split: min(count, most) for split, count in whole.items()})
    store.Store(settings).write({name: (x[:most], y[:most]) for name, (x, y) in parts.items()}, manifest, shares)
    folders = {host: os.path.join(settings.output, host) for host in (DEVICE, SERVER)}
    return Data(
        settings.name, {host: path if os.path.isdir(path) else None for host, path in folders.items()}, whole,
        manifest, own=False,
    )  # fmt: skip


def _own(path: str, folder: Path, most: int) -> Data:
    """Take a folder as it is, for only the task knows how to read it; of a file, hold some examples out."""
    whole, manifest = {}, {"name": "device"}
    if path.endswith(arrays.KINDS):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DatasetWarning)
            content, rows = _content(path)
        manifest["warnings"] = [str(each.message) for each in caught]
        path = str(folder / "data")
        os.mkdir(path)
        for split, part in zip(shards.SPLITS, shards.split_indices(rows, HELDOUT), strict=True):
            if len(part):
                whole[split] = len(part)
                few = {name: array[part[:most]] for name, array in content.items() if array.shape[:1] == (rows,)}
                _save(os.path.join(path, f"{split}.npz"), content | few)
    return Data("device", {DEVICE: path, SERVER: None}, whole, manifest, own=True)


def _content(path: str) -> tuple[dict[str, np.ndarray], int]:
    """Return the arrays in a file, and how many rows most of them have: others, in an .npz, are no examples."""
    if not path.endswith(".npz"):
        content = arrays.read_file(path)
    else:
        content = npy.read_npz(path, lambda names: {name.removesuffix(".npy"): name for name in names}, shards.limit)
    lengths = Counter(len(array) for array in content.values() if array.ndim)
    if not any(lengths):
        raise DatasetError(f"{path} holds no examples")
    return content, max(lengths, key=lambda length: (lengths[length], length))


def _save(path: str, content: dict[str, np.ndarray]) -> None:
    with zipfile.ZipFile(path, "w") as archive:  # numpy's savez takes no array called file
        for name, array in content.items():
            with archive.open(f"{name}.npy", "w") as file:
                np.lib.format.write_array(file, array, allow_pickle=False)
