"""The loaders, on small files in the published formats, whole and damaged."""

import gzip
import io
import os
import socket
import struct
import subprocess
import sys
import tarfile
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import EpsImagePlugin, Image

from flowerbed.dataset import DatasetError, DatasetWarning, cifar10, digits, fashion_mnist, folder
from flowerbed.dataset.config import Config

RANDOM = np.random.default_rng(0)
APP = Path(folder.__file__).parents[2]


def settings(path, **keys) -> Config:
    return Config(name="folder", devices=["rpi-1"], output="", path=str(path), **keys)


def picture(size=(4, 6), mode="RGB", kind="PNG") -> bytes:
    """An image file of random pixels; `size` is (height, width)."""
    pixels = RANDOM.integers(0, 256, (*size, 3) if mode == "RGB" else size, dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels, mode).save(buffer, kind)
    return buffer.getvalue()


def put(root, files: dict[str, bytes]):
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def test_digits_keep_their_shape_and_classes():
    x, y = digits.load(None).train
    assert x.shape == (1797, 8, 8, 1) and x.dtype == np.uint8 and x.max() == 255
    assert y.dtype == np.int64 and np.bincount(y).min() >= 174


# CIFAR-10


@pytest.fixture
def cifar(tmp_path):
    """A folder of six small batches, and the records (label, image) they were made of."""
    records = {}
    for name in cifar10.BATCHES:
        labels = RANDOM.integers(0, 10, 3, dtype=np.uint8)
        records[name] = labels, RANDOM.integers(0, 256, (3, 32, 32, 3), dtype=np.uint8)
    root = tmp_path / cifar10.FOLDER
    put(root, {name: b"".join(map(record, *pair)) for name, pair in records.items()})
    return root, records


def record(label: int, image: np.ndarray) -> bytes:
    return bytes([label]) + b"".join(image[:, :, channel].tobytes() for channel in range(3))


def tar(root) -> str:
    path = root.parent / cifar10.ARCHIVE
    with tarfile.open(path, "w:gz") as archive:
        archive.add(root, root.name)
    return path


@pytest.mark.parametrize("form", ["folder", "parent", "archive"])
def test_cifar10_is_read_from_its_binary_version(cifar, form):
    root, records = cifar
    data = cifar10.load(settings({"folder": root, "parent": root.parent}.get(form) or tar(root)))
    batches = [records[name] for name in cifar10.BATCHES[:5]]
    np.testing.assert_array_equal(data.train[0], np.concatenate([images for _, images in batches]))
    np.testing.assert_array_equal(data.train[1], np.concatenate([labels for labels, _ in batches]))
    np.testing.assert_array_equal(data.test[0], records["test_batch.bin"][1])
    assert data.test[1].dtype == np.int64 and data.classes[3] == "cat"


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda root: put(root, {"data_batch_2.bin": record(200, np.zeros((32, 32, 3), np.uint8))}), "the label 200"),
        (lambda root: put(root, {"data_batch_2.bin": b"\1" * 5000}), "data_batch_2.bin in .* is cut short"),
        (lambda root: (root / "data_batch_4.bin").unlink(), "lacks data_batch_4.bin"),
        (lambda root: (root / "data_batch_1.bin").unlink(), "holds neither cifar-10-binary.tar.gz"),
    ],
)
def test_damaged_cifar10_is_refused(cifar, damage, sentence):
    damage(cifar[0])
    with pytest.raises(DatasetError, match=sentence):
        cifar10.load(settings(cifar[0]))


def test_a_cifar10_archive_cut_short_is_refused(cifar):
    path = tar(cifar[0])
    path.write_bytes(path.read_bytes()[:-3000])
    with pytest.raises(DatasetError, match="is damaged or cut short"):
        cifar10.load(settings(path))


