"""fl_app as Flower's own tools see it."""

import os
import shutil
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from checkout import needs_superlink

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
        link = "flowerbed/link/superlink"
        assert {"pyproject.toml", f"{link}/server_app.py", f"{link}/client_app.py"} <= set(archive.namelist())


@needs_superlink
def test_a_clientapp_starts_without_what_only_a_supernode_needs():
    command = [sys.executable, "-X", "importtime", Path(sys.executable).with_name("flwr-clientapp"), "--help"]

    def start(**environment: str) -> subprocess.CompletedProcess:
        return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)

    # Which a device has as app/sitecustomize.py
    plain, ours = start(PYTHONPATH=""), start(PYTHONPATH=str(APP / "flowerbed/link/superlink"))
    assert ours.stdout == plain.stdout and "--runtime-api-address" in ours.stdout
    assert "sqlalchemy" in plain.stderr and "sqlalchemy" not in ours.stderr


class _NoRuns(BaseHTTPRequestHandler):
    """A SuperLink that knows of no run."""

    def do_POST(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@needs_superlink
def test_a_proxy_for_downloads_is_not_asked_for_the_superlink(monkeypatch):
    from flowerbed.link.superlink import client_app

    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # where nothing listens
    with HTTPServer(("127.0.0.1", 0), _NoRuns) as superlink:
        threading.Thread(target=superlink.serve_forever, daemon=True).start()
        assert client_app.running(f"127.0.0.1:{superlink.server_port}", 1) is False
        superlink.shutdown()
