"""What a device reads of its own data, on this Python and on a Jetson Nano's."""

import ast
import io
import os
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import python36
from flowerbed.dataset import DatasetError, shards

APP = Path(shards.__file__).parents[2]
ON_DEVICES = [
    APP / "flowerbed/dataset" / f"{name}.py"
    for name in ("__init__", "arrays", "files", "folder", "npy", "shards", "tables")
]
X, Y = np.arange(4 * 3 * 3, dtype=np.uint8).reshape(4, 3, 3, 1), np.array([0, 2, 1, 1])


def save_images(root: Path, classes: dict[str, int]) -> None:
    """Write `classes[name]` one-coloured images into each class folder, each of its own shade."""
    for name, count in classes.items():
        (root / name).mkdir(parents=True)
        for shade in range(count):
            Image.new("L", (5, 4), shade).save(root / name / f"{shade:03}.png")


def test_both_splits_are_read(tmp_path):
    np.savez(tmp_path / "train.npz", x=X, y=Y.astype(np.int16))
    np.savez(tmp_path / "heldout.npz", x=X[:1].astype(np.float32), y=Y[:1])
    train, heldout = shards.read(str(tmp_path))
    np.testing.assert_array_equal(train[0], X)
    np.testing.assert_array_equal(train[1], Y)
    assert train[1].dtype == np.int64 and heldout[0].dtype == np.float32


def test_a_split_may_be_missing(tmp_path):
    np.savez(tmp_path / "heldout.npz", x=X, y=Y)
    train, heldout = shards.read(str(tmp_path))
    assert train is None and len(heldout[1]) == 4


@pytest.mark.parametrize("name", ["heldout", "test"])
def test_class_folders_with_their_own_split_are_kept(tmp_path, name):
    save_images(tmp_path / "train", {"cat": 6, "ape": 4})
    save_images(tmp_path / name, {"cat": 3})
    train, heldout = shards.read(str(tmp_path))
    assert train[0].shape == (10, 4, 5, 1) and train[1].tolist() == [0] * 4 + [1] * 6
    assert heldout[1].tolist() == [1] * 3


def test_class_folders_are_split_the_same_way_every_time(tmp_path):
    save_images(tmp_path, {"cat": 15, "ape": 15})
    (train, heldout), again = shards.read(str(tmp_path)), shards.read(str(tmp_path))
    assert len(train[1]) == 27 and len(heldout[1]) == 3
    np.testing.assert_array_equal(heldout[0], again[1][0])
    seen = [(label, image[0, 0, 0]) for x, y in (train, heldout) for image, label in zip(x, y, strict=True)]
    assert sorted(seen) == [(label, shade) for label in (0, 1) for shade in range(15)]
    assert shards.read(str(tmp_path), heldout=0)[1] is None


@pytest.mark.parametrize(
    ("count", "fraction", "held"), [(100, 0.1, 10), (4, 0.1, 1), (2, 0.9, 1), (1, 0.5, 0), (5, 0, 0)]
)
def test_at_least_one_example_is_held_out_and_one_trained_on(count, fraction, held):
    assert shards.heldout_count(count, fraction) == held


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x": X}, "train.npz holds x, but must hold x, the examples, and y, their labels"),
        ({"data": X, "target": Y}, "train.npz holds data, target, but must hold x"),
        ({}, "train.npz holds nothing, but must hold x"),
        ({"x": X, "y": Y[:3]}, r"holds x of shape \(4, 3, 3, 1\) but 3 labels y"),
        ({"x": X, "y": Y - 1}, "holds the label -1: labels start at 0"),
        ({"x": X, "y": np.full(4, -np.inf)}, "holds the label -inf: labels start at 0"),
        ({"x": X, "y": Y + 1e30}, r"holds the label 1e\+30: number the classes from 0"),
        ({"x": X, "y": np.full(4, np.inf)}, "holds the label inf: number the classes from 0"),
        ({"x": X, "y": Y + (1 << 31) - 2}, "holds the label 2147483648: number the classes from 0"),
        ({"x": X, "y": Y.astype(np.uint64) + np.uint64(1 << 63)}, "train.npz holds the label 9.22"),
        ({"x": X, "y": Y + 0.5}, "are float64 of shape .* not a list of integers: number the classes from 0"),
        ({"x": X, "y": np.eye(4)}, r"of shape \(4, 4\), not a list of integers: y.argmax\(axis=1\) makes them"),
        ({"x": X, "y": np.full(4, np.nan)}, "not a list of integers"),
        ({"x": X, "y": np.array(list("abcd"))}, "not a list of integers"),
        ({"x": X[:0], "y": Y[:0]}, "holds no examples"),
        ({"x": np.where(X == 7, np.nan, X), "y": Y}, "not finite numbers"),
        ({"x": np.array([{}] * 4), "y": Y}, "x.npy in .* holds Python objects, which are pickles"),
        ({"x": np.array(list("abcd")), "y": Y}, "not finite numbers"),
    ],
)
def test_unusable_arrays_are_refused(tmp_path, arrays, sentence):
    np.savez(tmp_path / "train.npz", **arrays)
    with pytest.raises(DatasetError, match=sentence):
        shards.read(str(tmp_path))


