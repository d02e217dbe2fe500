"""A rehearsal's boards and inventory, made from the inventories as Ansible itself lists them."""

import importlib.util
import json
import re
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
        "memory": "2000m", "cpus": 1, "bandwidth": "50mbit", "disk": "12G", "address": "172.30.0.10",
        "image": "lhkhiem28/rpi:1.4", "port": 22, "arguments": "", "jumps": [], "without": [],
    }  # fmt: skip
    small, large = boards["jetson-2gb-1"], boards["jetson-4gb-1"]
    assert small["kind"] == large["kind"] == "jetson" and small["user"] == "jetson"
    assert (small["memory"], large["memory"]) == ("1000m", "2000m")


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


GROUPS = ("rpi", "rpi5", "jetson", "jetson_2gb", "jetson_orin", "jetson_orin_jetpack5", "mini_pc", "mini_pc_nvidia")
KINDS = dict(zip(GROUPS, ("raspberry_pi", "raspberry_pi_5", "jetson", "jetson", "jetson_6", "jetson_5", "mini_pc",
                          "mini_pc_nvidia"), strict=True))  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_a_board_is_what_its_group_or_its_variable_says(group, tmp_path):
    (tmp_path / "hosts.yml").write_text(
        f"devices:\n  children:\n    {group}:\n      hosts: {{a: }}\n"
        f"    mine:\n      vars: {{rehearsal_board: {group}}}\n      hosts: {{b: }}\n"
    )
    named, said = rehearsal.fleet(listed(tmp_path / "hosts.yml"), SHAPES, {}, NET, "r")
    assert named["kind"] == KINDS[group] and named["user"] == {"r": "pi", "j": "jetson", "m": "user"}[group[0]]
    assert {key: said[key] for key in ("kind", "user", "image", "memory", "cpus")} == {
        key: named[key] for key in ("kind", "user", "image", "memory", "cpus")
    }


def test_a_board_that_no_shape_is_called_is_refused(tmp_path):
    (tmp_path / "hosts.yml").write_text("devices:\n  hosts: {a: {rehearsal_board: orin}}\n")
    with pytest.raises(
        AnsibleFilterError, match="a has the rehearsal_board orin, but rehearsal_shapes has only devices"
    ):
        rehearsal.fleet(listed(tmp_path / "hosts.yml"), SHAPES, {}, NET, "r")


def test_a_jetson_gets_its_jetpacks_python_and_a_pc_none():
    pythons = {"3.6": "/36", "3.8": "/38", "3.10": ""}
    boards = [{"kind": kind, "release": "bookworm"} for kind in dict.fromkeys(KINDS.values())]
    builds = rehearsal.board_builds(boards, "c0de", pythons)
    assert [(build["fill"][0], build["args"]["FAMILY"]) for build in builds] == [
        ("", "raspberry_pi"), ("", "raspberry_pi"), ("/36", "jetson"), ("", "jetson"), ("/38", "jetson"), ("", "units"),
        ("", "units"),
    ]  # fmt: skip
    folders = {path.name for path in (ROLE / "files/board").iterdir()}
    assert {build["args"]["FAMILY"] for build in builds} <= folders


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
    tree = rehearsal.inventory(exported(path), boards, {"fl_server_host": "172.30.0.1"}, "/r/ssh")
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
        assert new["ansible_port"] == 22 and new["ansible_ssh_common_args"] == "-F /r/ssh"
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
    assert "s3cret" not in json.dumps(rehearsal.inventory(exported(path), boards, {}, "/r/ssh"))


@pytest.mark.parametrize(
    ("given", "port", "jumps", "arguments"),
    [
        ({"ansible_port": "2222"}, 2222, [], ""),
        ({"ansible_ssh_port": 2222}, 2222, [], ""),
        ({"ansible_ssh_common_args": "-p 2222 -i ~/.ssh/lab -o IdentitiesOnly=yes -C"}, 2222, [], "-C"),
        ({"ansible_ssh_common_args": "-J me@192.0.2.1"}, 22, [("me", "192.0.2.1", "22")], "-J me@192.0.2.1:22"),
        ({"ansible_ssh_extra_args": "-oProxyJump=a:2200,b@c -o StrictHostKeyChecking=yes"}, 22,
         [("", "a", "2200"), ("b", "c", "22")], "-o StrictHostKeyChecking=yes -J a:2200,b@c:22"),
        ({"ansible_ssh_common_args": "-o ProxyCommand=\"ssh -W %h:%p -q -p 2200 me@gate\""}, 22,
         [("me", "gate", "2200")], "-J me@gate:2200"),
        ({"ansible_ssh_args": "-o 'ProxyJump [fd00::1]:2200' -o UserKnownHostsFile=/mine/hosts"}, 22,
         [("", "[fd00::1]", "2200")], "-J '[fd00::1]:2200'"),
    ],
)  # fmt: skip
def test_a_connection_keeps_its_port_and_jump_hosts_and_loses_keys(given, port, jumps, arguments):
    found = rehearsal.connection(given)
    assert found == {"port": port, "jumps": jumps, "arguments": arguments, "without": []}


