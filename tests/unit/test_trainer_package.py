"""A task that is a folder: loaded as a package and as scripts side by side, told from another by all of its files."""

import json
import pickle
import subprocess
import sys
from pathlib import Path

import pytest

import fleet
from flowerbed.trainer import task as tasks
from flowerbed.trainer.worker import Worker

MAIN = """
import torch
from {dot}net import Net, WIDTH
from {dot}parts.data import Data


def build_model(config):
    return Net()


def load_data(folder, config):
    return Data(), Data()


def train(model, data, config):
    loader = torch.utils.data.DataLoader(
        data, num_workers=1, multiprocessing_context="spawn", collate_fn=data.collate
    )
    return {{"loss": sum(float(batch.sum()) for batch in loader), "width": WIDTH}}


evaluate = train
"""
NET = """
import torch

WIDTH = 3


class Net(torch.nn.Linear):
    def __init__(self):
        super().__init__(WIDTH, 1)
"""
DATA = """
import torch


class Data(torch.utils.data.Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, place):
        return torch.full((3,), float(place))

    @staticmethod
    def collate(examples):
        return torch.stack(examples)
"""


@pytest.fixture
def package(tmp_path):
    """Write a task's folder, which imports its parts as a package or as scripts side by side."""

    def write(dot="."):
        folder = tmp_path / "task"
        (folder / "parts").mkdir(parents=True, exist_ok=True)
        (folder / "task.py").write_text(MAIN.format(dot=dot))
        (folder / "net.py").write_text(NET)
        (folder / "parts/__init__.py").touch()
        (folder / "parts/data.py").write_text(DATA)
        return folder

    yield write
    tasks.forget(str(tmp_path / "task"))
    sys.path[:] = [path for path in sys.path if path != str(tmp_path / "task")]


def worker(folder):
    made = Worker({"name": "d0", "task": str(folder), "data": str(folder.parent)})
    made.warm_up()
    assert made.ready, made.problem
    return made


@pytest.mark.parametrize("dot", [".", ""])
def test_helper_modules_are_found_by_the_task_and_by_processes_that_it_spawns(package, dot, tmp_path):
    folder = package(dot)
    config = {"name": "d0", "socket": "trainer.sock", "task": str(folder), "data": str(tmp_path)}
    (tmp_path / "trainer.json").write_text(json.dumps(config))
    with fleet.running("trainer", tmp_path / "trainer.json"):
        trainer = fleet.TrainerSocket(str(tmp_path / "trainer.sock"))
        assert trainer.wait_ready(fleet.PATIENCE)["examples"] == 4
        model, _ = trainer.call("initial", b"", {})
        assert trainer.call("train", model, {})[1]["metrics"] == {"loss": 18, "width": 3}


def test_what_a_helper_defines_can_be_pickled(package):
    made = worker(package())
    data = pickle.loads(pickle.dumps(made.train_data))
    assert type(data) is type(made.train_data) and len(data) == 4


def test_another_experiment_has_helper_modules_as_if_freshly_imported(package):
    folder = package("")
    made = worker(folder)
    made.initial(b"", {"experiment_id": "1"})
    first = sys.modules["net"]
    first.WIDTH = 7
    made.initial(b"", {"experiment_id": "2"})
    assert sys.modules["net"] is not first and sys.modules["net"].WIDTH == 3
    assert sum(path == str(folder) for path in sys.path) == 1


def test_every_file_of_a_task_tells_it_from_another_but_what_is_not_placed(package):
    folder = package()
    first = tasks.task_hash(str(folder))
    for name in (".git/config", "__pycache__/net.cpython-311.pyc", "parts/.cache", "parts/__pycache__/data.pyc"):
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("x")
    assert tasks.task_hash(str(folder)) == first
    (folder / "vocabulary.txt").write_text("a b c")
    second = tasks.task_hash(str(folder))
    (folder / "vocabulary.txt").rename(folder / "words.txt")
    assert len({first, second, tasks.task_hash(str(folder))}) == 3


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("net.py", "import no_such_module", "task.py does not import: ModuleNotFoundError: No module named 'no_such"),
        ("net.py", "def broken(:", "task.py does not import: SyntaxError"),
        ("task.py", "", "task.py lacks build_model and load_data and train and evaluate"),
        ("task.py", None, "task.py is not there"),
    ],
)
def test_a_folder_that_is_no_task_is_a_sentence(package, name, text, sentence):
    folder = package()
    Path(folder, name).unlink()
    if text is not None:
        Path(folder, name).write_text(text)
    made = Worker({"name": "d0", "task": str(folder), "data": str(folder.parent)})
    made.warm_up()
    assert not made.ready and sentence in made.problem and "\n" not in made.problem


def test_the_same_folder_has_the_same_hash_in_another_process_and_place(package, tmp_path):
    folder = package()
    copy = tmp_path / "elsewhere"
    subprocess.run(["cp", "-r", folder, copy], check=True)
    assert tasks.task_hash(str(copy)) == tasks.task_hash(str(folder))
