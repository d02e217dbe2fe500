"""Images on their way to boards, from a real registry: fetched once for all, and a sentence for what goes wrong."""

import io
import json
import os
import re
import signal
import socket
import subprocess
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from boards import BIN, ROOT, Rehearsal, docker, rehearsal
from engine import needs_engine
from fleet import wait_until
from registry import Registry

pytestmark = needs_engine
BOARDS = ["rpi-1", "jetson-4gb-1"]
MB = 1_000_000
SERVER, REGISTRY = "172.30.96.1", "172.30.96.2"
PLAYBOOK = "tests/rehearsal/playbooks/bring"
TASK = "Pull images, which may take minutes"


class Lab:
    """Boards, and the registry that they pull from."""

    def __init__(self, boards: Rehearsal) -> None:
        self.boards, self.registry = boards, Registry(REGISTRY, f"{boards.name}-registry")

    def bring(self, *names: str, to: list[str] = BOARDS, **extra: Any) -> tuple[subprocess.CompletedProcess, str]:
        """Call the role; return what it said, too, on one line."""
        done = self.boards.play(PLAYBOOK, *self.arguments(*names, to=to, **extra))
        return done, " ".join(done.stdout.split())

    def arguments(self, *names: str, to: list[str] = BOARDS, **extra: Any) -> list[str]:
        """Return the arguments of a call of the role."""
        variables = {"device_image_space": 100, **extra, "device_image_names": names}
        return ["-e", json.dumps(variables), "--limit", ",".join(["localhost", "server", *to])]

    def has(self, board: str, name: str) -> str:
        """Return the id of an image that a board has, or an empty text."""
        return self.boards.root(board, f"docker image inspect --format '{{{{.Id}}}}' {name} 2>/dev/null || true")

    def set_engine(self, board: str, **values: Any) -> None:
        """Set something in the configuration of a board's engine, as its owner would."""
        document = json.loads(self.boards.root(board, "cat /etc/docker/daemon.json")) | values
        self.boards.root(board, f"echo '{json.dumps(document)}' > /etc/docker/daemon.json; systemctl restart docker")

    def wait_for_pull(self, board: str, name: str) -> None:
        """Wait until a board has more than 5 MB of an image, by its own word."""

        def under_way() -> bool:
            told = self.boards.root(board, "cat /run/flowerbed-image.json 2>/dev/null || echo '{}'")
            found = re.search(re.escape(name) + r": (\d+) MB", json.loads(told).get("text", ""))
            return found is not None and int(found[1]) > 5

        wait_until(under_way, 180, "MB", every=0.5)


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    """Two boards with Docker engines."""
    with rehearsal("images", "172.30.96.0/24", rpi=1, jetson_4gb=1) as boards:
        lab = Lab(boards)
        done, words = lab.bring()
        assert done.returncode == 0, words
        yield lab
        boards.play("tests/rehearsal/playbooks/give_back")
    assert not (ROOT / ".flowerbed" / boards.name / "images").exists()


@pytest.mark.parametrize(("source", "times"), [("auto", 1), ("share", 1), ("pull", 2)])
def test_boards_get_images(lab, source, times):
    tagged, pinned = f"test/{source}:1", f"test/{source}-pinned"
    _, size = lab.registry.publish(tagged, layers=3, size=8 * MB)
    digest, more = lab.registry.publish(f"{pinned}:1", layers=2, size=4 * MB)
    before = lab.registry.sent()
    done, words = lab.bring(tagged, f"{pinned}:1@{digest}", device_image_source=source)
    assert done.returncode == 0, done.stdout
    sent = (lab.registry.sent() - before) / (size + more)
    print(f"{source}: {sent:.3f} times the images left the registry")
    assert times <= sent < times + 0.01
    assert len({lab.has(board, tagged) for board in BOARDS}) == 1 and lab.has("rpi-1", tagged)
    assert all(lab.has(board, f"{pinned}@{digest}") for board in BOARDS)

    done, words = lab.bring(tagged, f"{pinned}@{digest}", device_image_source=source)
    assert done.returncode == 0 and TASK not in words
    assert not re.search(r"changed=[1-9]", done.stdout), done.stdout
    assert subprocess.run(["pgrep", "-f", f"mirror.py {SERVER}"], stdout=subprocess.DEVNULL).returncode == 1