def test_a_cifar10_archive_is_read_to_no_more_than_the_limit(cifar):
    """A head in it may declare any size, and a few bytes unpack to it."""
    path = tar(cifar[0])
    for kind in (tarfile.XHDTYPE, tarfile.REGTYPE):
        head = tarfile.TarInfo(cifar10.BATCHES[0])
        head.type, head.size = kind, 2 << 20
        path.write_bytes(gzip.compress(head.tobuf() + bytes(2 << 20)))
        with pytest.raises(DatasetError, match=r"binary.tar.gz takes more memory than dataset_limit allows \(1 MiB\)"):
            cifar10.load(settings(path, limit=1))
    put(cifar[0], {cifar10.BATCHES[2]: bytes(2 << 20)})
    with pytest.raises(DatasetError, match=r"data_batch_3.bin takes more memory"):
        cifar10.load(settings(cifar[0], limit=1))


@pytest.mark.parametrize("name", ["cifar-10-python.tar.gz", "cifar-10-batches-py/batches.meta"])
def test_cifar10_in_pickles_is_refused(tmp_path, name):
    put(tmp_path, {name: b""})
    for path in (tmp_path, tmp_path / name.split("/")[0]):
        with pytest.raises(DatasetError, match="made of pickles"):
            cifar10.load(settings(path))


# Fashion-MNIST


def idx(array: np.ndarray, magic: int | None = None) -> bytes:
    return struct.pack(f">{array.ndim + 1}I", magic or 0x800 + array.ndim, *array.shape) + array.tobytes()


@pytest.fixture
def fashion(tmp_path):
    arrays = {}
    for name in fashion_mnist.FILES:
        shape, top = ((5, 28, 28), 256) if "images" in name else ((5,), 10)
        arrays[name] = RANDOM.integers(0, top, shape, dtype=np.uint8)
        put(tmp_path, {f"{name}.gz": gzip.compress(idx(arrays[name]))})
    return tmp_path, arrays


@pytest.mark.parametrize("zipped", [True, False])
def test_fashion_mnist_is_read_gzipped_or_not(fashion, zipped):
    root, arrays = fashion
    for path in [] if zipped else list(root.iterdir()):
        put(root, {path.stem: gzip.decompress(path.read_bytes())})
        path.unlink()
    data = fashion_mnist.load(settings(root))
    read = [data.train[0][..., 0], data.train[1], data.test[0][..., 0], data.test[1]]
    for array, name in zip(read, fashion_mnist.FILES, strict=True):
        np.testing.assert_array_equal(array, arrays[name])
    assert data.train[0].shape == (5, 28, 28, 1) and data.train[1].dtype == np.int64


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("train-images-idx3-ubyte", gzip.compress(b"\x89PNG" + bytes(40)), "does not start like an idx file of 3"),
        ("train-images-idx3-ubyte", gzip.compress(idx(np.zeros(5, np.uint8))), "does not start like an idx file of 3"),
        ("train-images-idx3-ubyte", gzip.compress(idx(np.zeros((5, 28, 28), np.uint8))[:-9]), "holds 3911 bytes, not"),
        ("train-images-idx3-ubyte", gzip.compress(idx(np.zeros((4, 28, 28), np.uint8))), "4 images but .* 5 labels"),
        ("train-images-idx3-ubyte", gzip.compress(bytes(9000))[:-8], "damaged or cut short"),
        ("train-images-idx3-ubyte", b"<html>", "damaged or cut short"),
        ("t10k-labels-idx1-ubyte", gzip.compress(idx(np.full(5, 10, np.uint8))), "holds the label 10"),
    ],
    ids=["png", "labels for images", "cut short inside", "an image too few", "cut short", "a page", "a label too many"],
)
def test_damaged_fashion_mnist_is_refused(fashion, name, content, sentence):
    put(fashion[0], {f"{name}.gz": content})
    with pytest.raises(DatasetError, match=sentence):
        fashion_mnist.load(settings(fashion[0]))


