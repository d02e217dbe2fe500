"""How preflight judges what it found: a word in the table for each check, and a sentence that says what to do."""

import importlib.util
import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def filters(role, name=None):
    path = ROOT / "roles" / role / "filter_plugins" / f"{name or role}.py"
    spec = importlib.util.spec_from_file_location(role, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


preflight, raspberry_pi, jetson, docker_engine = map(filters, ("preflight", "raspberry_pi", "jetson", "docker_engine"))
trainer = filters("trainer", "trainer_image")

BOUNDS = {"disk": 500, "disk_docker": 6000, "memory": 500, "clock": 5, "wifi": -75}
GOOD = {
    "kind": "raspberry_pi", "model": "Raspberry Pi 4 Model B Rev 1.4", "release": "Debian GNU/Linux 12 (bookworm)",
    "l4t": "", "page": 4096, "machine": "aarch64", "bits": 64, "python": "3.11.2", "free": 20e9, "memory_cgroup": True,
    "memory": {"total": 4e9, "available": 3e9, "swap": 1e9}, "wifi": -50, "port": "refused",
    "trainer": None, "clients": [], "apt": True,
    "outputs": {"throttled": "throttled=0x0\n", "power_save": "", "power_mode": "", "clocks": "", "nvidia_smi": "",
                "nvidia_nodes": "", "nvidia_cards": ""}, "files": {},
    "docker": {"version": "20.10.24", "runtimes": ["nvidia", "runc"], "cdi": False, "free": 20e9, "images": {}},
    "engine": {"path": "/etc/docker/daemon.json", "text": None, "nvidia": False}, "asked_at": 1000.0, "time": 1001.0,
}  # fmt: skip
MISSING = {"error": "not installed", "free": 20e9}
L4T = "32.7.1"


def judge(facts=None, runtime="docker", group="rpi", sudo="", reach=None, ssh=None, image=None, mode="", **changes):
    """Judge one device with these facts changed; `throttled` is what vcgencmd says."""
    if "throttled" in changes:
        changes["outputs"] = {**GOOD["outputs"], "throttled": changes.pop("throttled")}
    if changes.get("l4t"):
        changes["kind"] = "jetson"
    image = image or ("lhkhiem28/jetson:1.0" if changes.get("l4t") else "lhkhiem28/rpi:1.4")
    found = facts or {"board": {**GOOD, **changes}}
    own = {
        "group_names": ["devices", group], "inventory_dir": "/me/lab",
        "ansible_host": "192.0.2.11", "ansible_user": "pi",
        "board_answer": reach or ({"msg": sudo} if sudo else found),
        "board_plain": found if sudo else {"skipped": True},
        "device_image_lacking": ["rpi:1.4"] if runtime == "docker" else [], **(ssh or {}),
    }  # fmt: skip
    if board := found.get("board"):
        docker = runtime == "docker"
        own |= {
            "raspberry_pi_checks": raspberry_pi.checks(board, docker),
            "jetson_checks": jetson.checks(board, docker, group == "jetson", mode),
            "docker_engine_checks": docker_engine.checks(board, docker, not sudo),
            "trainer_checks": trainer.checks(board, image, docker),
        }
    fleet = {"d": {"fl_runtime": runtime, "fl_server_host": "192.0.2.1", "fl_server_port": 9092}}
    return preflight.judge(["d"], {"d": own}, fleet, BOUNDS, 1002.0)


def test_a_good_board_has_nothing_to_say():
    report = judge()
    assert not report["failures"] and not report["warnings"]
    header, row = report["table"].splitlines()
    assert header.split()[:4] == ["device", "ssh", "sudo", "model"] and row.startswith(
        "d       yes  yes   Pi 4 Model B"
    )
    assert "!" not in row and "~" not in row


def test_a_board_in_two_inventories_is_said():
    mine = {"name": "d", "server": "192.0.2.1:9092", "inventory": f"/me/lab on {platform.node()}"}
    assert not judge(clients=[mine])["warnings"]
    other = {"name": "pi", "server": "192.0.2.7:9092", "inventory": "/you/lab on desk"}
    [warning] = judge(clients=[mine, other])["warnings"]
    assert warning.startswith(
        "d is in two inventories: /you/lab on desk has deployed to it as pi, for the server at 192.0"
    )


def test_a_good_jetson_has_nothing_to_say():
    report = judge(group="jetson", l4t=L4T, model="NVIDIA Jetson Nano Developer Kit", throttled="")
    assert not report["failures"] and not report["warnings"] and "L4T 32.7.1" in report["table"]


@pytest.mark.parametrize("l4t", ["35.4.1", "36.4.3"])
def test_jetpack_5_and_6_are_good_with_an_image_of_ones_own_or_as_processes(l4t):
    assert not judge(group="jetson", l4t=l4t, throttled="", image="me/mine:1")["failures"]
    assert not judge(group="jetson", l4t=l4t, throttled="", runtime="process")["failures"]


def test_in_the_process_runtime_nothing_of_docker_is_asked_for():
    report = judge(runtime="process", sudo="Missing sudo password", docker=MISSING, memory_cgroup=False, free=1e9)
    assert not report["failures"] and not report["warnings"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bits": 32}, "d has 32-bit programs on a 64-bit kernel (aarch64): install the 64-bit edition"),
        ({"machine": "armv7l", "bits": 32}, "d has a 32-bit system (armv7l): install the 64-bit edition"),
        ({"group": "jetson"}, "d is no Jetson (it has no /etc/nv_tegra_release that names its L4T): move it"),
        ({"l4t": "35.7.1"}, "d has L4T 35.7.1, but the tutorial's image is made for JetPack 4.6"),
        ({"l4t": "32.5.2"}, "d has L4T 32.5.2, but"),
        ({"sudo": "Missing sudo password"}, "d does not let its user become root, which Docker needs"),
        (
            {"time": 1002.0 + 365 * 86400, "kind": "other"},
            "d has a clock that is 365 days ahead: let it reach a time server",
        ),
        ({"time": 1000.0 - 365 * 86400, "runtime": "process"}, "d has a clock that is 365 days behind: let it"),
        ({"free": 1e8}, "d has 0.1 GB of disk left, and needs 6 GB"),
        (
            {"docker": {"version": "1", "runtimes": [], "cdi": False, "free": 2e9}},
            "d has 2.0 GB of disk left, and needs 6 GB",
        ),
        ({"docker": MISSING, "l4t": L4T}, "d has no Docker engine: on a Jetson Docker comes with JetPack"),
        (
            {"engine": {"path": "/etc/docker/daemon.json", "text": '{"debug": true,\n}', "nvidia": False}},
            "d has a /etc/docker/daemon.json that is not JSON (line 2: ",
        ),
        (
            {"group": "jetson", "l4t": L4T, "docker": {"version": "1", "runtimes": [], "cdi": False, "free": 9e9}},
            "d has a Docker engine that knows no runtime nvidia",
        ),
        ({"port": "no answer within 5 s"}, "d cannot reach the server at 192.0.2.1:9092 (no answer within 5 s)"),
        ({"facts": {"msg": "it broke"}}, "d could not be looked at: it broke"),
    ],
)
def test_what_breaks_a_deployment_fails(changes, sentence):
    report = judge(**changes)
    (found,) = report["failures"]["d"]
    assert found.startswith(sentence) and found.endswith(".") and "!" in report["table"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"time": 1062.0}, "d has a clock that is 60 seconds ahead: deploy.yml sets it"),
        ({"time": 1000.0 - 365 * 86400}, "d has a clock that is 365 days behind: deploy.yml sets it"),
        (
            {
                "group": "jetson",
                "l4t": L4T,
                "docker": {**GOOD["docker"], "runtimes": []},
                "engine": {**GOOD["engine"], "nvidia": True},
            },
            "d has a Docker engine that does not know its runtime nvidia yet: deploy.yml adds it",
        ),
        ({"memory": {"total": 1e9, "available": 1e8, "swap": 0}}, "d has 100 MB of memory and swap to spare"),
        ({"docker": MISSING}, "d has no Docker engine yet: deploy.yml installs it"),
        ({"docker": {"error": "does not answer (x)", "free": 9e9}}, "d has a Docker engine that does not answer (x)"),
        ({"memory_cgroup": False}, "d cannot limit a container's memory yet: deploy.yml turns that on"),
        ({"memory_cgroup": False, "kind": "other"}, "d cannot limit a container's memory"),
        ({"throttled": "throttled=0x50005\n"}, "d is slowed down, short of voltage: use a stronger power supply"),
        ({"throttled": "throttled=0x80000\n"}, "d was since its boot slowed down, too hot: give it a cooler"),
        ({"wifi": -82}, "d has weak Wi-Fi (-82 dBm)"),
        ({"trainer": {"ready": False, "problem": "no data."}}, "d has a trainer that is not usable: no data"),
    ],
)
def test_what_is_worth_a_look_warns(changes, sentence):
    report = judge(**changes)
    assert not report["failures"] and "~" in report["table"]
    (found,) = report["warnings"]
    assert found.startswith(sentence)


