"""The loaders, on small files in the published formats, whole and damaged."""

import gzip
import io
import struct
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

from flowerbed.dataset import DatasetError, cifar10, digits, fashion_mnist, folder
from flowerbed.dataset.config import Config

RANDOM = np.random.default_rng(0)


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
        ({"train/cat/a.png": picture(), "test/Cat/a.png": picture()}, "has test images of Cat but no training images"),
    ],
)
@pytest.mark.parametrize("pack", [lambda root: root, zipped])
def test_unusable_folders_are_refused(tmp_path, files, sentence, pack):
    root = put(tmp_path / "pets", files)
    root.mkdir(exist_ok=True)
    with pytest.raises(DatasetError, match=sentence):
        folder.load(settings(pack(root)))


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
