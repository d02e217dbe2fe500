"""The validator inside real calls of Ansible: where it finds things, and what its user sees."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
FIRST = """
- name: First
  hosts: localhost
  gather_facts: false
  roles: [fl]
"""
PLAYBOOK = (
    FIRST
    + """
- name: Second
  hosts: server:devices
  gather_facts: false
  roles: [fl]
  tasks:
    - name: Write what a template sees of another host
      ansible.builtin.copy:
        content: "{{ fl_fleet.hosts | to_json }}"
        dest: "{{ playbook_dir }}/fleet.json"
        mode: "0644"
      run_once: true
      delegate_to: localhost
"""
)
ADDRESSES = (
    FIRST
    + """
- name: Second
  hosts: server:devices
  gather_facts: false
  roles:
    - fl
  vars_files:
    - "{{ ansible_config_file | dirname }}/roles/dataset/defaults/main.yml"
    - "{{ ansible_config_file | dirname }}/roles/dataset/vars/main.yml"
    - "{{ ansible_config_file | dirname }}/roles/server/vars/main.yml"
    - "{{ ansible_config_file | dirname }}/roles/client/vars/main.yml"
  tasks:
    - name: Render what has an address
      ansible.builtin.copy:
        content: "{{ rendered | to_json }}"
        dest: "{{ playbook_dir }}/files.json"
        mode: "0644"
      when: inventory_hostname == 'rpi-1'
      vars:
        templates: "{{ fl_checkout }}/templates"
        server_dataset: {}
        rendered:
          client: "{{ lookup('template', templates ~ '/client.json.j2', convert_data=false) }}"
          run: "{{ lookup('template', templates ~ '/run.json.j2', convert_data=false) }}"
          initial: "{{ server_initial }}"
          dataset: "{{ lookup('template', templates ~ '/dataset.json.j2', convert_data=false) }}"
          task: "{{ fl_task_file }}"
          server: "{{ lookup('template', templates ~ '/server.json.j2', convert_data=false) }}"
          flwr: "{{ lookup('template', templates ~ '/flwr.toml.j2', convert_data=false) }}"
          supernode: "{{ client_programs.superlink.command | join(' ') }}"
          superlink: "{{ server_programs.superlink.command | join(' ') }}"
