"""Make a rehearsal's boards and its inventory from another inventory, as ansible-inventory lists and exports it."""

from __future__ import annotations

import getopt
import hashlib
import ipaddress
import re
import shlex
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

FIRST_ADDRESS = 10  # below are the gateway, which is the server, the registry, and jump hosts
FIRST_JUMP = 3
PUBLISHED = re.compile(r"(?!localhost/|[^/]*[.:][^/]*/)[a-z0-9._/-]+(:[\w.-]+)?")  # in the public registry, by a tag
STAND_INS = {"jetson": "jetson"}  # of a trainer's image, by the kind of board; of all others as a Pi's
PYTHONS = {"jetson": "3.6", "jetson_5": "3.8", "jetson_6": "3.10"}  # of JetPack, by the kind of board
SHAPE = ("release", "memory", "cpus", "bandwidth", "disk")  # what a variable rehearsal_… of a group or host can say
SECRETS = ("ansible_password", "ansible_ssh_pass", "ansible_become_pass", "ansible_become_password")
ARGUMENTS = ("ansible_ssh_args", "ansible_ssh_common_args", "ansible_ssh_extra_args")
# What a board gets anew, of the variables and of ssh's options
REPLACED = (
    *SECRETS, *ARGUMENTS, "ansible_ssh_host", "ansible_ssh_port", "ansible_ssh_user", "ansible_private_key_file",
    "ansible_ssh_private_key_file",
)  # fmt: skip
OPTIONS = "46AaCfGgKkMNnqsTtVvXxYyB:b:c:D:E:e:F:I:i:J:L:l:m:O:o:P:p:Q:R:S:W:w:"  # those of ssh
OWN = ("-F", "-i", "-l", "-p", "identityfile", "certificatefile", "identityagent", "identitiesonly",
       "userknownhostsfile", "globalknownhostsfile", "user", "hostname", "hostkeyalias", "port")  # fmt: skip
JUMP = re.compile(r"(?:ssh://)?(?:([^@]+)@)?(\[[^\]]+\]|[^:\[\]]+)(?::(\d+))?")


def fleet(
    listing: dict[str, Any], shapes: dict[str, dict[str, Any]], limits: dict[str, int], subnet: str, name: str
) -> list[dict[str, Any]]:
    """Return a board for each device of an inventory: name, container, address in `subnet`, user, and its shape.

    `listing` is what ansible-inventory --list prints; `shapes` are rehearsal_shapes, by group, the later ones first in
    rank, and one that rehearsal_board names last of all; `limits` has the most boards to take of a group; `name` is the
    rehearsal's. Raises AnsibleFilterError where there are no devices, a group or shape is unknown, or the subnet is too
    small.
    """
    groups = {group: content for group, content in listing.items() if group != "_meta"}
    members = {group: _hosts(groups, group) for group in groups}
    if not members.get("devices"):
        raise AnsibleFilterError("The inventory to rehearse has no group devices with hosts in it.")
    if unknown := sorted(set(limits) - set(groups)):
        raise AnsibleFilterError(
            f"rehearsal_boards names {', '.join(unknown)}, but the groups to rehearse are {', '.join(groups)}."
        )
    for group, count in limits.items():
        if not str(count).isdigit():
            raise AnsibleFilterError(f"rehearsal_boards has {count!r} for {group}, which is no number of boards.")
    left_out = {host for group, count in limits.items() for host in members[group][int(count) :]}
    hosts = [host for host in members["devices"] if host not in left_out]
    network = _network(subnet)
    if len(hosts) > network.num_addresses - FIRST_ADDRESS - 1:
        raise AnsibleFilterError(f"rehearsal_subnet {subnet} has no addresses for {len(hosts)} boards.")
    found: list[dict[str, Any]] = []
    for index, host in enumerate(hosts):
        variables = listing["_meta"]["hostvars"].get(host, {})
        board: dict[str, Any] = {}
        for group, shape in shapes.items():
            board.update(shape if host in members.get(group, []) else {})
        like = variables.get("rehearsal_board", "devices")
        if like not in shapes:
            raise AnsibleFilterError(
                f"{host} has the rehearsal_board {like}, but rehearsal_shapes has only {', '.join(shapes)}."
            )
        board.update(shapes[like] if "rehearsal_board" in variables else {})
        board.update({key: variables[f"rehearsal_{key}"] for key in SHAPE if f"rehearsal_{key}" in variables})
        releases, alike = board.pop("releases"), sum(other["kind"] == board["kind"] for other in found)
        board.setdefault("release", releases[alike % len(releases)])
        board["user"] = variables.get("ansible_user", board["user"])
        board["image"] = variables.get("trainer_image", board["image"])
        found.append({
            **board, "name": host, "container": f"{name}-{host}", "address": str(network[FIRST_ADDRESS + index]),
            **connection(variables),
        })  # fmt: skip
    return found