@pytest.mark.parametrize("time", [1000.0, 1001.5, 1002.0])
def test_within_the_time_that_asking_took_nothing_is_said_of_the_clock(time):
    assert judge(time=time)["devices"]["d"]["clock"] == {"state": "ok", "word": "0 s", "sentence": ""}


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("Host key verification failed.", "d has an SSH host key that this machine does not know: run playbooks/"),
        ("@ REMOTE HOST IDENTIFICATION HAS CHANGED! @ Host key verification failed.", "d shows another SSH host key"),
        ("pi@192.0.2.11: Permission denied (publickey,password).", "d refuses the login of pi: copy your key there"),
        ("ssh: connect to host 192.0.2.11 port 22: Connection timed out", "d does not answer at 192.0.2.11"),
        ("ssh: connect to host 192.0.2.11 port 22: No route to host", "d does not answer at 192.0.2.11"),
        ("Could not resolve hostname: Name or service not known", "d has the address 192.0.2.11, which no name"),
        ("/bin/sh: 1: /usr/bin/python3: not found", "d has no Python that Ansible can use"),
        ("it is Tuesday", "d cannot be reached: it is Tuesday"),
    ],
)  # fmt: skip
def test_a_device_that_is_not_reached_is_told_why(message, sentence):
    report = judge(reach={"unreachable": True, "msg": message})
    (found,) = report["failures"]["d"]
    assert found.startswith(sentence) and list(report["devices"]["d"]) == ["ssh"]


