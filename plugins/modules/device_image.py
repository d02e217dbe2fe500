"""Pull, pack, load or remove images on a device's Docker engine. Runs on the device's Python, 3.6 or newer."""

import base64
import contextlib
import gzip
import http.client
import json
import os
import re
import shutil
import socket
import time
from urllib.parse import quote

from ansible.module_utils.basic import AnsibleModule

DOCUMENTATION = """
module: device_image
short_description: Pull, pack, load or remove images
description:
  - The action plugin of this name waits until the images are there, and shows how far the device is.
  - pulled, packed and loaded take long. They go on in the background on the device, also when the connection ends, and
    C(status) is where they tell of it.
options:
  state: {description: What to do., choices: [pulled, packed, loaded, absent], type: str, required: true}
  names: {description: The images., type: list, elements: str, required: true}
  archive: {description: On the controller the file of what is packed or loaded., type: path}
  ids: {description: Ids that the image in what is packed may have., type: list, elements: str}
  path: {description: 'The archive of packed and loaded on the device; the action plugin sets it.', type: path}
  record: {description: 'JSON file of images that were brought, and that absent removes.', type: path}
  space: {description: MB that must be free for Docker before an image is brought., type: float, default: 0}
  status: {description: JSON file that tells how far it is., type: path, default: /run/flowerbed-image.json}
"""

EXAMPLES = """
- name: Pull an image
  device_image: {state: pulled, names: ["debian:bookworm"], record: /opt/flowerbed/before/device_image.json}

- name: Remove the images that were brought
  device_image: {state: absent, names: ["debian:bookworm"]}
"""

RETURN = """
status: {description: JSON file that tells how far it is and what came of it., type: str, returned: always}
"""

DOCKER_SOCKET = "/var/run/docker.sock"
SILENCE = 600  # seconds without a word of the engine after which it is given up
FULL = 1000000  # bytes: a disk with less is full
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}  # of the kernel, as images call them


class Problem(Exception):
    """What is wrong, as the end of a sentence that begins with the device's name."""


def ask(method, path, body=None, headers=None):
    """Return the engine's answer. Raises OSError, http.client.HTTPException, or Problem with the engine's words."""
    connection = http.client.HTTPConnection("docker", timeout=SILENCE)
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.settimeout(SILENCE)
    connection.sock.connect(DOCKER_SOCKET)
    connection.request(method, path, body, headers or {})
    answer = connection.getresponse()
    if answer.status >= 400:
        text = answer.read().decode("utf-8", "replace")
        with contextlib.suppress(ValueError, KeyError, TypeError):
            text = json.loads(text)["message"]
        raise Problem(text.strip())
    return answer


def asked(path):
    """Return what the engine has at `path`, or None for nothing."""
    try:
        return json.loads(ask("GET", path).read().decode("utf-8"))
    except Problem:
        return None


def parts(name):
    """Return an image's repository, and its tag or digest."""
    name, _, digest = name.partition("@")
    head, colon, tag = name.rpartition(":")
    repository, tag = (head, tag) if colon and "/" not in tag else (name, "latest")
    return repository, digest or tag


def credentials(repository):
    """Return the header with which root of this device is known to the registry of an image, if it has logged in."""
    host = repository.partition("/")[0]
    if not re.search(r"[.:]|^localhost$", host) or "/" not in repository:
        host = asked("/info")["IndexServerAddress"]
    try:
        with open(os.path.expanduser("~/.docker/config.json"), encoding="utf-8") as file:
            user, _, password = base64.b64decode(json.load(file)["auths"][host]["auth"]).decode().partition(":")
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    login = json.dumps({"username": user, "password": password, "serveraddress": host})
    return {"X-Registry-Auth": base64.urlsafe_b64encode(login.encode()).decode()}


def check_space(space, name, info):
    """Raise Problem where less than `space` MB are free for an image."""
    free = shutil.disk_usage(info["DockerRootDir"]).free
    if free < space * 1e6:
        raise Problem(
            f"has {free / 1e9:.1f} GB of disk left for Docker, and {name} may need {space / 1e3:g} GB "
            "(device_image_space): remove what you do not need there, or use a larger card"
        )


