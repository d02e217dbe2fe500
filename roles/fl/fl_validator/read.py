"""Read a Fleet from Ansible: the inventory, its variables with the role's defaults, where each one is set."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ansible import constants
from ansible.errors import AnsibleError, AnsibleUndefinedVariable
from ansible.module_utils.common.json import AnsibleJSONEncoder

from .fleet import Fleet, Host, Source
from .report import shown

ROLES = Path(__file__).parents[2]
sys.path.insert(0, str(ROLES.parent / "plugins" / "plugin_utils"))
import ansible_private  # noqa: E402

CONNECTION = ("ansible_connection", "ansible_host", "ansible_port")


def options(roles: Path) -> dict[str, Mapping[str, Any]]:
    """Return every role's variables with their argument specs, by name."""
    known: dict[str, Mapping[str, Any]] = {}
    for path in sorted(roles.glob("*/meta/argument_specs.yml")):
        specs = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)) or {}
        for entry in specs.get("argument_specs", {}).values():
            known.update(entry.get("options") or {})
    return known


def read(task_vars: Mapping[str, Any], task: Any, loader: Any) -> Fleet:
    """Return the inventory of a running playbook. `task` is one of the role fl."""
    role = ansible_private.role_of(task)
    hostvars = task_vars["hostvars"]
    inventory, extra = ansible_private.inventory_of(hostvars), ansible_private.extra_vars_of(hostvars)
    sources = ansible_private.sources_of(inventory)
    known = options(ROLES)
    prefixes = tuple(f"{path.name}_" for path in ROLES.iterdir() if (path / "tasks").is_dir())
    defaults = role.get_default_vars()
    wanted = [name for name in defaults if name.startswith("fl_")]  # what other parts need is worked out where it is
    shared = {"hostvars": hostvars, **role.get_vars(include_params=False)}
    templates = ansible_private.Templates(loader)

    def host(name: str) -> Host:
        raw = hostvars.raw_get(name)
        found = Host(name, {group.name for group in inventory.hosts[name].get_groups()})
        found.given = {variable for variable in raw if variable.startswith(prefixes)}
        templates.variables = {**defaults, **raw, **shared}
        for variable in dict.fromkeys([*wanted, *CONNECTION, *(found.given & set(known))]):
            if variable in raw or variable in defaults:
                _resolve(found, variable, templates)
        return found

    def below(group: Any) -> list[Any]:
        return [*group.child_groups, *(group for child in group.child_groups for group in below(child))]

    groups = inventory.groups
    devices = [device.name for device in groups["devices"].get_hosts()] if "devices" in groups else []
    leaves = {group.name for group in below(groups["devices"]) if not group.child_groups} if devices else set()
    servers = groups["server"].get_hosts() if "server" in groups else []
    servers = [server.name for server in servers] or [name for name in ("server",) if name in inventory.hosts]
    return Fleet(
        devices=[host(name) for name in devices],
        servers=[host(name) for name in servers],
        inventory=", ".join(shown(source) for source in sources),
        passed_over=[shown(str(file)) for source in sources for file in _passed_over(Path(source))],
        checkout=ROLES.parent,
        leaf_groups=leaves,
        options=known,
        prefixes=prefixes,
        extra=extra,
        source=lambda name, variable: _source(hostvars, loader, name, variable),
    )


def _passed_over(source: Path) -> list[Path]:
    """Return the files of an inventory's folder whose suffix is one of those that Ansible does not read there."""
    if not source.is_dir():
        return []
    return sorted(file for file in source.iterdir() if file.name.endswith(tuple(constants.INVENTORY_IGNORE_EXTS)))


def _resolve(host: Host, variable: str, templates: ansible_private.Templates) -> None:
    """Put a variable's value into `host`, in plain types. What needs a device's facts cannot be known yet."""
    raw = templates.variables[variable]
    try:
        value = templates.resolve(raw)
        host.values[variable] = json.loads(json.dumps(value, cls=AnsibleJSONEncoder))
        templates.variables[variable] = value  # for the templates that use it
    except AnsibleUndefinedVariable as error:
        if "ansible_facts" not in f"{raw} {error}":
            host.undefined[variable] = _short(error)
    except (AnsibleError, TypeError, ValueError) as error:
        host.undefined[variable] = _short(error)


def _short(error: Exception) -> str:
    return str(error).strip().splitlines()[0].split(". ")[0].rstrip(".")


def _source(hostvars: Any, loader: Any, name: str | None, variable: str) -> Source:
    """Return where `variable` gets its value for the host `name`, by Ansible's own order of precedence."""
    inventory, extra = ansible_private.inventory_of(hostvars), ansible_private.extra_vars_of(hostvars)
    if variable in extra:
        return _position(extra, variable, None) or Source(command_line=True)
    if name is None:
        return Source()

    def files(entity: Any) -> list[Mapping[str, Any]]:
        return ansible_private.variables_in_files(loader, inventory, entity)

    host = inventory.hosts[name]
    groups = [*[group for group in ansible_private.groups_of(host) if group.name != "all"], inventory.groups["all"]]
    layers = [*files(host), host.vars]
    layers += [layer for group in groups for layer in files(group)]
    layers += [group.vars for group in groups]
    for layer in layers:
        if variable in layer:
            return _position(layer, variable, host.vars.get("inventory_file")) or Source()
    return Source()


def _position(layer: Mapping[str, Any], variable: str, file: str | None) -> Source | None:
    """Return where `variable` stands: YAML keys remember it. `file` is the answer for other formats."""
    key = next(key for key in layer if key == variable)
    place = ansible_private.position(key) or ((file, None) if file else None)
    return Source(*place) if place else None