CHANGED = (
    "@ WARNING: REMOTE HOST IDENTIFICATION HAS CHANGED! @ Add correct host key in /home/pi/.ssh/known_hosts to get rid "
    "of this message. Offending ED25519 key in {file}:3 remove with: ssh-keygen -f {file} -R {name} Host key for "
    "{name} has changed and you have requested strict checking. Host key verification failed."
)
JUMP = {"ansible_port": 2222, "ansible_ssh_common_args": "-J me@192.0.2.1 -o UserKnownHostsFile=/k/own"}


@pytest.mark.parametrize(
    ("ssh", "message", "words"),
    [
        ({}, CHANGED.format(file="/home/pi/.ssh/known_hosts", name="192.0.2.11"),
         "d shows another SSH host key than before. If you installed it anew, forget the old one with "
         "ssh-keygen -R 192.0.2.11 -f /home/pi/.ssh/known_hosts; if not"),
        (JUMP, CHANGED.format(file="/k/a b", name="[192.0.2.11]:2222"),
         "forget the old one with ssh-keygen -R '[192.0.2.11]:2222' -f '/k/a b'; if not"),
        (JUMP, "REMOTE HOST IDENTIFICATION HAS CHANGED!", "ssh-keygen -R '[192.0.2.11]:2222' -f /k/own; if not"),
        (JUMP, CHANGED.format(file="/k/own", name="[192.0.2.1]:2200"),
         "d is reached by way of 192.0.2.1, which shows another SSH host key than before. If you installed it anew, "
         "forget the old one with ssh-keygen -R '[192.0.2.1]:2200' -f /k/own; if not"),
        (JUMP, "Host key verification failed.", "does not know: run playbooks/trust.yml, which shows it and asks."),
        ({"ansible_port": "22", "ansible_ssh_private_key_file": "/k/my key"},
         "pi@192.0.2.11: Permission denied (publickey).",
         "d refuses the login of pi: copy your key there with ssh-copy-id -i '/k/my key' pi@192.0.2.11, or"),
        (JUMP, "me@192.0.2.1: Permission denied (publickey).",
         "d is reached by way of 192.0.2.1, which refuses the login of me: copy your key there with "
         "ssh-copy-id me@192.0.2.1, or"),
        ({"ansible_port": 2222}, "ssh: connect to host 192.0.2.11 port 2222: Connection refused",
         "d does not answer at 192.0.2.11, port 2222: look"),
        (JUMP, "ssh: connect to host 192.0.2.1 port 22: No route to host",
         "d is reached by way of 192.0.2.1, which does not answer at 192.0.2.1: look"),
    ],
)  # fmt: skip
def test_what_to_do_about_a_connection_has_the_port_the_jump_host_and_the_files_in_use(ssh, message, words):
    (found,) = judge(reach={"unreachable": True, "msg": message}, ssh=ssh)["failures"]["d"]
    assert words in found


