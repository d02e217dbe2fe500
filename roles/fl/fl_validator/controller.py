"""The controller: what Ansible itself runs on. If that is wrong, nothing else can be judged."""

import os
from pathlib import Path

PYTHONS = ((3, 10), (3, 11), (3, 12))  # as bootstrap.sh has it
ANSIBLE = "2.16."


def problems(python: tuple[int, int], ansible: str, config_file: str | None, checkout: Path) -> list[str]:
    """Return what is wrong with Ansible's Python (major, minor), version and configuration file, as sentences."""
    found = []
    if not PYTHONS[0] <= python <= PYTHONS[-1]:
        found.append(
            f"Ansible runs on Python {python[0]}.{python[1]}, but Flowerbed needs 3.10, 3.11 or 3.12: "
            "use the ansible-playbook in .venv, made with one of these."
        )
    if not ansible.startswith(ANSIBLE):
        found.append(
            f"This is ansible-core {ansible}, but Flowerbed needs {ANSIBLE}x: use the ansible-playbook in .venv."
        )
    if config_file is None or os.path.realpath(config_file) != os.path.realpath(checkout / "ansible.cfg"):
        found.append(
            f"Ansible reads {config_file or 'no ansible.cfg'}, but Flowerbed needs its own: "
            f"run ansible-playbook in {checkout}."
        )
    return found
