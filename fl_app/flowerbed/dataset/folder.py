"""Class folders of images: <class>/<image>, or train/<class>/<image> and test/<class>/<image>; or a zip of them.

`heldout` is another name for `test`. A label is its class's place in `classes.txt` (one name a line) or, where there
is no such file, in the alphabet: devices that do not all hold every class need the same `classes.txt`.
"""

import io
import os
import zipfile
from contextlib import contextmanager

import numpy as np

from flowerbed.dataset import Data, DatasetError

IMAGES = (".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
SPLITS = {"train": 0, "test": 1, "heldout": 1}
CLASSES = "classes.txt"
LAYOUT = "images belong in <class>/, or in train/<class>/ and test/<class>/"


def sources(config):
    """Return the files that `load` would read."""
    if not os.path.isdir(config.path):
        return [config.path]
    return [os.path.join(config.path, name) for name in _names(config.path) if _is_ours(name)]


def load(config):
    """Return the `Data` of the folder or zip `config.path`, resized to `config.image_size` where that is given."""
    train, test, classes = read(config.path, config.image_size)
    if train is None:
        raise DatasetError("%s holds no training images: %s" % (config.path, LAYOUT))
    if test is not None:
        for label in sorted(set(test[1].tolist()) - set(train[1].tolist())):
            raise DatasetError("%s has test images of %s but no training images of it" % (config.path, classes[label]))
    return Data(train, test, classes)


def read(path, size=None):
    """Return (train, test, classes) of the folder or zip `path`.

    `train` and `test` are pairs of images (N, height, width, channels), uint8, and labels (N,), int64, or None where
    there are no such images. Channels are 1 where all images are grey, else 3. `size` is the (height, width) to
    resize images to; without it they must be of one size. Raises DatasetError.
    """
    with _open(path) as (names, content):
        images = _places(path, names)
        if not images:
            raise DatasetError("%s holds no images: %s" % (path, LAYOUT))
        classes = _classes(path, names, content, images)
        x = _stack(path, [name for name, _ in images], content, size)
    y = np.array([classes.index(label) for _, (_, label) in images], np.int64)
    splits = np.array([split for _, (split, _) in images])
    train, test = ((x[splits == split], y[splits == split]) if split in splits else None for split in (0, 1))
    return train, test, classes


def class_names(path):
    """Return the names of the classes of the folder or zip `path`, by label. Raises DatasetError."""
    with _open(path) as (names, content):
        return _classes(path, names, content, _places(path, names))


def _classes(path, names, content, images):
    found = {label for _, (_, label) in images}
    listed = [name for name in names if os.path.basename(name) == CLASSES]
    classes = content(listed[0]).decode("utf-8").splitlines() if listed else sorted(found)
    classes = [name.strip() for name in classes if name.strip()]
    for unknown in sorted(found - set(classes)):
        raise DatasetError("%s has a class folder %s that its %s does not name" % (path, unknown, CLASSES))
    return classes


@contextmanager
def _open(path):
    """Yield the names of all files below `path`, and a function that gives a named file's content."""
    if os.path.isdir(path):
        yield _names(path), lambda name: _content(os.path.join(path, name))
        return
    if not os.path.exists(path):
        raise DatasetError("%s does not exist: put the images there, or correct dataset_path" % path)
    try:
        archive = zipfile.ZipFile(path)
    except (OSError, zipfile.BadZipFile) as error:
        raise DatasetError("%s is neither a folder nor a whole zip file (%s)" % (path, error)) from error
    with archive:
        yield sorted(name for name in archive.namelist() if not name.endswith("/")), archive.read


def _names(path):
    def refuse(error):
        raise DatasetError("%s cannot be read: %s" % (error.filename, error.strerror)) from error

    found = []
    for folder, _, files in os.walk(path, onerror=refuse, followlinks=True):
        inside = "" if folder == path else os.path.relpath(folder, path) + "/"
        found += [inside + name for name in files]
    return sorted(found)


def _content(path):
    with open(path, "rb") as file:
        return file.read()


def _is_ours(name):
    hidden = any(part.startswith((".", "__MACOSX")) for part in name.split("/"))
    return not hidden and name.lower().endswith(IMAGES + (CLASSES,))


def _rooted(names):
    """Pair each image's name with its parts, without the folders around all of them (zips often have one)."""
    images = [(name, name.split("/")) for name in names if _is_ours(name) and not name.endswith(CLASSES)]
    while images and all(len(parts) > 2 and parts[0] == images[0][1][0] for _, parts in images):
        if images[0][1][0] in SPLITS:
            break
        images = [(name, parts[1:]) for name, parts in images]
    return images


def _places(path, names):
    """Pair each image's name with its split (0 train, 1 test) and its class."""
    images = _rooted(names)
    depth = max((len(parts) for _, parts in images), default=2)
    for _, parts in images:
        if depth > 3 or len(parts) != depth or (depth == 3 and parts[0] not in SPLITS):
            raise DatasetError("%s holds %s, which lies in no class folder: %s" % (path, "/".join(parts), LAYOUT))
    return [(name, (SPLITS[parts[0]] if depth == 3 else 0, parts[-2])) for name, parts in images]


def _stack(path, names, content, size):
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError as error:
        raise DatasetError("%s holds images, which only Pillow can read: install it there" % path) from error
    arrays = []
    for name in names:
        try:
            image = Image.open(io.BytesIO(content(name)))
            image = image.convert("L" if image.mode in ("1", "L", "LA") else "RGB")
            arrays.append(np.asarray(image.resize(size[::-1], Image.BILINEAR) if size else image))
        except UnidentifiedImageError as error:
            raise DatasetError("%s in %s cannot be read as an image (damaged, or of no kind that Pillow knows)"
                               % (name, path)) from error  # fmt: skip
        except Exception as error:  # Pillow raises many kinds on a damaged file
            raise DatasetError("%s in %s cannot be read as an image (%s)" % (name, path, error)) from error
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            sizes = arrays[-1].shape[:2] + (names[0],) + arrays[0].shape[:2]
            problem = "%s in %s is %d x %d pixels but %s is %d x %d" % ((name, path) + sizes)
            raise DatasetError(problem + ": make them one size, or set dataset_image_size: [height, width]")
    if any(array.ndim == 3 for array in arrays):
        arrays = [array if array.ndim == 3 else np.stack([array] * 3, axis=2) for array in arrays]
    x = np.stack(arrays)
    return x if x.ndim == 4 else x[..., np.newaxis]
