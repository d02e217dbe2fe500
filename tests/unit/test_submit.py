"""A run's long waits: for whatever no longer shows a sign of life, there is a limit and a sentence."""

import socket
import threading

import pytest

from flowerbed.link import life
from flowerbed.link.stream import submit as stream
from flowerbed.link.superlink import submit as superlink
from flowerbed.rounds.config import RunConfig, RunFailed


def make(tmp_path, **changes):
    content = {
        "experiment": "e", "directory": str(tmp_path / "runs"), "rounds": 1, "link": "stream", "weights": {"d0": 1},
        "task": "task.py", "trainer": "t.sock", "control": str(tmp_path / "control.sock"), "config": {},
    }  # fmt: skip
    return RunConfig.parse(content | changes)


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(life, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(life, "GONE_SECONDS", 0.2)
    monkeypatch.setattr("flowerbed.unix_http.SECONDS", 0.2)


def test_a_server_that_hangs_is_waited_for_so_long_and_no_longer(tmp_path):
    run = make(tmp_path)
    with socket.socket(socket.AF_UNIX) as hung:  # as a stopped process does, it takes connections and says nothing
        hung.bind(run.control)
        hung.listen(1)
        with pytest.raises(RunFailed, match=r"the server has not answered on .*control.sock for 0.2 s: see its logs"):
            stream.do(run, "run.json", threading.Event())


def test_a_superlink_that_hangs_is_waited_for_so_long_and_no_longer(tmp_path, monkeypatch):
    run = make(tmp_path, link="superlink", superlink={
        "address": "127.0.0.1:1", "authority": str(tmp_path / "authority.pem"), "flwr_home": str(tmp_path), "app": "a",
    })  # fmt: skip
    flwr = tmp_path / "flwr"
    flwr.write_text("#!/bin/sh\nexec sleep 600\n")  # as `flwr run` does for a SuperLink that was stopped
    flwr.chmod(0o755)
    monkeypatch.setattr(superlink.sys, "executable", str(tmp_path / "python"))
    with pytest.raises(
        RunFailed, match="127.0.0.1:1 did not finish the run and showed no sign of life: see .*flwr.log"
    ):
        superlink.do(run, "run.json", threading.Event())


def test_a_look_that_fails_is_no_sign_of_life():
    def alive() -> bool:
        raise FileNotFoundError("run.lock")

    with life.watched(alive) as gone:
        assert gone.wait(10)
