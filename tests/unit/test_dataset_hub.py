"""dataset_name hub: a Hugging Face data set, saved on disk or by its name."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pytest
from PIL import Image

from flowerbed.dataset import DatasetError, arrays, config, shards
from flowerbed.dataset.__main__ import make

APP = Path(config.__file__).parents[2]
RANDOM = np.random.default_rng(0)


def pixels(count: int, *shape: int) -> np.ndarray:
    return RANDOM.integers(0, 256, (count, *(shape or (8, 8))), dtype=np.uint8)


def png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def pictures(images, labels, **more) -> datasets.Dataset:
    """Return a data set of images and the classes cat and dog."""
    features = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])}
    columns = {"image": [{"bytes": png(image), "path": None} for image in images], "label": labels, **more}
    features |= {name: datasets.Value("string") for name in more}
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture
def write(tmp_path):
    """Return a function that writes dataset.json and returns its path."""

    def write(data=None, **keys) -> str:
        if data is not None:
            data.save_to_disk(tmp_path / "saved")
        keys = {"name": "hub", "path": "saved", "devices": ["rpi-1", "rpi-2"], "output": "shards"} | keys
        (tmp_path / "dataset.json").write_text(json.dumps(keys))
        return str(tmp_path / "dataset.json")

    return write


def run(path: str, check: bool = False) -> dict:
    return make(config.read(path), check)


def command(path: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flowerbed.dataset", path], env=os.environ | {"PYTHONPATH": str(APP)} | environment,
        capture_output=True, text=True,
    )  # fmt: skip


def parts(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return all that the devices have, sorted."""
    read = [pair for device in ("rpi-1", "rpi-2") for pair in shards.read(str(folder / device)) if pair]
    x, y = (np.concatenate(arrays) for arrays in zip(*read, strict=True))
    order = np.lexsort(x.reshape(len(x), -1).T)
    return x[order], y[order]


def test_a_saved_data_set_of_images_is_split(tmp_path, write):
    images = pixels(20)
    labels = [number % 2 for number in range(20)]
    test = pixels(6)
    path = write(datasets.DatasetDict(train=pictures(images, labels), test=pictures(test, [0, 1] * 3)))
    manifest = run(path)["manifest"]
    assert manifest["classes"] == ["cat", "dog"] and manifest["shape"] == [8, 8, 1] and manifest["test"] == 6
    assert [share["train"] + share["heldout"] for share in manifest["devices"].values()] == [10, 10]
    x, y = parts(tmp_path / "shards")
    order = np.lexsort(images.reshape(20, -1).T)
    assert np.array_equal(x[..., 0], images[order]) and y.tolist() == np.array(labels)[order].tolist()
    [server] = [pair for pair in shards.read(str(tmp_path / "shards/server")) if pair]
    assert np.array_equal(server[0][..., 0], test)
    for host, fingerprint in manifest["fingerprints"].items():
        assert shards.fingerprint(str(tmp_path / "shards" / host)) == fingerprint

    # A second call reads nothing of it; another process finds the same.
    again = command(path, PYTHONPROFILEIMPORTTIME="1")
    assert json.loads(again.stdout) == {"changed": False, "manifest": manifest}
    assert "datasets" not in {line.split("|")[-1].strip() for line in again.stderr.splitlines()}
    other = command(write(output="other"), HOME=str(tmp_path / "home"))
    assert json.loads(other.stdout)["manifest"] == manifest and not (tmp_path / "home").exists()
    pictures(pixels(9), [0] * 9).save_to_disk(tmp_path / "saved" / "train")
    assert run(write())["changed"]


def test_images_are_what_class_folders_would_make_of_them(tmp_path, write):
    images = [*pixels(3, 4, 6, 3), *pixels(3, 4, 6)]
    manifest = run(
        write(pictures(images, [0, 1] * 3, note=["a"] * 6), partition="sizes", sizes={"rpi-1": 3, "rpi-2": 1})
    )
    assert manifest["manifest"]["shape"] == [4, 6, 3] and manifest["manifest"]["test"] == 1
    run(write(image_size=[2, 2], test=0))
    assert parts(tmp_path / "shards")[0].shape == (6, 2, 2, 3)


def test_columns_of_numbers_are_examples(tmp_path, write):
    table = {"id": ["x"] * 8, "weight": [0.5 * n for n in range(8)], "legs": [4, 2] * 4, "class": ["dog", "bird"] * 4}
    manifest = run(write(datasets.Dataset.from_dict(table), test=0, partition="dirichlet", alpha=100))["manifest"]
    assert manifest["classes"] == ["bird", "dog"] and manifest["shape"] == [2] and manifest["test"] == 0
    x, y = parts(tmp_path / "shards")
    assert x.dtype == np.float32 and sorted(x[:, 0]) == table["weight"] and set(x[:, 1]) == {2, 4}
    assert [["bird", "dog"][label] for label in y] == ["dog" if legs == 4 else "bird" for legs in x[:, 1]]
    manifest = run(write(features=["weight"], label="legs", test=0))["manifest"]
    assert manifest["classes"] == ["2", "4"] and manifest["shape"] == [1]


