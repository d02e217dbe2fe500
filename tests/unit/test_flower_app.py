"""fl_app as Flower's own tools see it."""

import os
import shutil
import ssl
import subprocess
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

from checkout import needs_superlink

from authority import Authority
from flowerbed import flower_private

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


class _Busy(BaseHTTPRequestHandler):
    """A SuperLink that has one run, the first."""

    def do_POST(self) -> None:
        asked = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if asked == flower_private.ask_for_run(1, 7) else 403)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@needs_superlink
def test_a_run_is_asked_after_where_the_superlink_is_whatever_proxy_there_is(monkeypatch, tmp_path):
    from flowerbed.link.superlink import client_app

    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # where nothing listens
    authority = Authority(tmp_path / "server")
    authority.server()
    authority.device(tmp_path / "d0", "d0")
    with HTTPServer(("127.0.0.1", 0), _Busy) as superlink:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(tmp_path / "server/certificate.pem", tmp_path / "server/key.pem")
        superlink.socket = context.wrap_socket(superlink.socket, server_side=True)
        threading.Thread(target=superlink.serve_forever, daemon=True).start()
        address = f"127.0.0.1:{superlink.server_port}"
        assert client_app.running(address, tmp_path / "d0", 1, 7) is True
        assert client_app.running(address, tmp_path / "d0", 2, 7) is False
        superlink.shutdown()
    assert client_app.running(address, tmp_path / "d0", 2, 7) is True, "it does not answer"
