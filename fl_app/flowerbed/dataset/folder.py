"""Class folders of images: <class>/<image>, or train/<class>/<image> and test/<class>/<image>; or a zip of them.

`heldout` is another name for `test`. A label is its class's place in `classes.txt` (one name a line) or, where there
is no such file, in the alphabet: devices that do not all hold every class need the same `classes.txt`.
"""

import codecs
import io
import os
import re
import unicodedata
import warnings
from collections import Counter, namedtuple
from contextlib import contextmanager

import numpy as np

from flowerbed.dataset import Data, DatasetError, DatasetWarning, files

# What Pillow may open: its own decoders only, and none that starts a program, as that of PostScript does.
FORMATS = {
    "BMP": (".bmp",), "GIF": (".gif",), "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"), "PNG": (".png", ".apng"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"), "TIFF": (".tif", ".tiff"), "WEBP": (".webp",),
}  # fmt: skip
IMAGES = tuple(suffix for suffixes in FORMATS.values() for suffix in suffixes)
SPLITS = {"train": 0, "test": 1, "heldout": 1}
CLASSES = "classes.txt"
LAYOUT = "images belong in <class>/, or in train/<class>/ and test/<class>/"
NO_IMAGES = ("thumbs.db", "desktop.ini")  # which Windows leaves
LONGEST_LIST = 1 << 20  # bytes of a classes.txt
_UNPRINTABLE = {"Cc", "Cs", "Zl", "Zp"}
_REORDERING = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}

# The files of a folder or zip: names (UTF-8, with "/"), and functions of a name that open it and give its bytes' number
Files = namedtuple("Files", ["names", "open", "size"])


def sources(config):
    """Return the files that `load` would look at."""
    if not os.path.isdir(files.encoded(config.path)):
        return [config.path]
    return [os.path.join(config.path, name) for name in _walk(config.path) if not _is_hidden(name)]


def load(config):
    """Return the `Data` of the folder or zip `config.path`, resized to `config.image_size` where that is given."""
    train, test, classes = read(config.path, config.image_size, config.limit)
    if train is None:
        raise DatasetError("%s holds no training images: %s" % (config.path, LAYOUT))
    if test is not None:
        for label in sorted(set(test[1].tolist()) - set(train[1].tolist())):
            raise DatasetError("%s has test images of %s but no training images of it" % (config.path, classes[label]))
    return Data(train, test, classes)


def read(path, size=None, limit=files.LIMIT):
    """Return (train, test, classes) of the folder or zip `path`.

    `train` and `test` are pairs of images (N, height, width, channels), uint8, and labels (N,), int64, or None where
    there are no such images. Channels are 1 where all images are grey, else 3. `size` is the (height, width) to
    resize images to; without it they must be of one size. `limit` is how much memory, in MiB, they may take. Warns
    (DatasetWarning) of files that are left out. Raises DatasetError.
    """
    with _open(path) as contents:
        images = _places(path, contents.names)
        left_out = _left_out(contents.names)
        if not images:
            raise DatasetError("%s holds no images: %s%s" % (path, LAYOUT, left_out and "; " + left_out))
        classes = _classes(path, contents, images)
        x = stack(path, [name for name, _ in images], contents, size, limit)
    if left_out:
        warnings.warn(DatasetWarning("%s: %s" % (path, left_out)), stacklevel=2)
    y = np.array([classes.index(label) for _, (_, label) in images], np.int64)
    splits = np.array([split for _, (split, _) in images])
    train, test = ((x[splits == split], y[splits == split]) if split in splits else None for split in (0, 1))
    return train, test, classes


def class_names(path):
    """Return the names of the classes of the folder or zip `path`, by label. Raises DatasetError."""
    with _open(path) as contents:
        return _classes(path, contents, _places(path, contents.names))


def _classes(path, contents, images):
    labels = {label for _, (_, label) in images}
    for label in sorted(labels):
        if not is_printable(label):
            raise DatasetError("%s has a class folder %s, in whose name are characters that cannot be shown: rename it"
                               % (path, label))  # fmt: skip
    listed = [name for name in contents.names if _parts(name)[-1] == CLASSES and not _is_hidden(name)]
    if not listed:
        return sorted(labels)
    name = min(listed, key=lambda name: (len(_parts(name)), name))
    with contents.open(name) as file:
        classes = _listed("%s in %s" % (name, path), file.read(LONGEST_LIST + 1))
    for unknown in sorted(labels - set(classes)):
        raise DatasetError("%s has a class folder %s that its %s does not name" % (path, unknown, CLASSES))
    return classes