@pytest.mark.parametrize("name", fashion_mnist.FILES)
def test_a_missing_file_of_fashion_mnist_is_named(fashion, name):
    (fashion[0] / f"{name}.gz").unlink()
    with pytest.raises(DatasetError, match=f"lacks {name}.gz"):
        fashion_mnist.load(settings(fashion[0]))


def test_fashion_mnist_is_read_to_no_more_than_the_limit(fashion):
    name = fashion_mnist.FILES[1]
    put(fashion[0], {f"{name}.gz": gzip.compress(bytes(2 << 20))})
    with pytest.raises(DatasetError, match=r"idx1-ubyte.gz takes more memory than dataset_limit allows \(1 MiB\)"):
        fashion_mnist.load(settings(fashion[0], limit=1))
    (fashion[0] / f"{name}.gz").unlink()
    os.mkfifo(fashion[0] / f"{name}.gz")
    with pytest.raises(DatasetError, match="idx1-ubyte.gz is no regular file but a pipe"):
        fashion_mnist.load(settings(fashion[0]))


# Class folders of images


def zipped(root):
    path = root.with_suffix(".zip")
    with zipfile.ZipFile(path, "w") as archive:
        for file in sorted(root.rglob("*"), reverse=True):
            archive.write(file, file.relative_to(root.parent))
    return path


@pytest.mark.parametrize("pack", [lambda root: root, zipped])
def test_class_folders_are_read_in_order(tmp_path, pack):
    names = ["train/cat/b.png", "train/cat/a.PNG", "train/ape/c.png", "test/cat/d.png"]
    files = {name: picture() for name in names}
    root = put(tmp_path / "pets", files | {"train/cat/Thumbs.db": b"", "train/.cat/x.png": b"", "read.me": b""})
    data = folder.load(settings(pack(root)))
    pixels = {name: np.asarray(Image.open(io.BytesIO(content))) for name, content in files.items()}
    np.testing.assert_array_equal(data.train[0], [pixels[name] for name in (names[2], names[1], names[0])])
    np.testing.assert_array_equal(data.test[0], [pixels[names[3]]])
    assert data.train[1].tolist() == [0, 1, 1] and data.test[1].tolist() == [1] and data.classes == ["ape", "cat"]


def test_class_folders_without_a_split_have_no_test(tmp_path):
    data = folder.load(settings(put(tmp_path, {"cat/a.png": picture(), "ape/b.png": picture()})))
    assert data.train[1].tolist() == [0, 1] and data.test is None


def test_a_list_of_classes_decides_the_labels(tmp_path):
    put(tmp_path, {"cat/a.png": picture(), "yak/b.png": picture(), "classes.txt": b"yak\nape\ncat\n"})
    data = folder.load(settings(tmp_path))
    assert data.classes == ["yak", "ape", "cat"] and data.train[1].tolist() == [2, 0]
    put(tmp_path, {"classes.txt": b"yak\nape\n"})
    with pytest.raises(DatasetError, match="has a class folder cat that its classes.txt does not name"):
        folder.load(settings(tmp_path))


def test_grey_images_stay_grey_unless_there_is_colour(tmp_path):
    put(tmp_path, {"cat/a.png": picture(mode="L"), "ape/b.png": picture(mode="L")})
    assert folder.load(settings(tmp_path)).train[0].shape == (2, 4, 6, 1)
    put(tmp_path, {"ape/c.png": picture()})
    x, _ = folder.load(settings(tmp_path)).train
    assert x.shape == (3, 4, 6, 3) and (x[2][..., 0] == x[2][..., 2]).all()


