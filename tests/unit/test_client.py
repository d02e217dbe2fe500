"""The client and its server, without any trainer: they find each other again and again, and say little about it."""

import json
import signal
import socketserver
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import grpc
import pytest

import fleet
from flowerbed import server_socket
from flowerbed.link.answers import ClientConfig
from flowerbed.link.stream import device as devices
from flowerbed.trainer_socket import TrainerError, TrainerSocket


class Pair:
    """A server that knows `d0` and `d1`, and programs in the same folder; each logs to `<name>.log`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.address = folder, f"127.0.0.1:{fleet.free_port()}"
        self.write("server.json", {"address": self.address, "control": "control.sock", "devices": ["d0", "d1"]})
        self.client("d0")

    def write(self, name: str, content: object) -> None:
        (self.folder / name).write_text(json.dumps(content))

    def client(self, name: str) -> None:
        self.write(f"{name}.json", {"name": name, "server": self.address, "trainer": "trainer.sock"})

    def running(self, program: str, config: str):
        return fleet.running(program, self.folder / f"{config}.json")

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

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


@pytest.mark.parametrize("variable", ["http_proxy", "https_proxy", "grpc_proxy"])
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


def test_a_client_that_was_stopped_makes_room_for_another_of_its_name_which_its_copy_does_not_get(pair):
    with pair.running("server", "server"), pair.running("client", "d0") as first:
        pair.status(wait=30)
        with pair.running("client", "d0"):  # a copied card
            fleet.wait_until(
                lambda: "another device called d0, at 127.0.0.1" in pair.log("d0"), 20, "the copy's refusal"
            )
            first.send_signal(signal.SIGSTOP)
            fleet.wait_until(lambda: "d0 connected anew" in pair.log("server"), 20, "the second connection")
            assert pair.status()["devices"]["d0"]["connected"]
        assert pair.log("server").count("two devices call themselves d0") == 1


def test_a_device_the_server_does_not_know_is_told_so_once(pair, caplog, monkeypatch):
    """It tries again, ever more seldom, until there is a server that knows it."""
    waited = []

    def sleep(seconds):
        waited.append(seconds)
        if len(waited) == 4:
            raise KeyboardInterrupt
        time.sleep(seconds)

    monkeypatch.setattr(devices, "time", SimpleNamespace(sleep=sleep))
    pair.client("stranger")
    with caplog.at_level("INFO", "flowerbed.client"), pair.running("server", "server"):
        with pytest.raises(KeyboardInterrupt):
            devices.serve(ClientConfig.load(pair.folder / "stranger.json"))
        assert "stranger" not in pair.status()["devices"]
    assert waited == [0.1, 0.2, 0.4, 0.8]
    waits, refused = caplog.messages
    assert "waits for" in waits and "has no device stranger: run deploy.yml" in refused
    assert pair.log("server").count("calls itself 'stranger'") == 1


def test_a_server_of_another_version_is_told_from_one_that_is_away(pair):
    other = grpc.server(ThreadPoolExecutor(1))  # which has no such call
    other.add_insecure_port(pair.address)
    other.start()
    with pair.running("client", "d0"):
        fleet.wait_until(lambda: "of another version of Flowerbed: run deploy.yml" in pair.log("d0"), 20, "the word")
        other.stop(None).wait()
        with pair.running("server", "server"):
            assert pair.status(wait=30)["devices"]["d0"]["connected"]


def test_a_refused_device_is_let_in_once_the_server_knows_it(pair):
    with pair.running("client", "d0"):
        pair.write("other.json", json.loads((pair.folder / "server.json").read_text()) | {"devices": ["d1"]})
        with pair.running("server", "other"):
            fleet.wait_until(lambda: "has no device d0" in pair.log("d0"), 20, "the refusal")
        with pair.running("server", "server"):
            assert pair.status(wait=30)["devices"]["d0"]["connected"]


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
