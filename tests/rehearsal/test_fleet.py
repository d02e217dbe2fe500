"""The life of a fleet of boards in the docker runtime, one of each kind: what its user calls, and what goes wrong."""

import base64
import hashlib
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from boards import ROOT, Rehearsal, ansible, docker, rehearsal
from engine import needs_engine
from fleet import PATIENCE, wait_until
from flowerbed import tensors
from packages import wheel

pytestmark = needs_engine
PASSWORD = "a b'c $"  # for sudo
BOARDS = ["rpi-1", "jetson-2gb-1", "jetson-4gb-1"]
CONTAINER = {"rpi-1": "rpi-container", "jetson-2gb-1": "jetson-container", "jetson-4gb-1": "jetson-container"}


class Lab:
    """Boards, and the experiments done on them."""

    def __init__(self, boards: Rehearsal, runs: Path) -> None:
        self.boards, self.runs = boards, runs
        self.password = runs / "password.yml"
        self.password.touch(mode=0o600)
        self.password.write_text(yaml.safe_dump({"ansible_become_password": PASSWORD}))

    def play(self, book: str, *arguments: str, **extra: Any) -> tuple[str, dict[str, int]]:
        """Run a playbook that must succeed; return its output on one line, and how much it changed by host."""
        done = self._play(book, *arguments, **extra)
        assert done.returncode == 0, done.stdout + done.stderr
        changed = re.findall(r"(?m)^(\S+)\s+: ok=\d+\s+changed=(\d+)", done.stdout)
        return " ".join(done.stdout.split()), {host: int(count) for host, count in changed}

    def fail(self, book: str, *arguments: str, **extra: Any) -> str:
        """Run a playbook that must not succeed; return its output on one line."""
        done = self._play(book, *arguments, **extra)
        assert done.returncode != 0, done.stdout
        return " ".join(done.stdout.replace("''", "'").split())  # YAML doubles them in some sentences

    def _play(self, book: str, *arguments: str, **extra: Any) -> subprocess.CompletedProcess:
        secret = () if extra.pop("no_password", False) else ("-e", f"@{self.password}")
        done = self.boards.play(book, *arguments, *secret, "-e", json.dumps({"fl_runs": str(self.runs), **extra}))
        assert PASSWORD not in done.stdout + done.stderr
        return done

    def events(self, experiment: str, kind: str) -> list[dict[str, Any]]:
        """Return an experiment's events of a kind."""
        file = self.runs / experiment / "metrics.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [event for event in map(json.loads, lines) if event["event"] == kind]

    def inspect(self, board: str, container: str) -> dict[str, Any]:
        """Return what the board's engine says of a container."""
        return json.loads(self.boards.root(board, f"docker inspect {container}"))[0]

    def trainer(self, board: str) -> dict[str, Any]:
        """Return what a board's trainer says of itself, {} while it does not answer."""
        question = "docker exec flowerbed-client python3 -m flowerbed.status trainer.json"
        done = subprocess.run(
            ["docker", "exec", f"{self.boards.name}-{board}", "sh", "-c", question], capture_output=True, text=True
        )
        return json.loads(done.stdout) if done.returncode == 0 else {}

    def set_variables(self, host: str, **values: Any) -> None:
        """Give a host variables in the inventory's host_vars; none to take them back."""
        file = self.boards.inventory / "host_vars" / f"{host}.yml"
        file.parent.mkdir(exist_ok=True)
        file.write_text(yaml.safe_dump(values))


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[Lab]:
    """One board of each kind, with a password for sudo, the Jetsons behind a jump host; nothing is deployed yet."""
    like = tmp_path_factory.mktemp("like")
    shutil.copytree(ROOT / "inventory/lab", like, dirs_exist_ok=True)
    with (like / "group_vars/jetson.yml").open("a") as file:
        file.write("ansible_port: 2222\nansible_ssh_common_args: -J me@192.0.2.1:2200\n")
    secret = {"rehearsal_like": str(like), "rehearsal_sudo_password": PASSWORD}
    with rehearsal("fleet", "172.30.98.0/24", secret, rpi=1, jetson_2gb=1, jetson_4gb=1) as boards:
        yield Lab(boards, tmp_path_factory.mktemp("runs"))


