"""What a trainer says of the data that it has: what is odd, what is wrong and whose it is, and which deployment's."""

import numpy as np
import pytest
from PIL import Image

import fleet
from flowerbed.dataset import shards
from flowerbed.trainer.worker import Worker


@pytest.fixture
def warmed_up(tmp_path, monkeypatch):
    """Return a function that returns a warmed-up worker on the data in tmp_path / "data"."""
    monkeypatch.setattr(shards, "limit", shards.limit)
    (tmp_path / "data").mkdir()

    def warmed_up(task: str = fleet.TASK.read_text(), **config) -> Worker:
        (tmp_path / "task.py").write_text(task)
        worker = Worker({"name": "d0", "task": str(tmp_path / "task.py"), "data": str(tmp_path / "data")} | config)
        worker.warm_up()
        return worker

    return warmed_up


def save(tmp_path, **arrays):
    np.savez(tmp_path / "data/train.npz", **arrays)


def test_the_fingerprint_is_that_of_the_shard_which_was_loaded(tmp_path, warmed_up):
    save(tmp_path, x=np.zeros((2, 8, 8), np.uint8), y=[0, 1])
    assert warmed_up().health(False)["fingerprint"] is None  # of the device's own: nothing is compared with it
    worker = warmed_up(shard=True)
    loaded = shards.fingerprint(str(tmp_path / "data"))
    save(tmp_path, x=np.ones((2, 8, 8), np.uint8), y=[0, 1])
    assert worker.health(False)["fingerprint"] == loaded != shards.fingerprint(str(tmp_path / "data"))


def test_a_damaged_shard_is_to_be_deployed_and_a_users_own_file_to_be_mended(tmp_path, warmed_up):
    (tmp_path / "data/train.npz").write_bytes(b"no zip")
    wrong = f"{tmp_path}/data/train.npz is not a whole .npz file (File is not a zip file)"
    assert warmed_up().problem == wrong
    assert warmed_up(shard=True).problem == f"{wrong}: run deploy.yml again"


def test_what_is_left_out_is_said_and_a_tasks_own_warnings_are_not_swallowed(tmp_path, warmed_up):
    (tmp_path / "data/cat").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "data/cat/1.png")
    assert warmed_up().health(False)["warnings"] == []
    (tmp_path / "data/cat/2.heic").touch()
    warns = "import warnings; warnings.warn('frost')"
    task = fleet.TASK.read_text().replace("    data = tuple(", f"    {warns}\n    data = tuple(")
    with pytest.warns(UserWarning, match="frost"):
        health = warmed_up(task).health(False)
    assert health["ready"] and len(health["warnings"]) == 1
    assert health["warnings"][0].startswith(f"{tmp_path}/data: left out are 1 .heic, for only .apng .bmp")


def test_the_limit_holds_whatever_task_reads(tmp_path, warmed_up):
    save(tmp_path, x=np.zeros((2, 1024, 1024), np.uint8), y=[0, 1])
    old = fleet.TASK.read_text().replace("shards.read_images(folder)", "shards.read(folder)")
    problem = warmed_up(old, limit=1).problem
    assert problem.endswith("train.npz takes more memory than dataset_limit allows (1 MiB): use less data, or raise it")


def test_too_little_memory_is_said_in_a_sentence(warmed_up):
    task = fleet.TASK.read_text().replace("    data = tuple(", "    raise MemoryError\n    data = tuple(")
    problem = warmed_up(task).problem
    assert problem == "there is not enough memory to load the data: use less data, or a smaller image size"


@pytest.mark.parametrize("scale", [np.uint8(1), 1.0, 1 / 255])
def test_the_default_task_sees_the_same_images_however_they_are_written(tmp_path, warmed_up, scale):
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
    save(tmp_path, X=pixels * scale, Y=np.arange(4.0)[:, None])
    images, labels = warmed_up().train_data.tensors
    np.testing.assert_allclose(images.numpy(), pixels / 255, atol=1e-6)
    assert labels.tolist() == [0, 1, 2, 3]


def test_columns_of_a_table_are_counted_by_rows_and_their_empty_cells_are_said(tmp_path, warmed_up):
    (tmp_path / "data/train.csv").write_text("hour,power\n" + "1,2.5\n" * 29 + "3,\n")
    load_data = "from flowerbed.dataset import arrays\nload_data = lambda folder, config: arrays.read(folder)"
    task = f"{fleet.TASK.read_text()}\n\n{load_data}\n"
    health = warmed_up(task).health(False)
    assert (health["ready"], health["problem"], health["examples"], health["heldout_examples"]) == (True, None, 27, 3)
    assert health["warnings"] == [f"{tmp_path}/data/train.csv has empty cells, which are NaN: 1 in power"]
    assert health["classes"] is None