@pytest.mark.parametrize(
    "y", [Y.astype(float), Y[:, None], Y.astype(np.uint8), Y.astype(np.int8), Y[:, None].astype(np.float32)]
)
@pytest.mark.parametrize("keys", ["xy", "XY", "xY"])
def test_names_and_labels_may_be_written_otherwise(tmp_path, y, keys):
    np.savez(tmp_path / "train.npz", **dict(zip(keys, (X, y), strict=True)))
    train, _ = shards.read(str(tmp_path))
    np.testing.assert_array_equal(train[0], X)
    assert train[1].tolist() == Y.tolist() and train[1].dtype == np.int64


COLOURS = np.arange(2 * 6 * 5 * 3, dtype=np.uint8).reshape(2, 6, 5, 3)
SQUARES = np.arange(2 * 5 * 5, dtype=np.uint8).reshape(2, 5, 5, 1)
FRACTIONS = np.linspace(0, 1, 2 * 6 * 5 * 3).reshape(2, 6, 5, 3)


@pytest.mark.parametrize(
    ("x", "images"),
    [
        (COLOURS, COLOURS),
        (COLOURS.transpose(0, 3, 1, 2), COLOURS),
        (COLOURS[..., :1].transpose(0, 3, 1, 2), COLOURS[..., :1]),
        (COLOURS[..., 0], COLOURS[..., :1]),
        (SQUARES.reshape(2, 25), SQUARES),
        (COLOURS > 90, (COLOURS > 90) * np.uint8(255)),
        ((COLOURS > 90).astype(int), (COLOURS > 90) * np.uint8(255)),
        ((COLOURS > 90).astype(np.uint8), (COLOURS > 90) * np.uint8(255)),
        (COLOURS * np.uint8(0), COLOURS * np.uint8(0)),
        (COLOURS.astype(np.int64), COLOURS),
        (COLOURS.astype(np.uint16) * 257, COLOURS),
        (COLOURS.astype(np.uint16), COLOURS),
        (COLOURS.astype(float), COLOURS.astype(np.float32) / np.float32(255)),
        (FRACTIONS, FRACTIONS.astype(np.float32)),
        (FRACTIONS * 4 - 2, (FRACTIONS * 4 - 2).astype(np.float32)),
    ],
)
def test_images_may_be_written_otherwise(tmp_path, x, images):
    np.savez(tmp_path / "train.npz", x=x, y=[0, 1])
    (read, _), heldout = shards.read_images(str(tmp_path))
    np.testing.assert_array_equal(read, images)
    assert read.dtype == images.dtype and heldout is None
    np.testing.assert_array_equal(shards.read(str(tmp_path))[0][0], x)  # a task's own numbers stay


@pytest.mark.parametrize(
    ("x", "sentence"),
    [
        (COLOURS.reshape(2, 90), r"x in .*heldout.npz has the shape \(2, 90\): make it \(examples, height, width, c"),
        (COLOURS[..., None], r"has the shape \(2, 6, 5, 3, 1\)"),
        (COLOURS.astype(int) - 1, "holds int64 from -1 to 178: make them 0 to 255, or 0 to 1"),
        (COLOURS.astype(int) * 9, "holds int64 from 0 to 1611"),
        (
            COLOURS.astype(np.uint16) * 16,
            "heldout.npz holds uint16 from 0 to 2864: scale them to 0 to 255, or to 0 to 65535",
        ),
        (np.uint16(FRACTIONS * 16383), "holds uint16 from 0 to 16383"),
        (FRACTIONS * 16, "holds float64 from 0 to 16"),
        (FRACTIONS * 300, "holds float64 from 0 to 300"),
        (FRACTIONS * 255 - 128, "holds float64 from -128 to 127"),
    ],
)
def test_images_of_which_nobody_knows_what_is_meant_are_refused(tmp_path, x, sentence):
    np.savez(tmp_path / "heldout.npz", x=x, y=[0, 1])
    with pytest.raises(DatasetError, match=sentence):
        shards.read_images(str(tmp_path))


