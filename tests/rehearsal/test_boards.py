"""A rehearsal's boards: what they show, and what preflight finds on them. Skipped by name where there is no engine."""

import json
import re
from collections.abc import Iterator

import pytest

from boards import Rehearsal, ansible, docker, play, rehearsal
from engine import needs_engine


@pytest.fixture(scope="module")
def boards() -> Iterator[Rehearsal]:
    """One board of each kind."""
    with rehearsal("test", "172.30.99.0/24", rpi=1, jetson_2gb=1, jetson_4gb=1) as ours:
        yield ours


def test_without_an_engine_it_says_how_to_get_one(tmp_path):
    done = play("playbooks/rehearsal", "-e", "state=present", DOCKER_HOST=f"unix://{tmp_path}/none.sock")
    assert done.returncode and "apt install docker.io" in " ".join(done.stdout.split())


def test_without_a_state_it_says_what_to_give():
    done = play("playbooks/rehearsal")
    assert done.returncode and "Say -e state=present" in done.stdout


@needs_engine
def test_a_second_call_changes_nothing(boards):
    done = boards.rehearse("-e", "state=present")
    assert done.returncode == 0 and not re.search(r"changed=[1-9]", done.stdout), done.stdout


@needs_engine
def test_a_subnet_that_is_taken_is_refused_before_anything_is_made(boards):
    other = Rehearsal("other", "172.30.99.128/25", {"rpi": 1, "jetson_2gb": 0, "jetson_4gb": 0}, boards.state)
    done = other.rehearse("-e", "state=present")
    said = " ".join(done.stdout.split())
    assert done.returncode and not other.state.exists()
    assert f"a network already where rehearsal_subnet is to be, 172.30.99.128/25: {boards.name}." in said, said
    assert f"remove it with -e state=absent -e rehearsal_name={boards.name}" in said, said


@needs_engine
def test_more_boards_than_this_machine_can_run_are_refused_before_anything_is_made(boards, tmp_path):
    (tmp_path / "limit").write_text("17\n")
    done = boards.rehearse("-e", "state=present", "-e", f"rehearsal_watches_file={tmp_path}/limit")
    said = " ".join(done.stdout.split())
    assert done.returncode
    assert "3 boards need about 18 inotify instances, and this machine lets a user have 17: let it have" in said, said


@needs_engine
def test_boards_are_reached_by_ssh_and_each_has_a_host_key_of_its_own(boards):
    done = ansible("ansible", "-i", str(boards.inventory), "devices", "-b", "-m", "ansible.builtin.ping")
    assert done.returncode == 0 and done.stdout.count("pong") == 3, done.stdout
    known = (boards.state / "known_hosts").read_text().splitlines()
    assert len(known) == len({line.split()[2] for line in known}) == 3


@needs_engine
def test_a_board_shows_what_the_real_one_shows(boards):
    assert "bookworm" in boards.root("rpi-1", ". /etc/os-release; echo $VERSION_CODENAME")
    assert "rootwait" in boards.root("rpi-1", "cat /boot/firmware/cmdline.txt")
    assert boards.root("rpi-1", "vcgencmd get_throttled") == "throttled=0x0"
    assert "R32 (release), REVISION: 7.1" in boards.root("jetson-4gb-1", "cat /etc/nv_tegra_release")
    boards.root("jetson-4gb-1", "nvpmodel -m 1 && jetson_clocks")
    assert "5W" in boards.root("jetson-4gb-1", "nvpmodel -q")
    assert boards.root("jetson-4gb-1", "tail -n 3 /var/lib/rehearsal/calls").splitlines() == [
        "nvpmodel -m 1", "jetson_clocks ", "nvpmodel -q"
    ]  # fmt: skip


@needs_engine
def test_a_board_has_its_own_engine_its_memory_and_its_bandwidth(boards):
    info = json.loads(boards.root("jetson-2gb-1", "docker info --format '{{json .}}'"))
    assert info["Driver"] == "overlay2" and info["Name"] == "jetson-2gb-1" and "nvidia" in info["Runtimes"]
    limits = {board: int(docker("inspect", "--format", "{{.HostConfig.Memory}}", f"{boards.name}-{board}")[0])
              for board in ("jetson-2gb-1", "jetson-4gb-1")}  # fmt: skip
    assert limits["jetson-4gb-1"] == 2 * limits["jetson-2gb-1"]
    assert "rate 50Mbit" in boards.root("rpi-1", "tc qdisc show dev eth0")


