"""What can be wrong with a board and its Docker engine: a sentence each, and nothing of the owner's is harmed."""

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from boards import ROOT, Rehearsal, rehearsal
from engine import needs_engine

pytestmark = needs_engine
FRESH = {"ANSIBLE_SSH_ARGS": "-o ControlMaster=no"}  # no connection that is still open from before
PI, JETSON = "rpi-1", "jetson-4gb-1"
FILE = "/etc/docker/daemon.json"
OWNERS = '{"dns": ["192.0.2.1"], "log-opts": {"tag": "{{.Name}}"}}'


@pytest.fixture(scope="module")
def boards() -> Iterator[Rehearsal]:
    """A Raspberry Pi and a Jetson Nano."""
    with rehearsal("engine", "172.30.97.0/24", rpi=1, jetson_4gb=1) as ours:
        yield ours


def words(done: subprocess.CompletedProcess) -> str:
    """Return what a playbook said, on one line."""
    return " ".join(done.stdout.split())


def converge(boards: Rehearsal, *arguments: str, host: str = PI) -> subprocess.CompletedProcess:
    """Call the role for a board, as deploy.yml does."""
    return boards.play("tests/molecule/converge", *arguments, "--limit", f"localhost,{host}",
                       MOLECULE_PROJECT_DIRECTORY=str(ROOT / "roles/docker_engine"))  # fmt: skip


def fails(boards: Rehearsal, *arguments: str, host: str = PI) -> str:
    """Call the role, which must fail; return what it said."""
    done = converge(boards, *arguments, host=host)
    assert done.returncode != 0, done.stdout
    print(done.stdout)  # shown where an assertion fails
    return words(done)


def changed(done: subprocess.CompletedProcess, board: str = PI) -> int:
    """Return how many tasks changed something on a board."""
    assert done.returncode == 0, done.stdout + done.stderr
    return int(re.search(rf"(?m)^{board}\s+: ok=\d+\s+changed=(\d+)", done.stdout)[1])


# -- A board without an engine ----------------------------------------------------------------------------------------


def test_a_jetson_without_an_engine_is_left_as_it_is(boards):
    boards.root(JETSON, "systemctl stop docker.socket docker; mv /usr/sbin/dockerd /usr/sbin/away; rm /run/docker.sock")
    try:
        packages = boards.root(JETSON, "dpkg --list")
        assert "jetson-4gb-1 has no Docker engine: on a Jetson Docker comes with JetPack" in fails(boards, host=JETSON)
        assert boards.root(JETSON, "dpkg --list") == packages
    finally:
        boards.root(JETSON, "mv /usr/sbin/away /usr/sbin/dockerd; systemctl start docker.socket docker")


def test_a_pi_without_room_gets_no_engine_and_one_that_is_locked_says_by_whom(boards):
    boards.root(PI, "! test -e /usr/sbin/dockerd || apt-get purge -q -y docker.io")
    boards.root(PI, "mount -t tmpfs -o size=50m tmpfs /var/lib/docker")
    try:
        assert "rpi-1 has 52 MB of disk left, and Docker needs 1000 MB" in fails(boards)
        done = boards.play("playbooks/preflight")
        assert done.returncode and "rpi-1 has 0.1 GB of disk left, and needs 6 GB" in words(done)
    finally:
        boards.root(PI, "umount /var/lib/docker")
    lock = "import fcntl, time; f = open('/var/lib/dpkg/lock-frontend', 'w'); fcntl.lockf(f, 2); time.sleep(600)"
    boards.root(PI, f'systemd-run --unit holder /usr/bin/python3 -c "{lock}"')
    try:
        said = fails(boards, "-e", "docker_engine_apt_timeout=10")
        pid = boards.root(PI, "systemctl show --property MainPID --value holder")
        assert "rpi-1 could not install docker.io and python3-requests: apt was still locked after 10 s by " in said
        assert re.search(rf"by python3? +{pid}\. Wait until that has ended", said), said
        assert boards.root(PI, "ls /usr/sbin/dockerd 2>&1 || true").endswith("No such file or directory")
    finally:
        boards.root(PI, "systemctl stop holder")


def test_a_pi_without_an_engine_gets_debians(boards):
    boards.root(PI, f"mkdir -p /etc/docker; echo '{OWNERS}' > {FILE}")
    assert changed(converge(boards))
    assert json.loads(boards.root(PI, f"cat {FILE}")) == {
        "dns": ["192.0.2.1"], "log-opts": {"tag": "{{.Name}}", "max-size": "10m", "max-file": "3"},
        "log-driver": "json-file",
    }  # fmt: skip
    assert boards.root(PI, "systemctl is-active docker; systemctl is-enabled docker") == "active\nenabled"
    assert changed(converge(boards)) == 0


# -- Its configuration ------------------------------------------------------------------------------------------------


def test_a_file_that_is_no_json_is_left_alone_and_named(boards):
    before = boards.root(PI, f"cat {FILE}")
    broken = '{"debug": true,\n "dns": ["192.0.2.1",]}'
    boards.root(PI, f"echo '{broken}' > {FILE}")
    try:
        sentence = f"rpi-1 has a {FILE} that is not JSON (line 2: "
        assert sentence in fails(boards)
        done = boards.play("playbooks/preflight")
        assert done.returncode and sentence in words(done)
        assert boards.root(PI, f"cat {FILE}") == broken
    finally:
        boards.root(PI, f"echo '{before}' > {FILE}")


