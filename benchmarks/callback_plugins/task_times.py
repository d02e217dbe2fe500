"""Write down how long each task took and how it ended on how many hosts."""

import json
import os
import time
from typing import Any

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
    name: task_times
    type: aggregate
    short_description: the seconds and results of each task, as JSON
    description:
      - Writes a list of tasks, in their order, to the file that the environment variable FLOWERBED_TASK_TIMES names.
        A task ends where the next one begins, as the strategy linear has it.
"""


class CallbackModule(CallbackBase):
    """Notes when tasks begin."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "task_times"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._tasks: list[dict[str, Any]] = []

    def _begin(self, task: Any) -> None:
        self._end()
        counts = dict.fromkeys(("ok", "changed", "skipped", "failed"), 0)
        self._tasks.append({"task": task.get_name(), "action": task.action, **counts, "began": time.monotonic()})

    def _end(self) -> None:
        if self._tasks and "began" in self._tasks[-1]:
            self._tasks[-1]["seconds"] = round(time.monotonic() - self._tasks[-1].pop("began"), 3)

    def _count(self, kind: str) -> None:
        if self._tasks:
            self._tasks[-1][kind] += 1

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        """Begin a task."""
        self._begin(task)

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        """Begin a handler."""
        self._begin(task)

    def v2_playbook_on_play_start(self, play: Any) -> None:
        """Count what lies between plays to no task."""
        self._end()

    def v2_runner_on_ok(self, result: Any) -> None:
        """Count a host."""
        self._count("changed" if result.is_changed() else "ok")

    def v2_runner_on_skipped(self, result: Any) -> None:
        """Count a host."""
        self._count("skipped")

    def v2_runner_on_failed(self, result: Any, ignore_errors: bool = False) -> None:
        """Count a host."""
        self._count("failed")

    def v2_runner_on_unreachable(self, result: Any) -> None:
        """Count a host."""
        self._count("failed")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        """Write all of it."""
        self._end()
        with open(os.environ["FLOWERBED_TASK_TIMES"], "w") as file:
            json.dump(self._tasks, file)
