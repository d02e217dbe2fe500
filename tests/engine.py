"""Whether this machine has a Docker engine, which the tests of boards need. Without one they are skipped by name."""

import shutil
import subprocess

import pytest

ENGINE = subprocess.run(["docker", "info"], capture_output=True).returncode == 0 if shutil.which("docker") else False
needs_engine = pytest.mark.skipif(not ENGINE, reason="no Docker engine answers on this machine")
