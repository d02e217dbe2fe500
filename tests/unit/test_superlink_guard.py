"""A SuperLink behind its guard: who is let in by which key, and what is said of those who are not."""

import base64
import contextlib
import datetime
import hashlib
import http.client
import json
import os
import shutil
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import needs_superlink

import fleet
from authority import Authority
from flowerbed import flower_private
from flowerbed.link.superlink import guard, submit

pytestmark = needs_superlink
LIST_RUNS, GET_RUN = "/v1/control/list-runs", "/v1/fleet/get-run"
MEDIA = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}
ELSEWHERE = "127.0.0.2"  # calls from here come from another address than the server's


class SuperLink:
    """A SuperLink as a deployment starts it, the identities of two devices, d0 and d1, and of a stranger."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.authority = folder, Authority(folder / "tls")
        self.authority.server()
        for name in ("d0", "d1"):
            self.authority.device(folder / name, name)
        self.authority.device(folder / "stranger", "stranger", recorded=False)
        port = fleet.free_port()
        self.address = f"127.0.0.1:{port}"
        (folder / "flwr").mkdir()
        (folder / "flwr/config.toml").write_text(
            f'[superlink.flowerbed]\naddress = "{self.address}"\nroot-certificates = "{folder}/tls/authority.pem"\n'
        )
        self.database = folder / "superlink.db"
        self.module("database", self.database)
        with open(folder / "superlink.log", "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "flowerbed.link.superlink.guard",
                 f"--ssl-ca-certfile={folder}/tls/authority.pem", f"--ssl-certfile={folder}/tls/certificate.pem",
                 f"--ssl-keyfile={folder}/tls/key.pem", "--enable-supernode-auth", "--host=0.0.0.0", f"--port={port}",
                 f"--database={self.database}", "--disable-runtime-dependency-installation"],
                env=self.environment(), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.deploy()

    def environment(self) -> dict[str, str]:
        """Return the surroundings of Flower's programs."""
        path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        quiet = {"FLWR_TELEMETRY_ENABLED": "0", "FLWR_DISABLE_UPDATE_CHECK": "1"}
        return {**fleet.ENVIRONMENT, **quiet, "FLWR_HOME": str(self.folder / "flwr"), "PATH": path}

    def module(self, name: str, *arguments: object, given: str = "") -> str:
        """Run a program of the link's to its end; return what it said."""
        command = [sys.executable, "-m", f"flowerbed.link.superlink.{name}", *map(str, arguments)]
        done = subprocess.run(command, env=self.environment(), input=given, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def deploy(self, *without: str) -> tuple[list[str], list[str]]:
        """Have the devices' keys registered, of those that are not left out; return who was, and who no longer is."""
        certificates = {
            name: (self.folder / name / "certificate.pem").read_text()
            for name in ("d0", "d1", "stranger") if name not in without
        }  # fmt: skip
        said = json.loads(self.module("nodes", self.folder, self.address, given=json.dumps(certificates)))
        return said["registered"], said["unregistered"]

    def record(self, *names: str) -> None:
        """Record these devices' certificates, and no others."""
        pems = {name: (self.folder / name / "certificate.pem").read_text() for name in names}
        recorded = {name: hashlib.sha256(ssl.PEM_cert_to_DER_cert(pem)).hexdigest() for name, pem in pems.items()}
        (self.folder / "tls/devices.json").write_text(json.dumps(recorded))

    def registered(self) -> list[str]:
        """Return the names of those whose keys are registered."""
        return sorted(node.name for node in flower_private.nodes(self.database) if node.registered)

    def call(self, path: str, headers: dict[str, str] | None = None, body: bytes = b"", source: str = "") -> int:
        """Call the SuperLink; return the status of its answer."""
        context = ssl.create_default_context(cafile=str(self.folder / "tls/authority.pem"))
        there = http.client.HTTPSConnection(
            self.address, timeout=30, context=context, source_address=(source, 0) if source else None
        )
        there.request("POST", path, body, MEDIA | (headers or {}))
        status = there.getresponse().status
        there.close()
        return status

    def ask(self, name: str, node: int = 7) -> int:
        """Ask for a run with a device's key."""
        headers = flower_private.signed((self.folder / name / "key.pem").read_bytes())
        return self.call(GET_RUN, headers, flower_private.ask_for_run(1, node))

    def said(self, words: str) -> int:
        """Return how often the log has these words."""
        return (self.folder / "superlink.log").read_text().count(words)

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()


@pytest.fixture(scope="module")
def superlink(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SuperLink]:
    started = SuperLink(tmp_path_factory.mktemp("superlink"))
    yield started
    started.close()


def test_keys_are_registered_once_under_the_names_on_record_and_the_others_taken_back(superlink):
    assert superlink.registered() == ["d0", "d1"], "and not the stranger"
    assert superlink.deploy() == superlink.deploy("d1") == ([], [])

    superlink.record("d0")
    assert superlink.deploy() == ([], ["d1"]) and superlink.registered() == ["d0"]
    superlink.record("d0", "d1")
    assert superlink.deploy() == (["d1"], []), "with the same key as before"
    assert superlink.deploy() == ([], []) and superlink.registered() == ["d0", "d1"]

    superlink.authority.device(superlink.folder / "d1", "d1")  # on a fresh card
    assert superlink.deploy() == (["d1"], ["d1"]) and superlink.registered() == ["d0", "d1"]

    shutil.copytree(superlink.folder / "d0", superlink.folder / "d9")
    superlink.record("d1", "d9")  # d0 has another name now
    given = {"d9": (superlink.folder / "d9/certificate.pem").read_text()}
    said = json.loads(superlink.module("nodes", superlink.folder, superlink.address, given=json.dumps(given)))
    assert said == {"registered": ["d9"], "unregistered": ["d0"]}
    superlink.record("d0", "d1")
    assert superlink.deploy() == (["d0"], ["d9"])


def test_only_a_registered_key_is_let_in_and_others_are_named_once(superlink):
    [node] = [node.id for node in flower_private.nodes(superlink.database) if node.name == "d0" and node.registered]
    assert superlink.ask("d0", node) not in (200, 401), "there is no such run"
    refused = "127.0.0.1 was refused: "
    assert superlink.call(GET_RUN, body=flower_private.ask_for_run(1, node)) == 401
    assert superlink.said(f"{refused}it showed no key") == 1
    assert superlink.ask("stranger") == superlink.ask("stranger") == 401
    assert superlink.said(f"{refused}its key is no device's, or not yet: deploy.yml registers the keys of") == 1
    assert superlink.ask("d1", node) == 401
    assert superlink.said(f"{refused}it showed d1's key, but has not signed with it, or speaks for another device") == 1
    superlink.record("d0")
    superlink.deploy()
    assert superlink.ask("d1") == 401
    assert superlink.said(f"{refused}its key was d1's, which was taken out of the inventory, was reset, or has") == 1
    assert superlink.said("was refused") == 4


def test_a_superlink_at_rest_is_told_when_it_starts(superlink):
    superlink.record("d0", "d1")
    superlink.deploy()
    superlink.record("d0")
    guard.take_back(superlink.database, superlink.folder / "tls")
    assert superlink.registered() == ["d0"]
    superlink.record("d0", "d1")
    assert superlink.deploy() == (["d1"], [])


def test_a_clock_that_is_wrong_is_said(superlink):
    headers = flower_private.signed((superlink.folder / "d0/key.pem").read_bytes())
    for hours, words in ((-3, "3 hours behind"), (3, "3 hours ahead")):
        then = datetime.datetime.now(datetime.UTC) + datetime.timedelta(hours=hours)
        late = headers | {flower_private.TIME_HEADER: then.isoformat()}
        assert guard.why(superlink.database, late, "get-run") == f"the clock of d0 is {words}: set it right"
    now = guard.why(superlink.database, headers, "activate-node")
    assert now.startswith("d0 counts as connected, for up to a minute after it was killed")


@pytest.mark.parametrize("time", ["", "soon", "2026-01-01T00:00:00"])
def test_headers_that_make_no_sense_are_no_key(time):
    headers = {flower_private.KEY_HEADER: base64.b64encode(b"key").decode(), flower_private.TIME_HEADER: time}
    assert flower_private.shown(headers) is None


def test_this_machine_is_known_by_any_of_its_addresses():
    # Without a network there is none but loopback's.
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))
        assert guard.is_of_this_machine(probe.getsockname()[0])
    for address in ("203.0.113.7", "2001:db8::7", "127.0.0.2", "::1", "what", ""):
        assert not guard.is_of_this_machine(address), address


