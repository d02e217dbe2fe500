"""The fleet of docs/boards.md: a Raspberry Pi 5, Orins with JetPack 6, and PCs, from the first look to a round."""

import json
import re
from collections.abc import Iterator

import pytest
import yaml

from boards import ROOT, Rehearsal, rehearsal
from engine import needs_engine

pytestmark = needs_engine
BOARDS = {"rpi5-1": "rpi-container", "orin-1": "jetson-container", "orin-2": "jetson-container",
          "orin-5": "jetson-container", "pc-1": "rpi-container", "pc-2": "rpi-container"}  # fmt: skip
JETPACK_5 = {"vars": {"ansible_user": "jetson", "trainer_image": "dustynv/l4t-pytorch:r35.4.1"},
             "hosts": {"orin-5": {"ansible_host": "192.168.1.63"}}}  # fmt: skip


@pytest.fixture(scope="module")
def boards(request, tmp_path_factory) -> Iterator[Rehearsal]:
    if not request.config.getoption("--all"):
        pytest.skip("it takes ten minutes: call make test-all")
    [text] = re.findall(r"(?s)```yaml\n(all:.*?)```", (ROOT / "docs/boards.md").read_text())
    inventory = yaml.safe_load(text)
    inventory["all"]["children"]["devices"]["children"]["jetson_orin_jetpack5"] = JETPACK_5
    like = tmp_path_factory.mktemp("like")
    (like / "hosts.yml").write_text(yaml.safe_dump(inventory))
    with rehearsal("today", "172.30.97.0/24", {"rehearsal_like": str(like), "rehearsal_boards": {}}) as ours:
        yield ours


def said(boards: Rehearsal, book: str, *arguments: str, fails: bool = False) -> str:
    done = boards.play(book, *arguments)
    assert (done.returncode != 0) == fails, done.stdout + done.stderr
    return " ".join(done.stdout.split())


def container(boards: Rehearsal, board: str) -> dict:
    return json.loads(boards.root(board, f"docker inspect {BOARDS[board]}"))[0]


def test_each_board_has_the_files_tools_and_python_of_the_real_one(boards):
    version = "python3 -c 'import sys; print(\"%d.%d\" % sys.version_info[:2])'"
    assert boards.root("orin-1", version) == "3.10"
    assert "R36 (release), REVISION: 4.3" in boards.root("orin-1", "head -n 1 /etc/nv_tegra_release")
    assert boards.root("orin-1", "nvpmodel -q").splitlines() == ["NV Power Mode: 25W", "1"]
    assert "Reboot required" in boards.root("orin-1", "echo no | nvpmodel -m 3 || true")
    assert "Raspberry Pi 5" in boards.root("rpi5-1", "cat /etc/rehearsal/model")
    assert "CUDA Version: 12.4" in boards.root("pc-2", "nvidia-smi")


def test_preflight_finds_them_well(boards):
    words = said(boards, "playbooks/preflight")
    assert "!" not in words
    for word in ("L4T 36.4.3", "L4T 35.", "Pi 5 Model B", "CUDA 12.4", "CDI", "25W", "bookworm"):
        assert word in words, words


def test_an_image_and_a_power_mode_for_another_board_are_refused_before_anything_is_changed(boards):
    wrong = {"trainer_image": "dustynv/l4t-pytorch:r35.4.1", "jetson_power_mode": "30W"}
    words = said(boards, "deploy", "-e", json.dumps(wrong), fails=True)
    assert (
        "orin-1 has L4T 36.4.3, but the image dustynv/l4t-pytorch:r35.4.1 (trainer_image) is made for L4T 35" in words
    )
    assert "orin-1 has no power mode 30W (jetson_power_mode): choose 15W, 25W, MAXN_SUPER, 7W" in words
    assert "rpi5-1 is no Jetson, but the image dustynv/l4t-pytorch:r35.4.1 (trainer_image) is made for one" in words
    assert not boards.root("orin-1", "ls -d /opt/flowerbed 2>/dev/null || true")


def test_deploy_and_a_round(boards, tmp_path):
    runs = json.dumps({"fl_runs": str(tmp_path)})
    words = said(boards, "deploy", "-e", runs)
    assert (
        "orin-1: the image dustynv/l4t-pytorch:r36.4.0 (trainer_image) has a torch without CUDA, so the board" in words
    )
    assert "pc-1: the image" not in words  # which has no card
    said(boards, "run_round", "-e", runs, "-e", "experiment=today")
    events = [json.loads(line) for line in (tmp_path / "today/metrics.jsonl").read_text().splitlines()]
    assert {event["device"] for event in events if event["event"] == "device"} == set(BOARDS)
    done = boards.play("deploy", "-e", runs)
    assert done.returncode == 0 and not re.search(r"changed=[1-9]", done.stdout), done.stdout


def test_containers_get_the_gpu_by_the_runtime_or_by_cdi(boards):
    runtime = {board: container(boards, board)["HostConfig"]["Runtime"] for board in BOARDS}
    assert {board for board, name in runtime.items() if name == "nvidia"} == {"orin-1", "orin-5", "pc-2"}
    assert "REHEARSAL_CDI=all" in boards.root("orin-2", "docker exec jetson-container cat /proc/1/environ")
    assert json.loads(boards.root("pc-2", "cat /etc/docker/daemon.json"))["runtimes"]["nvidia"]


def test_what_nvidia_and_docker_packages_an_orin_has_is_held(boards):
    held = boards.root("orin-1", "apt-mark showhold").split()
    assert {"docker.io", "containerd", "nvidia-container-runtime"} <= set(held)


def test_a_power_mode_is_set_by_name_and_the_board_rebooted_where_it_needs_that(boards):
    assert boards.root("orin-1", "nvpmodel -q").splitlines()[-1] == "2"  # MAXN_SUPER, as the inventory says
    before = boards.root("orin-1", "cat /proc/sys/kernel/random/boot_id")
    said(boards, "deploy", "--limit", "orin-1,orin-2", "-e", "jetson_power_mode=7W")
    assert boards.root("orin-1", "nvpmodel -q").splitlines() == ["NV Power Mode: 7W", "3"]
    assert boards.root("orin-1", "cat /proc/sys/kernel/random/boot_id") != before


def test_a_reset_gives_the_boards_back(boards):
    said(boards, "playbooks/reset", "-e", "confirm=true")
    assert boards.root("orin-1", "nvpmodel -q").splitlines()[-1] == "1"
    assert "nvidia" not in boards.root("pc-2", "cat /etc/docker/daemon.json 2>/dev/null || true")
    assert boards.root("orin-1", "apt-mark showhold") == ""
