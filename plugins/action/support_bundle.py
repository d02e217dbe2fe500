"""Write the support bundle on the controller, of what support_files has collected on all hosts."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleError
from ansible.plugins.action import ActionBase

sys.path.insert(0, str(Path(__file__).parents[1] / "plugin_utils"))
import ansible_private
from support import bundle, likely, secrets

# What roles have found out of a host
COLLECTED, FACTS, BARRIER = "support_collected", "board_found", "preflight_barrier"
ANSWERS = ("supervisor_status", "trainer_status", "server_status")
ENVIRONMENT = "trainer_environment"
WHOLE_DAY = 86400


class ActionModule(ActionBase):
    """See the documentation in the module of this name."""

    _VALID_ARGS = frozenset(("folder", "hosts", "sentence", "since", "deployed"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result = {**super().run(tmp, task_vars), "changed": False, "path": "", "problem": "", "away": {}, "likely": []}
        given, hostvars, now = self._task.args, task_vars["hostvars"], time.time()
        hosts: dict[str, likely.Collected] = {}
        for host in given["hosts"]:
            variables = hostvars.raw_get(host)  # most of which no template can be made of here
            found = variables.get(COLLECTED) or {}
            if "files" not in found:
                why = variables.get(BARRIER) or found.get("msg") or "did not answer"
                result["away"][host] = " ".join(str(why).split())
                continue
            files = {str(name): str(text) for name, text in found["files"].items()}
            if facts := variables.get(FACTS):
                files["facts.json"] = json.dumps(facts, indent=1, default=str)
            for name in ANSWERS:
                if answer := variables.get(name):
                    files[f"{name}.txt"] = "\n".join(str(answer.get(part) or "") for part in ("stdout", "stderr"))
            hosts[host] = likely.Collected(files, int(found.get("utc_offset") or 0))
        environments = list(self._environments(given, hostvars))
        cleaner = secrets.Cleaner(
            [*self._known(given["hosts"], hostvars), *(str(value) for each in environments for value in each.values())],
            [str(name) for each in environments for name in each],
        )
        sentence = cleaner.clean(str(given.get("sentence") or ""))
        since = float(given.get("since") or now - WHOLE_DAY)
        result["likely"] = [
            {"host": line.host, "file": line.file, "line": cleaner.clean(line.text)}
            for line in likely.lines(hosts, sentence, since)
        ]
        summary = {"likely": result["likely"], "away": result["away"], "time": time.strftime("%F %T %z")}
        try:
            path = bundle.write(
                Path(given["folder"]), hosts, json.dumps(summary, indent=1, ensure_ascii=False) + "\n", cleaner, now
            )
        except OSError as error:
            return {**result, "problem": f"it cannot be written in {given['folder']}: {error.strerror}"}
        return {**result, "path": str(path), "bytes": path.stat().st_size}

    def _environments(self, given: dict[str, Any], hostvars: Any) -> Iterator[dict[str, Any]]:
        """Yield what programs get in their environment: as the inventory has it, and as it was deployed."""
        for host in given["hosts"]:
            with contextlib.suppress(AnsibleError, KeyError):
                yield dict(hostvars[host][ENVIRONMENT])
        with contextlib.suppress(OSError, ValueError, AttributeError):  # nothing is deployed
            for values in json.loads(Path(given["deployed"]).read_text()).values():
                yield values.get(ENVIRONMENT) or {}

    def _known(self, hosts: Iterable[str], hostvars: Any) -> Iterator[str]:
        """Yield the secrets that this ansible-playbook knows of."""
        yield from filter(None, (self._play_context.password, self._play_context.become_pass))
        for name, value in os.environ.items():
            yield from secrets.values(name, value)
        yield from secrets.of_addresses(os.environ.values())
        for host in hosts:
            for name, value in hostvars.raw_get(host).items():
                if name == COLLECTED:
                    continue
                if ansible_private.is_vaulted(value):
                    yield str(value)
                elif isinstance(value, str):
                    yield from secrets.of_addresses([value])
                if any(secrets.values(str(name), value)):
                    with contextlib.suppress(AnsibleError, KeyError):  # what needs variables that only a role has
                        yield from secrets.values(str(name), hostvars[host][name])
