"""A device's own data: train.npz and heldout.npz (x and y in each), or class folders of images.

numpy alone (Pillow for images), on Python 3.6: this runs inside a device's trainer.
"""

import hashlib
import os

import numpy as np

from flowerbed.dataset import DatasetError, files, npy
from flowerbed.dataset import folder as class_folders

SPLITS = ("train", "heldout")
LARGEST = 20  # of floats that lie around 0, standardised; those from 0 to more than this are taken as 0 to 255
DARKEST = 1 << 14  # of the brightest pixel in uint16: below, it is one of 9 to 14 bits, as cameras write
MOST_CLASSES = 1 << 31  # more are a mistake: a file of other numbers than labels, or damaged

limit = files.LIMIT  # MiB: dataset_limit, which the trainer sets, for the task that calls `read` does not know it


def read(folder, heldout=0.1, size=None):
    """Return (train, heldout) of the data in `folder`: each a pair of examples `x` and labels `y`, or None.

    `x` is uint8 (N, height, width, channels), or what the .npz holds (see `read_images`); `y` is int64 (N,). Class
    folders that have no heldout/ or test/ are split, always in the same way, `heldout` being the fraction that is not
    trained on; `size` is the (height, width) to resize their images to. Warns (DatasetWarning) of files that are left
    out. Raises DatasetError.
    """
    check_folder(folder)
    paths = _paths(folder)
    if any(map(_exists, paths)):
        return tuple(read_file(path) if _exists(path) else None for path in paths)
    train, test, _ = class_folders.read(folder, size, limit)
    return (train, test) if test is not None else split_off(train, heldout)


def check_folder(folder):
    """Raise DatasetError if there is no such folder."""
    if not os.path.isdir(files.encoded(folder)):
        raise DatasetError("the data folder %s is missing: deploy, or put this device's data there" % folder)


def read_images(folder, heldout=0.1, size=None):
    """Do as `read`, but `x` is always images (N, height, width, channels), uint8 or float32 in 0..1.

    A user's .npz may hold them otherwise, too: (N, 3, height, width), (N, height, width), or flat where they are grey
    and square; as booleans, as integers in 0..255, or as floats in 0..255. Floats around 0, standardised, stay.
    """
    splits = zip(_paths(folder), read(folder, heldout, size))
    return tuple(None if split is None else (_as_images(split[0], path), split[1]) for path, split in splits)


def classes(folder):
    """Return the names of the classes of the data in `folder`, by label, or None where it has only their numbers."""
    return None if any(map(_exists, _paths(folder))) else class_folders.class_names(folder)


def fingerprint(folder):
    """Return 16 hex digits that change with the .npz files in `folder`, or None where it has none."""
    sums = {}
    for path in filter(_exists, _paths(folder)):
        digest = hashlib.sha256()
        with files.open_regular(path) as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        sums[os.path.basename(path)] = digest.hexdigest()
    return joint_fingerprint(sums) if sums else None


def joint_fingerprint(sums):
    """Return the fingerprint of files, given the SHA-256 of each by its name."""
    text = "".join("%s %s\n" % (sums[name], name) for name in sorted(sums))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _paths(folder):
    return [os.path.join(folder, split + ".npz") for split in SPLITS]


def _exists(path):
    return os.path.exists(files.encoded(path))


def split_off(data, fraction):
    """Split `fraction` of the examples off `data`, the same ones every time: return (train, held-out or None)."""
    x, y = data
    train, heldout = split_indices(len(y), fraction)
    return (x[train], y[train]), ((x[heldout], y[heldout]) if len(heldout) else None)


def split_indices(count, fraction, shuffle=True):
    """Return which of `count` examples to train on, and which to hold out: without `shuffle`, the last ones."""
    held = heldout_count(count, fraction)
    order = np.random.RandomState(0).permutation(count) if shuffle else np.arange(count)[::-1]
    return np.sort(order[held:]), np.sort(order[:held])