def test_a_board_that_has_an_image_gives_it(lab):
    name = "test/given:1"
    lab.registry.publish(name, layers=1, size=4 * MB)
    lab.boards.root("jetson-4gb-1", f"docker pull {name}")
    before = lab.registry.sent()
    done, _ = lab.bring(name, device_image_source="share")
    assert done.returncode == 0 and lab.registry.sent() == before, done.stdout
    assert len({lab.has(board, name) for board in BOARDS}) == 1


def test_a_board_with_another_image_of_that_name_hands_it_to_nobody(lab):
    name, other = "test/swapped:1", "test/other:1"
    lab.registry.publish(name, layers=1, size=MB)
    lab.registry.publish(other, layers=1, size=MB)
    lab.boards.root("jetson-4gb-1", f"docker pull {other} && docker tag {other} {name} && docker rmi {other}")
    done, _ = lab.bring(name, device_image_source="share")
    assert done.returncode == 0, done.stdout
    lab.boards.root("jetson-4gb-1", f"docker rmi {name} && docker pull {name}")
    assert len({lab.has(board, name) for board in BOARDS}) == 1 and lab.has("rpi-1", name)
    lab.boards.root("jetson-4gb-1", f"docker rmi {name}")


def test_an_engine_takes_no_layer_that_its_images_id_does_not_stand_for(lab):
    """An image is known by its id alone, so whoever gives it must not be able to give other layers with it."""
    config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": {
        "type": "layers", "diff_ids": ["sha256:" + "1" * 64]
    }})  # fmt: skip
    files = {
        "layer.tar": b"\0" * 10240, "config.json": config.encode(),
        "manifest.json": b'[{"Config": "config.json", "RepoTags": ["test/evil:1"], "Layers": ["layer.tar"]}]',
    }  # fmt: skip
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for path, content in files.items():
            member = tarfile.TarInfo(path)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    load = ["docker", "exec", "--interactive", f"{lab.boards.name}-rpi-1", "docker", "load"]
    done = subprocess.run(load, input=packed.getvalue(), capture_output=True)
    assert done.returncode and b"invalid diffID for layer 0" in done.stderr, done
    assert not lab.has("rpi-1", "test/evil:1")


def test_where_no_mirror_can_be_it_says_why_and_shares(lab):
    name = "test/no-mirror:1"
    _, size = lab.registry.publish(name, layers=1, size=4 * MB)
    before = lab.registry.sent()
    with socket.create_server((SERVER, 5000)):
        done, words = lab.bring(name, to=BOARDS[:1], device_image_source="mirror")
        assert done.returncode and "device_image_source is mirror, but a mirror cannot run on this machine (" in words
        done, words = lab.bring(name)
    assert done.returncode == 0, done.stdout
    assert "handed from device to device, because a mirror cannot run on this machine (" in words
    assert f"Address already in use: {SERVER} port 5000" in words, words
    assert lab.registry.sent() - before < 1.01 * size


def test_an_image_that_does_not_exist(lab):
    for source in ("auto", "share"):
        done, words = lab.bring("test/none:1", device_image_source=source)
        assert done.returncode
        assert re.search(r"\S+-\d cannot pull test/none:1: the registry has no such image", words), words
    done, words = lab.bring("Test/None:1", to=BOARDS[:1])
    assert done.returncode
    assert re.search(r"\S+-\d is to have the image Test/None:1, but no image can be called that", words), words


