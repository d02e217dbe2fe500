"""Two checkouts on one machine."""

import contextlib
import json

import pytest
from checkout import Checkout, server_port

pytestmark = [pytest.mark.e2e, pytest.mark.long]  # make test has checkouts side by side, too: one for each file


def test_two_checkouts_deployed_and_run_at_the_same_time():
    with contextlib.ExitStack() as stack:
        checkouts = []
        for _ in range(2):
            checkouts.append(Checkout({"rpi": "rpi-1"}))
            stack.callback(checkouts[-1].close)
        for playbook in ("deploy", "run_round"):
            for playing in [checkout.begin(playbook) for checkout in checkouts]:
                played = playing.end()
                assert played.status == 0, played.text
        assert [checkout.rounds("local") for checkout in checkouts] == [[1], [1]]
        servers = [json.loads((checkout.home("server") / "server.json").read_text()) for checkout in checkouts]
        addresses = [server["address"] for server in servers]
        assert addresses == [f"127.0.0.1:{server_port(checkout.folder)}" for checkout in checkouts]
        assert len({*addresses}) == 2