def test_images_of_two_sizes_need_a_size(tmp_path):
    put(tmp_path, {"cat/a.png": picture(), "ape/b.jpg": picture((9, 5), kind="JPEG")})
    with pytest.raises(DatasetError, match=r"cat/a.png in .* is 4 x 6 pixels but ape/b.jpg is 9 x 5"):
        folder.load(settings(tmp_path))
    assert folder.load(settings(tmp_path, image_size=[8, 7])).train[0].shape == (2, 8, 7, 3)


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        ({}, "holds no images"),
        ({"cat/notes.txt": b""}, "holds no images"),
        ({"cat/a.png": b"no image"}, "cat/a.png in .* cannot be read as an image"),
        ({"cat/a.jpg": picture((64, 64), kind="JPEG")[:-900]}, "cat/a.jpg in .* cannot be read as an image"),
        ({"a.png": picture(), "cat/b.png": picture()}, "a.png, which lies in no class folder"),
        ({"train/a.png": picture(), "train/cat/b.png": picture()}, "train/a.png, which lies in no class folder"),
        ({"val/cat/a.png": picture(), "train/cat/b.png": picture()}, "val/cat/a.png, which lies in no class folder"),
        ({"test/cat/a.png": picture()}, "holds no training images"),
        ({"cat/a.heic": b"", "cat/b.HEIC": b"", "ape/c": b""}, "holds no images: .*left out are 2 .heic, 1 with no"),
        ({"train/cat/a.png": picture(), "test/Cat/a.png": picture()}, "has test images of Cat but no training images"),
    ],
)
@pytest.mark.parametrize("pack", [lambda root: root, zipped])
def test_unusable_folders_are_refused(tmp_path, files, sentence, pack):
    root = put(tmp_path / "pets", files)
    root.mkdir(exist_ok=True)
    with pytest.raises(DatasetError, match=sentence):
        folder.load(settings(pack(root)))


def test_images_in_no_class_folder_are_refused_with_the_layout(tmp_path):
    put(tmp_path / "flat", {"a.png": picture(), "b.png": picture()})
    with zipfile.ZipFile(tmp_path / "flat.zip", "w") as archive:
        archive.writestr("a.png", picture())
    layout = "images belong in <class>/, or in train/<class>/ and test/<class>/"
    for path in ("flat", "flat.zip"):
        with pytest.raises(DatasetError, match=f"{path} holds a.png, which lies in no class folder: {layout}"):
            folder.read(str(tmp_path / path))


def test_a_missing_folder_and_a_damaged_zip_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="gone does not exist"):
        folder.load(settings(tmp_path / "gone"))
    path = zipped(put(tmp_path / "pets", {"cat/a.png": picture()}))
    content = path.read_bytes()
    path.write_bytes(content[:-30])
    with pytest.raises(DatasetError, match="neither a folder nor a whole zip file"):
        folder.load(settings(path))
    path.write_bytes(content.replace(b"IDAT", b"IDAX", 1))
    with pytest.raises(DatasetError, match=r"cat/a.png in .* cannot be read as an image \(Bad CRC"):
        folder.load(settings(path))


def test_a_damaged_image_is_told_without_pythons_objects(tmp_path):
    put(tmp_path, {"cat/a.png": picture()[:40]})
    with pytest.raises(DatasetError, match="cat/a.png") as caught:
        folder.read(str(tmp_path))
    assert "object at 0x" not in str(caught.value)


# An image is what a viewer shows


def save(image: Image.Image, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def shown(tmp_path, content: bytes, name: str = "a.png") -> np.ndarray:
    """Return the pixels of an image file as the loader sees them: (height, width, channels)."""
    return folder.read(str(put(tmp_path, {f"cat/{name}": content})))[0][0][0]


def tiff(bits: int, photometric: int, pixels: bytes) -> bytes:
    """A grey TIFF of 1 x 2 pixels, not packed."""
    tags = {256: 2, 257: 1, 258: bits, 259: 1, 262: photometric, 273: 8, 277: 1, 278: 1, 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = 8 + len(pixels) + len(pixels) % 2
    return (
        b"II*\0" + struct.pack("<I", start) + pixels.ljust(start - 8, b"\0") + struct.pack("<H", 9) + entries + bytes(4)
    )


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.png", save(Image.fromarray(np.array([[0x8000, 0xFFFF]], np.uint16)))),
        ("a.tif", save(Image.fromarray(np.array([[0x8000, 0xFFFF]], np.uint16)), "TIFF")),
        ("a.tiff", tiff(16, 1, struct.pack("<HH", 0x8000, 0xFFFF))),
        ("a.tiff", tiff(12, 1, bytes([0x80, 0x0F, 0xFF]))),
        ("a.tiff", tiff(16, 0, struct.pack("<HH", 0x7FFF, 0))),  # 0 is white
        ("a.pgm", b"P5 2 1 65535\n" + struct.pack(">HH", 0x8000, 0xFFFF)),
    ],
)
def test_more_than_eight_bits_are_brought_to_eight(tmp_path, name, content):
    assert shown(tmp_path, content, name).tolist() == [[[0x80], [0xFF]]]


