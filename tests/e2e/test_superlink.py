"""Runs on Flower's deployment engine: parts are killed, strangers refused, and it gives what a stream gives."""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkout import AWKWARD, BIN, PATIENCE, TWO_GROUPS, Checkout, needs_superlink, server_port, until

pytestmark = [pytest.mark.e2e, pytest.mark.long, needs_superlink]
GROUPS, NAME = TWO_GROUPS, AWKWARD  # each device starts Flower's programs anew for every message


@pytest.fixture(scope="module")
def checkout(checkout: Checkout) -> Checkout:
    """A checkout of that link."""
    checkout.set_variables(fl_link="superlink")
    return checkout


def log(checkout: Checkout) -> str:
    """Return what the server has logged, and the guard before it."""
    return (checkout.home("server") / "logs/superlink.log").read_text()


def socket_addresses(pid: int) -> set[str]:
    """Return the TCP addresses (IPv4 and IPv6) on which a process listens. See proc(5)."""
    inodes = set()
    for link in Path(f"/proc/{pid}/fd").glob("*"):
        with contextlib.suppress(OSError):
            inodes.add(os.readlink(link))
    found = set()
    for table, family in (("tcp", socket.AF_INET), ("tcp6", socket.AF_INET6)):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
                digits, _, port = fields[1].partition(":")
                words = [bytes.fromhex(digits)[start : start + 4][::-1] for start in range(0, len(digits) // 2, 4)]
                found.add(f"{socket.inet_ntop(family, b''.join(words))}:{int(port, 16)}")
    return found


def supernode(checkout: Checkout, key: Path, authority: Path) -> str:
    """Start a SuperNode with a key, as somebody would who has Flower; return what it said before it gave up."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    said = checkout.outer / "supernode.log"
    with open(said, "wb") as log:  # not a pipe, which its SuperExec would hold open until it is told
        status = subprocess.call(
            [sys.executable, "-m", "flowerbed.link.superlink.key", key, BIN / "flower-supernode", f"--port={port}",
             f"--root-certificates={authority}", f"--superlink=127.0.0.1:{server_port(checkout.folder)}"],
            env={"PYTHONPATH": str(checkout.folder / "fl_app"), "FLWR_HOME": str(checkout.outer / "flwr"),
                 "FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1", "PATH": f"{BIN}:/usr/bin:/bin"},
            timeout=PATIENCE, stdout=log, stderr=log,
        )  # fmt: skip
    assert status != 0
    return said.read_text()


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

    # rpi-1 is let in again once Flower has noticed, which is when round 2 begins.
    until(lambda: "jetson-4gb-1" in checkout.busy(), "round 2")
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


def test_a_second_deployment_changes_nothing_and_only_the_server_s_port_is_seen_from_elsewhere(checkout):
    assert not any(checkout.play("deploy").changed.values())
    listening = {pid: socket_addresses(pid) for pid in checkout.processes()}
    addresses = {address for found in listening.values() for address in found}
    assert {address.rpartition(":")[0] for address in addresses} == {"127.0.0.1"}, listening


def test_a_stranger_s_key_and_one_of_a_device_that_left_are_refused_and_a_name_is_nobody_s_own(checkout):
    other = checkout.home("jetson-4gb-1") / "tls"
    kept = checkout.outer / "kept"
    shutil.copytree(other, kept)

    # rpi-1 says that it is another; its key says who it is.
    client = checkout.home("rpi-1") / "client.json"
    honest = client.read_text()
    client.write_text(honest.replace('"name": "rpi-1"', '"name": "jetson-4gb-1"'))
    words = checkout.run("liar").words
    assert "rpi-1 cannot train: it is rpi-1 by its key, but says that it is jetson-4gb-1: deploy again" in words
    assert checkout.events("liar", "round")[-1]["clients_answered"] == 1
    client.write_text(honest)

    # A stranger trusts the server, and made a key as all do.
    (checkout.outer / "stranger").mkdir()
    key = checkout.outer / "stranger/key.pem"
    made = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384", "-out", key]
    subprocess.run(made, check=True, capture_output=True)
    refused = "127.0.0.1 was refused: its key is no device's, or not yet: deploy.yml registers the keys of"
    before = log(checkout).count(refused)
    assert "Failed to activate SuperNode" in supernode(checkout, key, other / "authority.pem")
    assert 1 <= log(checkout).count(refused) <= before + 1  # once, but a guard that was started anew says it again

    # It leaves, and its card is put into another machine.
    checkout.set_hosts({"rpi": "rpi-1"})
    checkout.play("deploy")
    assert "Failed to activate SuperNode" in supernode(checkout, kept / "key.pem", kept / "authority.pem")
    assert "127.0.0.1 was refused: its key was jetson-4gb-1's, which was taken out of the inventory" in log(checkout)

    # It comes back with its key.
    checkout.set_hosts(GROUPS)
    checkout.play("deploy")
    checkout.check("back")


def test_both_links_give_the_same_model_bit_for_bit(checkout):
    checkout.run("on-superlink", 2)
    words = checkout.fail("run_round", experiment="on-stream", fl_link="stream")
    assert "fl_link on the command line is 'stream', but 'superlink' is deployed: run" in words
    checkout.play("deploy", fl_link="stream")
    checkout.run("on-stream", 2, fl_link="stream")
    stream, superlink = checkout.model("on-stream"), checkout.model("on-superlink")
    assert stream.keys() == superlink.keys()
    assert all(np.array_equal(stream[name], superlink[name]) for name in stream)
