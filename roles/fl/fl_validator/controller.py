"""The controller: what Ansible itself runs on. If that is wrong, nothing else can be judged."""

import os
import stat
from pathlib import Path

PYTHONS = ((3, 10), (3, 11), (3, 12))  # as bootstrap.sh has it
ANSIBLE = "2.16."


def problems(python: tuple[int, int], ansible: str, config_file: str | None, checkout: Path) -> list[str]:
    """Return what is wrong with Ansible's Python (major, minor), version and configuration file, as sentences."""
    wrong = []
    if not PYTHONS[0] <= python <= PYTHONS[-1]:
        wrong.append(
            f"Ansible runs on Python {python[0]}.{python[1]}, but Flowerbed needs 3.10, 3.11 or 3.12: "
            "use the ansible-playbook in .venv, made with one of these."
        )
    if not ansible.startswith(ANSIBLE):
        wrong.append(
            f"This is ansible-core {ansible}, but Flowerbed needs {ANSIBLE}x: use the ansible-playbook in .venv."
        )
    if config_file is None or os.path.realpath(config_file) != os.path.realpath(checkout / "ansible.cfg"):
        wrong.append(
            f"Ansible reads {config_file or 'no ansible.cfg'}, but Flowerbed needs its own: {_way_to_it(checkout)}."
        )
    return wrong


def _way_to_it(checkout: Path) -> str:
    """Return what makes Ansible read the checkout's configuration file."""
    if "ANSIBLE_CONFIG" in os.environ:
        return f"unset ANSIBLE_CONFIG and run ansible-playbook in {checkout}"
    if checkout.stat().st_mode & stat.S_IWOTH:
        return (
            f"it takes none from a folder that anyone can write to. Do chmod o-w {checkout}, "
            f"or export ANSIBLE_CONFIG={checkout}/ansible.cfg"
        )
    return f"run ansible-playbook in {checkout}"
