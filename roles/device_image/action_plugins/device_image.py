"""The controller's side of device_image: carry archives, wait for the device, and show how far it is."""

from __future__ import annotations

import json
import shlex
import time
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

SHOW_AFTER, SHOW_EVERY = 10, 60  # seconds: the first line, then twice as long to the next one, at most this long
STALE = 900  # seconds without news from the device


class ActionModule(ActionBase):
    """See the module's documentation; besides, `archive` is the file on the controller of what is packed or loaded."""

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task; raises AnsibleActionFail with a sentence."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        archive, state = arguments.pop("archive", None), arguments["state"]
        if self._task.check_mode:
            return {**result, "changed": True}
        if state == "absent":
            return {**result, **self._execute_module("device_image", module_args=arguments, task_vars=task_vars)}
        if archive:
            arguments["path"] = self._connection._shell.join_path(self._make_tmp_path(), "images.tar.gz")
        if state == "loaded":
            self._transfer_file(archive, arguments["path"])
        started = self._execute_module("device_image", module_args=arguments, task_vars=task_vars)
        if started.get("failed"):
            return {**result, **started}
        problem = self._wait(task_vars["inventory_hostname"], started["status"])
        if state == "packed" and not problem:
            self._connection.fetch_file(arguments["path"], archive)
        if archive:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        if problem:
            raise AnsibleActionFail(f"{task_vars['inventory_hostname']} {problem}.")
        return {**result, "changed": state != "packed"}

    def _wait(self, host: str, status: str) -> str | None:
        """Show how far the device is until it has ended; return what is wrong, as the end of a sentence."""
        pause, said, news = 0.5, "", time.monotonic()
        shown, interval = news, SHOW_AFTER
        while True:
            time.sleep(pause)
            pause = min(pause * 1.5, 3)
            answer = self._low_level_execute_command(f"cat {shlex.quote(status)}")
            if answer["rc"]:
                return "was restarted while it had images brought: deploy again"
            found, now = json.loads(answer["stdout"]), time.monotonic()
            if found["ended"]:
                return found["problem"]
            if answer["stdout"] != said:
                said, news = answer["stdout"], now
            if now - news > STALE:
                return f"has told nothing of its images for {STALE} s ({found['text']}): deploy again"
            if found["text"] and now - shown > interval:
                shown, interval = now, min(2 * interval, SHOW_EVERY)
                Display().display(f"{host}: {found['text']}")
