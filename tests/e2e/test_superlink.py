"""Runs on Flower's deployment engine: parts of it are killed, it is interrupted, and it gives what a stream gives."""

import os
import socket

import numpy as np
import pytest
from checkout import AWKWARD, TWO_GROUPS, Checkout, needs_superlink, until

pytestmark = [pytest.mark.e2e, pytest.mark.long, needs_superlink]
GROUPS, NAME = TWO_GROUPS, AWKWARD  # each device starts Flower's programs anew for every message


@pytest.fixture(scope="module")
def checkout(checkout: Checkout) -> Checkout:
    """A checkout of that link."""
    checkout.set_variables(fl_link="superlink")
    return checkout


def test_a_port_in_use_is_told_with_the_process_that_has_it(checkout):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = checkout.fail("deploy", "--limit", "localhost,server", fl_server_port=port)
    assert f"port {port} is in use by process {os.getpid()} (" in words and "run deploy.yml again" in words
    checkout.play("deploy")


@pytest.mark.long  # Flower notices after a minute what was killed
def test_a_supernode_killed_then_the_superlink_then_ctrl_c_and_no_finished_round_is_lost(checkout):
    hold = checkout.folder / "hold"
    hold.touch()
    running = checkout.begin("run_round", experiment="killed", rounds=2, fl_config={"hold": str(hold)})
    checkout.wait_for_training(running)
    checkout.kill("rpi-1", "client")
    hold.unlink()
    until(lambda: not checkout.busy(), "round 1 to be trained")
    hold.touch()
    until(lambda: checkout.rounds("killed") == [1], "round 1 without rpi-1")

    checkout.wait_for_training(running)
    checkout.kill("server", "server")
    played = running.end()
    assert played.status != 0 and "did not finish the run" in played.words and "run again to go on" in played.words
    until(lambda: not checkout.busy(), "the devices to stop")  # Flower gives up the lost run after a minute
    assert checkout.rounds("killed") == [1]

    running = checkout.begin("run_round", experiment="killed", fl_config={"hold": str(hold)})
    checkout.wait_for_training(running)
    running.press_ctrl_c()
    until(lambda: not checkout.busy(), "the devices to stop")
    running.end()
    assert checkout.rounds("killed") == [1]

    checkout.run("killed", 1)
    assert checkout.rounds("killed") == [1, 2]
    assert [event["clients_answered"] for event in checkout.events("killed", "round")] == [1, 2]
    assert {problem["device"] for problem in checkout.events("killed", "problem")} == {"rpi-1"}


def test_both_links_give_the_same_model_bit_for_bit(checkout):
    checkout.run("on-superlink", 2)
    words = checkout.fail("run_round", experiment="on-stream", fl_link="stream")
    assert "fl_link on the command line is 'stream', but 'superlink' is deployed: run" in words
    checkout.play("deploy", fl_link="stream")
    checkout.run("on-stream", 2, fl_link="stream")
    stream, superlink = checkout.model("on-stream"), checkout.model("on-superlink")
    assert stream.keys() == superlink.keys()
    assert all(np.array_equal(stream[name], superlink[name]) for name in stream)
