"""Ask registries, on the controller, which images a name means: what devices hand to each other is checked by that."""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import json
from http.client import HTTPException
from pathlib import Path
from typing import Any

from ansible.plugins.action import ActionBase
from ansible_collections.community.docker.plugins.module_utils.util import DEFAULT_DOCKER_REGISTRY

INDEXES = (
    "application/vnd.docker.distribution.manifest.list.v2+json", "application/vnd.oci.image.index.v1+json",
)  # fmt: skip
MANIFESTS = (
    "application/vnd.docker.distribution.manifest.v2+json", "application/vnd.oci.image.manifest.v1+json",
)  # fmt: skip
MACHINES = {"amd64": "x86_64", "arm64": "aarch64", "arm": "armv7l"}  # processors, as the kernel calls them
LARGEST = 4_000_000  # bytes of a manifest

Ids = dict[str, list[str]]


class ActionModule(ActionBase):
    """Takes `names`, `upstream` ("" for the public registry), `ids` (the user's own, by name) and `folder`.

    Returns `known`: by name and processor ("" for any) the ids that the image may have; and `problems`, by name why a
    registry could not be asked, the end of a sentence. What a registry said earlier counts while it says nothing.
    """

    _VALID_ARGS = frozenset(("names", "upstream", "ids", "folder"))

    def run(self, tmp: str | None = None, task_vars: dict[str, Any] | None = None) -> dict[str, Any]:
        """Run the task."""
        result = super().run(tmp, task_vars)
        given, memory = self._task.args, Path(self._task.args["folder"], "known.json")
        mirror = _load(Path(__file__).parents[2] / "roles" / "device_image" / "files" / "mirror.py")
        earlier: dict[str, Ids] = {}
        with contextlib.suppress(OSError, ValueError):
            earlier = json.loads(memory.read_text())
        known: dict[str, Ids] = {}
        problems: dict[str, str] = {}
        for name in given["names"]:
            if name in given["ids"]:
                known[name] = {"": [str(given["ids"][name])]}
                continue
            address, repository, reference = where(name, given["upstream"])
            try:
                known[name] = earlier[name] = ask(mirror.Upstream(address), repository, reference)
            except (OSError, HTTPException, ValueError, KeyError, TypeError) as error:
                if name in earlier:
                    known[name] = earlier[name]
                else:
                    problems[name] = f"{address} does not tell this machine which image it is ({error})"
        if earlier:
            memory.parent.mkdir(parents=True, exist_ok=True)
            mirror.write(memory, json.dumps(earlier).encode())
        return {**result, "changed": False, "known": known, "problems": problems}


def where(name: str, upstream: str) -> tuple[str, str, str]:
    """Return the address of an image's registry, its repository there, and its tag or digest."""
    name, _, digest = name.partition("@")
    head, colon, tag = name.rpartition(":")
    repository, tag = (head, tag) if colon and "/" not in tag else (name, "latest")
    host, slash, rest = repository.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return f"https://{host}", rest, digest or tag
    address = upstream or DEFAULT_DOCKER_REGISTRY.removesuffix("/v1/")
    return address, repository if slash else f"library/{repository}", digest or tag


def ask(registry: Any, repository: str, reference: str) -> Ids:
    """Return the ids that an image may have on an engine, by processor. Raises OSError, ValueError or KeyError."""
    content, digest = _manifest(registry, repository, reference)
    document = json.loads(content)
    if "manifests" not in document:
        return {"": [document["config"]["digest"], digest]}
    ids: Ids = {}
    for entry in document["manifests"]:
        machine = MACHINES.get(entry.get("platform", {}).get("architecture"))
        if machine:
            inner, _ = _manifest(registry, repository, entry["digest"])
            ids.setdefault(machine, [digest]).extend([json.loads(inner)["config"]["digest"], entry["digest"]])
    return ids


def _manifest(registry: Any, repository: str, reference: str) -> tuple[bytes, str]:
    """Return a manifest and its digest, which is what was asked for if that was a digest."""
    with registry.open(repository, f"manifests/{reference}", {"Accept": ", ".join([*INDEXES, *MANIFESTS])}) as answer:
        content = answer.read(LARGEST)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if ":" in reference and digest != reference:
        raise ValueError(f"it gives something else as {reference}")
    return content, digest


def _load(path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