def test_the_jetsons_are_reached_through_a_jump_host_at_another_port(lab):
    question = ("-m", "ansible.builtin.command", "-a", "printenv SSH_CONNECTION")
    done = ansible("ansible", "-i", str(lab.boards.inventory), "devices", *question)
    assert done.returncode == 0, done.stdout
    found = {
        lines.split()[0]: lines.splitlines()[1].split() for lines in re.split(r"(?m)^(?=\S+ \|)", done.stdout) if lines
    }
    assert {board: (words[0], words[3]) for board, words in found.items()} == {
        "rpi-1": ("172.30.98.1", "22"), "jetson-2gb-1": ("172.30.98.3", "2222"), "jetson-4gb-1": ("172.30.98.3", "2222")
    }  # fmt: skip
    assert PASSWORD not in "".join(path.read_text() for path in lab.boards.inventory.rglob("*.yml"))


def test_host_keys_are_shown_and_recorded_only_if_they_are_accepted(lab):
    known = lab.boards.state / "known_hosts"
    original = known.read_text()
    lines = {line.split()[0]: line.split(" ", 1)[1] for line in original.splitlines()}
    jump = next(name for name in lines if name.endswith("]:2200"))
    jetsons = [name for name in lines if name.endswith("]:2222")]
    (pi,) = {*lines} - {jump, *jetsons}
    keys = {name: base64.b64decode(key.split()[1]) for name, key in lines.items()}
    prints = {name: "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode().rstrip("=")
              for name, key in keys.items()}  # fmt: skip
    try:
        known.write_text(f"{pi} {lines[jump]}\n")  # of the Pi another, and of all others none
        words = lab.fail("playbooks/trust", trust=[prints[jetsons[0]]])
        assert f"{pi} shows ANOTHER host key than before, ED25519 {prints[pi]}" in words
        assert f"the jump host {jump} shows the host key, ED25519 {prints[jump]}" in words
        assert known.read_text() == f"{pi} {lines[jump]}\n"
        lab.play("playbooks/trust", trust=[*prints.values()])  # the jump host's, then those behind it
        assert sorted(known.read_text().splitlines()) == sorted(original.splitlines())
        assert lab.play("playbooks/trust")[1]["rpi-1"] == 0
    finally:
        known.write_text(original)


def test_without_the_password_for_sudo_each_playbook_asks_for_it(lab):
    board = r"(rpi|jetson-\dgb)-1 "  # one for all: what they share is said once
    needs = "lets its user become root only with a password: give that password with -K (--ask-become-pass), or set"
    for book in ("playbooks/status", "playbooks/stop", "playbooks/reset"):
        words = lab.fail(book, no_password=True, confirm=True)
        assert re.search(board + re.escape(needs), words), words
        assert "unreachable=1" not in words and words.count("failed=1") == 3
        assert book != "playbooks/status" or re.search(r"jetson-4gb-1 +no sudo +– ", words), words
    for book in ("playbooks/preflight", "deploy"):
        words = lab.fail(book, no_password=True)
        assert re.search(board + "does not let its user become root.* -K .* set ansible_become_password", words), words
    words = lab.fail("playbooks/preflight", "-e", "ansible_become_password=other", no_password=True)
    assert re.search(board + "refuses the password for sudo: give the right one with -K", words), words


def test_preflight_finds_boards_behind_a_jump_host_well_and_shows_their_memory_and_disk(lab):
    words, _ = lab.play("playbooks/preflight")
    assert re.search(r"rpi-1 +yes +yes +Pi 4[^!~]* 12\.\d GB +2\.1\+0\.\d GB", words), words
    disks = {board: lab.boards.root(board, "df -B1 --output=size /var/lib/docker | tail -n 1") for board in BOARDS}
    assert all(11e9 < int(size) < 13e9 for size in disks.values()), disks


