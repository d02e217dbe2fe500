"""A task, tried without a fleet: what is said of one that a fleet takes, and of those that it does not."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import fleet
from flowerbed.tryout.__main__ import DEFAULTS, main

ROOT = Path(__file__).parents[2]
ROLES = {"batch_size": "fl_batch_size", "local_epochs": "fl_local_epochs", "learning_rate": "fl_learning_rate"}


@pytest.fixture
def tryout(monkeypatch, tmp_path, capsys, caplog):
    """Call the command; it returns the exit status, what is printed, and what is logged or said on stderr."""

    def call(*words: object) -> tuple[int, str, str]:
        monkeypatch.chdir(tmp_path)
        caplog.clear()
        status = main([str(word) for word in words])
        said, problems = capsys.readouterr()
        return status, said, "\n".join([*caplog.messages, problems]).strip()

    return call


def changed(tmp_path: Path, code: str) -> Path:
    """Return the default task, followed by some more code."""
    path = tmp_path / "mine.py"
    path.write_text(f"{fleet.TASK.read_text()}\n\n{code}\n")
    return path


def test_what_is_configured_is_what_the_roles_have():
    defaults = yaml.safe_load((ROOT / "roles/fl/defaults/main.yml").read_text())
    assert {name: defaults[variable] for name, variable in ROLES.items()} == DEFAULTS


def test_the_default_task_is_taken(tryout):
    status, said, problems = tryout(fleet.TASK)
    assert (status, problems) == (0, "")
    first, model, trained, heldout, test, memory, time = said.splitlines()
    assert first == f"A fleet takes {fleet.TASK}."
    assert model == "Model: 0.249 MB, sent to each device and back in every round."
    assert trained.startswith("Trained on 128 examples: loss ")
    assert heldout.startswith("Evaluated on 128 examples that are held out: loss ")
    assert test.startswith("Evaluated on the server's test set: loss ")
    assert 100 < float(memory.split()[-2]) < 4000
    assert time.startswith("Time: a round of a device with 1294 examples takes about ") and "on this machine" in time


def test_class_folders_are_split_as_a_server_splits_them(tryout, tmp_path):
    x, y = fleet.shard(0, 40)
    for index, (image, label) in enumerate(zip(x, y, strict=True)):
        folder = tmp_path / "images" / f"class-{label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[..., 0]).resize((8 + index % 2, 8)).save(folder / f"{index}.png")
    (tmp_path / "images" / "notes.txt").touch()
    status, said, problems = tryout(fleet.TASK, tmp_path / "images")
    assert status == 1 and "set dataset_image_size: [height, width]" in problems
    status, said, problems = tryout(fleet.TASK, tmp_path / "images", "--image-size", 8, 8, "--config", "batch_size=4")
    assert (status, problems) == (0, "")
    assert "Trained on 16 examples" in said and "a device with 29 examples" in said
    assert "Note: " in said and "left out are 1 .txt" in said


@pytest.mark.long
def test_an_npz_file_is_a_device_s_own_data_of_which_the_server_knows_nothing(tryout, tmp_path):
    x, y = fleet.shard(0, 50)
    np.savez(tmp_path / "mine.npz", x=x, y=y)
    status, _, problems = tryout(fleet.TASK, tmp_path / "mine.npz")
    assert status == 1
    assert "the data set does not tell its number of channels: set it in fl_config" in problems
    status, said, problems = tryout(fleet.TASK, tmp_path / "mine.npz", "--config", "channels=1", "classes=4")
    assert (status, problems) == (0, "")
    assert "Trained on 45 examples" in said and "on 5 examples that are held out" in said and "test set" not in said


def test_a_task_may_be_a_folder_whose_load_data_has_a_configuration_of_its_own(tryout, tmp_path):
    folder = tmp_path / "task"
    (folder / ".git").mkdir(parents=True)
    (folder / "lenet.py").write_text(fleet.TASK.read_text())
    (folder / "task.py").write_text(
        "from .lenet import build_model, evaluate, load_data as load, train\n"
        "def load_data(folder, config):\n"
        "    assert config['window'] == 5 and config['classes'] == 10, config\n"
        "    return load(folder, config)\n"
    )
    status, said, problems = tryout(folder, "digits", "--config", "window=5")
    assert (status, problems) == (0, "") and said.startswith(f"A fleet takes {folder}.")


REGRESSION = """
from torch.nn.functional import mse_loss

