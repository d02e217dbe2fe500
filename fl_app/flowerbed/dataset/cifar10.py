"""CIFAR-10 from its published binary version: cifar-10-binary.tar.gz, or the folder that is in it."""

import gzip
import os
import tarfile
import zlib
from typing import BinaryIO

import numpy as np

from flowerbed.dataset import Data, DatasetError, files

ARCHIVE, FOLDER = "cifar-10-binary.tar.gz", "cifar-10-batches-bin"
BATCHES = [f"data_batch_{number}.bin" for number in range(1, 6)] + ["test_batch.bin"]
CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
RECORD = 1 + 3 * 32 * 32  # a label, then the image's red, green and blue planes


def sources(config) -> list[str]:
    """Return the archive, or the six batch files, at `config.path` or in that folder."""
    path = config.path
    for place in (path, os.path.join(path, FOLDER), os.path.join(path, ARCHIVE)):
        if os.path.isfile(place) and not os.path.basename(place).startswith("cifar-10-python"):
            return [place]
        if os.path.exists(os.path.join(place, BATCHES[0])):
            return [os.path.join(place, name) for name in BATCHES]
    names = [os.path.basename(path), *(os.listdir(path) if os.path.isdir(path) else [])]
    if any(name.startswith(("cifar-10-python", "cifar-10-batches-py", "batches.meta")) for name in names):
        raise DatasetError(f"{path} is CIFAR-10's Python version, made of pickles, which are not safe: get {ARCHIVE}")
    raise DatasetError(f"dataset_path {path} holds neither {ARCHIVE} nor {FOLDER}/")


def load(config) -> Data:
    """Return CIFAR-10 as `Data`: colour images of 32 x 32 pixels, 10 classes."""
    paths = sources(config)
    if len(paths) == 1:
        content = _unpack(paths[0], config.limit)
    else:
        content = {os.path.basename(path): _content(path, config.limit) for path in paths}
    pairs = [_batch(config.path, name, content.get(name)) for name in BATCHES]
    x, y = (np.concatenate(arrays) for arrays in zip(*pairs[:-1], strict=True))
    return Data((x, y), pairs[-1], CLASSES)


class _Bounded:
    """A file that is read to at most `limit` MiB: what a tar's heads declare is then bounded, too."""

    def __init__(self, file: BinaryIO, path: str, limit: int) -> None:
        self._file, self._path, self._limit = file, path, limit
        self._read = 0

    def read(self, size: int) -> bytes:
        content = self._file.read(size)
        self._read += len(content)
        files.check(self._read, self._path, self._limit)
        return content


def _unpack(path: str, limit: int) -> dict[str, bytes]:
    try:
        with files.open_regular(path) as file:
            packed = file.peek(2)[:2] == b"\x1f\x8b"
            stream = _Bounded(gzip.GzipFile(fileobj=file) if packed else file, path, limit)
            with tarfile.open(fileobj=stream, mode="r|") as archive:
                return {os.path.basename(m.name): archive.extractfile(m).read() for m in archive if m.isfile()}
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DatasetError(f"{path} is damaged or cut short ({error}): download it again") from error


def _content(path: str, limit: int) -> bytes | None:
    if not os.path.exists(path):
        return None
    with files.open_regular(path) as file:
        return files.read(file, path, limit)


def _batch(path: str, name: str, content: bytes | None) -> tuple[np.ndarray, np.ndarray]:
    if not content:
        raise DatasetError(f"{path} lacks {name}: download {ARCHIVE} again")
    if len(content) % RECORD:
        raise DatasetError(f"{name} in {path} is cut short, in the middle of an image: download it again")
    records = np.frombuffer(content, np.uint8).reshape(-1, RECORD)
    if records[:, 0].max() >= len(CLASSES):
        raise DatasetError(f"{name} in {path} holds the label {records[:, 0].max()}, but CIFAR-10 has 10 classes")
    images = records[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return np.ascontiguousarray(images), records[:, 0].astype(np.int64)
