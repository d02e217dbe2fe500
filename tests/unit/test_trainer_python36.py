"""The trainer under a real Python 3.6, as JetPack 4.6.1 has it: numpy 1.19 and, where it can be had, torch 1.10."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fleet
from flowerbed import tensors
from flowerbed.trainer_socket import TrainerSocket

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "python36"
PINS = ["numpy==1.19.5", "typing-extensions==4.1.1", "dataclasses==0.8", "torch==1.10.2"]


def find_python36() -> str | None:
    """Return a Python 3.6 that runs: on PATH, or one of pyenv's."""
    candidates = [shutil.which("python3.6"), *map(str, Path.home().glob(".pyenv/versions/3.6.*/bin/python3.6"))]
    for python in filter(None, candidates):
        if subprocess.run([python, "-c", "import ssl"], capture_output=True).returncode == 0:
            return python
    return None


@pytest.fixture(scope="module")
def python36() -> str:
    """A Python 3.6 with numpy and torch; made once, and kept in .cache."""
    base = find_python36()
    if base is None:
        pytest.skip("no Python 3.6 on this machine")
    python = CACHE / "bin" / "python"
    if not (CACHE / "complete").exists():
        subprocess.run([base, "-m", "venv", "--clear", str(CACHE)], check=True)
        made = subprocess.run(
            [python, "-m", "pip", "install", "-q", "--no-compile", "--no-cache-dir", "--timeout", "60", *PINS],
            capture_output=True, text=True,
        )  # fmt: skip
        if made.returncode:
            pytest.skip(f"numpy and torch for Python 3.6 cannot be installed: {made.stderr.strip().splitlines()[-1]}")
        (CACHE / "complete").touch()
    return str(python)


def test_an_images_python_3_6_says_what_it_has(python36):
    probe = ROOT / "roles/trainer/files/probe.py"
    done = subprocess.run([python36, "-c", probe.read_text()], capture_output=True, text=True)
    has = json.loads(done.stdout.splitlines()[-1])
    assert has["python"].startswith("3.6.") and has["torch"].startswith("1.10.") and has["cuda"] == "10.2"


@pytest.mark.parametrize("privacy", [{}, {"clip": 100, "noise": 1e-5}], ids=["plain", "private"])
def test_the_trainer_trains_on_python_3_6(python36, tmp_path, privacy):
    (tmp_path / "data").mkdir()
    for split, (x, y) in {"train": fleet.shard(0, 60), "heldout": fleet.shard(1, 20)}.items():
        np.savez(tmp_path / "data" / f"{split}.npz", x=x, y=y)
    losses, examples = train(python36, tmp_path, str(fleet.TASK), "data", privacy=privacy)
    assert examples == 60 and losses[1] < losses[0]


@pytest.mark.parametrize("example", sorted(path.parent.name for path in ROOT.glob("examples/*/make_data.py")))
def test_an_example_trains_on_python_3_6(python36, tmp_path, example):
    shutil.copytree(ROOT / "examples" / example, tmp_path / "example", ignore=shutil.ignore_patterns("data"))
    subprocess.run([sys.executable, "example/make_data.py"], cwd=tmp_path, check=True, capture_output=True)
    [task] = {tmp_path / "example/task", tmp_path / "example/task.py"} & {*(tmp_path / "example").iterdir()}
    losses, examples = train(python36, tmp_path, str(task), "example/data/rpi-1")
    assert examples > 1000 and losses[1] < 0.9 * losses[0]


def train(python, folder, task, data, **others):
    """Return the losses of a new model and of the trained one, and how many examples it was trained on."""
    config = {"name": "jetson", "socket": "trainer.sock", "task": task, "data": data, "slots": "slots", **others}
    (folder / "trainer.json").write_text(json.dumps(config))
    with fleet.running("trainer", folder / "trainer.json", python) as process:
        trainer = TrainerSocket(str(folder / "trainer.sock"))
        fleet.wait_until(lambda: (folder / "trainer.sock").exists() or process.poll() is not None, 60, "the socket")
        assert process.poll() is None, (folder / "trainer.log").read_text()
        health = trainer.wait_ready(120)
        assert health["python"].startswith("3.6.") and health["torch"].startswith("1.10.")
        told = {"channels": 1, "classes": fleet.CLASSES, "batch_size": 16, "local_epochs": 2, "learning_rate": 0.01}
        state, _ = trainer.call("initial", b"", told)
        after, metrics = trainer.call("train", state, told)
        assert tensors.unpack(after).keys() == tensors.unpack(state).keys()
        losses = [trainer.call("evaluate", each, told)[1]["metrics"]["loss"] for each in (state, after)]
        return losses, metrics["examples"]
