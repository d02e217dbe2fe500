"""A device's two halves on arm64: Debian's own Python under qemu, with the instructions a board has, and no more."""

import hashlib
import math
import os
import shlex
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import fleet
from flowerbed import tensors
from wheels import LOCK, uv_pip

CACHE = Path(__file__).resolve().parents[2] / ".cache" / "arm64"
CPU = "cortex-a57"  # a Jetson Nano's; the A72 of a Raspberry Pi 4 has the same instructions
PACKAGES = {"trainer": ["torch==2.9.1", "numpy==2.4.6"], "client": ["flwr", "numpy", "-c", str(LOCK)]}
PATIENCE = 900  # emulated, importing torch takes half a minute of a quiet machine


def unpack_python(root: Path) -> None:
    """Unpack Debian's Python for arm64 in a folder. This needs no root, and leaves this machine's apt as it is."""
    state = CACHE / "apt"
    (state / "lists").mkdir(parents=True)
    (state / "status").touch()
    options = {
        "APT::Architecture": "arm64", "APT::Architectures::": "arm64", "APT::Sandbox::User": "root",
        "Dir::Cache": state, "Dir::State::lists": state / "lists", "Dir::State::status": state / "status",
    }  # fmt: skip
    apt = ["apt-get", *(word for option, value in options.items() for word in ("-o", f"{option}={value}"))]
    install = ["install", "--yes", "--no-install-recommends", "--download-only", "python3", "libstdc++6"]
    for arguments in (["update"], install):
        done = subprocess.run([*apt, *arguments], capture_output=True, text=True)
        if done.returncode:
            pytest.skip(f"apt has no Python for arm64 here: {done.stderr.strip().splitlines()[-1]}")
    for package in state.glob("archives/*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    shutil.rmtree(state)


@pytest.fixture(scope="module")
def pythons(tmp_path_factory) -> dict[str, str]:
    """The arm64 Pythons of a device's two halves, each with its own packages; made once, and kept in .cache."""
    for program in ("qemu-aarch64-static", "apt-get", "dpkg"):
        if not shutil.which(program):
            pytest.skip(f"no {program} on this machine")
    recipe = hashlib.sha256(Path(__file__).read_bytes() + LOCK.read_bytes()).hexdigest()
    made = CACHE / "made"
    if not made.exists() or made.read_text() != recipe:
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        unpack_python(CACHE / "root")
        version = os.readlink(CACHE / "root/usr/bin/python3").removeprefix("python")
        for part in PACKAGES:
            done = uv_pip("install", version, "--target", CACHE / part, *PACKAGES[part])
            assert done.returncode == 0, done.stderr
        made.write_text(recipe)
    folder = tmp_path_factory.mktemp("python")
    for part in PACKAGES:
        qemu = ["qemu-aarch64-static", "-cpu", CPU, "-L", CACHE / "root", CACHE / "root/usr/bin/python3", "-S"]
        packages, command = shlex.quote(str(CACHE / part)), shlex.join(map(str, qemu))
        (folder / part).write_text(f'#!/bin/sh\nPYTHONPATH="$PYTHONPATH":{packages} exec {command} "$@"\n')
        (folder / part).chmod(0o755)
    return {part: str(folder / part) for part in PACKAGES}


@pytest.fixture(scope="module")
def board(pythons, tmp_path_factory):
    """A fleet of one arm64 device; its server is of this machine's kind."""
    board = fleet.Fleet(tmp_path_factory.mktemp("f"), [40], pythons=pythons, patience=PATIENCE)
    yield board
    board.stop()


@pytest.mark.parametrize(
    ("part", "modules"),
    [
        ("trainer", "flowerbed.trainer.worker, task, torch"),
        ("client", "flowerbed.link.stream.device, flowerbed.link.superlink.client_app, flwr"),
    ],
)
def test_imports(pythons, part, modules):
    code = f"import platform, sys, numpy, {modules}; print(platform.machine(), numpy.__file__, 'torch' in sys.modules)"
    done = subprocess.run([pythons[part], "-c", code], env=fleet.ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout.split() == ["aarch64", str(CACHE / part / "numpy/__init__.py"), str(part == "trainer")], done


def test_the_trainer_trains(board):
    trainer = board.trainer("d0")
    assert trainer.health()["torch"].startswith("2.9.1")
    config = board.task_config(1)
    state, _ = trainer.call("initial", b"", config)
    after, metrics = trainer.call("train", state, config)
    before, after = tensors.unpack(state), tensors.unpack(after)
    assert metrics["examples"] == 40 and math.isfinite(metrics["metrics"]["loss"])
    assert before.keys() == after.keys()
    assert all(np.isfinite(after[name]).all() and not np.array_equal(before[name], after[name]) for name in before)


def test_a_round(board):
    assert board.run("arm64", round_timeout=PATIENCE, wait_clients=PATIENCE)[0] == 0
    assert [event["status"] for event in board.events("arm64", "device")] == ["ok"]
