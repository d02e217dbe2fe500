"""The controller's side of device_image: carry archives, wait for the device, and show how far it is."""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import tarfile
import time
import zlib
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display

SHOW_AFTER = 10  # seconds: the first line, then twice as long to the next one
SHOW_EVERY = 60  # at most this long
STALE = 900  # seconds without news from the device
LISTS = ("manifest.json", "index.json", "oci-layout", "repositories")  # in an archive, of what it has
SMALL = 1_000_000  # bytes, more than the configuration of an image has
MANY = 1000  # files that are no larger


class ActionModule(ActionBase):
    """See the module's documentation.

    Besides, `archive` is the file on the controller of what is packed or loaded, and `ids` those that the image in what
    is packed may have.
    """

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task; raises AnsibleActionFail with a sentence."""
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        archive, state, ids = arguments.pop("archive", None), arguments["state"], arguments.pop("ids", None)
        if self._task.check_mode:
            return {**result, "changed": True}
        if state == "absent":
            return {**result, **self._execute_module("device_image", module_args=arguments, task_vars=task_vars)}
        if state == "packed":  # an earlier one, of a deployment that was cut short
            Path(archive).unlink(missing_ok=True)
        if archive:
            arguments["path"] = self._connection._shell.join_path(self._make_tmp_path(), "images.tar.gz")
        if state == "loaded":
            self._transfer_file(archive, arguments["path"])
        started = self._execute_module("device_image", module_args=arguments, task_vars=task_vars)
        if started.get("failed"):
            return {**result, **started}
        problem = self._wait(task_vars["inventory_hostname"], started["status"])
        if state == "packed" and not problem:
            fetched = f"{archive}.fetched"
            self._connection.fetch_file(arguments["path"], fetched)
            problem = _check(Path(fetched), Path(archive), arguments["names"][0], ids)
        if archive:
            self._remove_tmp_path(self._connection._shell.tmpdir)
        if problem:
            raise AnsibleActionFail(f"{task_vars['inventory_hostname']} {problem}.")
        return {**result, "changed": state != "packed"}

    def _wait(self, host: str, status: str) -> str | None:
        """Show how far the device is until it has ended; return what is wrong, as the end of a sentence."""
        pause, last, news = 0.5, "", time.monotonic()
        shown, interval = news, SHOW_AFTER
        while True:
            time.sleep(pause)
            pause = min(pause * 1.5, 3)
            answer = self._low_level_execute_command(f"cat {shlex.quote(status)}")
            if answer["rc"]:
                return "was restarted while it had images brought: deploy again"
            progress, now = json.loads(answer["stdout"]), time.monotonic()
            if progress["ended"]:
                return progress["problem"]
            if answer["stdout"] != last:
                last, news = answer["stdout"], now
            if now - news > STALE:
                return f"has told nothing of its images for {STALE} s ({progress['text']}): deploy again"
            if progress["text"] and now - shown > interval:
                shown, interval = now, min(2 * interval, SHOW_EVERY)
                Display().display(f"{host}: {progress['text']}")


def _check(fetched: Path, archive: Path, name: str, ids: list[str]) -> str | None:
    """Make an archive of what a device has given, if that is what it should be; else return what is wrong."""
    checked = Path(f"{archive}.checked")
    try:
        given = vet(fetched, checked, name, ids)
        if given in ids:
            checked.rename(archive)
            return None
    except (OSError, EOFError, ValueError, KeyError, TypeError, StopIteration, tarfile.TarError, zlib.error) as error:
        return f"packed as {name} what is no archive of an image ({error}), so it is not handed on: deploy again"
    finally:
        fetched.unlink(missing_ok=True)
        checked.unlink(missing_ok=True)
    return (
        f"has another image as {name} than the registry ({given}, not {ids[0]}), so it is not handed on: find out what "
        f"became of that device, and remove that image there (docker rmi --force {name})"
    )


def vet(source: Path, target: Path, name: str, ids: list[str]) -> str:
    """Write the archive `target`, which has of `source` the image with one of `ids` and says of no other.

    Return that id, or that of the first image in `source`; then `target` is worthless. Raises OSError, ValueError,
    KeyError or tarfile.TarError where `source` is no such archive. An image's id is the digest of its configuration,
    which has the digests of all its layers: an engine compares those itself when it loads them.
    """
    small: dict[str, bytes] = {}
    with tarfile.open(source, "r|gz") as given, tarfile.open(target, "w:gz", compresslevel=1) as checked:
        for member in given:
            content = given.extractfile(member) if member.isreg() else None
            if content and member.size < SMALL:
                small[member.name] = content.read()
                content = io.BytesIO(small[member.name])
                if len(small) > MANY:
                    raise ValueError(f"more than {MANY} small files")
            if Path(member.name).name not in LISTS and (member.isreg() or member.issym() or member.isdir()):
                checked.addfile(member, content)
        images = json.loads(small["manifest.json"])
        by_id = {f"sha256:{hashlib.sha256(small[image['Config']]).hexdigest()}": image for image in images}
        chosen = next((each for each in by_id if each in ids), next(iter(by_id)))
        image, config = by_id[chosen], f"{chosen.partition(':')[2]}.json"
        tags = None if "@" in name else [name]
        _add(checked, config, small[image["Config"]])
        _add(checked, "manifest.json", json.dumps(
            [{"Config": config, "RepoTags": tags, "Layers": image["Layers"]}]
        ).encode())  # fmt: skip
    return chosen


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    archive.addfile(member, io.BytesIO(content))
