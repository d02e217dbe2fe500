"""`python -m flowerbed.dataset`: the shards it writes, when it writes them, and what it refuses."""

import gzip
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from flowerbed import dataset
from flowerbed.dataset import DatasetError, config, fashion_mnist, shards, store
from flowerbed.dataset.__main__ import main, make

APP = Path(dataset.__file__).parents[2]
DEVICES = ["rpi-1", "rpi-2", "jetson-2gb-1"]


@pytest.fixture
def write(tmp_path):
    """Return a function that writes dataset.json and returns its path."""

    def write(**keys) -> str:
        keys = {"name": "digits", "devices": DEVICES, "output": str(tmp_path / "shards")} | keys
        (tmp_path / "dataset.json").write_text(json.dumps(keys))
        return str(tmp_path / "dataset.json")

    return write


def run(path: str, check: bool = False) -> dict:
    return make(config.read(path), check)


def digest(root: Path) -> dict[str, str]:
    files = sorted(path for path in root.rglob("*") if path.is_file() and not path.name.startswith("."))
    return {str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def refuse(path: str, capsys, monkeypatch) -> str:
    """Run the command, which must fail, and return its one sentence."""
    monkeypatch.setattr(sys, "argv", ["dataset", path])
    assert main() == 1
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err.strip()


def command(path: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flowerbed.dataset", *arguments, path],
        env=os.environ | {"PYTHONPATH": str(APP)} | environment,
        capture_output=True,
        text=True,
    )


def test_the_shards_are_the_data_set_once(tmp_path, write):
    from sklearn.datasets import load_digits  # takes seconds, which not every test process needs to spend

    manifest = run(write())["manifest"]
    images = []
    for host in [*DEVICES, "server"]:
        for path in (tmp_path / "shards" / host).iterdir():
            with np.load(path) as arrays:
                assert arrays["x"].dtype == np.uint8 and arrays["y"].dtype == np.int64
                images += [(label, image.tobytes()) for image, label in zip(arrays["x"], arrays["y"], strict=True)]
    digits = load_digits()
    x = np.rint(digits.images / 16 * 255).astype(np.uint8)
    assert sorted(images) == sorted((label, image.tobytes()) for image, label in zip(x, digits.target, strict=True))
    assert sorted(os.listdir(tmp_path / "shards")) == sorted(
        [".state.json", "manifest.json", "shares.json", "server", *DEVICES]
    )
    assert os.listdir(tmp_path / "shards/server") == ["heldout.npz"]

    assert manifest == json.loads((tmp_path / "shards/manifest.json").read_text())
    assert manifest["shape"] == [8, 8, 1] and manifest["test"] == 359 and manifest["warnings"] == []
    sizes = [(share["train"], share["heldout"]) for share in manifest["devices"].values()]
    assert sizes == [(432, 48), (431, 48), (431, 48)]
    assert [sum(share["labels"].values()) for share in manifest["devices"].values()] == [480, 479, 479]


@pytest.mark.parametrize("partition", ["iid", "dirichlet"])
def test_another_process_writes_the_same_bytes(tmp_path, write, partition):
    manifest = run(write(partition=partition))["manifest"]
    other = command(write(partition=partition, output="other"), PYTHONHASHSEED="7", TZ="Asia/Tokyo", HOME=str(tmp_path))
    assert other.stderr == "" and json.loads(other.stdout) == {"changed": True, "manifest": manifest}
    assert digest(tmp_path / "shards") == digest(tmp_path / "other")
    assert sorted(os.listdir(tmp_path)) == ["dataset.json", "other", "shards"]  # no caches in the user's home


def test_the_manifest_has_every_hosts_fingerprint_as_its_trainer_finds_it(tmp_path, write):
    """Three devices, then two of them: what the third still has is no part of the split, until it is back."""
    first, second = (run(write(devices=devices))["manifest"] for devices in (DEVICES, DEVICES[:2]))
    assert set(first["fingerprints"]) == {"server", *DEVICES} and len({*first["fingerprints"].values()}) == 4
    assert set(second["fingerprints"]) == {"server", *DEVICES[:2]}
    assert second["fingerprints"]["server"] == first["fingerprints"]["server"]  # the test set is split off before
    for host, fingerprint in second["fingerprints"].items():
        assert shards.fingerprint(str(tmp_path / "shards" / host)) == fingerprint
        assert fingerprint == first["fingerprints"][host]
    assert run(write(devices=DEVICES))["manifest"] == first


def test_a_manifest_without_fingerprints_is_made_anew(tmp_path, write, monkeypatch):
    monkeypatch.setattr(store, "FORMAT", 1)
    now = run(write())["manifest"]
    (tmp_path / "shards/manifest.json").write_text(json.dumps({**now, "fingerprints": None}))
    state = json.loads((tmp_path / "shards/.state.json").read_text())
    state["files"]["manifest.json"] = store._stat(str(tmp_path / "shards/manifest.json"))
    (tmp_path / "shards/.state.json").write_text(json.dumps(state))
    assert run(write()) == {"changed": False, "manifest": {**now, "fingerprints": None}}
    monkeypatch.undo()
    assert run(write()) == {"changed": True, "manifest": now}


def test_a_second_run_changes_nothing_and_loads_nothing(tmp_path, write):
    path = write()
    first = run(path)
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").rglob("*")}
    second = command(path, PYTHONPROFILEIMPORTTIME="1")
    assert json.loads(second.stdout) == {"changed": False, "manifest": first["manifest"]} and first["changed"]
    assert before == {file: file.stat().st_mtime_ns for file in (tmp_path / "shards").rglob("*")}
    assert not {"sklearn", "datasets", "PIL"} & {line.split("|")[-1].strip() for line in second.stderr.splitlines()}


def test_check_writes_nothing(tmp_path, write):
    assert run(write(), check=True)["changed"]
    assert os.listdir(tmp_path) == ["dataset.json"]
    run(write())
    before = digest(tmp_path / "shards")
    assert not run(write(), check=True)["changed"]
    assert run(write(seed=1), check=True)["changed"] and run(write(devices=DEVICES[:2]), check=True)["changed"]
    assert digest(tmp_path / "shards") == before


def test_shards_follow_the_configuration(tmp_path, write):
    first = run(write())["manifest"]
    (tmp_path / "shards/rpi-2/notes.txt").write_text("the user's own")
    result = run(write(devices=["rpi-1", "rpi-3"], heldout=0))
    assert result["changed"] and result["manifest"]["fingerprint"] != first["fingerprint"]
    assert set(digest(tmp_path / "shards")) == {
        *("manifest.json", "shares.json", "server/heldout.npz", "rpi-1/train.npz", "rpi-3/train.npz", "rpi-2/notes.txt")
    }
    assert not (tmp_path / "shards/jetson-2gb-1").exists()


@pytest.mark.parametrize("damage", [lambda file: file.unlink(), lambda file: file.write_bytes(b"damaged")])
@pytest.mark.parametrize("name", ["rpi-2/train.npz", "manifest.json", ".state.json"])
def test_damaged_shards_are_made_anew(tmp_path, write, damage, name):
    run(write())
    before = digest(tmp_path / "shards")
    damage(tmp_path / "shards" / name)
    assert run(write())["changed"] == (name != ".state.json")
    assert digest(tmp_path / "shards") == before and not run(write())["changed"]


def test_newer_source_files_with_the_same_content_change_nothing(tmp_path, write):
    path = write(name="fashion_mnist", path=str(fashion(tmp_path)))
    assert run(path)["changed"]
    os.utime(tmp_path / "fashion/train-images-idx3-ubyte.gz", (1, 1))
    assert not run(path)["changed"]
    fashion(tmp_path, seed=1)
    assert run(path)["changed"]


def fashion(tmp_path, seed: int = 0) -> Path:
    """Write a small Fashion-MNIST, 40 examples of one class to train on and 40 to test."""
    root = tmp_path / "fashion"
    root.mkdir(exist_ok=True)
    for name in fashion_mnist.FILES:
        images = "images" in name
        shape, header = ((40, 2, 2), "0000080300000028") if images else ((40,), "0000080100000028")
        values = np.random.default_rng(seed).integers(0, 256 if images else 1, shape, dtype=np.uint8)
        content = bytes.fromhex(header + ("00000002" * 2 if images else "")) + values.tobytes()
        (root / f"{name}.gz").write_bytes(gzip.compress(content))
    return root


def test_a_set_with_its_own_test_split_keeps_it_and_warns_of_one_class(tmp_path, write):
    sizes = {"rpi-1": 30, "rpi-2": 1}
    path = write(name="fashion_mnist", path="fashion", devices=["rpi-1", "rpi-2"], partition="sizes", sizes=sizes)
    fashion(tmp_path)
    manifest = run(path)["manifest"]
    assert manifest["test"] == 40 and manifest["devices"]["rpi-1"]["labels"] == {"T-shirt/top": 30}
    assert manifest["warnings"] == [
        "rpi-1 holds examples of one class only, T-shirt/top",
        "rpi-2 holds examples of one class only, T-shirt/top",
        "rpi-2 has a single example, so it holds none out",
    ]


def test_a_full_disk_keeps_the_earlier_shards(tmp_path, write):
    run(write())
    before = digest(tmp_path / "shards")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))  # less than the server's test set
    try:
        with pytest.raises(DatasetError, match=r"cannot write the shards to .*shards \(File too large\): make room"):
            run(write(seed=1))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert digest(tmp_path / "shards") == before and not (tmp_path / "shards/.staging").exists()
    assert not run(write())["changed"]