def test_a_check_on_fresh_boards_changes_nothing(lab):
    before = lab.boards.root("rpi-1", "ls -a /opt /etc/docker; cat /boot/firmware/cmdline.txt")
    words, _ = lab.play("deploy", "--check", "--diff")
    assert words.count("//172.30.98.1:5000") >= len(BOARDS), words  # our mirror, in each engine's configuration
    assert lab.boards.root("rpi-1", "ls -a /opt /etc/docker; cat /boot/firmware/cmdline.txt") == before
    assert not (ROOT / ".flowerbed" / lab.boards.name).exists()


def test_deploy_says_what_the_images_have(lab):
    words, changed = lab.play("deploy")
    assert all(changed[board] for board in BOARDS)
    assert "lhkhiem28/rpi:1.4 has Python 3." in words and "without CUDA" in words


def test_rounds_and_what_each_board_trains_with(lab):
    lab.play("run_round", rounds=2, experiment="life")
    rounds = lab.events("life", "round")
    assert [event["clients_answered"] for event in rounds] == [3, 3] and not lab.events("life", "problem")
    assert rounds[0]["accuracy"] < rounds[1]["accuracy"]
    image = {event["device"]: event["image"] for event in lab.events("life", "device")}
    assert image == {board: f"lhkhiem28/{'rpi:1.4' if board == 'rpi-1' else 'jetson:1.0'}" for board in BOARDS}
    for board, container in CONTAINER.items():  # 1 processor's time, or less
        assert lab.trainer(board)["threads"] == 1
        told = lab.boards.root(board, f"docker exec {container} grep MemTotal /proc/meminfo")
        assert told == lab.boards.root(board, "grep MemTotal /proc/meminfo") and int(told.split()[1]) < 2.1e6
    for event in lab.events("life", "device"):
        container = CONTAINER[event["device"]]
        probe = "import sys, torch; print(sys.version.split()[0], torch.__version__)"
        found = lab.boards.root(event["device"], f"docker exec {container} python3 -c '{probe}'").split()
        assert [event["python"], event["torch"]] == found


def test_status_shows_the_boards(lab):
    words, _ = lab.play("playbooks/status")
    assert len(re.findall(r"(?:rpi|jetson-\dgb)-1 +ready +running +yes", words)) == 3, words


def test_a_paused_board_is_left_out_and_comes_back(lab):
    docker("pause", f"{lab.boards.name}-rpi-1")
    try:
        words, _ = lab.play("run_round", experiment="paused", fl_round_timeout=15, fl_wait_clients=5)
    finally:
        docker("unpause", f"{lab.boards.name}-rpi-1")
    assert re.search(r"rpi-1 (gave no update: it did not answer within 15 s|is not connected)", words), words
    assert lab.events("paused", "round")[0]["clients_answered"] == 2
    lab.play("run_round", experiment="paused")
    assert lab.events("paused", "round")[1]["clients_answered"] == 3


def test_a_board_that_is_rebooted_in_a_round_is_left_out_and_comes_back(lab):
    board = "jetson-4gb-1"
    with ThreadPoolExecutor() as pool:
        running = pool.submit(lab.play, "run_round", experiment="rebooted", fl_local_epochs=25)
        wait_until(lambda: lab.trainer(board).get("busy"), PATIENCE, "the board to train", every=0.5)
        docker("restart", "--time=1", f"{lab.boards.name}-{board}")
        words, _ = running.result()
    assert re.search(
        f"{board} gave no update: (its connection ended.*|the trainer was stopped); it is left out of round 1", words
    )
    wait_until(lambda: lab.trainer(board).get("ready"), PATIENCE, "the board to be back", every=1)  # by itself
    lab.play("run_round", experiment="rebooted", fl_wait_clients=60)
    assert [event["clients_answered"] for event in lab.events("rebooted", "round")] == [2, 3]