def connection(variables: dict[str, Any]) -> dict[str, Any]:
    """Return what of a device's connection can be rehearsed.

    That is `port`, on which its sshd listens, `arguments` for ssh, the `jumps` among them as (user, host, port), with
    "" for what is not said, and `without`, what no container can stand in for.
    """
    port = next((variables[name] for name in ("ansible_port", "ansible_ssh_port") if name in variables), 22)
    arguments: list[str] = []
    jumps: list[tuple[str, str, str]] = []
    without: list[str] = []
    for name in ARGUMENTS:
        text = str(variables.get(name) or "")
        try:
            given, _ = getopt.getopt(shlex.split(text), OPTIONS) if "{{" not in text else ([], [])
        except (ValueError, getopt.GetoptError) as error:
            raise AnsibleFilterError(f"{name} is {text!r}, which ssh would not understand: {error}.") from None
        without += [text] if "{{" in text else []
        for option, value in given:
            key, said = option, value
            if option == "-o":
                key, said = [*re.split(r"\s*=\s*|\s+", value.strip().lower(), maxsplit=1), ""][:2]
                said = value.strip()[len(value.strip()) - len(said) :]
            if key in ("-J", "proxyjump", "proxycommand"):
                way = _jumps(key, said)
                jumps = jumps or way
                without += [] if way or said == "none" else [f"{option} {value}"]
            elif key in ("-p", "port"):
                port = said
            elif key not in OWN:
                arguments += [option, value] if value else [option]
    if jumps:
        arguments += [
            "-J",
            ",".join(f"{user}@{host}:{port}" if user else f"{host}:{port}" for user, host, port in jumps),
        ]
    return {"port": int(port) if str(port).isdigit() else 22, "arguments": shlex.join(arguments), "jumps": jumps,
            "without": without}  # fmt: skip


def _jumps(key: str, value: str) -> list[tuple[str, str, str]]:
    """Return the jump hosts that an option of ssh names, [] where there are none that can be seen."""
    user = port = ""
    if key == "proxycommand":
        words = shlex.split(value)
        if not words or Path(words[0]).name != "ssh":
            return []
        try:
            given, names = getopt.gnu_getopt(words[1:], OPTIONS)
        except getopt.GetoptError:
            return []
        options = dict(given)
        user, port, value = options.get("-l", ""), options.get("-p", ""), names[0] if names else ""
    found = [JUMP.fullmatch(part.strip()) for part in value.split(",") if part != "none"]
    return [(part[1] or user, part[2], part[3] or port or "22") for part in found if part]


def jumps(boards: list[dict[str, Any]], subnet: str, name: str) -> list[dict[str, Any]]:
    """Return a board for each jump host of `boards`, as `fleet` returns those, with `host`, what ssh calls it.

    Raises AnsibleFilterError where there are more of them than addresses.
    """
    found: dict[str, dict[str, Any]] = {}
    for board in boards:
        for user, host, port in board["jumps"]:
            number = len(found) + 1
            if host not in found and number > FIRST_ADDRESS - FIRST_JUMP:
                raise AnsibleFilterError(f"The inventory to rehearse has more than {number - 1} jump hosts.")
            place = {"name": f"jump-{number}", "container": f"{name}-jump-{number}", "host": host.strip("[]"),
                     "address": str(_network(subnet)[FIRST_JUMP + number - 1]), "user": user or board["user"],
                     "port": int(port)}  # fmt: skip
            found.setdefault(host, {**board, **place})
    return list(found.values())


