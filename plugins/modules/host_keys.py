"""The SSH host keys of devices and of the jump hosts on the way to them. Runs on the controller."""

import base64
import hashlib
import hmac
import os
import re
import shlex
import subprocess
import tempfile
from multiprocessing.pool import ThreadPool

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: host_keys
short_description: Look at the SSH host keys of devices, and record those that are to be trusted
description:
  - Shows, for each device, the first host on the way to it (a jump host, or itself) whose key ssh does not know, or
    knows another of. No login is tried on it. Keys are looked for where ssh itself does for these options.
  - A key is recorded only if it is given back, and then just that which was shown.
options:
  devices:
    description: >-
      By name, how ssh is called: C(ssh) (the program), C(options) (a text, as in ansible_ssh_common_args), C(host),
      C(port), C(user).
    type: dict
    default: {}
  record:
    description: Of C(unknown) of an earlier call, those to record. One that was changed takes the place of the old one.
    type: list
    elements: dict
    default: []
  timeout: {description: Seconds to wait for a host., type: int, default: 20}
"""

EXAMPLES = """
- name: Look at the host keys
  host_keys:
    devices: {rpi-1: {ssh: ssh, options: -J me@192.0.2.1, host: 192.0.2.11, port: 22, user: pi}}
  register: host_keys_found
