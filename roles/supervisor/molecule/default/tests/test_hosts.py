"""What a deployment leaves in the folder of each host, and what runs there."""

import json
import sys

import pytest

PROGRAMS = {
    "server": {"server", "trainer"}, "rpi-1": {"client", "trainer"}, "jetson-4gb-1": {"client", "trainer"},
}  # fmt: skip
HOSTS = list(PROGRAMS)
DEVICES = HOSTS[1:]
DIGITS = 1797


@pytest.fixture
def config(folder):
    """Read a JSON file of a host's."""
    return lambda host, name: json.loads((folder / host / name).read_text())


@pytest.fixture
def ask(host, folder):
    """Ask a program of a host for its status, as the roles do."""

    def answer(of, *arguments):
        command = f"cd {folder}/{of} && PYTHONPATH=app {sys.executable} -m flowerbed.status {' '.join(arguments)}"
        return json.loads(host.check_output(command))

    return answer


@pytest.mark.parametrize("name", HOSTS)
def test_the_supervisor_runs_the_hosts_programs(host, folder, running, name):
    ctl = f"cd {folder}/{name} && {sys.executable} -m supervisor.supervisorctl -c supervisord.conf status"
    states = dict(line.split()[:2] for line in host.check_output(ctl).splitlines())
    assert states == dict.fromkeys(PROGRAMS[name], "RUNNING")
    assert running[name] >= 3  # with the supervisor


@pytest.mark.parametrize("name", HOSTS)
def test_only_its_user_reads_what_has_the_environment_of_programs(host, folder, name):
    files = list((folder / name / "programs").iterdir())
    assert {file.stem for file in files} == PROGRAMS[name]
    assert all(host.file(str(file)).mode == 0o600 for file in files)


@pytest.mark.parametrize("name", HOSTS)
def test_only_its_user_reads_a_hosts_key_and_the_server_knows_the_devices(host, folder, config, name):
    tls = host.file(f"{folder}/{name}/tls")
    keys = {"key.pem", "authority.key"} if name == "server" else {"key.pem"}
    others = {"certificate.pem", "authority.pem"} | ({"devices.json"} if name == "server" else set())
    assert tls.mode == 0o700 and set(tls.listdir()) == keys | others
    assert {host.file(f"{tls.path}/{key}").mode for key in keys} == {0o600}
    assert set(config("server", "tls/devices.json")) == set(DEVICES)


def test_the_data_set_is_split_for_all_of_them(config):
    manifest = config("server", "shards/manifest.json")
    assert (manifest["name"], manifest["shape"], len(manifest["classes"])) == ("digits", [8, 8, 1], 10)
    assert manifest["test"] == round(0.2 * DIGITS) == 359
    parts = manifest["devices"]
    assert {name: (part["train"], part["heldout"]) for name, part in parts.items()} == dict.fromkeys(DEVICES, (647, 72))
    assert sum(sum(part["labels"].values()) for part in parts.values()) == DIGITS - 359


@pytest.mark.parametrize("name", HOSTS)
def test_each_trainer_is_ready_with_its_own_part(folder, config, ask, name):
    trainer = ask(name, "trainer.json")
    assert trainer["ready"] and trainer["name"] == name
    assert (trainer["examples"], trainer["heldout_examples"]) == ((0, 359) if name == "server" else (647, 72))
    assert trainer["threads"] >= 1
    for part in (folder / "server/shards" / name).iterdir():
        assert part.read_bytes() == (folder / name / "shard" / part.name).read_bytes()


def test_a_devices_own_variables_reach_its_programs(config, ask):
    assert config("jetson-4gb-1", "client.json")["overrides"] == {"batch_size": 16}
    assert config("jetson-4gb-1", "client.json")["facts"] == {"board": "Jetson Nano"}
    assert config("rpi-1", "client.json")["overrides"] == {} == config("rpi-1", "client.json")["facts"]
    assert ask("jetson-4gb-1", "trainer.json")["threads"] == 1
    assert config("jetson-4gb-1", "trainer.json")["options"] == {"greeting": "it's 5 % ;#é"}


def test_the_devices_are_connected_to_the_server(config, ask):
    address = config("server", "server.json")["address"]
    assert {config(name, "client.json")["server"] for name in DEVICES} == {address}
    devices = ask("server", "--server", "server.json")["devices"]
    assert set(devices) == set(DEVICES) and all(device["connected"] for device in devices.values())


def test_what_is_deployed_is_recorded(config):
    assert set(config("server", "deployed.json")) == set(HOSTS)
    assert config("server", "hosts.json") == dict.fromkeys(DEVICES, "")
