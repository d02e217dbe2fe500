"""Judge what preflight found: a word for each check, and a sentence for what is wrong and what to do."""

from __future__ import annotations

import platform
import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[3] / "fl_app"))
from flowerbed.words import duration

OK, WARN, FAIL, NONE = "ok", "warn", "fail", "-"
DAY = 86400.0
# Where ssh names the host that it has trouble with, which need not be the device: there may be others on the way
NAMED = re.compile(
    r"[Hh]ost key for (\S+) has changed|host key is known for (\S+) and|authenticity of host '(\S+)|"
    r"\S+@(\S+): Permission denied|connect to host (\S+) port"
)


class Finding(NamedTuple):
    """What a check says: its state, a word for the table, and the sentence's end for a failure or warning."""

    state: str
    word: str
    sentence: str = ""


class Device(NamedTuple):
    """A device as the inventory has it, what was found there, and the bounds to judge by."""

    wanted: dict[str, Any]
    facts: dict[str, Any]
    bounds: dict[str, float]

    @property
    def docker(self) -> bool:
        """Whether it runs Flowerbed in Docker."""
        return self.wanted["runtime"] == "docker"


def reach(answer: dict[str, Any], wanted: dict[str, Any]) -> Finding:
    """Judge a first connection; `answer` is what board_facts returned."""
    if "board" in answer:
        return Finding(OK, "yes")
    message, address, user = " ".join(str(answer.get("msg", "")).split()), wanted["address"], wanted["user"]
    login = f"{wanted['options']} {user}@{address}" if user else f"{wanted['options']} {address}"
    place = address if wanted["port"] == 22 else f"{address}, port {wanted['port']}"
    key = address if wanted["port"] == 22 else f"[{address}]:{wanted['port']}"  # as a known-hosts file has it
    whose = ""
    if named := NAMED.search(message):
        key = next(filter(None, named.groups()))
        host = re.sub(r"^\[(.+)\]:\d+$", r"\1", key)
        if host != address:
            whose, place = f"is reached by way of {host}, which ", host
            if denied := re.search(r"(\S+)@(\S+): Permission denied", message):
                user, login = denied[1], f" {denied[1]}@{denied[2]}"
    for pattern, word, sentence in (
        (r"REMOTE HOST IDENTIFICATION HAS CHANGED|host key for .* has changed", "key!",
         "shows another SSH host key than before. If you installed it anew, forget the old one with "
         f"{_forget(key, message, wanted['options'])}; if not, somebody may stand between you and it"),
        (r"Host key verification failed|authenticity of host", "key?",
         "has an SSH host key that this machine does not know: run playbooks/trust.yml, which shows it and asks"),
        (r"Permission denied|Invalid/incorrect password|Authentication fail", "login",
         f"refuses the login of {user or 'this user'}: copy your key there with ssh-copy-id{login}, "
         "or set ansible_user"),
        (r"Could not resolve|Name or service not known|Temporary failure in name", "name",
         f"has the address {address}, which no name server knows: correct ansible_host"),
        (r"interpreter|python.*not found|MODULE FAILURE", "python",
         "has no Python that Ansible can use: install python3 on it, or set ansible_python_interpreter"),
        (r"timed out|No route to host|refused|unreachable|closed by", "no",
         f"does not answer at {place}: look whether it is on, in this network, and has SSH enabled"),
    ):  # fmt: skip
        if re.search(pattern, message, re.IGNORECASE):
            return Finding(FAIL, word, whose + sentence)
    if answer.get("unreachable"):
        return Finding(FAIL, "no", f"cannot be reached: {message}")
    return Finding(FAIL, "python", f"could not be looked at: {message or 'it said nothing'}")


def _forget(key: str, message: str, options: str) -> str:
    """Return the command by which ssh forgets a host's key, in the file that ssh says or was told."""
    file = re.search(r"Offending \S+ key in (.+?):\d+( |$)", message) or re.search(
        r"UserKnownHostsFile[= ]([^\s'\"]+)", options
    )
    return f"ssh-keygen -R {shlex.quote(key)}" + (f" -f {shlex.quote(file[1])}" if file else "")