"""

RETURN = """
unknown:
  description: >-
    Keys that ssh does not know, each once. C(devices) it is of or on the way to, C(host) as a known-hosts file has it,
    C(kind), C(fingerprint), C(changed) (whether another one is known), C(jump) (whether it is a jump host's),
    C(file) and C(line) to record.
  type: list
  returned: always
problems:
  description: By device, why a key could not be looked at, the end of a sentence.
  type: dict
  returned: always
"""

# Before the user's own, for of an option ssh takes the first
LOOK = ("BatchMode=yes", "PreferredAuthentications=none", "ControlMaster=no", "ControlPath=none", "LogLevel=ERROR",
        "CheckHostIP=no")  # fmt: skip
AT_ONCE = 20  # connections
CHANGED = re.compile("IDENTIFICATION HAS CHANGED|[Hh]ost key for .* has changed|REVOKED HOST KEY")
UNKNOWN = re.compile("Host key verification failed|host key is known for|authenticity of host")


def run(*command):
    """Return status, output and errors of a command."""
    environment = dict(os.environ, LC_ALL="C")
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, env=environment)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


class Host:
    """A host, and how ssh is called for it."""

    def __init__(self, ssh, options, host, port=None, user=None, timeout=20):
        self.ssh, self.options, self.timeout = ssh, list(options), timeout
        self.target = (["-p", str(port)] if port else []) + (["-l", user] if user else []) + [host]
        self.settings = {}
        for line in run(ssh, "-G", *self.options, *self.target)[1].splitlines():
            name, _, value = line.partition(" ")
            self.settings.setdefault(name, value)
        port = self.settings.get("port", "22")
        self.name = self.settings.get("hostkeyalias") or self.settings.get("hostname", host)
        if port != "22" and "hostkeyalias" not in self.settings:
            self.name = f"[{self.name}]:{port}"

    def jumps(self):
        """Return the hosts on the way, in order: as ssh does, each with the same file -F, and by those before it."""
        found, before, file = [], [], _file(self.options)
        jumps = self.settings.get("proxyjump", "none")
        for jump in [] if jumps == "none" else jumps.split(","):
            match = re.fullmatch(r"(?:ssh://)?(?:([^@]+)@)?(\[[^\]]+\]|[^:]+)(?::(\d+))?/?", jump)
            if match:
                user, host, port = match.groups()
                way = ["-J", ",".join(before)] if before else []
                found.append(Host(self.ssh, file + way, host.strip("[]"), port, user, self.timeout))
            before.append(jump)
        return found

    def file(self):
        """Return the file in which ssh would record the host's key."""
        files = self.settings.get("userknownhostsfile", "~/.ssh/known_hosts")
        whole = os.path.expanduser(files)
        return whole if os.path.isdir(os.path.dirname(whole)) else os.path.expanduser(files.split(" ")[0])

    def connect(self, *settings):
        """Let ssh exchange keys with the host; return what it says, on one line, "" for a login without any."""
        options = [part for setting in LOOK + settings for part in ("-o", setting)]
        status, _, said = run(
            self.ssh, *options, "-o", f"ConnectTimeout={self.timeout}", *self.options, *self.target, "true"
        )
        return said.strip() if status else ""

    def look(self):
        """Return (state, what ssh says): known, unknown, changed, or away."""
        said = self.connect("StrictHostKeyChecking=yes")
        last = said.splitlines()[-1] if said else "Permission denied"
        if "Permission denied" in last:
            return "known", said
        if CHANGED.search(said):
            return "changed", said
        return ("unknown" if UNKNOWN.search(said) else "away"), said

    def key(self):
        """Return the kind and the text of the key that the host shows now, ("", "") where it cannot be had."""
        with tempfile.TemporaryDirectory() as folder:
            file = os.path.join(folder, "known_hosts")
            self.connect(
                "StrictHostKeyChecking=accept-new", f'UserKnownHostsFile="{file}"', "GlobalKnownHostsFile=/dev/null",
                "HashKnownHosts=no", "UpdateHostKeys=no",
            )  # fmt: skip
            try:
                with open(file) as lines:
                    words = lines.readline().split()
            except OSError:
                words = []
        return (words[1], words[2]) if len(words) == 3 else ("", "")


def _file(options):
    """Return the option -F of ssh's options, as two words, or nothing."""
    for place, option in enumerate(options):
        if option == "-F":
            return options[place : place + 2]
        if option.startswith("-F"):
            return ["-F", option[2:]]
    return []


def fingerprint(text):
    """Return a key's fingerprint as ssh shows it."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(base64.b64decode(text)).digest()).decode().rstrip("=")


def hashed(name):
    """Return a host's name as a known-hosts file may hide it."""
    salt = os.urandom(20)
    parts = (base64.b64encode(part).decode() for part in (salt, hmac.new(salt, name.encode(), hashlib.sha1).digest()))
    return "|1|{}|{}".format(*parts)


def find(device, timeout):
    """Return the first key on the way to a device that ssh does not know, or None; and what is in the way, or None."""
    host = Host(device["ssh"], shlex.split(device["options"]), device["host"], device["port"], device["user"], timeout)
    for each in [*host.jumps(), host]:
        state, said = each.look()
        if state == "known":
            continue
        kind, text = ("", "") if state == "away" else each.key()
        if state != "away" and not text:
            return (
                None,
                "is reached by a ProxyCommand through a host whose key ssh does not know: log in there once",
            )
        if not text:
            return None, f"cannot be asked for its host key: {_last(said)}"
        name = hashed(each.name) if each.settings.get("hashknownhosts") == "yes" else each.name
        return {
            "host": each.name, "kind": re.sub("^(ssh|ecdsa-sha2)-", "", kind).upper(), "fingerprint": fingerprint(text),
            "changed": state == "changed", "jump": each is not host, "file": each.file(),
            "line": f"{name} {kind} {text}",
        }, None  # fmt: skip
    return None, None


def _last(said):
    """Return the last line of what ssh says that says something."""
    lines = [line for line in said.splitlines() if line.strip() and "by UNKNOWN port" not in line]
    return lines[-1].strip().rstrip(".") if lines else "ssh gives no reason"


def record(key):
    """Write a key down, and forget another one of that host if it was changed."""
    folder = os.path.dirname(key["file"])
    if not os.path.isdir(folder):
        os.makedirs(folder, 0o700)
    if key["changed"]:
        status, _, said = run("ssh-keygen", "-R", key["host"], "-f", key["file"])
        if status:
            raise OSError(said.strip())
    before = b""
    if os.path.exists(key["file"]):
        with open(key["file"], "rb") as file:
            before = file.read()
    handle = os.open(key["file"], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write((b"" if before.endswith(b"\n") or not before else b"\n") + key["line"].encode() + b"\n")


def main():
    """Do what is asked."""
    module = AnsibleModule(
        {
            "devices": {"type": "dict", "default": {}},
            "record": {"type": "list", "elements": "dict", "default": []},
            "timeout": {"type": "int", "default": 20},
        },
        supports_check_mode=True,
    )
    devices, wanted = module.params["devices"], module.params["record"]
    try:
        if not module.check_mode:
            for key in wanted:
                record(key)
        with ThreadPool(AT_ONCE) as pool:
            found = pool.starmap(find, [(device, module.params["timeout"]) for device in devices.values()])
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"The host keys cannot be looked at or recorded: {error}.")
    keys, problems = {}, {}
    for name, (key, problem) in zip(devices, found):
        if problem:
            problems[name] = problem
        if key:
            known = keys.setdefault((key["file"], key["host"], key["fingerprint"]), dict(key, devices=[]))
            known["devices"].append(name)
    for key in wanted if not module.check_mode else ():
        if (key["file"], key["host"], key["fingerprint"]) in keys:
            module.fail_json(msg=f"{key['host']} is in {key['file']} now, but ssh does not find it there.")
    module.exit_json(changed=bool(wanted), unknown=list(keys.values()), problems=problems)


if __name__ == "__main__":
    main()
