"""Who is who, as deployments leave it: keys, certificates and what is recorded of them; and what else can be seen."""

import base64
import contextlib
import ipaddress
import json
import os
import shutil
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from checkout import TWO_GROUPS, Checkout, Playing, server_port
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

pytestmark = pytest.mark.e2e
GROUPS = TWO_GROUPS
RPI, JETSON = TWO_GROUPS.values()


def tls(checkout: Checkout, host: str) -> Path:
    return checkout.home(host) / "tls"


def certificate(checkout: Checkout, host: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((tls(checkout, host) / "certificate.pem").read_bytes())


def recorded(checkout: Checkout) -> dict[str, str]:
    return json.loads((tls(checkout, "server") / "devices.json").read_text())


def shown(checkout: Checkout) -> dict[str, str]:
    """Return by device the SHA-256 of the certificate that it has."""
    return {device: certificate(checkout, device).fingerprint(hashes.SHA256()).hex() for device in checkout.devices}


# -- Nothing secret is seen, of a first deployment and a run ----------------------------------------------------------


def keys(checkout: Checkout) -> list[Path]:
    """Return the files with keys, of all that was deployed."""
    deployed = (checkout.folder / ".flowerbed").rglob("*")
    return sorted(path for path in deployed if b" PRIVATE KEY-----" in content(path))


def content(path: Path) -> bytes:
    try:
        return path.read_bytes() if path.is_file() else b""
    except OSError:
        return b""


def secrets(key: Path) -> set[bytes]:
    """Return what a key looks like in a file, as bytes, in a text as numbers, and in a line of it."""
    text = key.read_bytes()
    private = serialization.load_pem_private_key(text, None)
    number = private.private_numbers().private_value
    lines = {line for line in text.splitlines() if not line.startswith(b"-----") and len(line) > 40}
    raw = number.to_bytes(48, "big")
    return {*lines, raw, raw.hex().encode(), str(number).encode(), base64.b64encode(raw)}


def watch(playing: Playing, seen: set[bytes]) -> None:
    """Collect what `ps` would show, command lines and environments, until a playbook ends."""
    while playing.process.poll() is None:
        for process in Path("/proc").glob("[0-9]*"):
            seen.update(content(process / name) for name in ("cmdline", "environ"))
        time.sleep(0.2)


@pytest.fixture(scope="module")
def seen(checkout) -> Iterator[set[bytes]]:
    """What a first deployment and a run said, at the highest verbosity, and what processes showed meanwhile."""
    seen: set[bytes] = set()
    for playbook in ("deploy", "run_round"):
        playing = checkout.begin(playbook, "-vvvvv", "--diff")
        watcher = threading.Thread(target=watch, args=(playing, seen))
        watcher.start()
        played = playing.end()
        watcher.join()
        assert played.status == 0, played.text
        seen.add(played.text.encode())
    return seen


def test_keys_are_seen_nowhere_but_in_their_files(checkout, seen):
    files = keys(checkout)
    expected = [tls(checkout, RPI) / "key.pem", tls(checkout, JETSON) / "key.pem", tls(checkout, "server") / "key.pem"]
    assert set(files) >= {*expected, tls(checkout, "server") / "authority.key"}
    assert {path.parent.name for path in files} == {"tls"}
    secret = {each for file in files for each in secrets(file)}
    places = [*checkout.folder.rglob("*"), *Path.home().glob(".ansible/**/*"), *Path.home().glob(".cache/**/facts*")]
    texts = [content(path) for path in places if path not in files] + list(seen)
    running = [Path("/proc", str(process), name) for process in checkout.processes() for name in ("cmdline", "environ")]
    texts += [content(path) for path in running]
    assert sum(map(len, texts)) > 1e6 and any(b"identity_key" in text for text in texts)  # it has looked
    assert [each for each in secret if any(each in text for text in texts)] == []


def test_only_their_owner_reads_keys(checkout, seen):
    for host in ("server", *checkout.devices):
        folder = tls(checkout, host)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()}
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert {name: mode for name, mode in modes.items() if name.endswith("key") or name == "key.pem"} == (
            {"key.pem": 0o600, "authority.key": 0o600} if host == "server" else {"key.pem": 0o600}
        )