def test_ssh_is_called_for_a_host_key_as_ansible_calls_it():
    hosts = {
        "a": {"ansible_host": "192.0.2.11", "ansible_user": "pi", **JUMP},
        "b": {"ansible_ssh_args": "-4", "ansible_ssh_extra_args": "-o 'Ciphers x'", "ansible_ssh_executable": "/s"},
        "c": {"ansible_connection": "local"},
    }
    assert preflight.logins([*hosts], hosts) == {
        "a": {"ssh": "ssh", "options": " -J me@192.0.2.1 -o UserKnownHostsFile=/k/own ", "host": "192.0.2.11",
              "port": 2222, "user": "pi"},
        "b": {"ssh": "/s", "options": "-4  -o 'Ciphers x'", "host": "b", "port": 22, "user": ""},
    }  # fmt: skip


def key(fingerprint, changed=False, jump=False):
    return {"devices": ["a", "b"] if jump else ["a"], "host": "192.0.2.1", "kind": "ED25519", "jump": jump,
            "fingerprint": f"SHA256:{fingerprint}", "changed": changed}  # fmt: skip


KEYS = [key("c", changed=True), key("n"), key("j", jump=True)]


def test_host_keys_that_were_changed_are_shown_last_and_loudly():
    assert preflight.question(KEYS).splitlines() == [
        "a: 192.0.2.1 shows the host key, ED25519 SHA256:n",
        "a, b: the jump host 192.0.2.1 shows the host key, ED25519 SHA256:j",
        "a: 192.0.2.1 shows ANOTHER host key than before, ED25519 SHA256:c",
        "If you did not install anew what shows another, somebody may stand between you and it.",
    ]


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ("yes", "nj"), ("Y", "nj"), ("no", ""), ("", ""), ("SHA256:c", "c"), (["SHA256:n", "SHA256:j"], "nj"),
        ("SHA256:n,SHA256:c, SHA256:x", "cn"), ("yes SHA256:n", "n"), ("sha256:c", ""),
    ],
)  # fmt: skip
def test_a_changed_host_key_is_only_accepted_by_its_fingerprint(answer, accepted):
    assert "".join(each["fingerprint"][-1] for each in preflight.trusted(KEYS, answer)) == accepted


@pytest.mark.parametrize(("said", "words"), [
    ("Missing sudo password", "give it with -K (--ask-become-pass), or set ansible_become_password"),
    ("Incorrect sudo password", "d refuses the password for sudo: give the right one with -K (--ask-become-pass), or"),
])  # fmt: skip
def test_a_password_for_sudo_is_asked_for(said, words):
    (found,) = judge(sudo=said)["failures"]["d"]
    assert words in found


@pytest.mark.parametrize(
    ("ahead", "word"), [(5400, "+90 min"), (-86400, "-24 h"), (31535996, "+365 d"), (-60, "-60 s")]
)
def test_the_table_has_the_unit_that_fits(ahead, word):
    found = judge(time=1000.0 + ahead if ahead < 0 else 1002.0 + ahead)["devices"]["d"]["clock"]
    assert found["word"] == word


def look(tmp_path):
    """Return what the module finds on this machine, with a device's folder in `tmp_path`."""
    folders = {"home": str(tmp_path / "a" / "b"), "root": str(tmp_path / "a")}
    arguments = {**folders, "server_host": "127.0.0.1", "server_port": 9, "asked_at": 5.0}
    done = subprocess.run(
        [sys.executable, ROOT / "plugins/modules/board_facts.py"],
        input=json.dumps({"ANSIBLE_MODULE_ARGS": arguments}), capture_output=True, text=True,
    )  # fmt: skip
    return json.loads(done.stdout)["board"]