def test_an_image_for_another_processor(lab):
    lab.registry.publish("test/arm:1", layers=1, size=MB, architecture="arm64")
    before = lab.registry.sent()
    done, words = lab.bring("test/arm:1", to=BOARDS[:1])
    assert done.returncode
    assert re.search(r"\S+-\d is amd64, and the image test/arm:1 is there for arm64 only: choose one for amd64", words)
    assert lab.registry.sent() - before < MB and not lab.has("rpi-1", "test/arm:1")


@pytest.mark.parametrize("source", ["pull", "mirror"])
def test_a_registry_that_is_down_in_the_middle_of_a_pull(lab, source):
    name, board = f"test/{source}-broken:1", "rpi-1"
    lab.set_engine(board, **{"max-download-attempts": 2})  # of 6, which take minutes
    _, size = lab.registry.publish(name, layers=6, size=12 * MB)
    before = lab.registry.sent()
    with ThreadPoolExecutor() as pool:
        running = pool.submit(lab.bring, name, to=[board], device_image_source=source)
        lab.wait_for_pull(board, name)
        lab.registry.die()
        done, words = running.result()
    try:
        assert done.returncode
        assert re.search(
            rf"{board} could not pull {name}: after \d+ MB, \d of 6 layers the registry gave no answer", words
        )
        assert "Deploy again once it does" in words and not lab.has(board, name)
    finally:
        docker("start", lab.registry.container)
    done, _ = lab.bring(name, to=[board], device_image_source=source)
    assert done.returncode == 0 and lab.has(board, name), done.stdout
    if source == "mirror":  # what it had, it did not fetch again
        assert lab.registry.sent() - before < 1.2 * size


def test_a_pull_goes_on_when_its_deploy_is_stopped(lab):
    name, board = "test/stopped:1", "jetson-4gb-1"
    _, size = lab.registry.publish(name, layers=6, size=12 * MB)
    before = lab.registry.sent()
    command = [BIN / "ansible-playbook", "-i", lab.boards.inventory, f"{PLAYBOOK}.yml"]
    command += lab.arguments(name, to=[board], device_image_source="pull")
    environment = {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "LC_ALL": "C.UTF-8"}
    with subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL) as deploy:
        lab.wait_for_pull(board, name)
        deploy.send_signal(signal.SIGINT)
    done, _ = lab.bring(name, to=[board], device_image_source="pull")
    assert done.returncode == 0 and lab.has(board, name), done.stdout
    assert lab.registry.sent() - before < 1.01 * size


def test_a_board_without_room(lab):
    name, board = "test/large:1", "rpi-1"
    lab.registry.publish(name, layers=2, size=40 * MB)
    docker_stop, docker_start = "systemctl stop docker.socket docker", "systemctl start docker"
    lab.boards.root(board, f"{docker_stop}; mount -t tmpfs -o size=60m tmpfs /var/lib/docker; {docker_start}")
    try:
        done, words = lab.bring(name, to=[board], device_image_space=4000)
        assert done.returncode
        assert f"{board} has 0.1 GB of disk left for Docker, and {name} may need 4 GB (device_image_space)" in words
        done, words = lab.bring(name, to=[board], device_image_space=0)
        assert done.returncode
        assert re.search(rf"{board} ran out of disk when .* of {name} were there: remove", words), words
    finally:
        lab.boards.root(board, f"{docker_stop}; umount /var/lib/docker; {docker_start}")


def test_reset_removes_what_was_brought_and_nothing_else(lab):
    lab.registry.publish("test/owners:1", layers=1, size=MB)
    lab.boards.root("jetson-4gb-1", "docker pull test/owners:1")
    done = lab.boards.play("tests/rehearsal/playbooks/give_back")
    assert done.returncode == 0, done.stdout
    assert lab.boards.root("rpi-1", "docker images --quiet") == ""
    left = lab.boards.root("jetson-4gb-1", "docker images --format '{{.Repository}}'").split()
    assert sorted(left) == ["test/given", "test/owners"]
    assert not re.search(r"changed=[1-9]", lab.boards.play("tests/rehearsal/playbooks/give_back").stdout)
