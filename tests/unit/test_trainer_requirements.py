"""What a task's requirements.txt asks for: looked up in this Python, and installed into a folder of its own."""

import json
import subprocess
import sys

import pytest

from flowerbed.trainer import requirements
from flowerbed.trainer.worker import Worker
from packages import wheel

TASK = """
import torch
from flowerbed_example import WIDTH
def build_model(config): return torch.nn.Linear(WIDTH, 1)
def load_data(folder, config): return [1], [1]
def train(model, data, config): return {"loss": WIDTH}
evaluate = train
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "task").mkdir()
    (tmp_path / "task/task.py").write_text(TASK)
    wheel(tmp_path, "3.0")
    wheel(tmp_path, "4.0")
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before


def asks(folder, text):
    (folder / "task/requirements.txt").write_text(text)


def call(folder, *arguments):
    command = [sys.executable, "-m", "flowerbed.trainer.requirements", "task/requirements.txt", *arguments]
    environment = {"PYTHONPATH": str(requirements.__file__).partition("/flowerbed/")[0], "HOME": str(folder)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout) if done.returncode == 0 else done.stderr.strip()


OFFLINE = ("--no-index", "--find-links", ".")


@pytest.mark.parametrize(
    ("line", "met"),
    [
        ("numpy", True), ("numpy>=1.0  # for arrays", True), ("numpy<1", False), ("NumPy>1; python_version<'3'", True),
        ("no-such-package", False), ("# nothing", True), ("-r other.txt", True), ("torch>=1.10,<99", True),
        ("no-such-package @ file:///nowhere.whl", False),
    ],
)  # fmt: skip
def test_what_is_not_met_is_known(folder, line, met):
    asks(folder, f"\n{line}\n")
    assert requirements.lacking("task/requirements.txt") == ([] if met else [line])


def test_lines_that_go_on_and_pip_s_own_options_are_read_as_pip_does(folder):
    """As tools write a list with sums."""
    hashed = "numpy>=1 \\\n    --hash=sha256:0 \\\n    --hash=sha256:1\n"
    asks(folder, f"--require-hashes\n{hashed}no-such>=2 \\\n  --hash=sha256:2\n")
    assert requirements.lacking("task/requirements.txt") == ["no-such>=2"]
    asks(folder, "numpy \\\n  --hash=sha256:0\n???\n")
    with pytest.raises(requirements.RequirementError, match="line 3 of task/requirements.txt"):
        requirements.lacking("task/requirements.txt")


@pytest.mark.parametrize("text", ["numpy>=>=1", "???", "\xff"])
def test_a_file_that_asks_for_nothing_is_a_sentence(folder, text):
    (folder / "task/requirements.txt").write_bytes(text.encode("latin-1"))
    with pytest.raises(requirements.RequirementError, match=r"(line 1 of )?task/requirements.txt"):
        requirements.lacking("task/requirements.txt")
    assert call(folder)[0] == 1


def test_what_is_lacking_is_installed_beside_and_changes_nothing_else(folder):
    asks(folder, "flowerbed-example<4\nnumpy\n")
    assert call(folder, "--check") == (0, {"changed": True, "lacking": ["flowerbed-example<4"]})
    assert not (folder / "packages").exists()
    assert call(folder, *OFFLINE)[1]["changed"]
    assert call(folder, *OFFLINE) == (0, {"changed": False, "lacking": []})
    [installed] = (folder / "packages").rglob("*.py")
    assert installed.name == "flowerbed_example.py"
    trainer = Worker({"name": "d0", "task": "task", "data": "."})
    trainer.warm_up()
    assert trainer.ready, trainer.problem
    assert trainer.train(trainer.initial(b"", {})[0], {})[1]["metrics"] == {"loss": 3}
    asks(folder, "flowerbed-example>=4\n")
    assert call(folder, *OFFLINE)[1]["changed"] and not (folder / "packages.new").exists()
    assert (folder / requirements.site() / "flowerbed_example.py").read_text() == "WIDTH = 4\n"


def test_what_cannot_be_installed_is_a_sentence_and_what_was_there_stays(folder):
    asks(folder, "flowerbed-example")
    call(folder, *OFFLINE)
    asks(folder, "flowerbed-example>5")
    status, sentence = call(folder, *OFFLINE)
    assert status == 1 and sentence.startswith("pip cannot install what task/requirements.txt asks for: ERROR: ")
    assert (folder / "packages").exists() and not (folder / "packages.new").exists()
    asks(folder, "numpy<1")
    assert "pip cannot install" in call(folder, *OFFLINE)[1], "nothing that is there changes its version"


@pytest.mark.parametrize(
    ("image", "sentence"),
    [
        (None, "the task needs flowerbed-example>5 (requirements.txt), which this Python has not: run deploy.yml"),
        (
            "lab/rpi:1",
            "which the image lab/rpi:1 has not: build one with it, as docs/tasks.md shows, and set trainer_i",
        ),
    ],
)
def test_a_trainer_without_them_says_which_package_who_lacks(folder, image, sentence):
    asks(folder, "flowerbed-example>5\nnumpy\n")
    trainer = Worker({"name": "d0", "task": "task", "data": ".", "image": image})
    trainer.warm_up()
    assert not trainer.ready and sentence in trainer.problem
