"""Merge what Flowerbed wants of a Docker engine into its daemon.json, and take that out again."""

from __future__ import annotations

import json
import re
from copy import deepcopy
from typing import Any

Document = dict[str, Any]

# What is merged: its type, and the options of dockerd it must not be given with. Both together stop the engine.
KEYS = {
    "log-driver": (str, {"log-driver"}), "log-opts": (dict, {"log-driver", "log-opt"}),
    "registry-mirrors": (list, {"registry-mirror"}), "runtimes": (dict, {"add-runtime"}),
    "default-runtime": (str, {"default-runtime"}),
}  # fmt: skip
RESTART = ("log-driver", "log-opts")  # dockerd reads all others of these anew when it is asked to reload
TYPES = {str: "text", dict: "an object", list: "a list"}
JETSON = "on a Jetson Docker comes with JetPack, and Flowerbed leaves that as it is"


class Problem(Exception):
    """What is wrong, as the end of a sentence that begins with the device's name."""


def plan(facts: Document, wanted: Document) -> Document:
    """Return what there is to do with a device's engine: see the keys of `result`.

    `facts` is what board_facts has of the device; `wanted` has the role's variables: log_max_size, log_max_file,
    mirror, nvidia_default and space.
    """
    result: Document = {
        "problem": "",  # the end of a sentence; nothing else is done then
        "packages": [],  # to be installed
        "text": "",  # the new daemon.json, "" for none
        "write": False,  # whether it is another than the one that is there
        "state": "",  # for the engine: started, reloaded or restarted; "" if it runs as it should
        "before": None,  # what is to be remembered for reset
        "notes": [],  # sentences
        "needed": True,
    }
    try:
        _check(facts, wanted)
        engine, docker, before = facts["engine"], facts["docker"], facts["before"].get("docker_engine")
        installed = docker.get("error") != "not installed"
        owners = unmerged(engine["text"], before, engine["path"])
        asked = {**wanted, "nvidia_default": wanted["nvidia_default"] and _jetson(facts)}
        document = merge(parse(owners, engine["path"]), asked, engine["nvidia"])
        result["notes"] = _leave_options(document, parse(owners, engine["path"]), engine)
        text = _text(document, engine["text"], owners)
        result |= {"packages": _packages(facts, installed), "text": text or "", "write": text != engine["text"]}
        result["state"] = _state(docker, engine, document) if installed else "started"
        if result["state"] == "restarted" and _busy(docker):
            result["state"] = "reloaded"
            result["notes"].append("runs containers that a restart of Docker would stop, so not all that changed in "
                                   f"{engine['path']} counts before its next start")  # fmt: skip
        if result["write"] or result["state"] == "started":
            service = engine["service"] if before is None else before["service"]
            result["before"] = {"text": owners, "merged": text, "service": service if installed else {}}
        result["needed"] = bool(result["packages"] or result["write"] or result["state"])
    except Problem as problem:
        result["problem"] = str(problem)
    return result


def reset(facts: Document) -> Document:
    """Return what there is to do to give an engine back: problem, text, write and state as `plan` does."""
    engine, docker, before = facts["engine"], facts["docker"], facts["before"].get("docker_engine")
    result: Document = {"problem": "", "text": "", "write": False, "state": "", "disable": False, "needed": False}
    if before is None:
        return result
    try:
        owners = unmerged(engine["text"], before, engine["path"])
        result |= {"text": owners or "", "write": owners != engine["text"], "needed": True}
        if "error" not in docker:
            if result["write"]:
                state = _state(docker, engine, parse(owners, engine["path"]))
                result["state"] = "reloaded" if _busy(docker) else state
            if before["service"].get("ActiveState") == "inactive":
                result["state"] = "stopped"
        result["disable"] = before["service"].get("UnitFileState") == "disabled"
    except Problem as problem:
        result["problem"] = str(problem)
    return result


