"""What is used of Ansible without being promised by it: when a release breaks it, it breaks here.

Ansible promises what its guide for developers shows: the classes that plugins are made of with what they get
(`self._task`, `result._host`), `ansible.errors`, `ansible.module_utils`. Plugins find this module by its path.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from ansible.inventory.helpers import sort_groups
from ansible.parsing.yaml.objects import AnsibleVaultEncryptedUnicode
from ansible.plugins.callback.default import CallbackModule as DefaultOutput
from ansible.template import Templar
from ansible.vars.plugins import get_vars_from_inventory_sources, get_vars_from_path

# -- A running playbook -----------------------------------------------------------------------------------------------


def role_of(task: Any) -> Any:
    """Return the role that a task is one of."""
    return task._role


def identity(task: Any) -> str:
    """Return what a task has in common with its results, and with no other task."""
    return task._uuid


def template_on(play: Any, host: Any, task: Any, text: str) -> Any:
    """Return what a template says for a task on a host."""
    manager = play.get_variable_manager()
    variables = manager.get_vars(play=play, host=host, task=task)
    return Templar(manager._loader, variables=variables).template(text)


def widen_limit(play: Any, hosts: list[str]) -> None:
    """Let --limit, if there is one, take in `hosts`, too, for a play and those after it."""
    inventory = play.get_variable_manager()._inventory
    if inventory._subset:
        inventory.subset([host.name for host in inventory.get_hosts()] + hosts)


class Output(DefaultOutput):
    """Ansible's default output, with two things more for a plugin that is made of it."""

    def show_heading(self, task: Any) -> None:
        """Show a task's heading before there is a result."""
        self._print_task_banner(task)

    def before_task(self) -> None:
        """Do what is due before a task's heading; nothing here."""

    def _task_start(self, task: Any, prefix: str | None = None) -> None:
        self.before_task()
        super()._task_start(task, prefix)


# -- An inventory -----------------------------------------------------------------------------------------------------


def inventory_of(hostvars: Any) -> Any:
    """Return the InventoryManager of a playbook, by its variable `hostvars`."""
    return hostvars._inventory


def sources_of(inventory: Any) -> list[str]:
    """Return the paths of an inventory."""
    return list(inventory._sources)


def extra_vars_of(hostvars: Any) -> Mapping[str, Any]:
    """Return what -e has set, by a playbook's variable `hostvars`."""
    return hostvars._variable_manager.extra_vars


def variables_in_files(loader: Any, inventory: Any, entity: Any) -> list[Mapping[str, Any]]:
    """Return what files set for a host or group: those beside the playbook, then those beside the inventory."""
    return [
        get_vars_from_path(loader, loader.get_basedir(), [entity], "task"),
        get_vars_from_inventory_sources(loader, inventory._sources, [entity], "task"),
    ]


def groups_of(host: Any) -> list[Any]:
    """Return a host's groups, those first whose variables count most; `all` is the last."""
    return list(reversed(sort_groups(host.get_groups())))


def position(key: Any) -> tuple[str, int] | None:
    """Return the file and the line in which a variable's name stands, where it was read from YAML."""
    path, line, _ = getattr(key, "ansible_pos", (None, None, None))
    return (path, line) if path else None


def is_vaulted(value: Any) -> bool:
    """Return whether a variable's value is one that stands encrypted in its file."""
    return isinstance(value, AnsibleVaultEncryptedUnicode)


# -- Templates --------------------------------------------------------------------------------------------------------


class Templates:
    """Templates of many hosts, which share nearly all of them: each is compiled once, which is what takes time."""

    def __init__(self, loader: Any) -> None:
        self._templar = Templar(loader)
        self._templar.environment.from_string = cache(self._templar.environment.from_string)

    @property
    def variables(self) -> dict[str, Any]:
        """Return what templates may use."""
        return self._templar.available_variables

    @variables.setter
    def variables(self, variables: dict[str, Any]) -> None:
        self._templar.available_variables = variables

    def resolve(self, value: Any) -> Any:
        """Return a value without its templates. Raises AnsibleError, AnsibleUndefinedVariable."""
        return self._templar.template(value)