from flowerbed.dataset import arrays


def build_model(config):
    return nn.Linear(2, 1)


def load_data(folder, config):
    parts = arrays.read(folder, ["a", "file", "power"])
    return [{name: torch.from_numpy(column).float() for name, column in part.items()} for part in parts]


def train(model, data, config):
    x, loss = torch.stack([data["a"], data["file"]], 1), 0
    for _ in range(20):
        loss = mse_loss(model(x)[:, 0], data["power"])
        loss.backward()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter -= 0.01 * parameter.grad
                parameter.grad = None
    return {"loss": loss}


def evaluate(model, data, config):
    return {"loss": mse_loss(model(torch.stack([data["a"], data["file"]], 1))[:, 0], data["power"])}
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["npz", "csv"])
def test_arrays_and_tables_without_classes_are_a_device_s_own_data_too(tryout, tmp_path, kind):
    task = changed(tmp_path, REGRESSION)
    if kind == "csv":
        rows = "".join(f"{number / 64};{number % 7};{number / 32};\n".replace(".", ",") for number in range(60))
        (tmp_path / "mine.csv").write_text("a;file;power;note\n" + rows)
    else:
        x = np.random.default_rng(0).random((60, 3), np.float32)
        with zipfile.ZipFile(tmp_path / "mine.npz", "w") as archive:
            for name, array in {"a": x[:, 0], "file": x[:, 1], "power": x[:, 2], "mean": x.mean(0)}.items():
                with archive.open(f"{name}.npy", "w") as file:
                    np.lib.format.write_array(file, array)
    status, said, problems = tryout(task, tmp_path / f"mine.{kind}")
    assert (status, problems) == (0, "")
    assert "Trained on 54 examples: loss " in said and "Evaluated on 6 examples that are held out: loss " in said
    assert ("Note: " in said and "mine.csv has empty cells, which are NaN: 60 in note" in said) == (kind == "csv")


@pytest.mark.long
def test_a_folder_that_only_the_task_can_read_is_left_to_it(tryout, tmp_path):
    task = changed(tmp_path, """
def load_data(folder, config):
    rows = torch.tensor([list(map(float, line.split(","))) for line in open(folder + "/rows.csv")])
    images = rows[:, 1:].reshape(-1, 1, 1, 1).expand(-1, 1, 32, 32).contiguous()
    return torch.utils.data.TensorDataset(images, rows[:, 0].long()), None
""")  # fmt: skip
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "rows.csv").write_text("0,0.1\n1,0.9\n" * 8)
    status, said, problems = tryout(
        task, f"device:{tmp_path}/data", "--config", "channels=1", "classes=2", "learning_rate=1e-4"
    )  # fmt: skip
    assert (status, problems) == (0, "")
    assert "Trained on 16 examples" in said and "held out" not in said