def checks(facts: Document, docker: bool, root: bool) -> dict[str, tuple[str, str, str]]:
    """Return what preflight shows of the engine: its state, a word, and a sentence's end.

    `docker` is whether that is the runtime, `root` whether the device was looked at as root.
    """
    if not docker:
        return {"docker": ("-", "-", "")}
    engine, error = facts["docker"], facts["docker"].get("error")
    try:
        parse(facts["engine"]["text"], facts["engine"]["path"])
    except Problem as problem:
        return {"docker": ("fail", "json", str(problem))}
    if error is None:
        return {"docker": ("ok", engine["version"], "")}
    if not root:
        return {"docker": ("-", "?", "")}
    if error != "not installed":
        later = "deploy.yml starts it, or says why it cannot"
        return {"docker": ("warn", "no", f"has a Docker engine that {error}: {later}")}
    try:
        _check_installable(facts)
    except Problem as problem:
        return {"docker": ("fail", "none", str(problem))}
    return {"docker": ("warn", "none", "has no Docker engine yet: deploy.yml installs it")}


def parse(text: str | None, path: str) -> Document:
    """Return the object in a daemon.json; an empty one where there is no file. Raises Problem."""
    if not (text or "").strip():
        return {}
    wrong, document = "", {}
    try:
        document = json.loads(text)
    except json.JSONDecodeError as error:
        wrong = f"that is not JSON (line {error.lineno}: {error.msg})"
    if "\ufffd" in text:
        wrong = "that is not UTF-8"
    elif not isinstance(document, dict):
        wrong = "that holds no JSON object, {...}"
    else:
        for key, (kind, _) in KEYS.items():
            if not isinstance(document.get(key, kind()), kind):
                wrong = f"in which {key} is not {TYPES[kind]}"
    if wrong:
        raise Problem(f"has a {path} {wrong}, so it was left alone: correct it there, then try again")
    return document


def merge(owners: Document, wanted: Document, nvidia: bool) -> Document:
    """Return the owner's document with what is wanted; what the owner chose stays."""
    document = deepcopy(owners)
    logs = document.get("log-opts", {})
    if wanted["log_max_size"] and document.get("log-driver", "json-file") == "json-file" and "max-size" not in logs:
        document["log-driver"] = "json-file"
        document["log-opts"] = {
            **logs, "max-size": str(wanted["log_max_size"]), "max-file": str(wanted["log_max_file"])
        }  # fmt: skip
    if mirror := wanted["mirror"]:
        others = [other for other in document.get("registry-mirrors", []) if not _same(other, mirror)]
        document["registry-mirrors"] = [mirror, *others]
    if nvidia:
        runtimes = document.setdefault("runtimes", {})
        runtimes.setdefault("nvidia", {"path": "nvidia-container-runtime", "runtimeArgs": []})
        if wanted["nvidia_default"]:
            document.setdefault("default-runtime", "nvidia")
    return document


def unmerged(text: str | None, before: Document | None, path: str) -> str | None:
    """Return the owner's daemon.json: without what was merged, and with what changed there since; None for no file.

    `before` has the owner's text as it was and the text that was merged from it.
    """
    if before is None or text is None:
        return text
    first = parse(before["text"], path)
    owners = unmerge(parse(text, path), parse(before["merged"], path), first)
    if owners == first:
        return before["text"]
    return text if owners == parse(text, path) else _dump(owners, text)


def unmerge(now: Any, merged: Any, first: Any) -> Any:
    """Return `now`, where what is as `merged` made it is as it was at `first`."""
    if isinstance(now, dict) and isinstance(merged, dict):
        first = first if isinstance(first, dict) else {}
        result = {}
        for key, value in now.items():
            if key not in merged:
                result[key] = value
            elif value != merged[key]:
                rest = unmerge(value, merged[key], first.get(key))
                if rest not in ({}, []) or key in first:
                    result[key] = rest
            elif key in first:
                result[key] = first[key]
        return result
    if isinstance(now, list) and isinstance(merged, list):
        kept = first if isinstance(first, list) else []
        return [item for item in now if item in kept or item not in merged]
    return now