def sudo(device: Device) -> Finding:
    """Judge whether the user can become root, which only the docker runtime needs."""
    if not device.docker:
        return Finding(NONE, "-")
    if device.facts["sudo"]:
        return Finding(OK, "yes")
    if "Incorrect sudo password" in device.facts["said"]:
        return Finding(FAIL, "wrong", "refuses the password for sudo: give the right one with -K (--ask-become-pass), "
                                      "or set ansible_become_password")  # fmt: skip
    return Finding(FAIL, "no", "does not let its user become root, which Docker needs: give that user sudo, and if "
                               "that asks for a password, give it with -K (--ask-become-pass), or set "
                               "ansible_become_password")  # fmt: skip


def model(device: Device) -> Finding:
    """Show what the device calls itself."""
    name = (device.facts["model"] or "").partition(" Rev")[0]
    return Finding(OK if name else NONE, re.sub(r"Raspberry |NVIDIA | Developer Kit", "", name) or "-")


def python(device: Device) -> Finding:
    """Show the Python that Ansible uses there; had it none that Ansible can use, there would be no facts."""
    return Finding(OK, device.facts["python"])


def system(device: Device) -> Finding:
    """Show the operating system's release."""
    release = re.search(r"\((\w+)\)|Ubuntu ([\d.]+)", device.facts["release"] or "")
    return Finding(OK, next(filter(None, release.groups())) if release else device.facts["release"] or "?")


def clock(device: Device) -> Finding:
    """Judge the clock against this machine's; within the time that asking took, nothing can be said."""
    offset = device.facts["offset"]
    word = "0 s" if abs(offset) < 0.5 else ("+" if offset > 0 else "") + duration(offset, short=True)
    if abs(offset) <= device.bounds["clock"]:
        return Finding(OK, word)
    ours = device.docker and device.facts["kind"] in ("raspberry_pi", "jetson")  # whose roles get it right
    advice = "deploy.yml sets it" if ours else "let it reach a time server (timedatectl set-ntp true)"
    where = "ahead" if offset > 0 else "behind"
    state = FAIL if abs(offset) > DAY and not ours else WARN
    return Finding(state, word, f"has a clock that is {duration(abs(offset))} {where}: {advice}")


def disk(device: Device) -> Finding:
    """Judge the space that is left, where the images go in the docker runtime."""
    free = device.facts["free"]
    need = device.bounds["disk_docker"] if device.facts["lacking"] else device.bounds["disk"]
    if device.docker:
        free = min(free, device.facts["docker"]["free"])
    word = f"{free / 1e9:.1f} GB"
    if free >= need * 1e6:
        return Finding(OK, word)
    return Finding(FAIL, word, f"has {free / 1e9:.1f} GB of disk left, and needs {need / 1e3:g} GB: remove what you do "
                               "not need there, or use a larger card")  # fmt: skip


def memory(device: Device) -> Finding:
    """Judge what is free of memory and swap."""
    amounts = device.facts["memory"]
    word = f"{amounts['total'] / 1e9:.1f}+{amounts['swap'] / 1e9:.1f} GB"
    if amounts["available"] + amounts["swap"] >= device.bounds["memory"] * 1e6:
        return Finding(OK, word)
    spare = (amounts["available"] + amounts["swap"]) / 1e6
    return Finding(WARN, word, f"has {spare:.0f} MB of memory and swap to spare, less than the "
                               f"{device.bounds['memory']:g} MB to train with: add swap, or lower fl_batch_size"
                   )  # fmt: skip


def images(device: Device) -> Finding:
    """Show whether the images are there; to bring them is part of a deployment."""
    if not device.docker:
        return Finding(NONE, "-")
    lacking = len(device.facts["lacking"])
    return Finding(NONE, f"{lacking} to pull") if lacking else Finding(OK, "yes")


def wifi(device: Device) -> Finding:
    """Judge the signal of a wireless network."""
    signal = device.facts["wifi"]
    if signal is None:
        return Finding(NONE, "-")
    if signal >= device.bounds["wifi"]:
        return Finding(OK, f"{signal} dBm")
    return Finding(WARN, f"{signal} dBm", f"has weak Wi-Fi ({signal} dBm): move it nearer to the access point")


