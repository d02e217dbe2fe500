"""Start the mirror of this role's files on the controller, for as long as this ansible-playbook runs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.community.docker.plugins.module_utils.util import DEFAULT_DOCKER_REGISTRY


class ActionModule(ActionBase):
    """Takes `address`, `port`, `upstream` ("" for the public registry) and `folder`; returns `problem`, "" for none."""

    _VALID_ARGS = frozenset(("address", "port", "upstream", "folder"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result = {**super().run(tmp, task_vars), "changed": False, "problem": ""}
        given = self._task.args
        folder = Path(given["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        program = Path(__file__).parents[2] / "roles" / "device_image" / "files" / "mirror.py"
        upstream = given["upstream"] or DEFAULT_DOCKER_REGISTRY.removesuffix("/v1/")
        playbook = os.getppid()  # this is one of its workers
        command = [sys.executable, program, given["address"], given["port"], upstream, folder, playbook]
        with open(folder / "mirror.log", "w") as log:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        if process.stdout.readline():
            return result
        log_lines = (folder / "mirror.log").read_text().strip().splitlines() or ["it ended without a word"]
        return {**result, "problem": log_lines[-1]}