def test_each_certificate_is_of_its_hosts_key_and_of_the_authority_and_recorded(checkout, seen):
    authority = x509.load_pem_x509_certificate((tls(checkout, "server") / "authority.pem").read_bytes())
    for host in ("server", *checkout.devices):
        found = certificate(checkout, host)
        found.verify_directly_issued_by(authority)
        key = serialization.load_pem_private_key((tls(checkout, host) / "key.pem").read_bytes(), None)
        assert found.public_key() == key.public_key()
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert sorted(str(name.value) for name in names) == (
            ["127.0.0.1", "::1", "localhost"] if host == "server" else [f"flowerbed:device/{host}"]
        )
        copy = tls(checkout, host) / "authority.pem"
        assert copy.read_bytes() == (tls(checkout, "server") / "authority.pem").read_bytes()
    assert recorded(checkout) == shown(checkout)


# -- Later deployments ------------------------------------------------------------------------------------------------


def test_what_is_lost_or_spoiled_is_made_again_and_nothing_else(checkout, seen):
    before, given = checkout.programs(), recorded(checkout)
    shutil.rmtree(tls(checkout, RPI))  # as on a card that was flashed anew
    server = tls(checkout, "server") / "certificate.pem"
    server.write_text(server.read_text()[:200])
    (checkout.inventory / "host_vars").mkdir()
    (checkout.inventory / "host_vars/server.yml").write_text("identity_days: 30\n")
    played = checkout.play("deploy", "--diff")
    assert {host for host, count in played.changed.items() if count} == {"server", RPI}
    after = checkout.programs()
    assert {key for key in before if after.get(key) != before[key]} == {(RPI, "client")}
    assert certificate(checkout, "server") and recorded(checkout) == shown(checkout)
    assert recorded(checkout)[RPI] != given[RPI] and recorded(checkout)[JETSON] == given[JETSON]
    assert not any(checkout.play("deploy").changed.values())


def test_a_deployment_to_some_keeps_what_is_recorded_of_others(checkout, seen):
    given = recorded(checkout)
    (tls(checkout, RPI) / "key.pem").chmod(0o644)
    checkout.play("deploy", "--limit", RPI)
    assert recorded(checkout)[RPI] != given[RPI] and recorded(checkout)[JETSON] == given[JETSON]


def listening(checkout: Checkout) -> list[tuple[str, int]]:
    """Return where programs of a checkout listen for connections by TCP."""
    sockets = set()
    for process in checkout.processes():
        for handle in Path("/proc", str(process), "fd").glob("*"):
            with contextlib.suppress(OSError):
                sockets.add(os.readlink(handle))
    found = []
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            fields = line.split()
            address, _, port = fields[1].partition(":")
            if fields[3] == "0A" and f"socket:[{fields[9]}]" in sockets:
                words = [bytes.fromhex(address[start : start + 8])[::-1] for start in range(0, len(address), 8)]
                found.append((str(ipaddress.ip_address(b"".join(words))), int(port, 16)))
    return found


def test_the_servers_certificate_and_its_socket_follow_its_address_and_nothing_else_listens(checkout, seen):
    port = server_port(checkout.folder)
    assert listening(checkout) == [("127.0.0.1", port)]
    checkout.set_variables(fl_server_host="127.0.0.2")
    checkout.play("deploy")  # which waits until the devices are connected
    names = certificate(checkout, "server").extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert "127.0.0.2" in {str(name.value) for name in names}
    assert listening(checkout) == [("127.0.0.2", port)]


def test_a_device_that_is_taken_out_of_the_inventory_is_struck_off(checkout, seen):
    checkout.set_hosts({"rpi": RPI})
    checkout.play("deploy")
    assert set(recorded(checkout)) == {RPI}
    checkout.set_hosts(GROUPS)
    checkout.play("deploy")
    assert recorded(checkout) == shown(checkout)


def test_a_device_that_is_reset_is_struck_off_and_keeps_nothing(checkout, seen):
    checkout.play("playbooks/reset", "--limit", JETSON, confirm=True)
    assert set(recorded(checkout)) == {RPI} and not checkout.home(JETSON).exists()


def test_a_reset_of_the_server_removes_the_authority(checkout, seen):
    checkout.play("playbooks/reset", confirm=True)
    assert not (checkout.folder / ".flowerbed").exists() and keys(checkout) == []