@needs_engine
def test_a_board_comes_back_from_a_reboot(boards):
    before = boards.root("rpi-1", "cat /etc/ssh/ssh_host_ed25519_key.pub")
    done = ansible("ansible", "-i", str(boards.inventory), "rpi-1", "-b", "-m", "ansible.builtin.reboot", "-a",
                   "reboot_timeout=90")  # fmt: skip
    assert done.returncode == 0, done.stdout
    boards.wait_booted("rpi-1")
    assert boards.root("rpi-1", "cat /etc/ssh/ssh_host_ed25519_key.pub") == before
    assert "rate 50Mbit" in boards.root("rpi-1", "tc qdisc show dev eth0")


@needs_engine
def test_preflight_finds_the_boards_well(boards):
    done = boards.play("playbooks/preflight")
    assert done.returncode == 0, done.stdout
    rows = {row.split()[0]: row for row in done.stdout.splitlines() if re.match(r" *(rpi|jetson)-\S+ +yes", row)}
    assert set(rows) == {"rpi-1", "jetson-2gb-1", "jetson-4gb-1"}
    assert "Pi 4 Model B" in rows["rpi-1"] and "bookworm" in rows["rpi-1"]
    assert "L4T 32.7.1" in rows["jetson-4gb-1"]


@needs_engine
def test_preflight_says_what_is_wrong_with_each_board(boards):
    known = boards.state / "known_hosts"
    lines = known.read_text().splitlines()
    addresses = [line.split()[0] for line in lines]  # rpi-1, jetson-2gb-1, jetson-4gb-1
    mixed = lines[0].replace(addresses[0], addresses[1])  # a key that is not its own
    boards.root("rpi-1", "mkdir -p /var/lib/rehearsal && echo 0x50005 > /var/lib/rehearsal/throttled")
    known.write_text(f"{lines[0]}\n{mixed}\n")  # and of the last one, none
    try:
        # No connection that is still open from before: it would ask for no key.
        done = boards.play("playbooks/preflight", ANSIBLE_SSH_ARGS="-o ControlMaster=no")
        words = " ".join(done.stdout.split())
        assert done.returncode != 0
        assert "rpi-1 has no Docker engine yet: deploy.yml installs it" in words
        assert "rpi-1 is slowed down, short of voltage" in words
        assert "jetson-2gb-1 shows another SSH host key than before" in words, done.stdout
        assert "jetson-4gb-1 has an SSH host key that this machine does not know" in words
    finally:
        known.write_text("\n".join([*lines, ""]))
        boards.root("rpi-1", "rm /var/lib/rehearsal/throttled")


@needs_engine
def test_preflight_names_a_board_without_sudo_another_jetpack_and_a_clock_a_year_off(boards):
    release = "/etc/nv_tegra_release"
    sudoers, aside = "/etc/sudoers.d/jetson", "/root/jetson"
    boards.root("jetson-4gb-1", f"sed -i.bak 's/R32/R35/' {release}")
    boards.root("jetson-2gb-1", f"mv {sudoers} {aside}")
    # What begins after this sees another time; sshd's sandbox does not let libfaketime in, so a connection is opened.
    ansible("ansible", "-i", str(boards.inventory), "rpi-1", "-m", "ansible.builtin.ping")
    fake = (
        "chmod 777 /dev/shm; echo -365d > /etc/faketimerc; ls /usr/lib/*/faketime/libfaketime.so.1 > /etc/ld.so.preload"
    )
    boards.root("rpi-1", fake)
    try:
        done = boards.play("playbooks/preflight")
        words = " ".join(done.stdout.split())
        assert done.returncode != 0
        assert "jetson-4gb-1 has L4T 35.7.1, but the" in words, done.stdout
        assert "jetson-2gb-1 does not let its user become root, which Docker needs" in words
        assert "rpi-1 has a clock that is 365 days behind: deploy.yml sets it" in words
    finally:
        boards.root("rpi-1", "rm /etc/ld.so.preload /etc/faketimerc")
        boards.root("jetson-2gb-1", f"mv {aside} {sudoers}")
        boards.root("jetson-4gb-1", f"mv {release}.bak {release}")