def _listed(where, content):
    """Return the names, one a line, in the bytes of a classes.txt."""
    if len(content) > LONGEST_LIST:
        raise DatasetError("%s is far too large for a list of classes, one name a line" % where)
    encoding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig"
    try:
        names = [name.strip() for name in re.split("[\r\n]", content.decode(encoding))]
    except UnicodeError as error:
        raise DatasetError("%s is not text in UTF-8: save it as UTF-8" % where) from error
    names = [unicodedata.normalize("NFC", name) for name in names if name]
    for name, count in Counter(names).items():
        if not is_printable(name):
            raise DatasetError("%s names a class %s, with characters that cannot be shown: write it anew, in UTF-8"
                               % (where, name))  # fmt: skip
        if count > 1:
            raise DatasetError("%s names the class %s twice: a class has one label, so remove one line" % (where, name))
    return names


def is_printable(name):
    """Return whether a name shows what it is: without control characters, and in the order that it is read in."""
    unfit = any(unicodedata.category(letter) in _UNPRINTABLE for letter in name)
    return not unfit and not any(unicodedata.bidirectional(letter) in _REORDERING for letter in name)


@contextmanager
def _open(path):
    """Yield the `Files` of the folder or zip `path`."""
    if not os.path.exists(files.encoded(path)):
        raise DatasetError("%s does not exist: put the images there, or correct dataset_path" % path)
    if os.path.isdir(files.encoded(path)):
        inside = {name: files.encoded(os.path.join(path, name)) for name in _walk(path)}
        yield Files(
            sorted(inside), lambda name: files.open_regular(inside[name]), lambda name: os.stat(inside[name]).st_size
        )
        return
    try:
        archive = files.Zip(path)
    except (DatasetError, MemoryError):
        raise
    except Exception as error:  # a damaged zip raises many kinds
        raise DatasetError("%s is neither a folder nor a whole zip file (%s)" % (path, files.reason(error))) from error
    with archive:
        yield Files([name for name in archive.names if not name.endswith("/")], archive.open, archive.size)


def _walk(path):
    """Return the names of all files below the folder `path`, sorted. Follows links."""

    def refuse(error):
        raise DatasetError("%s cannot be read: %s" % (files.text(error.filename), error.strerror)) from error

    top = files.encoded(path)
    names = []
    for folder, folders, inside in os.walk(top, onerror=refuse, followlinks=True):
        for link in filter(os.path.islink, (os.path.join(folder, name) for name in folders)):
            if (os.path.realpath(folder) + b"/").startswith(os.path.realpath(link) + b"/"):
                raise DatasetError("%s is a link to a folder that it lies in: remove it" % files.text(link))
        names += [os.path.relpath(os.path.join(folder, name), top) for name in inside]
    return sorted(map(files.text, names))


def _parts(name):
    """Split a name into its folders and the file."""
    return [part for part in name.split("/") if part not in ("", ".")] or [name]


def _is_hidden(name):
    return any(part.startswith((".", "__MACOSX")) for part in _parts(name)) or _parts(name)[-1].lower() in NO_IMAGES


def _is_image(name):
    return name.lower().endswith(IMAGES) and not _is_hidden(name)


def _left_out(names):
    """Return, in words, how many files are no images of a kind that is read, by suffix; '' where there are none."""
    others = [name for name in names if not _is_hidden(name) and not _is_image(name) and _parts(name)[-1] != CLASSES]
    suffixes = Counter(os.path.splitext(_parts(name)[-1])[1].lower() or "with no suffix" for name in others)
    if not suffixes:
        return ""
    counts = ", ".join("%d %s" % (count, suffix) for suffix, count in sorted(suffixes.items()))
    return "left out are %s, for only %s are read" % (counts, " ".join(sorted(IMAGES)))


def _rooted(names):
    """Pair each image's name with its parts, without the folders around all of them (zips often have one)."""
    images = [(name, _parts(name)) for name in names if _is_image(name)]
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
        if not 2 <= depth <= 3 or len(parts) != depth or (depth == 3 and parts[0] not in SPLITS):
            raise DatasetError("%s holds %s, which lies in no class folder: %s" % (path, "/".join(parts), LAYOUT))
    return [
        (name, (SPLITS[parts[0]] if depth == 3 else 0, unicodedata.normalize("NFC", parts[-2])))
        for name, parts in images
    ]


