"""A Python 3.6 with packages, such as a Jetson Nano has, where this machine has one."""

import glob
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

APP = Path(__file__).parents[1] / "fl_app"


def answer(python: str, code: str, folder: Path) -> Any:
    """Return what `code` prints as JSON; it finds Flowerbed's modules, and the folder's path in sys.argv."""
    environment = {"PYTHONPATH": str(APP), "PATH": os.environ["PATH"]}
    done = subprocess.run([python, "-c", code, folder], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def find(*modules: str) -> str:
    """Return a Python 3.6 that has `modules`; skip the test where there is none."""
    pyenv = glob.glob(os.path.expanduser("~/.pyenv/versions/3.6*/bin/python"))
    for python in filter(None, [os.environ.get("FLOWERBED_PYTHON36"), shutil.which("python3.6"), *pyenv]):
        check = f"import sys, {', '.join(modules)}; sys.exit(sys.version_info[:2] != (3, 6))"
        if not subprocess.run([python, "-c", check], capture_output=True).returncode:
            return python
    pytest.skip(f"no Python 3.6 with {', '.join(modules)} here (FLOWERBED_PYTHON36 can name one)")