def test_this_machine_is_looked_at(tmp_path):
    facts = look(tmp_path)
    assert set(facts) >= set(GOOD) and facts["bits"] == 64 and facts["port"] == "refused" and facts["asked_at"] == 5.0
    assert facts["memory"]["total"] > facts["memory"]["available"] > 0 and facts["free"] > 0
    assert facts["clients"] == [] and not (tmp_path / "a").exists()


@pytest.mark.parametrize(
    ("text", "clients"),
    [
        ('{"name": "d", "server": "x:1", "inventory": "/me/lab on desk", "facts": {}}',
         [{"name": "d", "server": "x:1", "inventory": "/me/lab on desk"}]),
        ('{"name": "d", "server": "x:1"}', []),  # of an earlier Flowerbed
        ("[1]", []), ("{", []),
    ],
)  # fmt: skip
def test_who_has_deployed_to_a_device_is_looked_up(tmp_path, text, clients):
    (tmp_path / "a/b").mkdir(parents=True)
    (tmp_path / "a/b/client.json").write_text(text)
    assert look(tmp_path)["clients"] == clients


@pytest.mark.parametrize(
    ("own", "runtime", "sentence"),
    [
        ({"board_answer": {"board": GOOD}}, "docker", ""),
        ({"board_answer": {"skipped": True}}, "process", ""),  # on this machine
        ({}, "process", ""),
        ({"board_answer": {"unreachable": True, "msg": "connect to host d port 22: No route to host"}}, "process",
         "does not answer at d: look whether it is on, in this network, and has SSH enabled"),
        ({"board_answer": {"board": {**GOOD, "docker": MISSING}}}, "docker", ""),
        ({"board_answer": {"board": {**GOOD, "docker": {"error": "does not answer (x)"}}}}, "process", ""),
        ({"board_answer": {"board": {**GOOD, "docker": {"error": "does not answer (x)"}}}}, "docker",
         "has a Docker engine that does not answer (x): start it there (systemctl start docker)"),
    ],
)  # fmt: skip
def test_what_keeps_playbooks_from_a_device(own, runtime, sentence):
    assert preflight.barrier(own, "d", runtime) == sentence


def test_the_playbook_judges_this_machine(tmp_path):
    """With what the roles look for and say themselves."""
    program = Path(sys.executable).with_name("ansible-playbook")
    report = tmp_path / "report.json"
    done = subprocess.run(
        [program, "playbooks/preflight.yml", "--limit", "localhost,rpi-1", "-e", f"preflight_report={report}"],
        cwd=ROOT, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0 and "WARNING" not in done.stderr, done.stdout + done.stderr
    checks = json.loads(report.read_text())["devices"]["rpi-1"]
    assert set(checks) == set(preflight.COLUMNS)
    assert checks["ssh"]["state"] == checks["bits"]["state"] == "ok" and checks["throttled"]["state"] == "-"


spec = importlib.util.spec_from_file_location("board_facts", ROOT / "plugins/modules/board_facts.py")
board_facts = importlib.util.module_from_spec(spec)
spec.loader.exec_module(board_facts)


@pytest.mark.parametrize(
    ("line", "release"),
    [
        ("# R32 (release), REVISION: 7.1, GCID: 29818004, BOARD: t210ref, EABI: aarch64, DATE: Sat Feb 19", "32.7.1"),
        ("# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1", "35.4.1"),
        ("# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64, DATE: Wed Jan  8", "36.4.3"),
        ("# something else", ""),
        (None, ""),
    ],
)
def test_a_jetsons_release_is_read_from_its_first_line(line, release):
    assert board_facts.l4t(line) == release


def test_a_specification_of_cdi_counts_only_with_nvidias_gpus_in_it(tmp_path):
    (tmp_path / "other.yaml").write_text("kind: vendor.com/net\n")
    assert not board_facts.cdi([str(tmp_path), str(tmp_path / "none")])
    (tmp_path / "nvidia.yaml").write_text("---\ncdiVersion: 0.5.0\nkind: nvidia.com/gpu\n")
    assert board_facts.cdi([str(tmp_path)]) and not board_facts.cdi([])