def heldout_count(count, fraction):
    """Return how many of `count` examples `fraction` holds out: at least one, and never all of them."""
    return min(max(int(round(count * fraction)), 1), count - 1) if fraction > 0 else 0


def read_file(path):
    """Return the checked pair (x, y) of one .npz file, y as int64. Raises DatasetError."""
    x, y = _arrays(path)
    if y.ndim == 2 and y.shape[1] == 1:
        y = y[:, 0]
    if y.ndim != 1 or y.dtype.kind not in "buif" or (y.dtype.kind == "f" and not (np.rint(y) == y).all()):
        one_hot = y.ndim == 2 and y.dtype.kind in "buif"
        advice = "y.argmax(axis=1) makes them" if one_hot else "number the classes from 0"
        raise DatasetError("the labels y in %s are %s of shape %s, not a list of integers: %s"
                           % (path, y.dtype, y.shape, advice))  # fmt: skip
    if x.ndim == 0 or len(x) != len(y):
        raise DatasetError("%s holds x of shape %s but %d labels y" % (path, x.shape, len(y)))
    if len(y) == 0:
        raise DatasetError("%s holds no examples" % path)
    if y.min() < 0:
        raise DatasetError("%s holds the label %.10g: labels start at 0" % (path, y.min()))
    if y.max() >= MOST_CLASSES:
        raise DatasetError("%s holds the label %.10g: number the classes from 0" % (path, y.max()))
    if x.dtype.kind not in "buif" or not np.isfinite(x).all():
        raise DatasetError("x in %s holds values that are not finite numbers (NaN, for one)" % path)
    return x, y.astype(np.int64)


def _arrays(path):
    """Return the arrays x and y of a .npz file, in whose name case does not matter."""

    def choose(members):
        names = {}
        for member in members:
            names.setdefault(os.path.splitext(member)[0].lower(), member)
        if not {"x", "y"} <= set(names):
            given = ", ".join(os.path.splitext(member)[0] for member in members) or "nothing"
            raise DatasetError("%s holds %s, but must hold x, the examples, and y, their labels" % (path, given))
        return {key: names[key] for key in "xy"}

    arrays = npy.read_npz(path, choose, limit)
    return arrays["x"], arrays["y"]


def _as_images(x, path):
    return _values(_shaped(x, path), path)


def _shaped(x, path):
    if x.ndim == 2:
        side = int(round(x.shape[1] ** 0.5))
        x = x.reshape(-1, side, side) if side * side == x.shape[1] else x
    if x.ndim == 3:
        x = x[..., np.newaxis]
    if x.ndim == 4 and x.shape[1] in (1, 3) and x.shape[3] > 4:
        x = x.transpose(0, 2, 3, 1)
    if x.ndim != 4:
        raise DatasetError("x in %s has the shape %s: make it (examples, height, width, channels)" % (path, x.shape))
    return x


def _values(x, path):
    low, high = x.min(), x.max()
    if x.dtype.kind == "b" or (x.dtype.kind in "ui" and low >= 0 and high <= 1):
        return x.astype(np.uint8) * np.uint8(255)
    if x.dtype.kind in "ui" and low >= 0 and high <= 255:
        return x.astype(np.uint8, copy=False)
    if x.dtype == np.uint16 and high < DARKEST:
        raise DatasetError("x in %s holds uint16 from %d to %d: scale them to 0 to 255, or to 0 to 65535"
                           % (path, low, high))  # fmt: skip
    if x.dtype == np.uint16:
        return (x >> 8).astype(np.uint8)
    if x.dtype.kind == "f" and low >= 0 and LARGEST < high <= 255:
        return x.astype(np.float32) / np.float32(255)
    if x.dtype.kind == "f" and (low >= 0 and high <= 1.1 or low < 0 and max(-low, high) <= LARGEST):
        return x.astype(np.float32)
    raise DatasetError("x in %s holds %s from %g to %g: make them 0 to 255, or 0 to 1" % (path, x.dtype, low, high))