def test_another_image_is_taken_by_the_board_that_has_it(lab):
    lab.boards.root(
        "rpi-1",
        "(echo FROM lhkhiem28/rpi:1.4; echo LABEL own=2) | docker build --quiet --tag own/rpi - && "
        "docker tag $(docker images --quiet flwr/supernode) own/no-torch:1",
    )
    lab.set_variables("rpi-1", trainer_image="own/no-torch:1")
    words = lab.fail("deploy")
    assert "rpi-1: the image own/no-torch:1 (trainer_image) cannot train: No module named 'torch': choose" in words
    assert lab.inspect("rpi-1", "rpi-container")["State"]["Running"]  # what ran before goes on
    lab.set_variables("rpi-1", trainer_image="docker.io/own/rpi")  # as Docker understands it, too
    words, changed = lab.play("deploy")
    assert "own/rpi has Python 3." in words and changed["rpi-1"] and not changed["jetson-4gb-1"]
    assert lab.inspect("rpi-1", "rpi-container")["Config"]["Image"] == "docker.io/own/rpi"


def test_what_a_task_requires_is_looked_for_in_the_image_and_can_be_built_into_one(lab, tmp_path):
    (tmp_path / "lenet.py").write_text((ROOT / "fl_app/task.py").read_text())
    (tmp_path / "task.py").write_text(
        "import flowerbed_example\nfrom .lenet import build_model, evaluate, load_data, train\n"
    )
    (tmp_path / "requirements.txt").write_text("flowerbed-example==3.0\n")
    wheel(tmp_path, "3.0")
    given = {"fl_task": str(tmp_path), "trainer_pip_args": ["--no-index", "--find-links", str(tmp_path)]}
    words = lab.fail("deploy", "--limit", "rpi-1", **given)
    assert (
        "The trainer of rpi-1 is not ready: the task needs flowerbed-example==3.0 (requirements.txt), which the image "
        "docker.io/own/rpi has not: build one with it, as docs/tasks.md shows, and set trainer_image."
    ) in words, words
    [shown] = re.findall(r"(?s)```dockerfile\n(.*?)```", (ROOT / "docs/tasks.md").read_text())
    assert len(shown.splitlines()) == 3
    lines = shown.replace("COPY requirements.txt .", "COPY requirements.txt *.whl ./")
    (tmp_path / "Dockerfile").write_text(lines.replace("install", "install --no-index --find-links ."))
    docker("cp", f"{tmp_path}/.", f"{lab.boards.name}-rpi-1:/root/image")
    lab.boards.root("rpi-1", "docker build --quiet --network none --tag own/with-example:1 /root/image")
    lab.set_variables("rpi-1", trainer_image="docker.io/own/with-example:1")
    lab.play("deploy", "--limit", "rpi-1", **given)
    assert lab.trainer("rpi-1")["ready"]


def test_a_board_that_leaves_the_inventory_is_stopped_and_the_experiment_goes_on(lab):
    hosts = lab.boards.inventory / "hosts.yml"
    original = hosts.read_text()
    tree = yaml.safe_load(original)
    del tree["all"]["children"]["devices"]["children"]["jetson"]["children"]["jetson_2gb"]["hosts"]["jetson-2gb-1"]
    hosts.write_text(yaml.safe_dump(tree))
    try:
        words, _ = lab.play("deploy")
        assert "jetson-2gb-1 is no longer in the inventory. It is stopped now." in words
        assert lab.boards.root("jetson-2gb-1", "docker ps --quiet") == ""
        # rpi-1 has the image of the test above, by its other name
        assert "has Python" not in words and "to pull" not in words
        words, _ = lab.play("run_round", experiment="paused")
        assert "the fleet is another than before: jetson-2gb-1 went" in words
        assert lab.events("paused", "round")[-1]["clients_asked"] == 2
    finally:
        hosts.write_text(original)