def test_an_engine_that_does_not_start_says_why_and_has_its_file_as_it_was(boards):
    before = boards.root(PI, f"cat {FILE}")
    broken = '{"no-such-option": true}'
    boards.root(PI, f"echo '{broken}' > {FILE}; systemctl stop docker.socket docker")
    try:
        said = fails(boards)
        assert f"rpi-1 has a Docker engine that does not start ({FILE} is as it was): " in said
        assert "no-such-option" in said
        assert boards.root(PI, f"cat {FILE}") == broken
    finally:
        boards.root(
            PI, f"echo '{before}' > {FILE}; systemctl reset-failed docker docker.socket; systemctl start docker"
        )


def test_what_the_engine_cannot_start_with_is_taken_out_again(boards):
    """A runtime that is the owner's to give as an option, of which only a running engine can tell."""
    before = boards.root(JETSON, f"cat {FILE}")
    boards.root(
        JETSON,
        "echo DOCKER_OPTS=--default-runtime=runc > /etc/default/docker; systemctl stop docker.socket docker",
    )
    try:
        said = fails(boards, host=JETSON)
        assert f"jetson-4gb-1 has a Docker engine that does not start ({FILE} is as it was): " in said
        assert "specified both as a flag and in the configuration file" in said and "default-runtime" in said
        assert boards.root(JETSON, f"cat {FILE}") == before
        boards.root(JETSON, "systemctl reset-failed docker docker.socket; systemctl start docker")
        done = converge(boards, host=JETSON)
        assert changed(
            done, JETSON
        ) and "starts Docker with --default-runtime, so default-runtime was not set" in words(done)
        assert "default-runtime" not in boards.root(JETSON, f"cat {FILE}")
        assert changed(converge(boards, host=JETSON), JETSON) == 0
    finally:
        boards.root(
            JETSON,
            "rm /etc/default/docker; systemctl reset-failed docker docker.socket; systemctl restart docker",
        )


def test_the_owners_container_is_not_stopped_for_a_restart(boards):
    boards.root(PI, "tar -C /etc -c hostname | docker import - empty && docker run --detach --name owners"
         " --volume /usr:/usr --volume /usr/lib:/lib --volume /usr/lib64:/lib64 empty /usr/bin/sleep 600")  # fmt: skip
    started = boards.root(PI, "docker inspect --format '{{.State.StartedAt}}' owners")
    try:
        more = ("-e", "docker_engine_log_max_file=5", "-e", "docker_engine_mirror=http://192.0.2.1:5000")
        done = converge(boards, *more)
        assert changed(done) and "rpi-1 runs containers that a restart of Docker would stop" in words(done)
        assert (
            boards.root(PI, "docker inspect --format '{{.State.StartedAt}}{{.State.Status}}' owners")
            == f"{started}running"
        )
        assert "http://192.0.2.1:5000" in boards.root(PI, "docker info --format '{{.RegistryConfig.Mirrors}}'")
        assert changed(converge(boards, *more)) == 0
    finally:
        boards.root(PI, "docker rm --force owners && docker rmi empty")


# -- Logins -----------------------------------------------------------------------------------------------------------


def preflight(boards: Rehearsal, *arguments: str) -> str:
    """Call preflight, which must fail; return what it said."""
    done = boards.play("playbooks/preflight", *arguments, **FRESH)
    assert done.returncode != 0, done.stdout
    return words(done)


def test_a_wrong_key_and_no_sudo(boards):
    # Nor may a connection go on that was let in before.
    boards.root(JETSON, "mv /home/jetson/.ssh/authorized_keys /root; pkill -u jetson sshd || true")
    boards.root(PI, "mv /etc/sudoers.d/pi /root")
    try:
        said = preflight(boards)
        refused = "jetson-4gb-1 refuses the login of jetson: copy your key there with ssh-copy-id .*jetson@172"
        assert re.search(refused, said), said
        assert "rpi-1 does not let its user become root, which Docker needs" in said
    finally:
        boards.root(JETSON, "mv /root/authorized_keys /home/jetson/.ssh")
        boards.root(PI, "mv /root/pi /etc/sudoers.d")


def test_a_wrong_password_for_sudo(boards):
    boards.root(
        PI, "echo pi:right | chpasswd; mv /etc/sudoers.d/pi /root; echo 'pi ALL=(ALL) ALL' > /etc/sudoers.d/ask"
    )
    try:
        said = preflight(boards, "--limit", f"localhost,{PI}", "-e", "ansible_become_password=wrong")
        assert "rpi-1 refuses the password for sudo: give the right one with -K (--ask-become-pass)" in said
        done = boards.play("playbooks/preflight", "--limit", f"localhost,{PI}", "-e", "ansible_become_password=right")
        assert done.returncode == 0, done.stdout
    finally:
        boards.root(PI, "rm /etc/sudoers.d/ask; mv /root/pi /etc/sudoers.d")


def test_a_changed_host_key_stops_deploy_before_anything_is_done(boards):
    known = boards.state / "known_hosts"
    lines = known.read_text().splitlines()
    first, second = (line.split(" ", 1) for line in lines)
    known.write_text(f"{first[0]} {second[1]}\n{second[0]} {first[1]}\n")  # the key of the other one
    boards.root(PI, "rm -rf /opt/flowerbed")
    try:
        done = boards.play("deploy", **FRESH)
        assert done.returncode != 0 and "rpi-1 shows another SSH host key than before" in words(done), done.stdout
        assert boards.root(PI, "ls -d /opt/flowerbed 2> /dev/null || echo none") == "none"
    finally:
        known.write_text("\n".join([*lines, ""]))


def test_host_keys_are_looked_at_everywhere():
    found = subprocess.run(
        ["git", "grep", "-il", "-e", "host_key_checking *= *\\(no\\|false\\)", "-e", "StrictHostKeyChecking[ =]*no",
         "-e", "UserKnownHostsFile[ =]*/dev/null"], cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert found.returncode in (0, 1) and set(found.stdout.split()) <= {str(Path(__file__).relative_to(ROOT))}