CLEAR = np.array([[[0, 0, 0, 0], [0, 0, 0, 255], [200, 0, 0, 255], [0, 0, 0, 128]]], np.uint8)
PALETTE = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "L").convert("P")
PALETTE.putpalette([9, 9, 9, 0, 0, 0, 200, 0, 0] + [0] * 759)


@pytest.mark.parametrize(
    ("content", "pixels"),
    [
        (save(Image.fromarray(CLEAR, "RGBA")), [[255, 255, 255], [0, 0, 0], [200, 0, 0], [127, 127, 127]]),
        (save(Image.fromarray(CLEAR[..., [0, 3]], "LA")), [[255], [0], [200], [127]]),
        (save(Image.fromarray(CLEAR[..., 0], "L"), transparency=200), [[0], [0], [255], [0]]),
        (
            save(Image.fromarray(CLEAR[..., :3], "RGB"), transparency=(200, 0, 0)),
            [[0] * 3, [0] * 3, [255] * 3, [0] * 3],
        ),
        (save(PALETTE, transparency=0), [[255, 255, 255], [0, 0, 0], [200, 0, 0]]),
        (save(PALETTE, "GIF", transparency=0), [[255, 255, 255], [0, 0, 0], [200, 0, 0]]),
        (save(Image.fromarray(np.array([[7, 0x8000]], np.uint16)), transparency=7), [[255], [0x80]]),
        (save(PALETTE), [[9, 9, 9], [0, 0, 0], [200, 0, 0]]),
        (save(Image.new("CMYK", (1, 1), (0, 0, 0, 0)), "TIFF"), [[255, 255, 255]]),
    ],
    ids=["RGBA", "LA", "L", "RGB", "P", "gif", "I;16", "no transparency", "CMYK"],
)
def test_transparent_images_lie_on_white(tmp_path, content, pixels):
    assert shown(tmp_path, content).tolist() == [pixels]