def test_what_is_not_for_devices_is_for_this_machine_only(superlink):
    assert superlink.call(LIST_RUNS) == 200
    for path in (LIST_RUNS, "/v1/runtime/get-nodes", "/docs", "/v1/fleet", f"/v1/fleet/../..{LIST_RUNS}"):
        assert superlink.call(path, source=ELSEWHERE) in (403, 404), path
    assert superlink.call(LIST_RUNS, {"X-Forwarded-For": "127.0.0.1"}, source=ELSEWHERE) == 403
    assert superlink.said(f"{ELSEWHERE} was refused: it asked for {LIST_RUNS}, which only this machine may") == 1
    headers = flower_private.signed((superlink.folder / "d0/key.pem").read_bytes())
    assert superlink.call(GET_RUN, headers, flower_private.ask_for_run(1, 1), ELSEWHERE) == 401


def test_without_tls_or_with_an_old_one_nobody_is_heard(superlink):
    host, _, port = superlink.address.partition(":")
    with socket.create_connection((host, int(port)), timeout=30) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert b"HTTP" not in plain.recv(100)
    old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    with socket.create_connection((host, int(port)), timeout=30) as plain, pytest.raises(ssl.SSLError):
        old.wrap_socket(plain)


def test_only_a_server_of_the_authority_is_taken_for_one(superlink, tmp_path):
    other = Authority(tmp_path / "other")
    other.server()
    assert submit.answers(superlink.address, superlink.folder / "tls/authority.pem")
    assert not submit.answers(superlink.address, tmp_path / "other/authority.pem")
    assert not submit.answers(superlink.address, tmp_path / "none.pem")


