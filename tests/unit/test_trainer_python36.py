"""The trainer under a real Python 3.6, as JetPack 4.6.1 has it: numpy 1.19 and, where it can be had, torch 1.10."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fleet
from flowerbed import tensors
from flowerbed.trainer_socket import TrainerSocket

CACHE = Path(__file__).parents[2] / ".cache" / "python36"
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
    probe = Path(__file__).parents[2] / "roles/trainer/files/probe.py"
    done = subprocess.run([python36, "-c", probe.read_text()], capture_output=True, text=True)
    has = json.loads(done.stdout.splitlines()[-1])
    assert has["python"].startswith("3.6.") and has["torch"].startswith("1.10.") and has["cuda"] == "10.2"


def test_the_trainer_trains_on_python_3_6(python36, tmp_path):
    (tmp_path / "data").mkdir()
    for split, (x, y) in {"train": fleet.shard(0, 60), "heldout": fleet.shard(1, 20)}.items():
        np.savez(tmp_path / "data" / f"{split}.npz", x=x, y=y)
    config = {"name": "jetson", "socket": "trainer.sock", "task": str(fleet.TASK), "data": "data", "slots": "slots"}
    (tmp_path / "trainer.json").write_text(json.dumps(config))
    with fleet.running("trainer", tmp_path / "trainer.json", python36) as process:
        trainer = TrainerSocket(str(tmp_path / "trainer.sock"))
        fleet.wait_until(lambda: (tmp_path / "trainer.sock").exists() or process.poll() is not None, 60, "the socket")
        assert process.poll() is None, (tmp_path / "trainer.log").read_text()
        health = trainer.wait_ready(120)
        assert health["python"].startswith("3.6.") and health["torch"].startswith("1.10.")
        task = {"channels": 1, "classes": fleet.CLASSES, "batch_size": 16, "local_epochs": 2, "learning_rate": 0.01}
        state, _ = trainer.call("initial", b"", task)
        after, metrics = trainer.call("train", state, task)
        assert metrics["examples"] == 60
        assert tensors.unpack(after).keys() == tensors.unpack(state).keys()
        losses = [trainer.call("evaluate", each, task)[1]["metrics"]["loss"] for each in (state, after)]
        assert losses[1] < losses[0]
