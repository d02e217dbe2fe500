"""Every pinned package that a board needs has a wheel for its processor. The index is asked; no wheel is downloaded."""

from pathlib import Path

import pytest

from wheels import LOCK, uv_pip

REQUIREMENTS = (Path(__file__).resolve().parents[2] / "requirements-device.txt").read_text()
CLIENT = "flwr\nnumpy\n"


def resolve(requirements: str, python: str) -> tuple[list[str], str]:
    """Return the packages that `requirements` take on an arm64 board, or why they can't all be had as wheels."""
    done = uv_pip("compile", python, "--no-header", "--no-annotate", "--constraint", LOCK, "-", stdin=requirements)
    return done.stdout.split(), " ".join(done.stderr.split()) if done.returncode else ""


@pytest.mark.parametrize(
    ("requirements", "python"),
    [
        pytest.param(CLIENT, "3.11", id="the client in its container"),
        pytest.param(REQUIREMENTS, "3.11", id="a Raspberry Pi without Docker, bookworm"),
        pytest.param(REQUIREMENTS, "3.13", id="a Raspberry Pi without Docker, trixie"),
    ],
)
def test_every_pin_has_an_arm64_wheel(requirements, python):
    packages, problem = resolve(requirements, python)
    assert not problem
    assert any(package.startswith("grpcio==") for package in packages)
    assert set(packages) <= {line.partition(" ;")[0] for line in LOCK.read_text().splitlines()}


def test_a_pin_without_an_arm64_wheel_is_named():
    packages, problem = resolve(CLIENT + "mkl==2024.0.0", "3.11")
    assert not packages
    assert "mkl==2024.0.0 has no wheels with a matching platform tag" in problem