def test_a_run_killed_between_two_files_is_repaired(tmp_path, write, monkeypatch):
    run(write())
    moves = []

    def stop_at_the_third(source, target):
        moves.append(target)
        if len(moves) == 3:
            raise KeyboardInterrupt
        os.rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(store.os, "replace", stop_at_the_third)
        with pytest.raises(KeyboardInterrupt):
            run(write(seed=1, devices=["rpi-1", "rpi-9"]))
    assert run(write())["changed"]
    assert sorted(path.name for path in (tmp_path / "shards").iterdir() if path.is_dir()) == sorted(
        [*DEVICES, "server"]
    )


def test_what_is_left_out_is_a_warning_of_the_split(tmp_path, write):
    for name in ("cat/1.png", "cat/2.png", "dog/3.png", "dog/4.png"):
        (tmp_path / "pets" / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (2, 2)).save(tmp_path / "pets" / name)
    path = write(name="folder", path="pets", devices=["rpi-1"], test=0, heldout=0)
    assert run(path)["manifest"]["warnings"] == []
    (tmp_path / "pets/dog/5.heic").touch()
    result = run(path)
    [warning] = result["manifest"]["warnings"]
    assert result["changed"] and warning.startswith(f"{tmp_path}/pets: left out are 1 .heic, for only .apng .bmp")
    (tmp_path / "pets/dog/6.png").write_bytes(b"\x89PNG\x1b[2J")
    (tmp_path / "pets/dog/6.png").rename(tmp_path / "pets/dog/\x1b[2J6\n.png")
    said = command(path).stderr
    assert said.startswith(f"dog/6 .png in {tmp_path}/pets cannot be read as an image") and said.count("\n") == 1