def check_platform(name, platforms, info):
    """Raise Problem where none of `platforms`, the platforms of an image, is the engine's."""
    mine = ARCHITECTURES.get(info["Architecture"], info["Architecture"])
    theirs = sorted({platform.get("architecture") or "?" for platform in platforms} - {"unknown"})
    if theirs and mine not in theirs:
        raise Problem(
            "is {}, and the image {} is there for {} only: choose one for {}".format(
                mine, name, " and ".join(theirs), mine
            )
        )


class Progress:
    """How far a pull into `folder` is, by what the engine says of its layers, and the least disk it left."""

    def __init__(self, folder):
        self.layers, self.done = {}, set()
        self.folder, self.least = folder, shutil.disk_usage(folder).free

    def add(self, line):
        """Take in what the engine says."""
        self.least = min(self.least, shutil.disk_usage(self.folder).free)
        layer, status = line.get("id"), line.get("status", "")
        if status in ("Pulling fs layer", "Already exists"):
            self.layers[layer] = 0
        if layer not in self.layers:
            return
        if status == "Downloading":
            self.layers[layer] = max(self.layers[layer], line.get("progressDetail", {}).get("current", 0))
        if status in ("Already exists", "Pull complete"):
            self.done.add(layer)

    def __str__(self):
        return f"{sum(self.layers.values()) / 1e6:.0f} MB, {len(self.done)} of {len(self.layers)} layers"


def pull(name, options, tell):
    """Pull one image."""
    info, (repository, reference) = asked("/info"), parts(name)
    check_space(options["space"], name, info)
    login, unknown = credentials(repository), None
    try:
        answer = json.loads(ask("GET", f"/distribution/{quote(name)}/json", None, login).read().decode("utf-8"))
        check_platform(name, answer.get("Platforms") or [], info)
    except Problem as problem:
        if str(problem).startswith("is "):
            raise
        unknown = str(problem)  # by the first mirror; another one may know it
    progress = Progress(info["DockerRootDir"])
    path = f"/images/create?fromImage={quote(repository)}&tag={quote(reference)}"
    try:
        for line in ask("POST", path, None, login):
            event = json.loads(line.decode("utf-8"))
            if "error" in event:
                raise Problem(event["error"])
            progress.add(event)
            tell(f"{name}: {progress}")
    except Problem as problem:
        raise Problem(why(name, str(problem), unknown, progress)) from None
    except socket.timeout:
        raise Problem(why(name, f"nothing came for {SILENCE} s", None, progress)) from None
    answer = asked(f"/images/{quote(name)}/json")
    try:
        check_platform(name, [{"architecture": answer["Architecture"]}], info)
    except Problem:
        ask("DELETE", f"/images/{quote(name)}").read()
        raise


def why(name, message, unknown, progress):
    """Return the end of a sentence on why an image could not be pulled, by the engine's `message`.

    `unknown` is what the registry said when it was asked for the image, if it does not have it.
    """
    # An engine with several mirrors says what the last one of them had to say, and makes room again.
    if re.search("no space left", message) or progress.least < FULL:
        return f"ran out of disk when {progress} of {name} were there: remove what you do not need there, or use a " \
               "larger card"  # fmt: skip
    for words in (unknown, message):
        if words and re.search("(manifest|name) unknown|not found|not known|denied|does not exist|unauthorized", words):
            return (
                "cannot pull {}: the registry has no such image, or shows it only to those who are logged in ({}). "
                "Correct its name (trainer_image or client_image)".format(name, words.rstrip("."))
            )
    if re.search("no matching manifest", message):
        return f"cannot pull {name}: there is none for its processor: choose another image"
    return "could not pull {}: after {} the registry gave no answer ({}). Deploy again once it does".format(
        name, progress, message.rstrip(".")
    )


def remember(path, names):
    """Add images to the record of those that were brought."""
    if path is None:
        return
    known = []
    if os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            known = json.load(file)["brought"]
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
    write(path, {"brought": known + [name for name in names if name not in known]})


