"""Two checkouts on one machine."""

import contextlib
import json

import pytest
from checkout import Checkout, server_port

pytestmark = pytest.mark.e2e


def test_two_checkouts_deployed_and_run_at_the_same_time():
    with contextlib.ExitStack() as stack:
        gardens = []
        for _ in range(2):
            gardens.append(Checkout({"rpi": "rpi-1"}))
            stack.callback(gardens[-1].close)
        for playbook in ("deploy", "run_round"):
            for playing in [garden.begin(playbook) for garden in gardens]:
                played = playing.end()
                assert played.status == 0, played.text
        assert [garden.rounds("local") for garden in gardens] == [[1], [1]]
        servers = [json.loads((garden.home("server") / "server.json").read_text()) for garden in gardens]
        addresses = [server["address"] for server in servers]
        assert addresses == [f"127.0.0.1:{server_port(garden.folder)}" for garden in gardens]
        assert len({*addresses}) == 2
