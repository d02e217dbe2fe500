"""What the validator looks at: an inventory with its values resolved, free of Ansible's own types."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

LOCAL_CONNECTIONS = ("local", "ansible.builtin.local")


class Problem(NamedTuple):
    """One thing that is wrong: its host (None: all), its variable (None: no single one), the sentence's end."""

    host: str | None
    variable: str | None
    text: str


class Source(NamedTuple):
    """Where a variable is set: a file and its line, the command line (-e), or neither, for a default."""

    file: str | None = None
    line: int | None = None
    command_line: bool = False


@dataclass
class Host:
    """A host: its groups, the resolved values of the variables that matter here, the names it was given."""

    name: str
    groups: set[str] = field(default_factory=set)
    values: dict[str, Any] = field(default_factory=dict)
    given: set[str] = field(default_factory=set)
    undefined: dict[str, str] = field(default_factory=dict)  # variable: what its template lacks

    @property
    def remote(self) -> bool:
        """Whether the host is another machine than this one."""
        return self.values.get("ansible_connection", "ssh") not in LOCAL_CONNECTIONS

    @property
    def machine(self) -> tuple[str, str]:
        """What tells the host's machine from others: its address and its SSH port."""
        if not self.remote:
            return ("this machine", "")
        return (str(self.values.get("ansible_host", self.name)), str(self.values.get("ansible_port", 22)))


@dataclass
class Fleet:
    """An inventory: its devices, its servers (there should be one), what the roles and the command line say."""

    devices: list[Host]
    servers: list[Host]
    inventory: str  # path of its source, for sentences
    checkout: Path
    passed_over: list[str] = field(default_factory=list)  # files in its folder that Ansible does not read as such
    leaf_groups: set[str] = field(default_factory=set)  # groups below `devices` with no groups below them
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # every role's variables, by name
    prefixes: tuple[str, ...] = ("fl_",)
    extra: Mapping[str, Any] = field(default_factory=dict)  # variables of the command line
    source: Callable[[str | None, str], Source] = lambda host, variable: Source()

    @property
    def hosts(self) -> list[Host]:
        """The servers and the devices, each once."""
        return list({host.name: host for host in [*self.servers, *self.devices]}.values())
