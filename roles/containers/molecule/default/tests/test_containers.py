"""A board's two containers: the trainer in the vendor's image, and the client beside it."""

import hashlib
import json
import os
import re
from pathlib import Path

import pytest

SHARDS = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]).parents[1] / ".flowerbed/mol-containers/server/shards"
CONTAINER = {"rpi-1": "rpi-container", "jetson-4gb-1": "jetson-container"}


@pytest.fixture
def board(host):
    return host.check_output("hostname")


def inspect(host, container):
    return json.loads(host.check_output(f"docker inspect {container}"))[0]


def test_the_trainer_has_the_tutorials_options(host, board):
    container = CONTAINER[board]
    found = inspect(host, container)
    config, limits = found["Config"], found["HostConfig"]
    assert config["OpenStdin"] and config["Tty"] and config["WorkingDir"] == "/root"
    assert limits["NetworkMode"] == "host" and limits["Binds"] == [f"/opt/flowerbed/{board}:/usr/src/:rw"]
    assert config["Cmd"][0] == "/bin/bash" and limits["RestartPolicy"]["Name"] == "unless-stopped"
    assert limits["Runtime"] == ("nvidia" if board == "jetson-4gb-1" else "runc")
    changes = host.check_output(f"docker diff {container}").split()
    assert not [path for path in changes[1::2] if not re.match(r"/(usr(/src)?|root|tmp)(/|$)", path)], changes


def test_the_trainer_leaves_the_board_memory_and_disk(host, board):
    limits = inspect(host, CONTAINER[board])["HostConfig"]
    total = int(host.check_output("awk '/MemTotal/ { print $2 }' /proc/meminfo")) * 1024
    assert limits["Memory"] == (total // 2**26 * 64 - 320) * 2**20
    assert limits["LogConfig"] == {"Type": "json-file", "Config": {"max-file": "3", "max-size": "5m"}}


def test_the_client_may_do_nothing(host, board):
    limits = inspect(host, "flowerbed-client")["HostConfig"]
    assert limits["ReadonlyRootfs"] and limits["CapDrop"] == ["ALL"] and "no-new-privileges" in limits["SecurityOpt"]
    assert not limits["Privileged"] and limits["Binds"] == [f"/opt/flowerbed/{board}:/usr/src:ro"]
    assert limits["Memory"] == 512 * 2**20


def test_the_client_knows_the_server_and_its_board(host, board):
    config = json.loads(host.file(f"/opt/flowerbed/{board}/client.json").content_string)
    assert config["name"] == board and config["server"] == "172.30.113.1:9092"
    kind, image = ("Jetson Nano", "jetson:1.0") if board == "jetson-4gb-1" else ("Raspberry Pi", "rpi:1.4")
    assert config["facts"] == {"board": kind, "image": f"lhkhiem28/{image}"}


def test_the_trainer_is_ready_with_the_boards_own_part_of_the_data(host, board):
    manifest = json.loads((SHARDS / "manifest.json").read_text())
    command = "docker exec flowerbed-client python3 -m flowerbed.status trainer.json"
    trainer = json.loads(host.check_output(command))
    assert trainer["ready"] and trainer["name"] == board and trainer["threads"] == 1
    assert {"train": trainer["examples"], "heldout": trainer["heldout_examples"]}.items() <= (
        manifest["devices"][board].items()
    )
    digest = host.file(f"/opt/flowerbed/{board}/shard/train.npz").sha256sum
    assert digest == hashlib.sha256((SHARDS / board / "train.npz").read_bytes()).hexdigest()
