"""Start the mirror of this role's files on the controller, for as long as this ansible-playbook runs."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.community.docker.plugins.module_utils.util import DEFAULT_DOCKER_REGISTRY

TIMEOUT = 20  # seconds until it must answer


class ActionModule(ActionBase):
    """Takes `address`, `port`, `upstream` ("" for the public registry) and `folder`; returns `problem`, "" for none."""

    _VALID_ARGS = frozenset(("address", "port", "upstream", "folder"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result = {**super().run(tmp, task_vars), "changed": False, "problem": ""}
        given = self._task.args
        folder = Path(given["folder"])
        folder.mkdir(parents=True, exist_ok=True)
        program = Path(self._task._role._role_path, "files", "mirror.py")
        upstream = given["upstream"] or DEFAULT_DOCKER_REGISTRY.removesuffix("/v1/")
        playbook = os.getppid()  # this is one of its workers
        command = [sys.executable, program, given["address"], given["port"], upstream, folder, playbook]
        with open(folder / "mirror.log", "w") as log:
            process = subprocess.Popen(
                list(map(str, command)), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(given["address"], given["address"])
        url = f"http://{f'[{host}]' if ':' in host else host}:{given['port']}/v2/"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        end = time.monotonic() + TIMEOUT
        while time.monotonic() < end and process.poll() is None:
            try:
                opener.open(url, timeout=5).close()
            except OSError:
                time.sleep(0.1)
            else:
                if process.poll() is None:
                    return result
        process.kill()
        last = (folder / "mirror.log").read_text().strip().splitlines() or ["it does not answer"]
        return {**result, "problem": last[-1]}
