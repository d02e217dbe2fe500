"""On a GPU, too, the same seed gives the same model, bit for bit: the default task, trained twice over four rounds.

With FLOWERBED_GPU_CHECK_ON=cpu the two train on the processor: that shows that this check works, and nothing of a GPU.
"""

import json
import os

import numpy as np
import pytest
import torch

import fleet
from flowerbed import tensors
from flowerbed.trainer_socket import TrainerSocket

PROCESSOR = os.environ.get("FLOWERBED_GPU_CHECK_ON", "cuda")
CONFIG = {"channels": 3, "classes": 10, "batch_size": 32, "local_epochs": 1, "learning_rate": 0.001}


def trained(folder, seed):
    """Return the model after four rounds in a trainer of its own."""
    (folder / "data").mkdir(parents=True)
    random = np.random.default_rng(0)
    for split, count in {"train": 1000, "heldout": 100}.items():
        images = random.integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)
        np.savez(folder / "data" / f"{split}.npz", x=images, y=random.integers(0, 10, count))
    config = {"name": "d0", "socket": "trainer.sock", "task": str(fleet.TASK), "data": "data", "threads": 1}
    (folder / "trainer.json").write_text(json.dumps(config))
    with fleet.running("trainer", folder / "trainer.json"):
        trainer = TrainerSocket(str(folder / "trainer.sock"))
        assert trainer.wait_ready(120)["device"] == PROCESSOR
        state, _ = trainer.call("initial", b"", {**CONFIG, "seed": seed})
        for number in (1, 2, 3, 4):
            state, _ = trainer.call("train", state, {**CONFIG, "seed": seed, "round": number})
    return tensors.unpack(state)


def test_the_same_seed_gives_the_same_model_bit_for_bit(tmp_path, monkeypatch):
    if PROCESSOR == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch can use")
    if PROCESSOR == "cpu":
        monkeypatch.setitem(fleet.ENVIRONMENT, "CUDA_VISIBLE_DEVICES", "")
    first, again, other = (trained(tmp_path / name, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    differences = {name: float(np.abs(first[name] - again[name]).max()) for name in first}
    assert set(differences.values()) == {0.0}, differences
    assert any(not np.array_equal(first[name], other[name]) for name in first), "another seed gives another model"
