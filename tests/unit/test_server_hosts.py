"""What the server keeps in mind of the devices: which have something of Flowerbed's, and what is still to be done."""

import importlib.util
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).parents[2]
ROLE = ROOT / "roles" / "server"
FILE = ROOT / "plugins" / "filter" / "server.py"
spec = importlib.util.spec_from_file_location("server_filters", FILE)
server = importlib.util.module_from_spec(spec)
spec.loader.exec_module(server)


def test_a_device_whose_deployment_failed_stays_known():
    assert server.deployed({}, ["a", "b"], ["a", "server"]) == {"a": "", "b": ""}
    assert server.deployed({"a": "stop", "b": "reset", "c": "stop"}, ["a", "b"], ["a"]) == {
        "a": "", "b": "reset", "c": "stop"
    }  # fmt: skip


def test_a_device_that_a_deployment_came_to_is_not_to_be_stopped_any_more_even_if_it_failed_there():
    known = {"a": "stop", "b": "reset", "c": "stop"}
    assert server.deployed(known, ["a", "b"], []) == {"a": "", "b": "reset", "c": "stop"}


def test_what_was_not_stopped_is_still_to_be_stopped():
    known = {"a": "", "b": "stop", "c": "", "d": "reset"}
    assert server.stopped(known, ["a", "b", "d", "unknown", "server"], ["b", "server"]) == {
        "a": "stop", "b": "", "c": "", "d": "reset"
    }  # fmt: skip
    assert server.stopped(known, ["d"], ["d"])["d"] == "reset"


def test_what_was_not_reset_is_still_to_be_reset():
    known = {"a": "", "b": "stop", "c": "reset"}
    assert server.reset(known, ["a", "b", "server"], ["a", "server"]) == {"b": "reset", "c": "reset"}
    assert server.reset({"c": "reset"}, ["c"], ["c"]) == {}


@pytest.mark.parametrize(("check", "now"), [(False, "It is stopped now"), (True, "It would be stopped now")])
@pytest.mark.parametrize(("left", "was", "to_do"), [
    ("stop", "stopped", "."), ("reset", "reset", "; call reset.yml again to reset it."),
])  # fmt: skip
def test_a_check_does_not_say_that_a_device_is_stopped(left, was, to_do, check, now):
    tasks = yaml.safe_load((ROLE / "tasks" / "stop_owed.yml").read_text())
    (say,) = [task["ansible.builtin.debug"]["msg"] for task in tasks if "ansible.builtin.debug" in task]
    values = {"inventory_hostname": "a", "server_hosts": {"a": left}, "ansible_check_mode": check}
    said = Templar(DataLoader(), variables=values).template(say)
    assert said == f"a was not reached when it was to be {was}. {now}{to_do}"


def test_how_a_device_is_reached_is_kept_without_a_secret():
    own = {
        "ansible_host": "10.0.0.7", "ansible_user": "pi", "ansible_password": "x", "ansible_become_password": "x",
        "ansible_ssh_private_key_file": "/me/key", "ansible_ssh_extra_args": "-o ProxyCommand='sshpass -p x ssh jump'",
        "ansible_ssh_common_args": "-J me@jump", "fl_home": "{{ x }}", "dataset_size": 3,
    }  # fmt: skip
    fleet = {"fl_home": "/opt/a", "fl_runtime": "docker", "fl_batch_size": 3}
    assert server.addresses(["a"], {"a": own, "b": {}}, {"a": fleet, "b": {}}) == {
        "a": {
            "ansible_host": "10.0.0.7", "ansible_user": "pi", "ansible_ssh_private_key_file": "/me/key",
            "ansible_ssh_common_args": "-J me@jump", "fl_home": "/opt/a", "fl_runtime": "docker",
        }
    }  # fmt: skip


def test_a_line_may_be_taken_out_of_the_list_by_hand(tmp_path):
    hosts = yaml.safe_load((ROLE / "vars/main.yml").read_text())["server_hosts"]
    hosts = hosts.replace("ansible.builtin.", "")  # which names of plugins only a playbook understands
    values = {"fl_server_name": "server", "fl_fleet": {"hosts": {"server": {"fl_home": str(tmp_path)}}}}
    (tmp_path / "hosts.json").write_text('{\n    "a": "stop",\n    "b": "",\n}\n')  # where c was
    assert Templar(DataLoader(), variables=values).template(hosts) == {"a": "stop", "b": ""}