def test_arrays_take_no_more_memory_than_the_limit(tmp_path, monkeypatch):
    """By what their heads declare, before anything is unpacked."""
    monkeypatch.setattr(shards, "limit", 1)
    np.savez_compressed(tmp_path / "train.npz", x=np.zeros((4, 512, 512), np.uint8), y=Y)
    assert (tmp_path / "train.npz").stat().st_size < 5000
    with pytest.raises(DatasetError, match=r"train.npz takes more memory than dataset_limit allows \(1 MiB\)"):
        shards.read(str(tmp_path))
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f8", "fortran_order": False, "shape": (1 << 40, 1 << 40)})
    with zipfile.ZipFile(tmp_path / "train.npz", "w") as archive:
        archive.writestr("x.npy", head.getvalue())
        archive.writestr("y.npy", head.getvalue())
    with pytest.raises(DatasetError, match="train.npz takes more memory"):
        shards.read(str(tmp_path))
    monkeypatch.setattr(shards, "limit", 2)
    np.savez_compressed(tmp_path / "train.npz", x=np.zeros((4, 512, 512), np.uint8), y=Y)
    assert shards.read(str(tmp_path))[0][0].shape == (4, 512, 512)


def test_only_regular_files_are_read(tmp_path):
    os.mkfifo(tmp_path / "train.npz")
    with pytest.raises(DatasetError, match="train.npz is no regular file but a pipe, a socket or a device"):
        shards.read(str(tmp_path))


@pytest.mark.parametrize("content", [b"", b"no zip", "truncated"])
def test_a_damaged_file_is_named(tmp_path, content):
    np.savez(tmp_path / "train.npz", x=X, y=Y)
    whole = (tmp_path / "train.npz").read_bytes()
    (tmp_path / "train.npz").write_bytes(whole[:-90] if content == "truncated" else content)
    with pytest.raises(DatasetError, match="train.npz is not a whole .npz file"):
        shards.read(str(tmp_path))


def test_a_missing_and_an_empty_folder_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="gone is missing"):
        shards.read(str(tmp_path / "gone"))
    with pytest.raises(DatasetError, match="holds no images"):
        shards.read(str(tmp_path))


def test_a_corrupt_image_on_the_device_is_named(tmp_path):
    save_images(tmp_path, {"cat": 3})
    (tmp_path / "cat/001.png").write_bytes(b"\x89PNG")
    with pytest.raises(DatasetError, match="cat/001.png in .* cannot be read as an image"):
        shards.read(str(tmp_path))


def test_a_fingerprint_is_of_both_files_and_of_nothing_else(tmp_path):
    assert shards.fingerprint(str(tmp_path)) is None
    seen = set()
    for split in ("train", "heldout"):
        np.savez(tmp_path / f"{split}.npz", x=X, y=Y)
        seen.add(shards.fingerprint(str(tmp_path)))
    (tmp_path / "notes.txt").write_text("mine")
    seen.add(shards.fingerprint(str(tmp_path)))
    (tmp_path / "train.npz").unlink()
    seen.add(shards.fingerprint(str(tmp_path)))
    assert len(seen) == 3 and all(len(fingerprint) == 16 for fingerprint in seen)


@pytest.mark.parametrize("path", ON_DEVICES, ids=lambda path: path.name)
def test_the_syntax_is_that_of_python_3_6(path):
    ast.parse(path.read_text(), feature_version=(3, 6))


@pytest.mark.parametrize(("form", "modules"), [("npz", ["numpy"]), ("images", ["numpy", "PIL"])])
def test_python_3_6_reads_the_same(tmp_path, form, modules):
    python = python36.find(*modules)
    if form == "npz":
        np.savez(tmp_path / "train.npz", x=X, y=Y)
    else:
        save_images(tmp_path, {"cat": 15, "Äpfel": 15})
    code = (
        "import json, sys; from flowerbed.dataset import shards; splits = shards.read(sys.argv[1]);"
        "print(json.dumps([split and [array.tolist() for array in split] for split in splits]))"
    )
    expected = [split and [array.tolist() for array in split] for split in shards.read(str(tmp_path))]
    assert python36.answer(python, code, tmp_path) == expected