def port(device: Device) -> Finding:
    """Judge whether the device gets to the server; before deploy.yml nobody listens there, and that is no failure."""
    answer, where = device.facts["port"], device.wanted["server"]
    if answer in ("open", "refused"):
        return Finding(OK, "open" if answer == "open" else "free")
    return Finding(FAIL, "no", f"cannot reach the server at {where} ({answer}): open that port in this machine's "
                               "firewall; fl_server_host is its address as the device sees it")  # fmt: skip


def trainer(device: Device) -> Finding:
    """Judge the trainer, where one was deployed, and whether it was from this inventory."""
    for client in device.facts["clients"]:
        if client["inventory"] != device.wanted["inventory"]:
            by = f"{client['inventory']} has deployed to it as {client['name']}, for the server at {client['server']}"
            return Finding(WARN, "shared", f"is in two inventories: {by}. deploy.yml takes it over from that server: "
                                           "take it out of one of them")  # fmt: skip
    health = device.facts["trainer"]
    if health is None:
        return Finding(NONE, "-")
    if health.get("problem"):
        return Finding(WARN, "problem", f"has a trainer that is not usable: {str(health['problem']).rstrip('.')}")
    return Finding(OK, "ready" if health.get("ready") else "loading")


CHECKS: dict[str, Callable[[Device], Finding]] = {
    "sudo": sudo, "model": model, "system": system, "python": python, "clock": clock, "disk": disk, "memory": memory,
    "images": images, "wifi": wifi, "server": port, "trainer": trainer,
}  # fmt: skip
# What these roles say of a device themselves, by check: state, word and sentence
OF_ROLES = ("raspberry_pi_checks", "jetson_checks", "docker_engine_checks", "trainer_checks")
COLUMNS = (
    "ssh", "sudo", "model", "system", "bits", "python", "clock", "disk", "memory", "docker", "images", "nvidia",
    "cgroup", "power", "throttled", "wifi", "server", "trainer",
)  # fmt: skip


def judge(
    hosts: list[str], hostvars: dict[str, Any], fleet: dict[str, Any], bounds: dict[str, Any], end: float
) -> dict[str, Any]:
    """Return the report: by device and check its state, word and sentence; the table; the sentences; what failed.

    `hostvars` has by device what the tasks returned (the role board's two answers), `fleet` its
    fl_* variables; `end` is the time (in seconds since 1970) at which the last device had answered.
    """
    report: dict[str, dict[str, Finding]] = {}
    for name in hosts:
        own, variables = hostvars[name], fleet[name]
        wanted = {
            "runtime": variables["fl_runtime"], "groups": own["group_names"],
            "inventory": f"{own['inventory_dir']} on {platform.node()}",
            "server": f"{variables['fl_server_host']}:{variables['fl_server_port']}", **_login(name, own),
        }  # fmt: skip
        as_root, plain = own["board_answer"], own.get("board_plain", {})
        answer = as_root if "board" in as_root or as_root.get("unreachable") or plain.get("skipped") else plain
        findings = report[name] = {"ssh": reach(answer, wanted)}
        if findings["ssh"].state == FAIL:
            continue
        facts = answer["board"]
        facts = {
            **facts,
            "sudo": "board" in as_root,
            "said": str(as_root.get("msg", "")),
            "lacking": own["device_image_lacking"],
            "offset": _offset(facts, end),
        }
        device = Device(wanted, facts, {bound: float(value) for bound, value in bounds.items()})
        findings |= {check: judged(device) for check, judged in CHECKS.items()}
        for role in OF_ROLES:
            findings |= {check: Finding(*finding) for check, finding in own[role].items()}
        report[name] = {check: findings.get(check, Finding(NONE, "-")) for check in COLUMNS}
    return {
        "table": _table(report),
        "warnings": [f"{name} {finding.sentence}" for name, finding in _all(report, WARN)],
        "failures": {
            name: [f"{name} {finding.sentence}." for _, finding in _all({name: findings}, FAIL)]
            for name, findings in report.items()
            if _all({name: findings}, FAIL)
        },
        "devices": {
            name: {check: finding._asdict() for check, finding in findings.items()} for name, findings in report.items()
        },
    }