def test_a_board_in_two_inventories_is_said(lab):
    file = "/opt/flowerbed/rpi-1/client.json"
    lab.boards.root("rpi-1", f'sed -i \'s,"inventory": ",&/elsewhere,\' {file}')
    words, _ = lab.play("playbooks/preflight")
    assert "rpi-1 is in two inventories: /elsewhere" in words and words.count("in two inventories") == 1, words


def test_a_board_that_joins_takes_part_and_the_other_link_gives_the_same_model(lab):
    lab.play("deploy", fl_link="superlink")
    lab.play("run_round", rounds=2, experiment="on-superlink", fl_link="superlink")
    assert [event["clients_answered"] for event in lab.events("on-superlink", "round")] == [3, 3]
    models = [(lab.runs / name / "model/last.safetensors").read_bytes() for name in ("life", "on-superlink")]
    stream, superlink = map(tensors.unpack, models)
    assert all((stream[name] == superlink[name]).all() for name in stream)


def test_a_board_that_is_not_reached_is_stopped_when_it_next_is(lab):
    # With all connections: one that is still open would be used.
    lab.boards.root("rpi-1", "systemctl stop ssh.socket ssh.service; kill $(pidof sshd sshd-session) || true")
    words = lab.fail("playbooks/stop")
    assert words.count("rpi-1 does not answer at") == 1 and "UNREACHABLE" not in words, words
    lab.boards.root("rpi-1", "systemctl start ssh.service")
    assert lab.trainer("rpi-1").get("ready")
    words, _ = lab.play("playbooks/status")
    assert "rpi-1 was not reached when it was to be stopped. It is stopped now." in words
    assert len(re.findall(r"(?:rpi|jetson-\dgb)-1 +stopped +exited", words)) == 3, words


def test_stopped_boards_stay_stopped_after_a_reboot(lab):
    assert not any(lab.play("playbooks/stop")[1].values())
    docker("restart", f"{lab.boards.name}-rpi-1")
    running = "docker info --format '{{.ContainersRunning}}' || true"
    wait_until(lambda: lab.boards.root("rpi-1", running) == "0", PATIENCE, "the board's engine", every=1)


def test_reset_gives_the_boards_back_with_what_is_their_owners(lab):
    lab.boards.root("rpi-1", "touch /opt/flowerbed/rpi-1/notes.txt")
    words, _ = lab.play("playbooks/reset", confirm=True)
    assert "/opt/flowerbed/rpi-1 stays, for it holds what Flowerbed did not make (notes.txt)" in words, words
    assert lab.boards.root("rpi-1", "find /opt/flowerbed -type f; rm -r /opt/flowerbed").split() == [
        "/opt/flowerbed/rpi-1/notes.txt"
    ]  # fmt: skip
    for board in BOARDS:
        left = "docker ps --all --quiet; docker images --format '{{.Repository}}' | grep -v ^own/; ls /opt"
        assert "flowerbed" not in (found := lab.boards.root(board, f"{left}; true")) and "/" not in found, found
    assert not any(lab.play("playbooks/reset", confirm=True)[1].values())
    assert lab.events("life", "round")


def test_a_server_that_is_left_goes_with_the_rehearsal(lab):
    lab.play("deploy", "--limit", "localhost,server")
    home = ROOT / ".flowerbed" / lab.boards.name / "server"
    supervisor = int((home / "supervisord.pid").read_text())
    done = lab.boards.rehearse("-e", "state=absent")
    assert done.returncode == 0, done.stdout + done.stderr
    assert not home.parent.exists() and not (lab.boards.inventory / "hosts.yml").exists()
    wait_until(lambda: not Path(f"/proc/{supervisor}").exists(), PATIENCE, "the supervisor to end")