def write(path, document):
    """Write a JSON file that is never seen half."""
    temporary = path + ".new"
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(document, file)
    os.replace(temporary, path)


def pack(names, path, tell):
    """Pack images into an archive that the owner of its folder can read."""
    query = "&".join("names=" + quote(name) for name in names)
    answer, size = ask("GET", "/images/get?" + query), 0
    with open(path, "wb") as file, gzip.GzipFile(fileobj=file, mode="wb", compresslevel=1) as packed:
        for piece in iter(lambda: answer.read(1 << 20), b""):
            packed.write(piece)
            size += len(piece)
            tell("packing {}: {:.0f} MB".format(" and ".join(names), size / 1e6))
    owner = os.stat(os.path.dirname(path))
    os.chown(path, owner.st_uid, owner.st_gid)


def load(path, tell):
    """Load an archive."""
    tell(f"loading {os.path.getsize(path) / 1e6:.0f} MB")
    with open(path, "rb") as file:
        for line in ask("POST", "/images/load?quiet=1", file, {"Content-Type": "application/x-tar"}):
            event = json.loads(line.decode("utf-8"))
            if "error" in event:
                raise Problem(event["error"])


def bring(options, tell):
    """Do what takes long."""
    try:
        if options["state"] == "pulled":
            for name in options["names"]:
                remember(options["record"], [name])
                pull(name, options, tell)
        elif options["state"] == "packed":
            check_space(options["space"], "the archive of " + " and ".join(options["names"]), asked("/info"))
            pack(options["names"], options["path"], tell)
        else:
            check_space(options["space"], " and ".join(options["names"]), asked("/info"))
            remember(options["record"], options["names"])
            load(options["path"], tell)
    except (OSError, ValueError, http.client.HTTPException) as error:
        full = getattr(error, "errno", None) == 28
        raise Problem("ran out of disk" if full else f"has a Docker engine that gave up: {error}") from None


def in_background(options):
    """Start `bring` in a process of its own, which outlives the connection; or leave one alone that does the same."""
    wanted = {key: options[key] for key in ("state", "names", "path")}
    try:
        with open(options["status"], encoding="utf-8") as file:
            before = json.load(file)
        if before["wanted"] == wanted and not before["ended"]:
            os.kill(before["process"], 0)
            return
    except (OSError, ValueError, KeyError):
        pass
    status = {"process": 2**22, "wanted": wanted, "ended": False, "text": "", "problem": None}
    write(options["status"], status)
    if os.fork():
        return
    os.setsid()
    for stream in range(3):
        os.dup2(os.open(os.devnull, os.O_RDWR), stream)
    told = [0.0]

    def tell(text, **more):
        if more or time.time() - told[0] > 1:
            told[0] = time.time()
            status.update(more, text=text, process=os.getpid())
            write(options["status"], status)

    try:
        tell("")
        bring(options, tell)
        tell(status["text"], ended=True)
    except Problem as problem:
        tell(status["text"], ended=True, problem=str(problem))
    except BaseException as error:
        tell(status["text"], ended=True, problem=f"could not bring images: {error!r}")
    finally:
        os._exit(0)


def remove(names):
    """Remove images that no container uses, and return those that were there."""
    removed = []
    for name in names:
        try:
            ask("DELETE", f"/images/{quote(name)}").read()
            removed.append(name)
        except Problem:
            continue  # it is in use, or gone
    return removed


def main():
    """Do what is asked."""
    module = AnsibleModule(
        {
            "state": {"type": "str", "choices": ["pulled", "packed", "loaded", "absent"], "required": True},
            "names": {"type": "list", "elements": "str", "required": True},
            "path": {"type": "path"},
            "record": {"type": "path"},
            "space": {"type": "float", "default": 0},
            "status": {"type": "path", "default": "/run/flowerbed-image.json"},
        }
    )
    options = module.params
    if options["state"] == "absent":
        module.exit_json(changed=bool(remove(options["names"])))
    in_background(options)
    module.exit_json(changed=True, status=options["status"])


if __name__ == "__main__":
    main()
