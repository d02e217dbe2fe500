"""A device's own data: train.npz and heldout.npz (x and y in each), or class folders of images.

numpy alone (Pillow for images), on Python 3.6: this runs inside a device's trainer.
"""

import hashlib
import os

import numpy as np

from flowerbed.dataset import DatasetError
from flowerbed.dataset import folder as class_folders

SPLITS = ("train", "heldout")


def read(folder, heldout=0.1, size=None):
    """Return (train, heldout) of the data in `folder`: each a pair of examples `x` and labels `y`, or None.

    `x` is uint8 or float (N, height, width, channels), or what the .npz holds; `y` is int64 (N,). Class folders that
    have no heldout/ or test/ are split, always in the same way, `heldout` being the fraction that is not trained on;
    `size` is the (height, width) to resize their images to. Raises DatasetError.
    """
    if not os.path.isdir(folder):
        raise DatasetError("the data folder %s is missing: deploy, or put this device's data there" % folder)
    files = _files(folder)
    if any(os.path.exists(file) for file in files):
        return tuple(read_file(file) if os.path.exists(file) else None for file in files)
    train, test, _ = class_folders.read(folder, size)
    return (train, test) if test is not None else split_off(train, heldout)


def classes(folder):
    """Return the names of the classes of the data in `folder`, by label, or None where it has only their numbers."""
    return None if any(map(os.path.exists, _files(folder))) else class_folders.class_names(folder)


def fingerprint(folder):
    """Return 16 hex digits that change with the .npz files in `folder`, or None where it has none."""
    sums = {}
    for path in filter(os.path.isfile, _files(folder)):
        digest = hashlib.sha256()
        with open(path, "rb") as file:
            for block in iter(lambda: file.read(1 << 20), b""):
                digest.update(block)
        sums[os.path.basename(path)] = digest.hexdigest()
    return joint_fingerprint(sums) if sums else None


def joint_fingerprint(sums):
    """Return the fingerprint of files, given the SHA-256 of each by its name."""
    text = "".join("%s %s\n" % (sums[name], name) for name in sorted(sums))
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:16]


def _files(folder):
    return [os.path.join(folder, split + ".npz") for split in SPLITS]


def split_off(data, fraction):
    """Split `fraction` of the examples off `data`, the same ones every time: return (train, held-out or None)."""
    x, y = data
    count = heldout_count(len(y), fraction)
    order = np.random.RandomState(0).permutation(len(y))
    train, heldout = np.sort(order[count:]), np.sort(order[:count])
    return (x[train], y[train]), ((x[heldout], y[heldout]) if count else None)


def heldout_count(count, fraction):
    """Return how many of `count` examples `fraction` holds out: at least one, and never all of them."""
    return min(max(int(round(count * fraction)), 1), count - 1) if fraction > 0 else 0


def read_file(path):
    """Return the checked pair (x, y) of one .npz file, y as int64. Raises DatasetError."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            x, y = arrays["x"], arrays["y"]
    except Exception as error:  # a damaged zip raises many kinds
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise DatasetError("%s is not a whole .npz file of x and y (%s): deploy again" % (path, reason)) from error
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise DatasetError("the labels y in %s are %s of shape %s, not a list of integers" % (path, y.dtype, y.shape))
    if x.ndim == 0 or len(x) != len(y):
        raise DatasetError("%s holds x of shape %s but %d labels y" % (path, x.shape, len(y)))
    if len(y) == 0:
        raise DatasetError("%s holds no examples" % path)
    if y.min() < 0:
        raise DatasetError("%s holds the label %d: labels start at 0" % (path, y.min()))
    if x.dtype.kind not in "uif" or not np.isfinite(x).all():
        raise DatasetError("x in %s holds values that are not finite numbers (NaN, for one)" % path)
    return x, y.astype(np.int64)