@pytest.mark.parametrize("arguments", ["-o ProxyCommand='nc -X 5 %h %p'", "{{ way }}", "-o ProxyJump=none"])
def test_what_no_container_stands_in_for_is_told(arguments):
    found = rehearsal.connection({"ansible_ssh_common_args": arguments})
    assert found["jumps"] == [] and len(found["without"]) == (arguments != "-o ProxyJump=none")


def test_arguments_that_ssh_would_not_understand_are_refused():
    with pytest.raises(AnsibleFilterError, match="ansible_ssh_common_args is '-Z', which ssh would not understand"):
        rehearsal.connection({"ansible_ssh_common_args": "-Z"})


def test_each_jump_host_is_a_board_of_its_own_and_the_inventory_leads_over_it(tmp_path):
    (tmp_path / "hosts.yml").write_text(
        "devices:\n  vars: {ansible_ssh_common_args: -J me@gate, ansible_ssh_private_key_file: /k, ansible_user: pi}\n"
        "  hosts:\n    a:\n    b: {ansible_ssh_common_args: '-J gate,192.0.2.1:2200', ansible_port: 2222}\n"
    )
    boards = rehearsal.fleet(listed(tmp_path / "hosts.yml"), SHAPES, {}, NET, "r")
    jumps = rehearsal.jumps(boards, NET, "r")
    assert [(jump["host"], jump["user"], jump["port"], jump["address"], jump["container"]) for jump in jumps] == [
        ("gate", "me", 22, "172.30.0.3", "r-jump-1"), ("192.0.2.1", "pi", 2200, "172.30.0.4", "r-jump-2")
    ]  # fmt: skip
    tree = rehearsal.inventory(exported(tmp_path / "hosts.yml"), boards, {}, "/a b/ssh")
    (tmp_path / "new.yml").write_text(yaml.safe_dump(tree, sort_keys=False))
    written = listed(tmp_path / "new.yml")["_meta"]["hostvars"]
    assert written["b"]["ansible_port"] == 2222 and "ansible_ssh_private_key_file" not in written["a"]
    assert [written[host]["ansible_ssh_common_args"] for host in "ab"] == [
        "-F '/a b/ssh' -J me@gate:22", "-F '/a b/ssh' -J gate:22,192.0.2.1:2200"
    ]  # fmt: skip
    many = [{**boards[0], "jumps": [("", f"h{number}", "22")]} for number in range(8)]
    with pytest.raises(AnsibleFilterError, match="has more than 7 jump hosts"):
        rehearsal.jumps(many, NET, "r")


def test_the_inventory_of_the_docs_is_rehearsed_on_what_it_says(tmp_path):
    text = (CHECKOUT / "docs/boards.md").read_text()
    [inventory] = re.findall(r"(?s)```yaml\n(all:.*?)```", text)
    (tmp_path / "hosts.yml").write_text(inventory)
    boards = rehearsal.fleet(listed(tmp_path / "hosts.yml"), SHAPES, {}, NET, "r")
    assert [(board["name"], board["kind"], board["release"]) for board in boards] == [
        ("rpi5-1", "raspberry_pi_5", "bookworm"), ("orin-1", "jetson_6", "bookworm"), ("orin-2", "jetson_6", "trixie"),
        ("pc-1", "mini_pc", "bookworm"), ("pc-2", "mini_pc_nvidia", "bookworm"),
    ]  # fmt: skip
    table = text.partition("## Boards")[2].partition("## Images")[0]
    assert set(re.findall(r"`(\w+)`", table)) == {*SHAPES} - {"devices"}
