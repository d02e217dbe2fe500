"""fl_app as Flower's own tools see it."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

APP = Path(__file__).parents[2] / "fl_app"


def test_flwr_build_accepts_it(tmp_path):
    app = shutil.copytree(APP, tmp_path / "app", ignore=shutil.ignore_patterns("__pycache__"))
    built = subprocess.run(
        [Path(sys.executable).with_name("flwr"), "build", "--app", app],
        cwd=tmp_path, env={"PATH": "/usr/bin:/bin", "HOME": str(tmp_path), "FLWR_TELEMETRY_ENABLED": "0"},
        capture_output=True, text=True,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    [bundle] = tmp_path.rglob("*.fab")
    with zipfile.ZipFile(bundle) as archive:
        assert {"pyproject.toml", "flowerbed/server_app.py", "flowerbed/client_app.py"} <= set(archive.namelist())