def test_a_new_certificate_is_taken_up_as_it_runs(superlink):
    def shown() -> str:
        host, _, port = superlink.address.partition(":")
        return ssl.get_server_certificate((host, int(port)), ca_certs=str(superlink.folder / "tls/authority.pem"))

    before = shown()
    superlink.authority.server("flowerbed.example")
    fleet.wait_until(lambda: shown() != before, 30, "the new certificate", every=0.5)
    assert superlink.process.poll() is None and superlink.call(LIST_RUNS) == 200


def test_a_supernode_gets_the_device_s_key_in_its_own_form_and_nothing_is_written(superlink):
    read = "import sys; print(open(sys.argv[1].partition('=')[2]).read(), sys.argv[1])"
    key = superlink.folder / "d0/key.pem"
    form = superlink.module("key", key, sys.executable, "-c", read)
    assert form.startswith("-----BEGIN OPENSSH PRIVATE KEY-----") and "--auth-supernode-private-key=/dev/fd/" in form
    command = [sys.executable, "-m", "flowerbed.link.superlink.key", superlink.folder / "none.pem", "true"]
    done = subprocess.run(command, env=superlink.environment(), capture_output=True, text=True)
    assert done.returncode == 1 and "none.pem cannot be used as the device's key" in done.stderr


def test_a_node_of_a_copied_key_is_refused_while_the_first_is_there(superlink):
    """By two SuperNodes, one of which has what the other has."""
    superlink.record("d0", "d1")
    superlink.deploy()
    nodes = [Node(superlink, "d0") for _ in range(2)]
    try:
        words = "was refused: d0 counts as connected, for up to a minute after it was killed, or another has a copy"
        fleet.wait_until(lambda: superlink.said(words), 300, "the second to be refused")
        fleet.wait_until(lambda: any(node.process.poll() is not None for node in nodes), 300, "it to end")
        assert sum(node.process.poll() is None for node in nodes) == 1
    finally:
        for node in nodes:
            node.close()


class Node:
    """A SuperNode as a deployment starts it."""

    def __init__(self, superlink: SuperLink, name: str) -> None:
        folder = superlink.folder / name
        self.log = folder / f"supernode-{time.monotonic_ns()}.log"
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "flowerbed.link.superlink.key",
                 str(folder / "key.pem"), str(Path(sys.executable).with_name("flower-supernode")),
                 f"--root-certificates={folder}/authority.pem", f"--superlink={superlink.address}",
                 f"--port={fleet.free_port()}"],
                env=superlink.environment(), stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def close(self) -> None:
        """End it."""
        self.process.terminate()
        self.process.wait()