def _options(own: dict[str, Any]) -> str:
    """Return the options of a host's connections, as ssh and ssh-copy-id both understand them, each after a blank."""
    options = " ".join(str(own.get(f"ansible_ssh_{kind}_args") or "") for kind in ("common", "extra")).split()
    options = re.sub(r"(^| )-J ?(?=\S)", r"\1-o ProxyJump=", " ".join(options)).split(" ")
    if str(own.get("ansible_port", 22)) != "22":
        options.append(f"-p {own['ansible_port']}")
    if own.get("ansible_ssh_private_key_file"):
        options.append(f"-i {shlex.quote(own['ansible_ssh_private_key_file'])}")
    return "".join(f" {option}" for option in options if option)


def barrier(own: dict[str, Any], name: str, runtime: str) -> str:
    """Return what keeps playbooks from working on a device that was looked at, the end of a sentence; "" for nothing.

    `own` has what the tasks of the role board returned, if they looked.
    """
    as_root, plain = own.get("board_answer", {"skipped": True}), own.get("board_plain", {})
    if as_root.get("skipped"):
        return ""
    finding = reach(plain if "board" in plain else as_root, _login(name, own))
    error = as_root.get("board", {}).get("docker", {}).get("error", "not installed")
    if finding.state == FAIL or runtime != "docker" or error == "not installed":
        return finding.sentence
    return f"has a Docker engine that {error}: start it there (systemctl start docker)"


def _login(name: str, own: dict[str, Any]) -> dict[str, Any]:
    """Return what `reach` must know of the way to a device."""
    return {
        "address": own.get("ansible_host", name), "user": own.get("ansible_user", ""),
        "port": int(own.get("ansible_port", 22)), "options": _options(own),
    }  # fmt: skip


def _all(report: dict[str, dict[str, Finding]], state: str) -> list[tuple[str, Finding]]:
    return [
        (name, finding) for name, findings in report.items() for finding in findings.values() if finding.state == state
    ]


def _offset(facts: dict[str, Any], end: float) -> float:
    """Return how far the device's clock is ahead, in seconds; 0 where it lies within the time that asking took."""
    return facts["time"] - min(max(facts["time"], facts["asked_at"]), end)


def _table(report: dict[str, dict[str, Finding]]) -> str:
    marks = {OK: "", NONE: "", WARN: "~", FAIL: "!"}
    rows = [["device", *COLUMNS]]
    for name, findings in report.items():
        cells = [findings.get(check, Finding(NONE, "?")) for check in COLUMNS]
        rows.append([name, *(marks[cell.state] + cell.word for cell in cells)])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join(lines)


def logins(hosts: list[str], hostvars: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return how ssh is called for those of `hosts` that are reached by it, as the module host_keys has it."""
    ways = {}
    for name in hosts:
        own = hostvars[name]
        if own.get("ansible_connection", "ssh") not in ("ssh", "ansible.builtin.ssh"):
            continue
        options = [str(own.get(f"ansible_ssh_{kind}args") or "") for kind in ("", "common_", "extra_")]
        login = _login(name, own)
        ways[name] = {
            "ssh": own.get("ansible_ssh_executable", "ssh"), "options": " ".join(options), "host": login["address"],
            "port": login["port"], "user": login["user"],
        }  # fmt: skip
    return ways


def question(unknown: list[dict[str, Any]]) -> str:
    """Return a text that shows host keys, those last that were changed, and says what to do about them."""
    lines = []
    for key in sorted(unknown, key=lambda each: each["changed"]):
        whose = f"the jump host {key['host']}" if key["jump"] else key["host"]
        shows = "shows ANOTHER host key than before" if key["changed"] else "shows the host key"
        lines.append(f"{', '.join(key['devices'])}: {whose} {shows}, {key['kind']} {key['fingerprint']}")
    if any(key["changed"] for key in unknown):
        lines.append("If you did not install anew what shows another, somebody may stand between you and it.")
    return "\n".join(lines)


def trusted(unknown: list[dict[str, Any]], answer: Any) -> list[dict[str, Any]]:
    """Return the keys that an answer accepts: by their fingerprints, or by "yes" all but those that were changed."""
    words = re.split(r"[\s,]+", answer) if isinstance(answer, str) else answer
    everything = [str(word).lower() for word in words] in (["yes"], ["y"])
    return [key for key in unknown if key["fingerprint"] in words or everything and not key["changed"]]


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "preflight_judge": judge,
            "preflight_barrier": barrier,
            "preflight_logins": logins,
            "preflight_question": question,
            "preflight_trusted": trusted,
        }
