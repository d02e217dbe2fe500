"""The arrays of .npy and .npz files: no more than a limit allows, and none of objects, which would be pickles."""

import functools
import io
import operator
from contextlib import contextmanager

import numpy as np

from flowerbed.dataset import DatasetError, files

LONGEST_HEAD = 1 << 16  # bytes of an array's head


def read_npz(path, choose, limit):
    """Return arrays of a .npz file by name. Raises DatasetError.

    `choose` is given the names of all members, and returns those to read, by the names that their arrays get. `limit`
    is how much memory, in MiB, they may take.
    """
    with _whole(path, ".npz"), files.Zip(path) as archive:
        members = choose(archive.names)
        total = 0
        for member in members.values():
            with archive.open(member) as file:
                total += _declared_size(file, "%s in %s" % (member, path))
        files.check(total, path, limit)
        arrays = {}
        for name, member in members.items():
            with archive.open(member) as file:
                arrays[name] = _array(file)
        return arrays


def read_npy(path, limit):
    """Return the array of a .npy file, which may take `limit` MiB. Raises DatasetError."""
    with _whole(path, ".npy"), files.open_regular(path) as file:
        files.check(_declared_size(file, path), path, limit)
        file.seek(0)
        return _array(file)


@contextmanager
def _whole(path, kind):
    """Say in a sentence what is wrong with a damaged file, at which zipfile and numpy raise many kinds."""
    try:
        yield
    except (DatasetError, MemoryError):
        raise
    except Exception as error:
        raise DatasetError("%s is not a whole %s file (%s)" % (path, kind, files.reason(error))) from error


def _declared_size(file, where):
    """Return how many bytes an array takes, by its head only: a small file may declare, and unpack to, any size."""
    head = io.BytesIO(file.read(LONGEST_HEAD))
    version = np.lib.format.read_magic(head)
    read_head = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read_head(head)
    if dtype.hasobject:
        raise DatasetError("%s holds Python objects, which are pickles, and these are not read: save numbers, in rows "
                           "of one length" % where)  # fmt: skip
    if min(shape, default=0) < 0:
        raise ValueError("an array of the shape %s" % (shape,))
    return dtype.itemsize * functools.reduce(operator.mul, map(int, shape), 1)


def _array(file):
    """Return the array of an open .npy file, in this machine's byte order, which torch insists on."""
    array = np.lib.format.read_array(file, allow_pickle=False)
    return array.astype(array.dtype.newbyteorder("="), copy=False)