@pytest.mark.parametrize(
    ("keys", "sentence"),
    [
        ({"name": "cifar"}, "'cifar' is not dataset_name: did you mean cifar10?"),
        ({"name": "device"}, "the data already lies on the devices"),
        ({"name": 3}, "dataset_name is 3, not a text"),
        ({"partition": "dirichelt"}, "'dirichelt' is not dataset_partition: did you mean dirichlet?"),
        ({"partition": "x"}, "it can be iid, dirichlet, sizes"),
        ({"alhpa": 1}, "did you mean alpha?"),
        ({"alpha": 0}, "dataset_alpha is 0, not a number above 0"),
        ({"alpha": float("nan")}, "dataset_alpha is nan"),
        ({"heldout": 1}, "dataset_heldout is 1, not a fraction"),
        ({"test": "20 %"}, "dataset_test is '20 %', not a fraction"),
        ({"seed": -1}, "dataset_seed is -1"),
        ({"image_size": [32]}, "dataset_image_size is [32], not [height, width]"),
        ({"limit": 0}, "dataset_limit is 0, not a whole number of MiB"),
        ({"devices": []}, "devices must be a list of host names"),
        ({"devices": ["rpi-1", "rpi-1"]}, "each once"),
        ({"devices": ["../rpi-1"]}, "'../rpi-1' cannot be a device's name"),
        ({"devices": ["server"]}, "'server' cannot be a device's name"),
        ({"partition": "sizes", "sizes": {"rpi-1": 0, "rpi-2": 1, "jetson-2gb-1": 1}}, "dataset_size of rpi-1 is 0"),
        ({"partition": "sizes", "sizes": {"rpi-1": 1, "rpi-2": -5}}, "dataset_size of rpi-2 is -5"),
        ({"partition": "sizes", "sizes": {"rpi-1": 1, "rpi-2": 1}}, "dataset_size of jetson-2gb-1 is missing"),
        ({"partition": "sizes", "sizes": {"rpi_1": 9}}, "did you mean rpi-1?"),
        (
            {"partition": "sizes", "sizes": dict.fromkeys(DEVICES, 1000)},
            "adds up to 3000 examples, but digits",
        ),
        ({"name": "folder"}, "dataset_path is empty"),
        ({"name": "folder", "path": "/nowhere"}, "/nowhere does not exist"),
        ({"name": "cifar10", "path": "/nowhere"}, "/nowhere holds neither"),
        ({"name": "fashion_mnist", "path": "/nowhere"}, "/nowhere lacks train-images-idx3-ubyte.gz"),
    ],
)
def test_a_bad_configuration_is_one_sentence(write, capsys, monkeypatch, keys, sentence):
    assert sentence in refuse(write(**keys), capsys, monkeypatch)