def _check(facts: Document, wanted: Document) -> None:
    """Raise Problem for a wrong variable, and where there is no engine and none can be installed."""
    if not facts:
        raise Problem("could not be looked at: playbooks/preflight.yml says why")
    if not re.fullmatch(r"(https?://[^/\s?#]+/?)?", wanted["mirror"]):
        raise Problem(f"has the docker_engine_mirror {wanted['mirror']}, which must be http:// or https:// and a "
                      "registry's address, without a path")  # fmt: skip
    if not re.fullmatch(r"([1-9]\d*[kmg])?", str(wanted["log_max_size"])):
        raise Problem(f"has the docker_engine_log_max_size {wanted['log_max_size']}, which must be a number and k, m "
                      "or g, such as 10m")  # fmt: skip
    if not re.fullmatch(r"[1-9]\d*", str(wanted["log_max_file"])):
        raise Problem(f"has the docker_engine_log_max_file {wanted['log_max_file']}, which must be 1 or more")
    installed = facts["docker"].get("error") != "not installed"
    if not installed:
        _check_installable(facts)
    if facts["engine"]["service"].get("LoadState") == "masked":
        raise Problem("has a Docker engine that may not start: allow it there with systemctl unmask docker.service")
    free = min(facts["free"], facts["docker"]["free"]) / 1e6
    if not installed and free < float(wanted["space"]):
        raise Problem(f"has {free:.0f} MB of disk left, and Docker needs {wanted['space']} MB: remove what you do not "
                      "need there, or use a larger card")  # fmt: skip


def _check_installable(facts: Document) -> None:
    """Raise Problem where there is no engine and none can be installed."""
    if _jetson(facts):
        raise Problem(f"has no Docker engine: {JETSON}. Install it there, and JetPack's package nvidia-container")
    if not facts["apt"]:
        raise Problem("has no Docker engine, and no apt to install one: install Docker there")


def _packages(facts: Document, installed: bool) -> list[str]:
    """Return what is missing. From Debian 13 on, Docker's command is a package of its own."""
    packages = [] if installed else ["docker.io"]
    debian = re.search(r"Debian GNU/Linux (\d+)", facts["release"] or "")
    if not facts["engine"]["command"] and debian and int(debian[1]) >= 13:
        packages.append("docker-cli")
    return packages if facts["requests"] else [*packages, "python3-requests"]


def _leave_options(document: Document, owners: Document, engine: Document) -> list[str]:
    """Take out of `document` what the engine is given as an option already; return a sentence for each."""
    notes = []
    for key, (_, options) in KEYS.items():
        given = options & set(engine["options"])
        if given and document.get(key) != owners.get(key):
            notes.append(f"starts Docker with --{min(given)}, so {key} was not set in {engine['path']}")
            document.pop(key)
            document |= {key: owners[key]} if key in owners else {}
    return notes


def _text(document: Document, now: str | None, owners: str | None) -> str | None:
    """Return `document` as text: one of the two that are there already, if it says the same."""
    for text in (now, owners):
        if text is not None and document == json.loads(text.strip() or "{}"):
            return text
    return _dump(document, owners) if document else None


def _dump(document: Document, like: str | None) -> str:
    """Return `document` as text that is indented as `like` is."""
    indent = re.search(r'^([ \t]+)"', like or "", re.MULTILINE)
    return json.dumps(document, indent=indent[1] if indent else 4, ensure_ascii=False) + "\n"


def _state(docker: Document, engine: Document, document: Document) -> str:
    """Return what the engine must do to follow `document`."""
    if "error" in docker:
        return "started"
    now = parse(engine["text"], engine["path"])
    if any(now.get(key) != document.get(key) for key in RESTART) or set(now) - set(document):
        return "restarted"
    follows = (
        now == document
        and all(
            any(_same(mirror, other) for other in docker["mirrors"]) for mirror in document.get("registry-mirrors", [])
        )
        and set(document.get("runtimes", {})) <= set(docker["runtimes"])
        and document.get("default-runtime", docker["default_runtime"]) == docker["default_runtime"]
    )
    if follows:
        return "started" if engine["service"].get("UnitFileState") == "disabled" else ""
    return "reloaded"


def _busy(docker: Document) -> bool:
    """Whether a restart of the engine would stop containers."""
    return not docker["live_restore"] and any(
        container["state"] == "running" for container in docker["containers"].values()
    )


def _jetson(facts: Document) -> bool:
    return facts["kind"] == "jetson"


def _same(mirror: str, other: str) -> bool:
    return mirror.rstrip("/") == other.rstrip("/")


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"docker_engine_plan": plan, "docker_engine_reset": reset, "docker_engine_checks": checks}