def stack(path, names, contents, size, limit):
    """Return the images `names` among `contents`, the `Files` of `path`, as one array. Raises DatasetError."""
    pillow = _pillow(path)
    arrays, total = [], 0
    for name in names:
        where = "%s in %s" % (name, path)
        try:
            files.check(contents.size(name), where, limit)
            with contents.open(name) as file:
                arrays.append(_image(pillow, files.read(file, where, limit), where, size, limit))
        except (DatasetError, MemoryError):
            raise
        except pillow.UnidentifiedImageError as error:
            raise DatasetError("%s cannot be read as an image (damaged, or of no kind that is read)" % where) from error
        except Exception as error:  # Pillow and zipfile raise many kinds on a damaged file
            raise DatasetError("%s cannot be read as an image (%s)" % (where, files.reason(error))) from error
        total += arrays[-1].nbytes
        files.check(total, "what %s holds" % path, limit)
        if arrays[-1].shape[:2] != arrays[0].shape[:2]:
            sizes = arrays[-1].shape[:2] + (names[0],) + arrays[0].shape[:2]
            problem = "%s is %d x %d pixels but %s is %d x %d" % ((where,) + sizes)
            raise DatasetError(problem + ": make them one size, or set dataset_image_size: [height, width]")
    if any(array.ndim == 3 for array in arrays):
        files.check(3 * len(arrays) * arrays[0].shape[0] * arrays[0].shape[1], "what %s holds" % path, limit)
        arrays = [array if array.ndim == 3 else np.stack([array] * 3, axis=2) for array in arrays]
    x = np.stack(arrays)
    return x if x.ndim == 4 else x[..., np.newaxis]


def _pillow(path):
    try:
        from PIL import Image, ImageOps, UnidentifiedImageError, __version__
    except ImportError as error:
        raise DatasetError("%s holds images, which only Pillow can read: install it there" % path) from error
    if int(__version__.split(".")[0]) < 8:
        raise DatasetError("%s holds images, which need Pillow 8 or newer, but %s is there" % (path, __version__))
    Image.init()
    formats = [name for name in FORMATS if name in Image.OPEN]
    return namedtuple("Pillow", ["Image", "ImageOps", "UnidentifiedImageError", "formats"])(
        Image, ImageOps, UnidentifiedImageError, formats
    )


def _image(pillow, content, where, size, limit):
    """Return what a viewer shows of an image: uint8, (height, width) where it is grey, else (height, width, 3)."""
    image = pillow.Image.open(io.BytesIO(content), formats=pillow.formats)
    files.check(4 * image.size[0] * image.size[1], "%s, of %d x %d pixels," % ((where,) + image.size[::-1]), limit)
    image.load()
    image = _eight_bits(pillow.Image, image, _turned(pillow.ImageOps, image), where)
    if "transparency" in image.info or image.mode in ("LA", "La", "PA", "RGBA", "RGBa"):
        grey = image.mode in ("1", "L", "LA", "La")
        image = image.convert("RGBA")
        white = pillow.Image.new("RGBA", image.size, "white")
        image = pillow.Image.alpha_composite(white, image).convert("L" if grey else "RGB")
    image = image.convert("L" if image.mode in ("1", "L") else "RGB")
    return np.asarray(image.resize(size[::-1], pillow.Image.BILINEAR) if size else image)


def _turned(ImageOps, image):
    try:
        return ImageOps.exif_transpose(image) or image
    except MemoryError:
        raise
    except Exception:  # damaged EXIF, which a viewer ignores, too
        return image


def _eight_bits(Image, opened, image, where):
    """Return `image`, which was `opened`, with 8 bits a channel: Pillow's conversion cuts off what is above 255."""
    if image.mode == "F" or (image.mode == "I" and opened.format == "TIFF"):
        raise DatasetError("%s holds %s, of which nobody knows what is white: save it with 8 or 16 bits a channel"
                           % (where, "fractions" if image.mode == "F" else "numbers of 32 bits"))  # fmt: skip
    if not image.mode.startswith("I"):
        return image
    tags = getattr(opened, "tag_v2", {})
    bits = tags.get(258, (16,))  # BitsPerSample
    pixels = np.asarray(image).astype(np.int64)
    grey = (pixels >> (int(bits[0] if isinstance(bits, tuple) else bits) - 8)).clip(0, 255).astype(np.uint8)
    if tags.get(262) == 0:  # PhotometricInterpretation: 0 is white
        grey = 255 - grey
    grey[pixels == opened.info.get("transparency", -1)] = 255
    return Image.fromarray(grey)