def test_fractions_are_numbers_to_predict(tmp_path, write):
    table = {"hour": list(range(20)), "wind": [0.5] * 20, "target": [number / 4 for number in range(20)]}
    manifest = run(write(datasets.Dataset.from_dict(table)))["manifest"]
    assert manifest["classes"] == [] and manifest["shape"] == [2] and manifest["test"] == 4
    assert manifest["devices"]["rpi-1"] == {"train": 7, "heldout": 1, "labels": {}}
    for split in arrays.read(str(tmp_path / "shards/rpi-1")):
        assert split["x"].dtype == split["y"].dtype == np.float32
        np.testing.assert_array_equal(split["x"][:, 0] / 4, split["y"])


def test_a_data_set_by_its_name_is_kept_in_its_folder(tmp_path, write):
    """A folder of the hub's layout stands in for its name."""
    (tmp_path / "repository").mkdir()
    pictures(pixels(8), [0, 1] * 4).to_parquet(tmp_path / "repository/train.parquet")
    path = write(hub=str(tmp_path / "repository"), path="kept")
    assert run(path, check=True) == {"changed": True, "manifest": {"warnings": []}}
    assert not (tmp_path / "kept").exists()
    done = command(path, HOME=str(tmp_path / "home"))
    assert json.loads(done.stdout)["manifest"]["classes"] == ["cat", "dog"], done.stderr
    assert (tmp_path / "kept/tables").is_dir() and not (tmp_path / "home").exists()
    assert not run(path)["changed"]


def test_without_a_network_a_name_is_one_sentence(write):
    done = command(write(hub="nobody/nothing"), HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "nobody/nothing cannot be fetched, for the hub cannot be reached: where there is a network, save it with "
        "save_to_disk, and set dataset_path to that folder"
    )


def test_a_missing_package_is_one_sentence(tmp_path, write):
    (tmp_path / "datasets.py").write_text("raise ModuleNotFoundError('no', name='datasets')")
    path = write(pictures(pixels(4), [0, 1] * 2))
    done = command(path, PYTHONPATH=f"{tmp_path}{os.pathsep}{APP}")
    assert done.stderr == f"{sys.executable} lacks datasets: install what requirements.txt lists for it\n"


def table(**columns) -> datasets.Dataset:
    return datasets.Dataset.from_dict(columns)


@pytest.mark.parametrize(
    ("data", "keys", "sentence"),
    [
        (None, {}, "saved is no folder that save_to_disk of the package datasets has written"),
        (None, {"path": ""}, "dataset_path and dataset_hub are empty"),
        (None, {"features": "a"}, "dataset_features is 'a', not a list of columns"),
        (table(a=[1, 2], y=[0, 1]), {"label": "z"}, "'z' is not a column of .*saved: it can be a, y"),
        (table(a=[1, 2], y=[0, 1]), {"features": ["aa"]}, "'aa' is not a column of .*saved: did you mean a?"),
        (
            table(a=[1, 2], b=[0, 1]),
            {},
            "no column that is known to be the labels: set dataset_label to one of a, b; or",
        ),
        (table(a=[1, 2], y=[0, 1], label=[0, 1]), {}, "several columns that may be the labels: .* one of label, y"),
        (table(a=["x", "z"], y=[0, 1]), {}, r"neither images nor numbers besides y, but a \(string\): make numbers of"),
        (table(a=["x", "z"], y=[0, 1]), {"features": ["a"]}, "dataset_features has a, which holds string"),
        (table(a=[1, None], y=[0, 1]), {}, "1 rows without a value in a: leave these out"),
        (table(a=[1, 2], y=[0, None]), {}, "1 rows without a value in y"),
        (table(a=[1.0, float("nan")], y=[0, 1]), {}, "values in a that are not finite numbers"),
        (table(a=[1, 2], y=[[0.5], [1]]), {}, "List in y, but a label is a class .* or a fraction to predict"),
        (table(a=[1, 2], y=[0.5, float("inf")]), {}, "values in y that are not finite numbers"),
        (table(a=[1, 2], y=[0.5, 1]), {"partition": "dirichlet"}, "dirichlet needs classes, but y in .* use iid"),
        (table(a=[1, 2], y=["x\x1b[2J", "b"]), {}, "in whose name are characters that cannot be shown"),
        (pictures(pixels(2), [0, -1]), {}, "the labels -1 to 0 in label, but 2 classes"),
        (
            pictures([*pixels(1), *pixels(1, 9, 9)], [0, 1]),
            {},
            "row 1 of train in .* is 9 x 9 pixels but row 0 of train",
        ),
        (pictures(pixels(2, 800, 800), [0, 1]), {"limit": 1}, "takes more memory than dataset_limit allows"),
        (table(**{f"c{n}": [0.0] * 3000 for n in range(99)}, y=[0] * 3000), {"limit": 1}, "takes more memory than"),
        (datasets.DatasetDict(one=table(y=[1]), two=table(y=[1])), {}, "split called train, but has one, two"),
        (datasets.DatasetDict(train=table(a=[1], y=[1]), test=table(y=[1])), {}, "no column a in its test split"),
    ],
)
def test_what_cannot_be_used_is_one_sentence(write, data, keys, sentence):
    with pytest.raises(DatasetError, match=sentence):
        run(write(data, **keys))


def test_a_damaged_data_set_is_one_sentence(tmp_path, write):
    path = write(pictures(pixels(4), [0, 1] * 2))
    [arrow] = (tmp_path / "saved").glob("*.arrow")
    arrow.write_bytes(b"no arrow")
    with pytest.raises(DatasetError, match="saved is damaged"):
        run(path)
