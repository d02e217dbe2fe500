"""Why an address can't be listened on."""

import os
import socket
import subprocess
import sys

import pytest

import fleet
from flowerbed.server import ports


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_free_port_has_no_problem():
    assert ports.problem(f"127.0.0.1:{fleet.free_port()}") is None


def test_a_port_in_use_says_by_what(listener):
    sentence = ports.problem(f"127.0.0.1:{listener}")
    assert f"port {listener} is in use by process {os.getpid()} (" in sentence
    assert "fl_server_port" in sentence


def test_a_port_in_use_on_every_address_is_in_use_here(listener):
    assert "in use" in ports.problem(f"0.0.0.0:{listener}")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="this machine has no IPv6")
def test_a_port_in_use_over_ipv6_says_by_what():
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as server:
        port = server.getsockname()[1]
        assert f"process {os.getpid()}" in ports.problem(f"[::1]:{port}")


def test_another_process_is_named():
    code = (
        "import socket, sys; server = socket.create_server(('127.0.0.1', 0))\n"
        "print(server.getsockname()[1], flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        sentence = ports.problem(f"127.0.0.1:{other.stdout.readline().strip()}")
        other.stdin.close()
    assert f"process {other.pid} ({sys.executable}" in sentence


@pytest.mark.parametrize(
    ("address", "sentence"),
    [
        ("192.0.2.1:20001", "192.0.2.1 is not an address of this machine; set fl_listen"),
        ("no-such-host.invalid:20001", "no-such-host.invalid is not"),
        ("127.0.0.1", "host:port"), ("127.0.0.1:http", "host:port"), ("127.0.0.1:70000", "host:port"),
        ("127.0.0.1:-1", "host:port"), ("", "host:port"),
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_is_told_apart(address, sentence):
    assert sentence in ports.problem(address)
    assert "Unknown error" not in ports.problem(address)
