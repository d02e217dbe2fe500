"""On a GPU: what an image is asked before it trains runs a CUDA kernel, here and in a container, as on a board.

FLOWERBED_GPU_CHECK_IMAGE is an image with torch for the container; the one that docs/boards.md has for a PC, if not.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles/trainer"
PROCESSOR = os.environ.get("FLOWERBED_GPU_CHECK_ON", "cuda")
spec = importlib.util.spec_from_file_location("trainer_image", ROLE / "filter_plugins" / "trainer_image.py")
role = importlib.util.module_from_spec(spec)
spec.loader.exec_module(role)
IMAGE = os.environ.get("FLOWERBED_GPU_CHECK_IMAGE", role.WITHOUT_CARD)
PROBE = (ROLE / "files/probe.py").read_text()


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    """What board_facts finds of this machine, with the role's own probes."""
    probes = yaml.safe_load((ROLE / "files/probes.yml").read_text())
    arguments = {"home": "/tmp", "root": "/tmp", "server_host": "127.0.0.1", "server_port": 9, "asked_at": 0, **probes}
    done = subprocess.run(
        [sys.executable, ROOT / "plugins/modules/board_facts.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), capture_output=True, text=True, check=True,
    )  # fmt: skip
    return json.loads(done.stdout)["board"]


def judged(command: list[str], facts: dict[str, Any], **environment: str) -> dict[str, Any]:
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, **environment})
    return role.verdict({"rc": done.returncode, "stdout": done.stdout, "stderr": done.stderr}, facts, IMAGE)


def test_this_machines_torch_runs_a_kernel(facts):
    torch = pytest.importorskip("torch")
    if PROCESSOR == "cuda" and not torch.cuda.is_available():
        pytest.skip("this machine has no GPU that torch can use")
    hidden = {"CUDA_VISIBLE_DEVICES": ""} if PROCESSOR == "cpu" else {}
    found = judged([sys.executable, "-c", PROBE], facts, **hidden)
    assert bool(found["has"]["gpu"]) == (PROCESSOR == "cuda"), found
    if PROCESSOR == "cuda":
        assert not found["problem"] and not found["note"] and found["has"]["cuda"]
        assert role.cuda(facts), "nvidia-smi names the CUDA that the driver is for"


def test_a_container_gets_the_gpu_and_runs_a_kernel(facts):
    if not (way := role.way(facts)):
        pytest.skip("this machine has no Docker engine that gives containers an NVIDIA GPU")
    if IMAGE not in facts["docker"]["images"]:
        pytest.skip(f"this machine's Docker engine does not have {IMAGE}")
    options = yaml.safe_load((ROLE / "vars/main.yml").read_text())["trainer_gpu_options"][way]
    command = ["docker", "run", "--rm", "--network=none", "--entrypoint", "python3", *options, IMAGE, "-c", PROBE]
    found = judged(command, facts)
    assert found["has"]["gpu"] and not found["problem"] and not found["note"], found