def overlapping(networks: list[dict[str, Any]], subnet: str, name: str) -> list[str]:
    """Return the names of an engine's networks, as docker_host_info lists them, that `subnet` would overlap.

    The rehearsal `name` has its network by right.
    """
    found = [
        network["Name"]
        for network in networks
        for taken in (network.get("IPAM") or {}).get("Config") or []
        if ipaddress.ip_network(taken["Subnet"]).overlaps(_network(subnet)) and network["Name"] != name
    ]
    return sorted(set(found))


def gateway(subnet: str) -> str:
    """Return the address of this machine in `subnet`. Raises AnsibleFilterError where that is no subnet."""
    return str(_network(subnet)[1])


def registry(subnet: str) -> str:
    """Return the address of the registry in `subnet`."""
    return str(_network(subnet)[2])


def recipe(folder: str, *others: Any) -> str:
    """Return a hash of what is in a recipe's folder, and of what else it depends on."""
    found = hashlib.sha256(repr(others).encode())
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(folder)} {path.stat().st_mode & 0o100}\0".encode() + path.read_bytes())
    return found.hexdigest()[:12]


def image(board: dict[str, Any], recipe: str) -> str:
    """Return the name of the image for a board, by the hash of the recipe for it."""
    return f"flowerbed-rehearsal/{board['kind']}:{board['release']}-{recipe}"


def board_builds(boards: list[dict[str, Any]], recipe: str, pythons: dict[str, str]) -> list[dict[str, Any]]:
    """Return the images of `boards`: name, release, folder of the recipe, what its script fill gets, and arguments.

    `pythons` are folders by version, "" for one that this machine lacks.
    """
    found = {
        image(board, recipe): {
            "context": "board", "release": board["release"], "fill": [pythons.get(PYTHONS.get(board["kind"]), "")],
            "args": {"KIND": board["kind"], "RELEASE": board["release"], "FAMILY": _family(board["kind"])},
        }
        for board in boards
    }  # fmt: skip
    return [{"name": name, **build} for name, build in found.items()]


def _family(kind: str) -> str:
    """Return the folder of the recipe with the units that boards of a kind have; `units` are those of all."""
    return next((family for family in ("raspberry_pi", "jetson") if kind.startswith(family)), "units")


def published(boards: list[dict[str, Any]], client: str, recipe: str, python36: str) -> dict[str, str]:
    """Return the stand-ins, by the names under which the registry has them: for the trainers' images and `client`.

    `recipe` is the hash of their recipe. Without a Python 3.6, a Jetson's image is as a Pi's.
    """
    kinds = {board["image"]: STAND_INS.get(board["kind"], "rpi") if python36 else "rpi" for board in boards}
    kinds = {name: kind for name, kind in {**kinds, client: "supernode"}.items() if PUBLISHED.fullmatch(name)}
    return {name: f"flowerbed-rehearsal/stand-in:{kind}-{recipe}" for name, kind in kinds.items()}


def stand_in_builds(names: dict[str, str], python: str, python36: str, pins: dict[str, str]) -> list[dict[str, Any]]:
    """Return the images of stand-ins as `board_builds` does those of boards; `names` is what `published` returns."""
    packages = {"rpi": [pins["torch"], pins["numpy"]], "jetson": [], "supernode": [pins["flwr"], pins["numpy"]]}
    kinds = {name: name.partition(":")[2].partition("-")[0] for name in sorted(set(names.values()))}
    return [
        {
            "name": name, "context": "stand_in", "release": "bookworm", "args": {},
            "target": "client" if kind == "supernode" else "trainer", "fill": [kind, python, python36, *packages[kind]],
        }
        for name, kind in kinds.items()
    ]  # fmt: skip


