"""A Python 3.6 with packages, such as a Jetson Nano has, where this machine has one."""

import glob
import os
import shutil
import subprocess

import pytest


def find(*modules: str) -> str:
    """Return a Python 3.6 that has `modules`; skip the test where there is none."""
    pyenv = glob.glob(os.path.expanduser("~/.pyenv/versions/3.6*/bin/python"))
    for python in filter(None, [os.environ.get("FLOWERBED_PYTHON36"), shutil.which("python3.6"), *pyenv]):
        check = f"import sys, {', '.join(modules)}; sys.exit(sys.version_info[:2] != (3, 6))"
        if not subprocess.run([python, "-c", check], capture_output=True).returncode:
            return python
    pytest.skip(f"no Python 3.6 with {', '.join(modules)} here (FLOWERBED_PYTHON36 can name one)")
