"""The controller's side of fl_files: render, compare through the module of that name, and send what differs."""

from __future__ import annotations

import hashlib
import os
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.plugins.loader import lookup_loader
from ansible.utils.hashing import secure_hash

sys.path.insert(0, str(Path(__file__).parents[2] / "fl_app"))
from flowerbed.trainer.task import UNSENT

KINDS = ("files", "folders", "templates", "digest_templates")


class ActionModule(ActionBase):
    """See the module's documentation."""

    _VALID_ARGS = frozenset(("home", "state", "owns", "downloads", "keep", *KINDS))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task; raises AnsibleActionFail with a sentence when a source file is missing."""
        result = super().run(tmp, task_vars)
        arguments = self._task.args
        if arguments.get("state") == "absent":
            return {**result, **self._ask(arguments, task_vars)}
        sources: dict[str, Path | bytes | None] = {}
        for folder, source in (arguments.get("folders") or {}).items():
            sources.update({os.path.join(folder, name): path for name, path in self._walk(source)})
        sources.update({path: self._existing(source) for path, source in (arguments.get("files") or {}).items()})
        texts = {path: self._render(source, task_vars) for path, source in (arguments.get("templates") or {}).items()}
        sources.update(texts)
        checksums = {path: _checksum(source) for path, source in sources.items()}
        digest = hashlib.sha256(repr(sorted(checksums.items())).encode()).hexdigest()[:16]
        for path, source in (arguments.get("digest_templates") or {}).items():
            sources[path] = texts[path] = self._render(source, {**task_vars, "digest": digest})
            checksums[path] = _checksum(sources[path])

        request = {
            "home": arguments["home"],
            "owns": arguments.get("owns"),
            "checksums": checksums,
            "folders": sorted(arguments.get("folders") or {}),
            "show": sorted(texts),
        }
        answer = self._ask(request, task_vars)
        if (answer.get("placed") or answer.get("removed")) and not self._task.check_mode:
            wanted = {path: sources[path] for path in answer["placed"]}
            sent = self._ask({**request, "archive": self._send(wanted)}, task_vars)
            answer = {**answer, **sent, "before": answer["before"]}
            self._remove_tmp_path(self._connection._shell.tmpdir)
        before = answer.pop("before", {})
        if self._task.diff and "placed" in answer:
            answer["diff"] = _difference(answer, before, texts)
        return {**result, **answer, "digest": digest}

    def _ask(self, request: dict[str, Any], task_vars: dict[str, Any]) -> dict[str, Any]:
        """Return the module's answer; what is wrong begins with the host's name."""
        answer = self._execute_module("fl_files", module_args=request, task_vars=task_vars)
        if answer.get("failed") and "module_stderr" not in answer:
            answer["msg"] = f"{task_vars['inventory_hostname']}: {answer['msg']}"
        return answer

    def _walk(self, folder: str) -> list[tuple[str, Path | None]]:
        """Return the files below `folder` by their relative names, without caches and hidden ones."""
        top = self._existing(folder)
        if top is None:
            return [("", None)]
        paths = sorted(path for path in top.rglob("*") if path.is_file())
        names = [(str(path.relative_to(top)), path) for path in paths]
        return [(name, path) for name, path in names if not any(p.startswith(UNSENT) for p in Path(name).parts)]

    def _existing(self, source: str) -> Path | None:
        """Return `source` as a path, or None when a check cannot have it because it is only made by a real run."""
        path = Path(source)
        if not path.exists():
            if self._task.check_mode:
                return None
            raise AnsibleActionFail(f"There is no {source} on the controller to send to {self._task.args['home']}.")
        return path

    def _render(self, source: str, variables: dict[str, Any]) -> bytes:
        lookup = lookup_loader.get("ansible.builtin.template", loader=self._loader, templar=self._templar)
        return lookup.run([source], variables, convert_data=False)[0].encode()

    def _send(self, sources: dict[str, Path | bytes | None]) -> str:
        """Send `sources` to the host in one archive and return where it is there."""
        with tempfile.TemporaryDirectory() as folder:
            archive = Path(folder, "files.tar")
            with tarfile.open(archive, "w") as tar:
                for path, source in sources.items():
                    if isinstance(source, bytes):
                        source = Path(folder, hashlib.sha256(path.encode()).hexdigest())
                        source.write_bytes(sources[path])
                    tar.add(source, arcname=path)
            remote = self._connection._shell.join_path(self._make_tmp_path(), "files.tar")
            self._transfer_file(str(archive), remote)
            self._fixup_perms2([self._connection._shell.tmpdir, remote])
            return remote


def _checksum(source: Path | bytes | None) -> str:
    """Return the SHA-256 of a file or of a rendered text, and one that no file has for what isn't there yet."""
    if source is None:
        return "not made yet"
    if isinstance(source, bytes):
        return hashlib.sha256(source).hexdigest()
    return secure_hash(source, hashlib.sha256)


def _difference(answer: dict[str, Any], before: dict[str, str], texts: dict[str, bytes]) -> list[dict[str, str]]:
    """Return Ansible's diffs: that of each template in full, of all the rest only the names."""
    diffs = [
        {
            "before_header": path,
            "before": before.get(path, ""),
            "after_header": path,
            "after": texts[path].decode(),
        }
        for path in answer["placed"]
        if path in texts
    ]
    rest = [f"place {path}\n" for path in answer["placed"] if path not in texts]
    rest += [f"remove {path}\n" for path in answer["removed"]]
    return [{"prepared": "".join(rest)}, *diffs] if rest else diffs
