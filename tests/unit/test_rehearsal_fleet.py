"""A rehearsal's boards and inventory, made from the inventories as Ansible itself lists them."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.errors import AnsibleFilterError

CHECKOUT = Path(__file__).parents[2]
ROLE = CHECKOUT / "roles" / "rehearsal"
SHAPES = yaml.safe_load((ROLE / "defaults" / "main.yml").read_text())["rehearsal_shapes"]
NET = "172.30.0.0/24"

spec = importlib.util.spec_from_file_location("rehearsal", ROLE / "filter_plugins" / "rehearsal.py")
rehearsal = importlib.util.module_from_spec(spec)
spec.loader.exec_module(rehearsal)


def ansible_inventory(path: Path, *arguments: str) -> str:
    command = [Path(sys.executable).with_name("ansible-inventory"), "-i", path, "--list", *arguments]
    return subprocess.run(command, cwd=CHECKOUT, check=True, capture_output=True, text=True).stdout


def listed(path: Path) -> dict:
    return json.loads(ansible_inventory(path))


def exported(path: Path) -> dict:
    return yaml.safe_load(ansible_inventory(path, "--export", "--yaml"))


@pytest.fixture(scope="module")
def lab() -> dict:
    return listed(CHECKOUT / "inventory" / "lab")


def test_the_lab_is_rehearsed_on_ten_boards_of_their_kinds(lab):
    boards = {board["name"]: board for board in rehearsal.fleet(lab, SHAPES, {}, NET, "rehearsal")}
    assert len(boards) == 10 and len({board["address"] for board in boards.values()}) == 10
    assert [boards[f"rpi-{number}"]["release"] for number in (1, 2, 3)] == ["bookworm", "bullseye", "trixie"]
    assert boards["rpi-1"] == {
        "name": "rpi-1", "container": "rehearsal-rpi-1", "kind": "raspberry_pi", "user": "pi", "release": "bookworm",
        "memory": "1400m", "cpus": 1, "bandwidth": "50mbit", "address": "172.30.0.10", "image": "lhkhiem28/rpi:1.4",
    }  # fmt: skip
    small, large = boards["jetson-2gb-1"], boards["jetson-4gb-1"]
    assert small["kind"] == large["kind"] == "jetson" and small["user"] == "jetson"
    assert (small["memory"], large["memory"]) == ("700m", "1400m")


def test_fewer_boards_of_a_group(lab):
    boards = rehearsal.fleet(lab, SHAPES, {"rpi": 1, "jetson_4gb": "2"}, NET, "r")
    assert [board["name"] for board in boards] == [
        "rpi-1", "jetson-2gb-1", "jetson-2gb-2", "jetson-4gb-1", "jetson-4gb-2"
    ]  # fmt: skip


def test_variables_of_a_group_or_host_change_its_shape(tmp_path):
    (tmp_path / "hosts.yml").write_text(
        "devices:\n  vars: {rehearsal_bandwidth: 5mbit}\n"
        "  hosts:\n    a: {rehearsal_release: trixie, ansible_user: me}\n    b:\n"
    )
    first, second = rehearsal.fleet(listed(tmp_path / "hosts.yml"), SHAPES, {}, NET, "r")
    assert (first["bandwidth"], first["release"], first["user"]) == ("5mbit", "trixie", "me")
    assert (second["bandwidth"], second["release"], second["user"]) == ("5mbit", "bullseye", "pi")


@pytest.mark.parametrize(
    ("limits", "subnet", "sentence"),
    [
        ({"pi": 1}, NET, "rehearsal_boards names pi, but the groups to rehearse are all, devices"),
        ({"rpi": "one"}, NET, "rehearsal_boards has 'one' for rpi, which is no number of boards"),
        ({}, "172.30.0.0/28", "rehearsal_subnet 172.30.0.0/28 has no addresses for 10 boards"),
        ({}, "172.30.0.1/24", "rehearsal_subnet is 172.30.0.1/24, which is no subnet"),
    ],
)
def test_what_cannot_be_rehearsed_is_said(lab, limits, subnet, sentence):
    with pytest.raises(AnsibleFilterError, match=sentence):
        rehearsal.fleet(lab, SHAPES, limits, subnet, "r")


def test_a_subnet_that_is_taken_is_seen():
    networks = [
        {"Name": "bridge", "IPAM": {"Config": [{"Subnet": "172.17.0.0/16", "Gateway": "172.17.0.1"}]}},
        {"Name": "wide", "IPAM": {"Config": [{"Subnet": "fd00::/64"}, {"Subnet": "172.30.0.0/16"}]}},
        {"Name": "host", "IPAM": {"Config": None}},
        {"Name": "r", "IPAM": {"Config": [{"Subnet": NET}]}},
    ]
    assert rehearsal.overlapping(networks, NET, "r") == ["wide"]
    assert rehearsal.overlapping(networks, "172.17.3.0/24", "r") == ["bridge"]
    assert rehearsal.overlapping(networks, "10.0.0.0/24", "r") == []


def test_this_machine_has_the_first_address():
    assert rehearsal.gateway("10.0.0.128/25") == "10.0.0.129"


def test_the_registry_has_a_stand_in_for_each_image_of_the_inventory(lab):
    boards = rehearsal.fleet(lab, SHAPES, {}, NET, "r")
    assert rehearsal.published(boards, "flwr/supernode:1", "c0de", "/python36") == {
        "lhkhiem28/rpi:1.4": "flowerbed-rehearsal/stand-in:rpi-c0de",
        "lhkhiem28/jetson:1.0": "flowerbed-rehearsal/stand-in:jetson-c0de",
        "flwr/supernode:1": "flowerbed-rehearsal/stand-in:supernode-c0de",
    }
    pis = [board for board in boards if board["kind"] == "raspberry_pi"]
    assert list(rehearsal.published(pis, "flwr/supernode:1", "c0de", "")) == ["lhkhiem28/rpi:1.4", "flwr/supernode:1"]
    names = rehearsal.published(boards, "flwr/supernode:1", "c0de", "")  # without a Python 3.6
    assert names["lhkhiem28/jetson:1.0"] == names["lhkhiem28/rpi:1.4"]


@pytest.mark.parametrize(
    ("name", "stands"),
    [("me/rpi:2", True), ("debian", True), ("me/rpi@sha256:12", False), ("example.org/me/rpi:2", False),
     ("localhost/rpi", False), ("example:5000/rpi", False), ("{{ mine }}", False)],
)  # fmt: skip
def test_only_what_the_public_registry_could_have_gets_a_stand_in(name, stands):
    board = {"image": name, "kind": "raspberry_pi"}
    assert (name in rehearsal.published([board], "flwr/supernode:1", "c0de", "")) == stands


def test_a_registry_that_has_more_than_is_wanted_will_do():
    images = [
        {"RepoTags": ["flowerbed-rehearsal/registry:old-1"], "Labels": {"flowerbed.held": "rpi:1=a jetson:1=b"}},
        {"RepoTags": None, "Labels": {"flowerbed.held": "rpi:1=a jetson:1=b"}},
        {"RepoTags": ["flowerbed-rehearsal/registry:new-2"], "Labels": {"flowerbed.held": "jetson:1=b rpi:1=a"}},
    ]
    name = "flowerbed-rehearsal/registry:new"
    for held in ("rpi:1=a", "rpi:1=a jetson:1=b"):
        assert rehearsal.filled(images, name, held) == f"{name}-2"
    other = rehearsal.filled(images, name, "rpi:1=c")
    assert other.startswith(f"{name}-") and other not in (f"{name}-2", rehearsal.filled(images, name, "rpi:1=d"))


def test_an_inventory_without_devices_is_refused():
    with pytest.raises(AnsibleFilterError, match="no group devices with hosts"):
        rehearsal.fleet({"_meta": {"hostvars": {}}, "all": {"children": ["ungrouped"]}}, SHAPES, {}, NET, "r")


@pytest.mark.parametrize("name", ["lab", "local"])
def test_the_inventory_written_is_the_one_rehearsed_at_other_addresses(name, tmp_path):
    path = CHECKOUT / "inventory" / name
    boards = rehearsal.fleet(listed(path), SHAPES, {"jetson_4gb": 1}, NET, "r")
    tree = rehearsal.inventory(exported(path), boards, {"fl_server_host": "172.30.0.1"})
    (tmp_path / "hosts.yml").write_text(yaml.safe_dump(tree, sort_keys=False))
    before, after = listed(path), listed(tmp_path / "hosts.yml")
    assert sorted(after["devices"]["children"]) == sorted(before["devices"]["children"])
    assert after["rpi"] == before["rpi"]
    assert after["jetson_4gb"]["hosts"] == ["jetson-4gb-1"]
    variables = after["_meta"]["hostvars"]
    assert set(variables) == {"server", *(board["name"] for board in boards)}
    for board in boards:
        new, old = variables[board["name"]], before["_meta"]["hostvars"][board["name"]]
        assert new["ansible_host"] == board["address"] and new["ansible_connection"] == "ssh"
        assert new["fl_server_host"] == "172.30.0.1"
        assert {key for key in old if key.startswith("fl_")} - {"fl_server_host"} <= {
            key for key in new if new[key] == old.get(key)
        }
    assert variables["server"]["ansible_connection"] == "local"


def test_passwords_are_not_copied(tmp_path):
    (tmp_path / "hosts.yml").write_text(
        "all: {vars: {ansible_become_password: s3cret}}\ndevices:\n  hosts:\n    a: {ansible_password: s3cret}\n"
    )
    path = tmp_path / "hosts.yml"
    boards = rehearsal.fleet(listed(path), SHAPES, {}, NET, "r")
    assert "s3cret" not in json.dumps(rehearsal.inventory(exported(path), boards, {}))