def filled(images: list[dict[str, Any]], name: str, held: str) -> str:
    """Return the name of the image of a registry, which is `name` when it is empty, that has all images of `held`.

    `held` is what the label flowerbed.held says of such an image. One of `images`, those of the engine with that label
    as docker_host_info lists them, may have more than that; else it is a new one.
    """
    enough = [image for image in images if set(held.split()) <= set(image["Labels"]["flowerbed.held"].split())]
    tags = [tag for image in enough for tag in image["RepoTags"] or [] if tag.startswith(f"{name}-")]
    return tags[0] if tags else f"{name}-{hashlib.sha256(held.encode()).hexdigest()[:12]}"


def inventory(
    tree: dict[str, Any], boards: list[dict[str, Any]], everywhere: dict[str, Any], ssh: str
) -> dict[str, Any]:
    """Return an exported inventory with the `boards` for its devices.

    `tree` is what ansible-inventory --list --export --yaml prints; `everywhere` are variables that all of its hosts
    get. A device has the port and the jump hosts that it had, and of ssh's options those that are not of its keys; the
    file `ssh` says the rest. Devices that have no board are left out, and so are passwords.
    """
    devices = _tree_hosts(tree["all"], "devices", False)
    own = {
        board["name"]: {
            "ansible_connection": "ssh", "ansible_host": board["address"], "ansible_port": board["port"],
            "ansible_user": board["user"], "ansible_python_interpreter": "/usr/bin/python3",
            "ansible_ssh_common_args": f"-F {shlex.quote(ssh)} {board['arguments']}".strip(),
        }
        for board in boards
    }  # fmt: skip

    def rewrite(group: dict[str, Any] | None) -> dict[str, Any]:
        group = group or {}
        result: dict[str, Any] = {}
        if group.get("vars"):
            result["vars"] = _own(group["vars"])
        if group.get("hosts"):
            result["hosts"] = {
                host: {**_own(variables or {}), **everywhere, **own.get(host, {})}
                for host, variables in group["hosts"].items()
                if host in own or host not in devices
            }
        if group.get("children"):
            result["children"] = {child: rewrite(content) for child, content in group["children"].items()}
        return result

    return {"all": rewrite(tree["all"])}


def _network(subnet: str) -> ipaddress.IPv4Network:
    try:
        return ipaddress.IPv4Network(subnet)
    except ValueError as error:
        raise AnsibleFilterError(f"rehearsal_subnet is {subnet}, which is no subnet: {error}.") from None


def _hosts(groups: dict[str, Any], name: str) -> list[str]:
    """Return the hosts of a group and its children, in the inventory's order, each once."""
    group = groups.get(name, {})
    found = list(group.get("hosts", []))
    for child in group.get("children", []):
        found += _hosts(groups, child)
    return list(dict.fromkeys(found))


def _tree_hosts(group: dict[str, Any] | None, name: str, inside: bool) -> list[str]:
    """Return the hosts in the group `name` of an exported tree, and of all its children."""
    group = group or {}
    found = list(group.get("hosts") or {}) if inside else []
    for child, content in (group.get("children") or {}).items():
        found += _tree_hosts(content, name, inside or child == name)
    return found


def _own(variables: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in variables.items() if name not in REPLACED}


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {
            "rehearsal_fleet": fleet, "rehearsal_jumps": jumps, "rehearsal_overlapping": overlapping,
            "rehearsal_gateway": gateway,
            "rehearsal_registry": registry, "rehearsal_recipe": recipe, "rehearsal_image": image,
            "rehearsal_board_builds": board_builds,
            "rehearsal_published": published, "rehearsal_stand_in_builds": stand_in_builds, "rehearsal_filled": filled,
            "rehearsal_inventory": inventory,
        }  # fmt: skip
