"""Write docs/variables.md from the roles' argument specs: python docs/make_variables.py."""

from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).parent
FIRST = ("fl", "dataset", "trainer")  # the roles whose variables a user sets most
HEAD = """# Variables

Set a variable in an inventory: for all hosts, for a group or for a host. Each variable's name begins with its role's.

This page is made from `roles/*/meta/argument_specs.yml` by `python docs/make_variables.py`.
"""


def text() -> str:
    """Return the page."""
    specs = {path.parts[-3]: path for path in DOCS.parent.glob("roles/*/meta/argument_specs.yml")}
    roles = [*FIRST, *sorted(set(specs) - set(FIRST))]
    return "\n".join([HEAD, *(section(role, specs[role]) for role in roles)])


def section(role: str, path: Path) -> str:
    """Return a role's part, or nothing where it has no variables."""
    options: dict[str, Any] = {}
    about: list[str] = []
    for spec in yaml.safe_load(path.read_text())["argument_specs"].values():
        if spec.get("options"):
            options |= spec["options"]
            about.append(spec["short_description"])
    if not options:
        return ""
    rows = [f"| `{name}` | {kind(option)} | {words(option['description'])} |" for name, option in options.items()]
    return "\n".join(
        [f"## {role}", "", ". ".join(about) + ".", "", "| variable | type | meaning |", "|---|---|---|", *rows, ""]
    )


def kind(option: dict[str, Any]) -> str:
    """Return what a variable may be."""
    if choices := option.get("choices"):
        return ", ".join(f"`{choice}`" for choice in choices)
    elements = f" of {option['elements']}" if "elements" in option else ""
    return {"raw": "any"}.get(option["type"], option["type"]) + elements


def words(description: str | list[str]) -> str:
    """Return a description as a cell of a table."""
    return " ".join([description] if isinstance(description, str) else description).strip().replace("|", "\\|")


if __name__ == "__main__":
    (DOCS / "variables.md").write_text(text())