def test_a_configuration_that_is_no_json_is_one_sentence(tmp_path, capsys, monkeypatch):
    (tmp_path / "dataset.json").write_text("name: digits")
    assert "cannot be read as JSON" in refuse(str(tmp_path / "dataset.json"), capsys, monkeypatch)
    (tmp_path / "dataset.json").write_text('{"name": "digits"}')
    assert "lacks devices" in refuse(str(tmp_path / "dataset.json"), capsys, monkeypatch)


def test_an_unreadable_file_is_one_sentence(tmp_path, write, capsys, monkeypatch):
    file = fashion(tmp_path) / "train-images-idx3-ubyte.gz"
    file.unlink()
    file.mkdir()
    sentence = refuse(write(name="fashion_mnist", path="fashion"), capsys, monkeypatch)
    assert sentence == f"{file} is a folder, or a link to one: remove it"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
@pytest.mark.parametrize("name", ["folder", "fashion_mnist"])
def test_a_forbidden_path_is_one_sentence(tmp_path, write, capsys, monkeypatch, name):
    root = fashion(tmp_path)
    for path in [*root.iterdir(), root]:
        path.chmod(0 if path == root and name == "folder" else 0o100 if path == root else 0)
    assert "ermission denied" in refuse(write(name=name, path="fashion"), capsys, monkeypatch)
    root.chmod(0o700)


def test_an_output_that_cannot_be_made_is_one_sentence(tmp_path, write, capsys, monkeypatch):
    (tmp_path / "file").write_text("")
    sentence = refuse(write(output=str(tmp_path / "file/shards")), capsys, monkeypatch)
    assert "cannot write the shards" in sentence and "Not a directory" in sentence