"""
)

pytestmark = pytest.mark.skipif(not (BIN / "ansible-playbook").exists(), reason="needs ansible-playbook")


def ansible(program, *arguments, cwd=ROOT, **environment):
    return subprocess.run(
        [BIN / program, *map(str, arguments)],
        cwd=cwd, env={**os.environ, **environment},
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip


@pytest.fixture
def play(tmp_path):
    playbook = tmp_path / "play.yml"
    playbook.write_text(PLAYBOOK)
    return lambda *arguments, **environment: ansible("ansible-playbook", playbook, *arguments, **environment)


@pytest.fixture
def inventory(tmp_path):
    """A copy of the local inventory, to spoil."""
    return Path(shutil.copytree(ROOT / "inventory/local", tmp_path / "inventory"))


def sentences(done):
    assert done.returncode != 0, done.stdout
    return [line.strip()[2:] for line in done.stdout.splitlines() if line.startswith("        - ")]


@pytest.mark.parametrize("name", ["local", "lab"])
def test_graph_is_readable(name):
    done = ansible("ansible-inventory", "-i", f"inventory/{name}", "--graph")
    assert done.returncode == 0 and done.stderr == ""
    tree = [line.rsplit("--", 1)[-1].rstrip(":") for line in done.stdout.splitlines()]
    boards = (
        [f"rpi-{n}" for n in (1, 2, 3)],
        [f"jetson-2gb-{n}" for n in (1, 2)],
        [f"jetson-4gb-{n}" for n in range(1, 6)],
    )
    assert tree[tree.index("@devices") :] == [
        "@devices", "@rpi", *boards[0], "@jetson", "@jetson_2gb", *boards[1], "@jetson_4gb", *boards[2],
    ]  # fmt: skip
    assert "server" in tree


def test_local_inventory_is_good_and_handed_out(play, tmp_path):
    done = play("-e", "fl_batch_size=8")
    assert done.returncode == 0, done.stdout
    fleet = json.loads((tmp_path / "fleet.json").read_text())
    assert len(fleet) == 11 and fleet["rpi-3"]["fl_batch_size"] == 8
    assert fleet["rpi-3"]["fl_home"] == f"{ROOT}/.flowerbed/local/rpi-3"
    ports = [fleet["server"]["fl_server_port"], *(fleet[name]["fl_node_port"] for name in fleet if name != "server")]
    assert len({*ports}) == 11 and all(20000 <= port < 32768 for port in ports)


def test_ports_follow_the_path():
    """There are 300 for all paths; that three have the same is rare enough."""
    variables = yaml.safe_load((ROOT / "inventory/local/group_vars/all.yml").read_text())

    def port(folder):
        templar = Templar(DataLoader(), variables={"inventory_dir": folder})
        return int(templar.template(variables["fl_server_port"]))

    assert port("/a") == port("/a") and len({port(f"/{name}") for name in "abc"}) > 1


def test_an_ipv6_address_gets_its_brackets_and_a_path_can_begin_with_the_users_home(tmp_path, inventory):
    """In every file that has an address with a port, or a path on the server."""
    shutil.copy(ROOT / "fl_app/task.py", tmp_path)
    given = {"fl_server_host": "fd00::1", "fl_listen": "::", "fl_server_port": 9092,
             "fl_task": "~/task.py", "fl_runs": "~/runs", "dataset_path": "~/photos",
             "fl_initial": "~/before.safetensors"}  # fmt: skip
    (tmp_path / "play.yml").write_text(ADDRESSES)
    play = (tmp_path / "play.yml", "-i", inventory, "-e", json.dumps(given))
    done = ansible("ansible-playbook", *play, HOME=str(tmp_path))
    assert done.returncode == 0, done.stdout
    files = json.loads((tmp_path / "files.json").read_text())
    assert json.loads(files["client"])["server"] == "[fd00::1]:9092"
    assert json.loads(files["run"])["superlink"]["address"] == "[::1]:9092", "as its own machine reaches it"
    assert json.loads(files["server"])["address"] == "[::]:9092"
    assert 'address = "[::1]:9092"' in files["flwr"]
    assert "--superlink=[fd00::1]:9092" in files["supernode"] and "[::]:9092" in files["superlink"]
    assert files["task"] == f"{tmp_path}/task.py"
    assert json.loads(files["dataset"])["path"] == f"{tmp_path}/photos"
    assert json.loads(files["run"])["directory"].startswith(f"{tmp_path}/runs/")
    assert json.loads(files["run"])["initial"] == f"{tmp_path}/before.safetensors"


@pytest.mark.parametrize(("given", "path"), [
    ({}, ""), ({"fl_initial": "other"}, f"{ROOT}/runs/other"), ({"fl_initial": 5, "fl_runs": "/r"}, "/r/5"),
    ({"fl_initial": "a.safetensors"}, f"{ROOT}/a.safetensors"), ({"fl_initial": "old/runs/a"}, f"{ROOT}/old/runs/a"),
])  # fmt: skip
def test_a_first_model_is_a_file_or_an_experiment(tmp_path, inventory, given, path):
    (tmp_path / "play.yml").write_text(ADDRESSES)
    done = ansible("ansible-playbook", tmp_path / "play.yml", "-i", inventory, "-e", json.dumps(given))
    assert done.returncode == 0, done.stdout
    assert json.loads((tmp_path / "files.json").read_text())["initial"] == path


def test_lab_asks_for_its_addresses(play):
    found = sentences(play("-i", "inventory/lab", "--check"))
    assert [sentence.split(": ")[1].split(" is ")[0] for sentence in found] == [
        "ansible_host in inventory/lab/hosts.yml",
        "fl_server_host in inventory/lab/group_vars/all.yml:3",
    ]


def test_every_problem_names_host_variable_and_file_at_once(play, inventory):
    (inventory / "host_vars").mkdir()
    (inventory / "host_vars/rpi-1.yml").write_text("fl_threads: -1\nfl_config: '{{ nowhere }}'\n")
    (inventory / "group_vars/jetson.yml").write_text("---\nfl_threads: 2\nfl_runtime: podman\n")
    hosts = (inventory / "hosts.yml").read_text().replace("rpi-[1:3]:\n", "rpi-[1:3]:\n              fl_wieght: 1\n", 1)
    (inventory / "hosts.yml").write_text(hosts)
    line = hosts.splitlines().index("              fl_wieght: 1") + 1
    done = play("-i", inventory, "-e", "fl_lnk=stream", "-e", "rounds=none")
    assert sorted(sentences(done)) == sorted([
        f"rpi-1: fl_threads in {inventory}/host_vars/rpi-1.yml:1 is -1, but must be a whole number of at least 0.",
        f"rpi-1: fl_config in {inventory}/host_vars/rpi-1.yml:2 cannot be worked out: 'nowhere' is undefined.",
        f"jetson-2gb-1, jetson-2gb-2, jetson-4gb-1 and 4 more: fl_runtime in {inventory}/group_vars/jetson.yml:3 is "
        "'podman', which is not one of its choices: choose process or docker.",
        f"rpi-1, rpi-2 and rpi-3: fl_wieght in {inventory}/hosts.yml:{line} is no variable of Flowerbed; "
        "did you mean fl_weight?",
        "fl_lnk on the command line is no variable of Flowerbed; did you mean fl_link?",
        "rounds on the command line is 'none', but must be a whole number of at least 1.",
    ])  # fmt: skip
    assert "because of 6 problems:" in done.stdout and "Traceback" not in done.stdout + done.stderr


def test_an_ini_inventory_names_its_file(play, tmp_path):
    hosts = tmp_path / "hosts.ini"
    hosts.write_text("server ansible_connection=local\n[rpi]\na ansible_connection=local\n[devices:children]\nrpi\n"
                     "[devices:vars]\nfl_threads=-1\n")  # fmt: skip
    assert sentences(play("-i", hosts)) == [
        f"a: fl_threads in {hosts} is -1, but must be a whole number of at least 0."
    ]


@pytest.mark.parametrize(("hosts", "text"), [
    ("server:\n  hosts: {laptop: }\n", "has no devices: put hosts into the group devices, or into one below it"),
    ("devices: {children: {rpi: {hosts: {a: {ansible_connection: local}}}}}\n", "has no host named server: add it"),
])  # fmt: skip
def test_missing_hosts(play, tmp_path, hosts, text):
    (tmp_path / "hosts.yml").write_text(hosts)
    (found,) = sentences(play("-i", tmp_path / "hosts.yml"))
    assert found.startswith(f"{tmp_path}/hosts.yml {text}")


def test_a_file_that_ansible_passes_over_is_named(play, tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "hosts.ini").write_text("server\n[devices]\na ansible_connection=local\n")
    first, *_ = sentences(play("-i", folder))
    assert f"Ansible passes over {folder}/hosts.ini because of its suffix: " in first
    (folder / "hosts.ini").rename(folder / "hosts")
    assert play("-i", folder).returncode == 0


def test_an_inventory_of_local_processes_needs_no_interpreter():
    """PATH may have Pythons that do not run, such as those of pyenv."""
    local = ("-i", "a,", "-e", "ansible_connection=local")
    done = ansible("ansible", "all", *local, "-m", "ansible.builtin.setup", "-a", "filter=ansible_python")
    assert f"executable: {sys.executable}\n" in done.stdout, done.stdout


def test_limit_still_validates_everything(play, inventory):
    (inventory / "group_vars/jetson.yml").write_text("fl_threads: -1\n")
    assert "jetson-2gb-1" in sentences(play("-i", inventory, "--limit", "rpi-1"))[0]


def test_values_that_need_facts_are_left_for_later(play, inventory):
    (inventory / "group_vars/rpi.yml").write_text("cores: '{{ ansible_facts.nproc }}'\nfl_threads: '{{ cores }}'\n")
    assert play("-i", inventory).returncode == 0


def test_another_configuration_is_refused(play, tmp_path):
    config = tmp_path / "ansible.cfg"
    config.write_text(f"[defaults]\nroles_path = {ROOT}/roles\ninventory = {ROOT}/inventory/local\n")
    done = play(ANSIBLE_CONFIG=str(config), ANSIBLE_CALLBACK_RESULT_FORMAT="yaml")
    assert sentences(done) == [
        f"Ansible reads {config}, but Flowerbed needs its own: unset ANSIBLE_CONFIG and run ansible-playbook in {ROOT}."
    ]


@pytest.mark.parametrize("playbook", ["deploy", "playbooks/status"])
def test_a_call_from_another_folder_is_told_where_to_call_from(tmp_path, monkeypatch, playbook):
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    done = ansible("ansible-playbook", ROOT / f"{playbook}.yml", cwd=tmp_path)
    expected = f"Ansible reads no ansible.cfg, but Flowerbed needs its own: run ansible-playbook in {ROOT}."
    assert done.returncode != 0 and expected in done.stdout, done.stdout + done.stderr


def test_a_checkout_that_anyone_can_write_to_is_told_what_to_do(tmp_path, monkeypatch):
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    for name in ("playbooks", "plugins", "roles"):
        shutil.copytree(ROOT / name, checkout / name, symlinks=True)
    for name in ("deploy.yml", "ansible.cfg"):
        shutil.copy(ROOT / name, checkout)
    checkout.chmod(0o777)
    done = ansible("ansible-playbook", "deploy.yml", cwd=checkout)
    advice = f"Do chmod o-w {checkout}, or export ANSIBLE_CONFIG={checkout}/ansible.cfg."
    assert done.returncode != 0 and advice in done.stdout, done.stdout + done.stderr


def test_two_hundred_devices_are_good(play, inventory, tmp_path):
    hosts = inventory / "hosts.yml"
    hosts.write_text(hosts.read_text().replace("rpi-[1:3]", "rpi-[1:193]"))
    assert play("-i", inventory).returncode == 0
    assert len(json.loads((tmp_path / "fleet.json").read_text())) == 201


def test_nothing_is_connected_to(play, inventory):
    """A device that would have to be reached over SSH does not hold the validator up."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        (inventory / "host_vars").mkdir()
        (inventory / "host_vars/rpi-1.yml").write_text(
            f"ansible_connection: ssh\nansible_host: 127.0.0.1\nansible_port: {silent.getsockname()[1]}\n"
        )
        found = sentences(play("-i", inventory))
    assert [sentence.split(" ")[1] for sentence in found] == ["fl_server_host", "fl_listen", "fl_python"]
