"""The client and its server, without any trainer: they find each other again and again, and say little about it."""

import asyncio
import contextlib
import json
import shutil
import socket
import socketserver
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

import fleet
from authority import Authority
from flowerbed import server_socket
from flowerbed.link import identity
from flowerbed.link.answers import ClientConfig
from flowerbed.link.stream import device as devices
from flowerbed.trainer_socket import TrainerError, TrainerSocket


class Pair:
    """A server that knows `d0` and `d1`, and a client `d0` in a folder of its own; each logs beside its file."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{fleet.free_port()}"
        self.authority = Authority(folder / "tls")
        self.authority.server()
        self.write("server.json", {"address": self.address, "control": "control.sock", "devices": ["d0", "d1"]})
        self.client("d0")

    def write(self, name: str, content: object) -> None:
        (self.folder / name).parent.mkdir(exist_ok=True)
        (self.folder / name).write_text(json.dumps(content))

    def client(self, name: str) -> None:
        self.write(f"{name}/client.json", {"name": name, "server": self.address, "trainer": "trainer.sock"})
        self.authority.device(self.folder / name / "tls", name)

    def running(self, program: str, config: str):
        name = f"{config}.json" if program == "server" else f"{config}/client.json"
        return fleet.running(program, self.folder / name)

    def log(self, name: str) -> str:
        return (self.folder / (f"{name}/client.log" if name[0] == "d" else f"{name}.log")).read_text()

    def status(self, wait: float | None = None, devices: tuple[str, ...] = ("d0",)) -> dict:
        return server_socket.status(str(self.folder / "control.sock"), list(devices), wait)


@pytest.fixture
def pair(tmp_path):
    return Pair(tmp_path)


def ask(*arguments: str, folder: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "flowerbed.status", *arguments], cwd=folder, env=fleet.ENVIRONMENT, capture_output=True,
        text=True, timeout=60,
    )  # fmt: skip


def test_a_client_waits_for_its_server_without_noise_and_comes_back_whenever_it_returns(pair):
    with pair.running("client", "d0") as client:
        fleet.wait_until(lambda: "waits for the server" in pair.log("d0"), 20, "the client")
        for times in (1, 2):
            with pair.running("server", "server"):
                assert pair.status(wait=30)["devices"]["d0"]["connected"]
                fleet.wait_until(lambda: pair.log("d0").count("joined") == times, fleet.PATIENCE, "d0 to know it")  # noqa: B023
                assert not pair.status()["devices"]["d1"]["connected"]
        fleet.wait_until(
            lambda: pair.log("d0").count("waiting for it to return") == 2, fleet.PATIENCE, "the client to notice"
        )
        assert client.poll() is None
        assert len(pair.log("d0").splitlines()) == 5, pair.log("d0")
        libraries = Path(f"/proc/{client.pid}/maps").read_text()
        assert "/numpy/" in libraries and "/torch/" not in libraries


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "all_proxy"])
def test_a_proxy_for_downloads_is_not_asked_for_the_server(pair, monkeypatch, variable):
    monkeypatch.setitem(fleet.ENVIRONMENT, variable, "http://127.0.0.1:9")  # where nothing listens
    with pair.running("server", "server"), pair.running("client", "d0"):
        assert pair.status(wait=30)["devices"]["d0"]["connected"]


def test_a_client_that_goes_is_noticed_at_once(pair):
    with pair.running("server", "server"):
        with pair.running("client", "d0"):
            pair.status(wait=30)
        fleet.wait_until(lambda: not pair.status()["devices"]["d0"]["connected"], 20, "the server to notice")
        assert pair.status()["devices"]["d0"]["last_seen"] > 0
        assert pair.status()["devices"]["d1"]["last_seen"] is None


def test_of_a_card_and_its_copy_the_newer_is_in_as_long_as_it_lives(pair):
    with pair.running("server", "server"), pair.running("client", "d0"):
        pair.status(wait=30)
        shutil.copytree(pair.folder / "d0", pair.folder / "d0-copy")
        with pair.running("client", "d0-copy"):
            fleet.wait_until(lambda: "joined" in pair.log("d0-copy"), 20, "the copy's connection")
            fleet.wait_until(
                lambda: "another one with the identity of d0, at 127.0.0.1" in pair.log("d0"), 20, "a word"
            )
            assert "a newer connection with its identity came from 127.0.0.1" in pair.log("d0")
            assert pair.log("server").count("two devices have the identity of d0") == 1
            time.sleep(3)  # in which the older one tries again
            assert "has no connection" not in pair.log("d0-copy")
        fleet.wait_until(lambda: pair.log("d0").count("joined") == 2, 20, "the older one to be let in again")


def test_a_device_the_server_does_not_know_is_told_so_once(pair, caplog, monkeypatch):
    """It tries again, ever more seldom, until there is a server that knows it."""
    waited = []

    async def sleep(seconds, sleep=asyncio.sleep):
        if seconds != devices.LOOK_SECONDS:
            waited.append(seconds)
        if len(waited) == 4:
            raise KeyboardInterrupt
        await sleep(seconds)

    pair.client("d9")
    pair.authority.forget("d9")
    monkeypatch.setattr(devices.asyncio, "sleep", sleep)
    with caplog.at_level("INFO", "flowerbed.client"), pair.running("server", "server"):
        fleet.wait_until(lambda: "listens" in pair.log("server"), 20, "the server")
        with pytest.raises(KeyboardInterrupt):
            devices.serve(ClientConfig.load(pair.folder / "d9/client.json"))
        assert "d9" not in pair.status(devices=())["devices"]
    assert waited == [0.1, 0.2, 0.4, 0.8]
    waits, refused = caplog.messages
    assert "waits for" in waits and "no such device is deployed: it was taken out, or reset" in refused
    assert pair.log("server").count("refused d9 at 127.0.0.1: no such device is deployed") == 1


def test_a_server_of_another_version_is_told_from_one_that_is_away(pair):
    context = identity.context(pair.folder / "tls", ssl.Purpose.CLIENT_AUTH)
    host, port = pair.address.split(":")
    with socket.create_server((host, int(port))) as other:
        threading.Thread(target=lambda: speak(context, other), daemon=True).start()
        with pair.running("client", "d0"):
            fleet.wait_until(lambda: "of another version of Flowerbed: it sent" in pair.log("d0"), 20, "the word")
            other.close()
            with pair.running("server", "server"):
                assert pair.status(wait=30)["devices"]["d0"]["connected"]


def speak(context: ssl.SSLContext, server: socket.socket) -> None:
    """Say something else to all that come."""
    with contextlib.suppress(OSError):
        while True:
            with contextlib.suppress(ssl.SSLError):
                context.wrap_socket(server.accept()[0], server_side=True).sendall(b"SSH-2.0-OpenSSH_9.2\r\n" * 20)


def test_a_refused_device_is_let_in_once_the_server_knows_it(pair):
    pair.authority.forget("d0")
    with pair.running("client", "d0"), pair.running("server", "server"):
        fleet.wait_until(lambda: "no such device is deployed" in pair.log("d0"), 20, "the refusal")
        pair.authority.device(pair.folder / "d0/tls", "d0")  # both take it up as they run
        assert pair.status(wait=30)["devices"]["d0"]["connected"]


def test_a_device_without_an_identity_says_so(pair):
    (pair.folder / "d0/tls/authority.pem").write_text("what")
    with pair.running("client", "d0"):
        fleet.wait_until(lambda: "authority.pem is not a file of PEM: run deploy.yml" in pair.log("d0"), 20, "the word")


def test_a_device_whose_certificate_has_expired_knows_where_to_look(pair):
    pair.authority.device(pair.folder / "d0/tls", "d0", (-9, -1))
    with pair.running("server", "server"), pair.running("client", "d0"):
        fleet.wait_until(lambda: "its logs/server.log says why" in pair.log("d0"), 20, "the word")
        fleet.wait_until(lambda: "refused 127.0.0.1: its certificate has expired" in pair.log("server"), 20, "why")


@pytest.mark.parametrize(("what", "sentence"), [
    ("another authority", "its certificate is not of this fleet's authority: run deploy.yml"),
    ("another name", "its certificate is for another address: run deploy.yml"),
])  # fmt: skip
def test_a_server_that_is_another_is_not_believed(pair, what, sentence):
    if what == "another authority":
        Authority(pair.folder / "tls").server()
    else:
        pair.write("d0/client.json", {"name": "d0", "server": pair.address.replace(".1:", ".2:"), "trainer": "t.sock"})
        pair.write(
            "server.json", {"address": pair.address.replace(".1:", ".2:"), "control": "c.sock", "devices": ["d0"]}
        )
    with pair.running("server", "server"), pair.running("client", "d0"):
        fleet.wait_until(lambda: sentence in pair.log("d0"), 20, "the word")


def test_a_server_without_an_identity_says_so(pair):
    (pair.folder / "tls/certificate.pem").unlink()
    done = subprocess.run(
        [sys.executable, "-m", "flowerbed.server", "server.json"], cwd=pair.folder, env=fleet.ENVIRONMENT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1 and done.stderr.startswith("the server has no identity to show: ")
    assert "tls/certificate.pem cannot be read: No such file or directory" in done.stderr


def test_status_asks_the_server(pair):
    refused = ask("--server", "server.json", folder=pair.folder)
    assert refused.returncode == 1 and "no server answers on" in refused.stderr and "Traceback" not in refused.stderr
    with pair.running("server", "server"), pair.running("client", "d0"):
        pair.status(wait=30)
        missing = ask("--server", "server.json", "--wait-devices", "0.5", folder=pair.folder)
        assert missing.returncode == 1 and "not connected to the server after 0.5 s: d1;" in missing.stderr
        answer = json.loads(ask("--server", "server.json", folder=pair.folder).stdout)
        assert [device["connected"] for device in answer["devices"].values()] == [True, False]
        assert answer["run"] is None


def test_status_asks_the_trainer(pair):
    pair.write("trainer.json", {"name": "d0", "socket": "trainer.sock", "task": "task.py", "data": "data"})
    done = ask("trainer.json", "--wait", "0.3", folder=pair.folder)
    assert done.returncode == 1
    assert "no trainer answers on trainer.sock (No such file or directory): see logs/trainer.log" in done.stderr


@pytest.mark.parametrize("content", [None, "", "[]", "5", "{}", '{"name": "d0"}'])
@pytest.mark.parametrize("program", ["client", "server", "status", "submit"])
def test_a_configuration_that_cannot_be_used_is_one_sentence_with_the_file_s_name(tmp_path, program, content):
    if content is not None:
        (tmp_path / "broken.json").write_text(content)
    done = subprocess.run(
        [sys.executable, "-m", f"flowerbed.{program}", "broken.json"], cwd=tmp_path, env=fleet.ENVIRONMENT,
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert done.returncode == 1
    assert "broken.json" in done.stderr and len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_a_port_in_use_ends_the_server_with_the_name_of_its_holder(pair):
    with pair.running("server", "server") as first:
        pair.status(wait=30, devices=())
        done = subprocess.run(
            [sys.executable, "-m", "flowerbed.server", "server.json"], cwd=pair.folder, env=fleet.ENVIRONMENT,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.returncode == 1
        assert f"the server cannot listen on {pair.address}" in done.stderr
        assert f"in use by process {first.pid} (" in done.stderr
        assert pair.status(devices=())["run"] is None  # the first one still answers on its socket


def test_a_run_without_a_server_says_to_deploy(tmp_path):
    (tmp_path / "task.py").write_text("")
    run = {
        "experiment": "e", "directory": str(tmp_path / "runs"), "rounds": 1, "link": "stream", "weights": {"d0": 1},
        "task": str(tmp_path / "task.py"), "trainer": "t.sock", "control": str(tmp_path / "none.sock"), "config": {},
    }  # fmt: skip
    (tmp_path / "run.json").write_text(json.dumps(run))
    done = subprocess.run(
        [sys.executable, "-m", "flowerbed.submit", "run.json"], cwd=tmp_path, env=fleet.ENVIRONMENT, text=True,
        capture_output=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, f"no server answers on {tmp_path}/none.sock: run deploy.yml\n")


def test_a_trainer_that_answers_nonsense_is_a_sentence(tmp_path):
    class Nonsense(socketserver.StreamRequestHandler):
        def handle(self):
            self.rfile.readline()
            self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 4\r\n\r\nwhat")

    with socketserver.ThreadingUnixStreamServer(str(tmp_path / "s"), Nonsense) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with pytest.raises(TrainerError, match="no trainer answers on"):
            TrainerSocket(str(tmp_path / "s")).health()
        server.shutdown()
