"""Fashion-MNIST from its four published idx files, gzipped or not."""

import gzip
import math
import os
import struct
import zlib

import numpy as np

from flowerbed.dataset import Data, DatasetError, files

FILES = ("train-images-idx3-ubyte", "train-labels-idx1-ubyte", "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")
CLASSES = ["T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"]
UNSIGNED_BYTE = 8


def sources(config) -> list[str]:
    """Return the four files in the folder `config.path`."""
    paths = []
    for name in FILES:
        candidates = [os.path.join(config.path, name + ending) for ending in (".gz", "")]
        paths += [path for path in candidates if os.path.exists(path)][:1]
        if not paths or os.path.basename(paths[-1]).removesuffix(".gz") != name:
            raise DatasetError(f"dataset_path {config.path} lacks {name}.gz: put Fashion-MNIST's four files there")
    return paths


def load(config) -> Data:
    """Return Fashion-MNIST as `Data`: grey images of 28 x 28 pixels, 10 classes."""
    paths = sources(config)
    return Data(_pair(*paths[:2], config.limit), _pair(*paths[2:], config.limit), CLASSES)


def _pair(images: str, labels: str, limit: int) -> tuple[np.ndarray, np.ndarray]:
    x, y = _read_idx(images, 3, limit), _read_idx(labels, 1, limit)
    if len(x) != len(y):
        raise DatasetError(f"{images} holds {len(x)} images but {labels} {len(y)} labels: download both again")
    if len(y) and y.max() >= len(CLASSES):
        raise DatasetError(f"{labels} holds the label {y.max()}, but there are {len(CLASSES)} classes")
    return x[..., np.newaxis], y.astype(np.int64)


def _read_idx(path: str, dimensions: int, limit: int) -> np.ndarray:
    try:
        with files.open_regular(path) as file:
            content = files.read(gzip.GzipFile(fileobj=file) if path.endswith(".gz") else file, path, limit)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path} is damaged or cut short ({error}): download it again") from error
    start = 4 + 4 * dimensions
    if content[:4] != bytes([0, 0, UNSIGNED_BYTE, dimensions]) or len(content) < start:
        raise DatasetError(f"{path} does not start like an idx file of {dimensions} dimensions: download it again")
    shape = struct.unpack(f">{dimensions}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise DatasetError(f"{path} holds {len(content) - start} bytes, not {math.prod(shape)}: download it again")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)
