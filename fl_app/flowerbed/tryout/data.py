"""What DATA gives to a device and to the server: a few batches of it."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import build, config, shards, store

DEVICE, SERVER = "device", config.SERVER
HELDOUT = 0.1  # of an .npz file's examples


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

    It is NAME or NAME:PATH, with a dataset_name and its dataset_path; or the path of an .npz file or of class folders.
    """
    name, _, path = text.partition(":")
    if name not in (*config.LOADERS, "device"):
        name, path = "device" if text.endswith(".npz") else "folder", text
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
    """Take a folder as it is, for only the task knows how to read it; of an .npz file, hold some examples out."""
    whole = {}
    if path.endswith(".npz"):
        parts = shards.split_off(shards.read_file(path), HELDOUT)
        path = str(folder / "data")
        os.mkdir(path)
        for split, (x, y) in zip(shards.SPLITS, filter(None, parts), strict=False):
            whole[split] = len(y)
            np.savez(os.path.join(path, f"{split}.npz"), x=x[:most], y=y[:most])
    return Data("device", {DEVICE: path, SERVER: None}, whole, {"name": "device"}, own=True)
