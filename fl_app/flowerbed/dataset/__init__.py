"""Data sets: loaded and partitioned on the server, read on each device.

`python -m flowerbed.dataset dataset.json` runs on the server; `shards.read` on a device. A loader is a file with
`sources(config)`, the files it would read, and `load(config)`, the `Data` in them; `config.LOADERS` lists them.
This file, `folder` and `shards` also run on a device's Python (3.6 on a Jetson Nano), so they keep to what it knows.
"""

from collections import namedtuple


class DatasetError(ValueError):
    """What is wrong with the data, and what to do about it, in one sentence for the user."""


class Data(namedtuple("Data", ["train", "test", "classes"])):
    """A loaded data set.

    `train` and `test` are pairs of images (N, height, width, channels), uint8, and labels (N,), int64;
    `test` is None where the data set has no test split of its own. `classes` names the labels, in their order.
    """