@pytest.mark.parametrize(
    ("code", "sentence"),  # long: what the tests of trainers and rounds find, too
    [
        pytest.param(
            'open("labels.txt")',
            "the task file app/task.py does not import: FileNotFoundError: [Errno 2] No such file or directory: "
            "'labels.txt'",
            id="a file beside it", marks=pytest.mark.long,
        ),
        pytest.param(
            "_build = build_model\ndef build_model(config):\n    return _build(config).to(torch.bfloat16)",
            "the server's trainer made no model: tensor features.0.weight of the task's model has type bfloat16, which "
            "can be neither sent nor saved: use another, such as float32",
            id="a type", marks=pytest.mark.long,
        ),
        pytest.param(
            'def train(model, data, config):\n    return {"loss": 1.0, "accuracy": 55}',
            "device gave no update: train of the task returned accuracy = 55, which is not a share, from 0 to 1",
            id="no share", marks=pytest.mark.long,
        ),
        pytest.param(
            "_train = train\ndef train(model, data, config):\n    metrics = _train(model, data, config)\n"
            "    next(model.parameters()).data.fill_(float('nan'))\n    return metrics",
            "device sent an update with NaN or infinite values (as float32) in features.0.weight",
            id="not finite", marks=pytest.mark.long,
        ),
        pytest.param(
            'import os\ndef train(model, data, config):\n    print("it is full")\n    os._exit(3)',
            "device gave no update: the trainer died during train",
            id="death",
        ),
        pytest.param(
            "def evaluate(model, data, config):\n    return {}['loss']",
            "device gave no score: evaluate of the task failed: KeyError: 'loss'; round 1 goes on without it",
            id="evaluate",
        ),
    ],
)  # fmt: skip
def test_what_a_fleet_refuses_is_said_as_a_fleet_says_it(tryout, tmp_path, code, sentence):
    task = changed(tmp_path, code)
    status, said, problems = tryout(task)
    assert (status, said) == (1, "")
    assert sentence in problems
    assert problems.splitlines()[-1].startswith(f"A fleet would not take {task}: ")
    if "os._exit" in code:
        assert "device/logs/trainer.log:\nit is full" in problems
    if "{}['loss']" in code:
        assert "    return {}['loss']" in problems, "the task's own last lines"


@pytest.mark.long
@pytest.mark.parametrize(
    ("code", "note"),
    [
        (
            "import os\ndef _batches(count, size):\n"
            "    return list(torch.tensor(list(os.urandom(count))).argsort().split(size))",
            "Note: the same seed gave two models: the task draws numbers that the seeds of Python, numpy and torch do "
            "not decide",
        ),
        (
            "_train, rounds = train, [0]\ndef train(model, data, config):\n    rounds[0] += 1\n"
            "    return _train(model, data, {**config, 'learning_rate': 0.01 / rounds[0]})",
            "Note: a run in one go gave another model than one that was stopped and went on: the task keeps something "
            "from round to round",
        ),
    ],
    ids=["not seeded", "kept"],
)
def test_a_model_that_another_run_would_not_make_is_noted(tryout, tmp_path, code, note):
    status, said, problems = tryout(changed(tmp_path, code))
    assert (status, problems) == (0, "")
    assert said.splitlines()[-1] == note


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["nowhere.py"], "A fleet would not take nowhere.py: there is no such file or folder"),
        ([fleet.TASK, "cifar10"], "dataset_path is empty: say where cifar10 lies"),
        ([fleet.TASK, "nowhere"], "nowhere does not exist: put the images there, or correct dataset_path"),
        ([fleet.TASK, "nowhere.npz"], "nowhere.npz cannot be read: No such file or directory"),
    ],
)
def test_what_cannot_be_begun_is_a_sentence(tryout, arguments, sentence):
    status, said, problems = tryout(*arguments)
    assert (status, said) == (1, "") and sentence in problems


def test_nothing_is_left_and_the_shell_s_own_variables_do_not_reach_the_task(tmp_path):
    task = changed(tmp_path, 'import json, os\nopen(os.environ["MINE"])')
    environment = {**fleet.ENVIRONMENT, "MINE": str(task), "TMPDIR": str(tmp_path / "temporary")}
    (tmp_path / "temporary").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "flowerbed.tryout", str(task)], env=environment, capture_output=True, text=True
    )  # fmt: skip
    assert done.returncode == 1 and "KeyError: 'MINE'" in done.stderr
    assert os.listdir(tmp_path / "temporary") == []
    assert json.dumps(str(tmp_path / "temporary")) not in done.stderr
