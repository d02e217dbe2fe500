"""Molecule's scenarios: which there are, which roles each covers, and which roles its playbooks call."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
SCENARIOS = {path.parents[2].name: path for path in sorted(ROOT.glob("roles/*/molecule/default/molecule.yml"))}
STEPS = ("tasks", "pre_tasks", "post_tasks", "block", "rescue", "always")


def covered() -> dict[str, list[str]]:
    """Return the roles that each scenario covers, as the table in CONTRIBUTING.md has it."""
    rows = re.findall(r"(?m)^\| `roles/(\w+)` \| [^|]+ \| ([^|]+) \|$", (ROOT / "CONTRIBUTING.md").read_text())
    return {scenario: re.findall(r"`(\w+)`", roles) for scenario, roles in rows}


def on_boards(scenario: str) -> bool:
    """Return whether a scenario rehearses boards, which needs a Docker engine."""
    return "rehearsal_boards" in SCENARIOS[scenario].read_text()


def called(scenario: str) -> set[str]:
    """Return the roles that a scenario's playbooks call; what only boards get, in a scenario that has some."""
    roles, seen, boards = set(), set(), on_boards(scenario)
    files = _playbooks(scenario)
    while files:
        file = files.pop()
        if file in seen or not file.exists():
            continue
        seen.add(file)
        for kind, name, tasks in _calls(yaml.safe_load(file.read_text()), boards):
            if kind == "role":
                role = scenario if "MOLECULE_PROJECT_DIRECTORY" in name else name
                roles.add(role)
                files += [ROOT / "roles" / role / part for part in (f"tasks/{tasks}.yml", "meta/main.yml")]
            else:
                files.append((file.parent / name).resolve())
    return roles


def _playbooks(scenario: str) -> list[Path]:
    """Return the playbooks of a scenario's test sequence."""
    folder = SCENARIOS[scenario].parent
    shared = yaml.safe_load((ROOT / ".config/molecule/config.yml").read_text())
    own = yaml.safe_load(SCENARIOS[scenario].read_text())
    sequence = own.get("scenario", shared["scenario"])["test_sequence"]
    books = {**shared["ansible"]["playbooks"], **own.get("ansible", {}).get("playbooks", {})}
    named = [step.split()[1] for step in sequence if step.startswith("side_effect ")]
    named += [book for step, book in books.items() if step in sequence]
    project = str(folder.parents[1])
    return [(folder / book.replace("${MOLECULE_PROJECT_DIRECTORY}", project)).resolve() for book in named]


def _calls(content: Any, boards: bool) -> Iterator[tuple[str, str, str]]:
    """Yield what plays or tasks call that is not switched off: kind, name, and of a role which of its tasks."""

    def off(entry: dict[str, Any]) -> bool:
        when = str(entry.get("when", True))
        return when == "False" or when.startswith("fl_docker") and not boards

    for entry in content if isinstance(content, list) else [content]:
        if not isinstance(entry, dict) or off(entry):
            continue
        for key, value in entry.items():
            kind = key.rpartition("_")[2]
            if key in STEPS:
                yield from _calls(value, boards)
            elif key in ("roles", "dependencies"):
                for role in value:
                    if isinstance(role, str):
                        yield "role", role, "main"
                    elif not off(role):
                        yield "role", role["role"], "main"
            elif key.startswith("ansible.builtin.") and kind == "role":
                yield "role", value["name"], value.get("tasks_from", "main")
            elif key.startswith("ansible.builtin.i") and kind in ("playbook", "tasks"):
                yield kind, value if isinstance(value, str) else value["file"], ""
