"""What Flowerbed must know of a device, gathered in one call. Runs on the device's Python, 3.6 or newer."""

import glob
import http.client
import importlib.util
import json
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
import sys
import time

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: board_facts
short_description: Look at a device without changing anything
description:
  - Gathers in one call what roles must know of a device. It needs no root, but finds less without.
options:
  home: {description: Folder that a deployment will use; it need not be there yet., type: path, required: true}
  root: {description: Folder in which roles keep how they found the device., type: path, required: true}
  model_files: {description: Files of which the first that is there names the board., type: list, elements: path}
  server_host: {description: Address of the server as the device sees it., type: str, required: true}
  server_port: {description: Its port., type: int, required: true}
  asked_at: {description: 'Time of the controller, in seconds since 1970; returned.', type: float, required: true}
  timeout: {description: Seconds to wait for the server's port., type: float, default: 5}
  files: {description: 'Short files whose text is wanted, if they are there.', type: list, elements: path, default: []}
  packages: {description: Beginnings of the names of packages that are wanted., type: list, elements: str, default: []}
  commands: {description: Commands whose output is wanted by name., type: dict, default: {}}
"""

EXAMPLES = """
- name: Look at the board
  board_facts: {home: /opt/flowerbed/rpi-1, root: /opt/flowerbed, server_host: 192.0.2.10, server_port: 9092}
"""

RETURN = """
board:
  description:
    - What was found, such as C(kind) (raspberry_pi, jetson or other), C(l4t) (a Jetson's release, such as 36.4.3),
      C(page) (of memory), C(memory) and C(free) in bytes, C(docker) (the engine, its images and containers, and whether
      CDI gives them an NVIDIA GPU), C(engine) (its configuration), C(before) (what roles wrote down before they changed
      the device) and C(port) (whether the server's can be reached); C(files), by path; C(packages), by name; and
      C(outputs) of the commands, by name, empty for one that is not there or fails; C(clients), by which inventories
      clients were deployed there, as what, and for which server.
  type: dict
  returned: always
"""

DOCKER_SOCKET = "/var/run/docker.sock"
REBOOT = "/run/flowerbed-reboot"  # a role's note that what it changed waits for a reboot
TIME_SERVICES = ("systemd-timesyncd", "chrony", "chronyd", "ntp", "ntpd", "ntpsec", "openntpd")
DOCKERD = ("/usr/*bin/dockerd", "/usr/local/*bin/dockerd")


def first_line(*paths):
    """Return the first line of the first of `paths` that can be read, or None."""
    for path in paths:
        try:
            with open(path, errors="replace") as file:
                return file.readline().strip(" \t\r\n\0")
        except OSError:
            continue
    return None


def text(path):
    """Return a file's text, or "" when it cannot be read."""
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def release():
    """Return the name that /etc/os-release gives the system, or None."""
    match = re.search(r'^PRETTY_NAME="?([^"\n]*)', text("/etc/os-release"), re.MULTILINE)
    return match.group(1) if match else None


def l4t(tegra):
    """Return the release that the first line of /etc/nv_tegra_release names, such as 32.7.1, or ""."""
    match = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", tegra or "")
    return "{}.{}".format(*match.groups()) if match else ""


def memory():
    """Return total and available memory and swap in bytes."""
    kilobytes = dict(re.findall(r"^(\w+):\s+(\d+) kB", text("/proc/meminfo"), re.MULTILINE))
    names = {"total": "MemTotal", "available": "MemAvailable"}
    sizes = {name: int(kilobytes.get(key, 0)) * 1024 for name, key in names.items()}
    return dict(sizes, swap=sum(swaps().values()))


def free_space(path):
    """Return the free bytes of the file system that `path` is on, or will be."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    filesystem = os.statvfs(path)
    return filesystem.f_bavail * filesystem.f_frsize


def memory_cgroup():
    """Return whether the kernel can limit a container's memory."""
    if os.path.exists("/sys/fs/cgroup/cgroup.controllers"):
        return "memory" in text("/sys/fs/cgroup/cgroup.controllers").split()
    return re.search(r"^memory\s+\d+\s+\d+\s+1$", text("/proc/cgroups"), re.MULTILINE) is not None


def output(*command):
    """Return what a command says, or None when it is not there or fails."""
    try:
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, timeout=10, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None


def wifi():
    """Return the signal of the first wireless interface in dBm, or None where there is none."""
    signal = re.search(r"^\s*\w+:\s+\d+\s+\S+\s+(-\d+)", text("/proc/net/wireless"), re.MULTILINE)
    return int(signal.group(1)) if signal else None


def swaps():
    """Return the bytes of each swap file or device in use."""
    return {name: int(size) * 1024 for name, size in re.findall(r"^(/\S+)\s+\S+\s+(\d+)", text("/proc/swaps"), re.M)}


def enabled():
    """Return the names of the units that an administrator, or a package, has enabled."""
    return sorted({os.path.basename(path) for path in glob.glob("/etc/systemd/system/*.wants/*")})


def default_target():
    """Return the name of the target that the system boots to."""
    places = ("/etc/systemd/system/default.target", "/lib/systemd/system/default.target")
    return next((os.path.basename(os.path.realpath(place)) for place in places if os.path.exists(place)), None)


def time_service(units):
    """Return whether a service that follows a time server is among the enabled `units`; None where there is none."""
    if any(name + ".service" in units for name in TIME_SERVICES):
        return True
    return False if any(os.path.exists(f"/lib/systemd/system/{name}.service") for name in TIME_SERVICES) else None


def packages(beginnings):
    """Return of the packages whose names begin so, by name, the version, and whether it is held."""
    if not beginnings:
        return {}
    installed = re.findall(
        r"^Package: ((?:{})\S*)\nStatus: (\w+) ok installed\n(?:.+\n)*?Version: (\S+)".format(
            "|".join(map(re.escape, beginnings))
        ),
        text("/var/lib/dpkg/status"), re.MULTILINE,
    )  # fmt: skip
    return {name: {"version": version, "held": state == "hold"} for name, state, version in installed}


class _Connection(http.client.HTTPConnection):
    """HTTP on a Unix socket."""

    def __init__(self, path):
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self):
        """Connect to the socket's path."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(path, question):
    """Return the JSON that a server on the Unix socket `path` answers. Raises OSError or ValueError."""
    connection = _Connection(path)
    try:
        connection.request("GET", question)
        return json.loads(connection.getresponse().read().decode("utf-8"))
    except http.client.HTTPException as error:
        raise OSError(str(error)) from None
    finally:
        connection.close()


def cdi(folders):
    """Return whether a specification in one of the `folders` in which an engine looks for them has NVIDIA's GPUs."""
    paths = sum((glob.glob(os.path.join(glob.escape(folder), "*")) for folder in folders), [])
    return any("nvidia.com/gpu" in text(path) for path in paths)


def docker():
    """Return what the engine says of itself, images' ids by name, containers by name; or an error. And free bytes."""
    free = free_space("/var/lib/docker")
    try:
        version, info = ask(DOCKER_SOCKET, "/version"), ask(DOCKER_SOCKET, "/info")
        images, containers = ask(DOCKER_SOCKET, "/images/json"), ask(DOCKER_SOCKET, "/containers/json?all=true")
        return {
            "version": version["Version"], "runtimes": sorted(info.get("Runtimes") or {}),
            "default_runtime": info["DefaultRuntime"], "mirrors": info["RegistryConfig"]["Mirrors"] or [],
            "cdi": cdi(info.get("CDISpecDirs") or []),  # engines before 25 know no CDI
            "live_restore": info["LiveRestoreEnabled"], "free": free_space(info["DockerRootDir"]),
            "images": {name: image["Id"] for image in images
                       for name in (image["RepoTags"] or []) + (image["RepoDigests"] or [])},
            "containers": {each["Names"][0].lstrip("/"): {
                "state": each["State"], "image": each["ImageID"], "labels": each["Labels"],
                "folders": [mount["Source"] for mount in each.get("Mounts") or [] if "Source" in mount],
            } for each in containers},
        }  # fmt: skip
    except PermissionError:
        return {"error": "may not be used by this user", "free": free}
    except (OSError, ValueError, KeyError) as error:
        programs = sum(map(glob.glob, DOCKERD), [])
        return {"error": f"does not answer ({error})" if programs else "not installed", "free": free}


def engine():
    """Return the engine's configuration, options and service, and whether docker's and NVIDIA's commands are there."""
    command = text("/proc/{}/cmdline".format(text("/var/run/docker.pid").strip() or "none")).split("\0")
    command = command if command[0].endswith("dockerd") else []
    options = dict(re.findall(r"^--([a-z-]+)(?:[=\n]([^-\n].*))?", "\n".join(command), re.MULTILINE))
    result = {"path": options.get("config-file") or "/etc/docker/daemon.json", "text": None, "mode": "0644"}
    try:
        with open(result["path"], encoding="utf-8", errors="replace") as file:
            result.update(text=file.read(), mode=f"{stat.S_IMODE(os.fstat(file.fileno()).st_mode):04o}")
    except OSError:
        pass  # there is none
    shown = output("systemctl", "show", "docker.service", "--property", "LoadState,ActiveState,UnitFileState") or b""
    result["service"] = dict(line.split("=", 1) for line in shown.decode().splitlines())
    result["command"] = shutil.which("docker") is not None
    result["nvidia"] = shutil.which("nvidia-container-runtime") is not None
    result["options"] = sorted(options)
    return result


def port(host, number, timeout):
    """Return "open", "refused" (the machine answers, nobody listens), or why it cannot be reached."""
    try:
        socket.create_connection((host, number), timeout).close()
        return "open"
    except ConnectionRefusedError:
        return "refused"
    except socket.timeout:
        return f"no answer within {timeout:g} s"
    except OSError as error:
        return error.strerror or str(error)


def trainer(home):
    """Return what the trainer says of itself, or None where none answers."""
    folder = os.getcwd()
    try:
        os.chdir(home)  # a socket's path is short
        return ask("trainer.sock", "/health")
    except (OSError, ValueError):
        return None
    finally:
        os.chdir(folder)


def clients(home, containers):
    """Return the client.json of those clients that were deployed to `home`, or run in containers."""
    folders = {folder for each in containers.values() if each["state"] == "running" for folder in each["folders"]}
    found = []
    for folder in sorted({home, *folders}):
        try:
            client = json.loads(text(os.path.join(folder, "client.json")))
        except ValueError:
            continue  # there is none
        if isinstance(client, dict) and "inventory" in client:  # of an earlier Flowerbed, it is not known
            found.append({name: str(client.get(name)) for name in ("inventory", "name", "server")})
    return found


def kind(model, tegra):
    """Return what the board is, by the files that show it: raspberry_pi, jetson or other."""
    return "jetson" if tegra else "raspberry_pi" if "Raspberry Pi" in (model or "") else "other"


def before(root):
    """Return how roles found the device before they first changed it, by role: see the role board."""
    records = {}
    for path in glob.glob(os.path.join(glob.escape(root), "before", "*.json")):
        try:
            records[os.path.basename(path)[: -len(".json")]] = json.loads(text(path))
        except ValueError:
            continue  # being written
    return records


def main():
    """Look, and report."""
    module = AnsibleModule(
        {
            "home": {"type": "path", "required": True},
            "root": {"type": "path", "required": True},
            "model_files": {"type": "list", "elements": "path", "default": []},
            "server_host": {"type": "str", "required": True},
            "server_port": {"type": "int", "required": True},
            "asked_at": {"type": "float", "required": True},
            "timeout": {"type": "float", "default": 5},
            "files": {"type": "list", "elements": "path", "default": []},
            "packages": {"type": "list", "elements": "str", "default": []},
            "commands": {"type": "dict", "default": {}},
        },
        supports_check_mode=True,
    )
    options = module.params
    model, tegra = first_line(*options["model_files"]), first_line("/etc/nv_tegra_release")
    units, found = enabled(), docker()
    facts = {
        "kind": kind(model, tegra), "model": model, "release": release(), "l4t": l4t(tegra),
        "before": before(options["root"]), "claimed": os.path.exists(os.path.join(options["home"], "placed.json")),
        "machine": os.uname().machine, "bits": 8 * struct.calcsize("P"),
        "page": os.sysconf("SC_PAGE_SIZE"),
        "python": ".".join(map(str, sys.version_info[:3])), "memory": memory(), "free": free_space(options["home"]),
        "executable": sys.executable, "requests": importlib.util.find_spec("requests") is not None,
        "apt": os.path.exists("/usr/bin/apt-get"), "docker": found, "engine": engine(),
        "memory_cgroup": memory_cgroup(), "wifi": wifi(), "swaps": swaps(),
        "files": {path: text(path) for path in options["files"] if os.path.exists(path)},
        "packages": packages(options["packages"]),
        "outputs": {name: (output(*command) or b"").decode("utf-8", "replace")
                    for name, command in options["commands"].items()},
        "enabled": units, "default_target": default_target(), "time_service": time_service(units),
        "display_manager": os.path.exists("/etc/systemd/system/display-manager.service"),
        "reboot": os.path.exists(REBOOT),
        "port": port(options["server_host"], options["server_port"], options["timeout"]),
        "clients": clients(options["home"], found.get("containers") or {}),
        "trainer": trainer(options["home"]), "asked_at": options["asked_at"], "time": time.time(),
    }  # fmt: skip
    module.exit_json(changed=False, board=facts)


if __name__ == "__main__":
    main()
