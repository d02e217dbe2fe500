"""Data sets: loaded and partitioned on the server, read on each device.

`python -m flowerbed.dataset dataset.json` runs on the server; `shards.read` on a device. A loader is a file with
`sources(config)`, the files it would read, and `load(config)`, the `Data` in them; `config.LOADERS` lists them.
This file, `arrays`, `files`, `folder`, `npy`, `shards` and `tables` also run on a device's Python (3.6 on a Jetson
Nano), so they keep to what it knows.
"""

from collections import namedtuple

from flowerbed.words import clean


class DatasetError(ValueError):
    """What is wrong with the data, and what to do about it, in one sentence for the user: names in it are cleaned."""

    def __init__(self, sentence):
        super().__init__(clean(sentence, 1000))


class DatasetWarning(UserWarning):
    """What is odd about data that can be used, in one sentence for the user."""

    def __init__(self, sentence):
        super().__init__(clean(sentence, 1000))


class Data(namedtuple("Data", ["train", "test", "classes"])):
    """A loaded data set.

    `train` and `test` are pairs of images (N, height, width, channels), uint8, or of numbers (N, columns), float32; and
    labels (N,), int64. `test` is None where the data set has no test split of its own. `classes` names the labels, in
    their order. It is empty where `labels` are float32, numbers to predict.
    """