TURNED = [  # by EXIF orientation, from 1
    lambda x: x, lambda x: x[:, ::-1], lambda x: x[::-1, ::-1], lambda x: x[::-1], lambda x: x.T,
    lambda x: np.rot90(x, -1), lambda x: x[::-1, ::-1].T, np.rot90,
]  # fmt: skip


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(("kind", "name"), [("PNG", "a.png"), ("TIFF", "a.tif"), ("WEBP", "a.webp")])
def test_images_are_turned_as_their_exif_says(tmp_path, kind, name, orientation):
    stored = np.array([[0, 60, 120], [180, 210, 250]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    pixels = shown(tmp_path, save(Image.fromarray(stored), kind, exif=exif, **options), name)
    np.testing.assert_array_equal(pixels[..., 0], TURNED[orientation - 1](stored))


def test_sixteen_bits_are_turned_and_damaged_exif_is_ignored(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    image = Image.fromarray(np.array([[0x1000, 0x2000]], np.uint16))
    assert shown(tmp_path, save(image, exif=exif))[..., 0].tolist() == [[0x10], [0x20]]
    grey = save(Image.new("L", (2, 1), 77), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x09\0broken")
    assert shown(tmp_path, grey, "a.png")[..., 0].tolist() == [[77, 77]]


@pytest.mark.parametrize(("mode", "words"), [("F", "fractions"), ("I", "numbers of 32 bits")])
def test_pixels_without_a_white_are_refused(tmp_path, mode, words):
    put(tmp_path, {"cat/a.tif": save(Image.new(mode, (2, 1), 3), "TIFF")})
    with pytest.raises(DatasetError, match=f"cat/a.tif in .* holds {words}, of which nobody knows what is white: save"):
        folder.read(str(tmp_path))


def test_every_format_is_read_and_what_is_left_out_is_counted(tmp_path):
    names = [f"{number}{suffix}" for number, suffix in enumerate(folder.IMAGES)]
    for kind, suffixes in folder.FORMATS.items():
        for name in names:
            if name.lstrip("0123456789") in suffixes:
                put(tmp_path, {f"cat/{name}": save(Image.new("L", (3, 2), 50), kind)})
    put(tmp_path, {"cat/Thumbs.db": b"", "cat/.DS_Store": b"", "classes.txt": b"cat"})
    x, y = folder.read(str(tmp_path))[0]  # and no warning, which would be an error here
    assert x.shape == (len(names), 2, 3, 3) and (abs(x.astype(int) - 50) < 3).all() and y.tolist() == [0] * len(names)
    put(tmp_path, {"cat/a.heic": b"", "cat/b.HEIC": b"", "cat/c.avif": b"", "notes.txt": b""})
    with pytest.warns(
        DatasetWarning, match=r": left out are 1 .avif, 2 .heic, 1 .txt, for only .apng .bmp .* are read"
    ):
        assert len(folder.read(str(tmp_path))[0][1]) == len(names)


# What somebody else may have put there


def test_postscript_under_another_name_starts_no_program(tmp_path, monkeypatch):
    program = tmp_path / "bin/gs"
    put(tmp_path, {"bin/gs": b"#!/bin/sh\ntouch %s\n" % bytes(tmp_path / "started")})
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.setattr(EpsImagePlugin, "gs_binary", None)
    put(tmp_path / "set", {"cat/a.png": save(Image.new("L", (4, 4)), "EPS")})
    with pytest.raises(DatasetError, match="cat/a.png in .* cannot be read as an image"):
        folder.read(str(tmp_path / "set"))
    assert not (tmp_path / "started").exists()


def pipe(path):
    os.mkfifo(path)


def link_to_a_device(path):
    path.symlink_to("/dev/zero")


def listening(path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


@pytest.mark.parametrize("make", [pipe, link_to_a_device, listening])
@pytest.mark.parametrize("name", ["cat/x.png", "classes.txt"])
def test_only_regular_files_are_opened(tmp_path, monkeypatch, make, name):
    put(tmp_path, {"cat/a.png": picture()})
    monkeypatch.chdir(tmp_path)  # a socket's path is short
    make(Path(name))
    with pytest.raises(DatasetError, match=f"{name} is no regular file but a pipe, a socket or a device"):
        folder.read(".")


def test_links_that_lead_nowhere_or_round_in_a_circle_are_named(tmp_path):
    put(tmp_path, {"cat/a.png": picture()})
    (tmp_path / "cat/b.png").symlink_to("gone.png")
    with pytest.raises(DatasetError, match=r"cat/b.png in .* cannot be read as an image \(No such file or directory\)"):
        folder.read(str(tmp_path))
    (tmp_path / "cat/b.png").unlink()
    (tmp_path / "dog").symlink_to("cat")
    assert folder.read(str(tmp_path))[2] == ["cat", "dog"]
    (tmp_path / "dog").unlink()
    (tmp_path / "cat/all").symlink_to("..")
    with pytest.raises(DatasetError, match="cat/all is a link to a folder that it lies in: remove it"):
        folder.read(str(tmp_path))


@pytest.mark.parametrize("pack", [lambda root: root, zipped])
def test_images_take_no_more_memory_than_the_limit(tmp_path, pack):
    root = put(tmp_path / "pets", {"cat/a.png": save(Image.new("L", (600, 600)))})  # 1.4 MB while it is decoded
    with pytest.raises(
        DatasetError, match=r"a.png in .*, of 600 x 600 pixels, takes more memory than .* \(1 MiB\): use"
    ):
        folder.read(str(pack(root)), limit=1)
    assert folder.read(str(pack(root)), limit=2)[0][0].shape == (1, 600, 600, 1)
    put(root, {f"cat/{number}.png": save(Image.new("L", (500, 500))) for number in range(5)} | {"cat/a.png": b""})
    put(root, {"cat/a.png": save(Image.new("L", (500, 500)))})
    with pytest.raises(DatasetError, match="what .* holds takes more memory than dataset_limit allows"):
        folder.read(str(pack(root)), limit=1)
    put(root, {"cat/0.png": bytes(2 << 20)})
    with pytest.raises(DatasetError, match=r"0.png in .* takes more memory"):
        folder.read(str(pack(root)), limit=1)


def test_a_small_data_set_needs_little_memory_and_too_little_is_not_told_as_damage(tmp_path, fashion):
    """Whatever the limit: the device may have less."""
    put(tmp_path / "small", {"cat/1.png": picture((8, 8)), "ape/1.png": picture((8, 8))})
    put(tmp_path / "large", {"cat/1.ppm": b"P6 9000 9000 255\n"})  # 309 MiB in Pillow
    (tmp_path / "arrays").mkdir()
    with zipfile.ZipFile(tmp_path / "arrays/train.npz", "w") as archive, archive.open("x.npy", "w") as x:
        np.lib.format.write_array_header_1_0(x, {"descr": "|u1", "fortran_order": False, "shape": (1 << 29,)})
    with zipfile.ZipFile(tmp_path / "arrays/train.npz", "a") as archive, archive.open("y.npy", "w") as y:
        np.lib.format.write_array(y, np.zeros(1))
    code = """if True:
        import resource, sys
        from flowerbed.dataset import fashion_mnist, folder, shards
        from flowerbed.dataset.config import Config
        root = sys.argv[1]
        shapes = [folder.read(root + "/small")[0][0].shape]  # imports Pillow
        taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (taken + (256 << 20),) * 2)
        shapes += [folder.read(root + "/small")[0][0].shape]
        shapes += [fashion_mnist.load(Config(name="", devices=[], output="", path=root)).train[0].shape]
        for read, name in ((folder.read, "/large"), (shards.read, "/arrays")):
            try:
                read(root + name)
            except MemoryError:
                shapes += ["too large"]
        print(shapes)
    """
    environment = os.environ | {"PYTHONPATH": str(APP)}
    command = [sys.executable, "-c", code, fashion[0]]
    result = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    assert result.stdout == "[(2, 8, 8, 3), (2, 8, 8, 3), (5, 28, 28, 1), 'too large', 'too large']\n"


def test_a_zip_whose_packing_has_no_bound_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "pets.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("cat/a.png", picture())
    with pytest.raises(
        DatasetError, match="cat/a.png in .*pets.zip is packed in a rare way: pack it anew, with deflate"
    ):
        folder.read(str(tmp_path / "pets.zip"))


# Names


def test_a_zip_may_have_backslashes_and_names_in_utf_8_without_saying_so(tmp_path):
    path = tmp_path / "pets.zip"
    with zipfile.ZipFile(path, "w") as archive:
        for name in (r"set\train\cat\a.png", r"set\train\épagneul\b.png", "set\\train\\", r"set\test\cat\c.png"):
            archive.writestr(name, picture() if name.endswith("png") else b"")
    content = path.read_bytes()
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):  # without the flag for UTF-8, as macOS packs
        start = content.find(mark)
        while start >= 0:
            flags = struct.unpack_from("<H", content, start + at)[0] & ~0x800
            content = content[: start + at] + struct.pack("<H", flags) + content[start + at + 2 :]
            start = content.find(mark, start + 1)
    path.write_bytes(content)
    train, test, classes = folder.read(str(path))
    assert classes == ["cat", "épagneul"] and train[1].tolist() == [0, 1] and test[1].tolist() == [0]


def test_in_a_folder_a_backslash_is_a_part_of_a_name(tmp_path):
    put(tmp_path, {r"cat/a\b.png": picture(), r"cat\wild/a.png": picture(), "cat/b.png": picture()})
    train, _, classes = folder.read(str(tmp_path))
    assert classes == ["cat", r"cat\wild"] and train[1].tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    "content",
    [
        "cat\r\nÄpfel\r\n".encode("utf-8-sig"), "cat\nÄpfel".encode("utf-16"), "\ncat\rÄpfel".encode(),
        "\ufeffcat\nÄpfel\n".encode("utf-16-be"), unicodedata.normalize("NFD", "cat\nÄpfel").encode(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_names_of_classes_are_the_same_however_they_are_written(tmp_path, content, form):
    put(tmp_path, {f"{unicodedata.normalize(form, 'Äpfel')}/a.png": picture(), "cat/b.png": picture()})
    assert folder.read(str(tmp_path))[2] == ["cat", "Äpfel"]
    put(tmp_path, {"classes.txt": content})
    assert folder.class_names(str(tmp_path)) == ["cat", "Äpfel"]
    assert sorted(folder.read(str(tmp_path))[0][1].tolist()) == [0, 1]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("cat\nÄpfel".encode("latin-1"), "classes.txt in .* is not text in UTF-8: save it as UTF-8"),
        (b"\xff\xfec", "classes.txt in .* is not text in UTF-8"),
        (
            "cat".encode("utf-16-le"),
            "names a class c a t .*with characters that cannot be shown: write it anew, in UTF-8",
        ),
        (b"cat\ndog\ncat \n", "names the class cat twice: a class has one label, so remove one line"),
        (b"cat\n" * 300_000, "is far too large for a list of classes"),
    ],
)
def test_an_unusable_list_of_classes_is_refused(tmp_path, content, sentence):
    put(tmp_path, {"cat/a.png": picture(), "classes.txt": content})
    with pytest.raises(DatasetError, match=sentence):
        folder.read(str(tmp_path))


@pytest.mark.parametrize("name", ["cat\x1b[2Jdog", "cat\nrounds 1 to 99 are done", "cat\u202edog", "cat\udce9"])
def test_a_class_whose_name_would_reach_the_terminal_is_refused_and_its_name_cleaned(tmp_path, name):
    put(tmp_path, {f"{name}/a.png": picture()})
    with pytest.raises(DatasetError, match="has a class folder cat.*, in whose name are characters that") as caught:
        folder.read(str(tmp_path))
    assert str(caught.value).isprintable()
    put(tmp_path / "other", {"cat/a\x1b[2J.png": b""})
    with pytest.raises(DatasetError, match="cat/a.png in .* cannot be read as an image"):
        folder.read(str(tmp_path / "other"))


@pytest.mark.parametrize("locale", ["C", "POSIX"])
def test_names_are_the_same_without_a_locale(tmp_path, locale):
    put(tmp_path, {"Äpfel/é.png": picture(), "cat/b.png": picture(), "classes.txt": "cat\nÄpfel".encode()})
    code = "import json, sys; from flowerbed.dataset import folder; print(json.dumps(folder.read(sys.argv[1])[2]))"
    off = {"LC_ALL": locale, "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(APP)}
    said = subprocess.run([sys.executable, "-c", code, tmp_path], env=os.environ | off, capture_output=True, text=True)
    assert said.stdout == '["cat", "\\u00c4pfel"]\n', said.stderr
