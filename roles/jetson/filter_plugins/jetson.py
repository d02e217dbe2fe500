"""What there is to do on a Jetson, and how to undo it, by what board_facts found there."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from typing import Any

Document = dict[str, Any]

SWAP_FILE = "/var/flowerbed-swap"
SPARE = 1000e6  # bytes of disk that swap leaves, on a card that JetPack nearly fills
HEADER = 4096  # bytes of a swap file that are no swap
CLOCKS_UNIT = "/etc/systemd/system/flowerbed-clocks.service"
CLOCKS = """\
[Unit]
Description=Flowerbed: clocks as high as the power mode lets them be
After=nvpmodel.service

[Service]
Type=oneshot
RemainAfterExit=true
ExecStart=/usr/bin/jetson_clocks

[Install]
WantedBy=multi-user.target
"""
DESKTOP, NO_DESKTOP = "graphical.target", "multi-user.target"


def plan(facts: Document, wanted: Document) -> Document:
    """Return what there is to do: see the keys of `result`.

    `facts` is what board_facts has of the board; `wanted` has the role's variables power_mode, clocks, headless, swap
    and hold.
    """
    result: Document = {
        "problem": problem(facts),  # the end of a sentence; nothing else is done then
        "hold": [],  # packages that apt must leave alone
        "swap": 0,  # MB of the swap file to be made
        "fstab": False,  # whether it must be noted there
        "zram": [],  # devices to be taken out of use
        "zram_service": False,  # whether JetPack's service for them must be disabled
        "power_mode": None,  # to be set
        "clocks": "",  # pin or unpin
        "unit": CLOCKS,  # that pins them
        "target": "",  # to boot to from now on
        "before": _before(facts),  # what is to be remembered for reset
        "notes": [],  # the ends of sentences
        "needed": True,
    }
    result["problem"] = result["problem"] or power_problem(facts, wanted["power_mode"])
    if result["problem"]:
        return result
    result["hold"] = [name for name in _matching(facts, wanted["hold"]) if not facts["packages"][name]["held"]]
    if size := int(wanted["swap"]):
        _swap(facts, size, result)
    _power(facts, wanted, result)
    desktop = facts["before"].get("jetson", result["before"])["target"]
    target = NO_DESKTOP if wanted["headless"] else desktop
    result["target"] = target if target != facts["default_target"] else ""
    keys = ("hold", "swap", "fstab", "zram", "zram_service", "clocks", "target")
    result["needed"] = any(result[key] for key in keys) or result["power_mode"] is not None
    return result


def problem(facts: Document) -> str:
    """Return what makes the board unusable."""
    return _release_problem(facts) or _runtime_problem(facts)


def power_problem(facts: Document, wanted: Any) -> str:
    """Return what is wrong with the power mode that is wanted, by its number or its name; "" for none is wanted."""
    if str(wanted) == "":
        return ""
    modes = power_modes(facts)
    if mode_number(facts, wanted) is None or (modes and mode_number(facts, wanted) not in modes.values()):
        names = ", ".join(modes) or "by its number, for it has no /etc/nvpmodel.conf with their names"
        return f"has no power mode {wanted} (jetson_power_mode): choose {names}"
    return ""


def power_modes(facts: Document) -> dict[str, int]:
    """Return the numbers of the board's power modes by their names, as its /etc/nvpmodel.conf has them."""
    text = facts["files"].get("/etc/nvpmodel.conf", "")
    found = re.findall(r"^<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", text, re.MULTILINE)
    return {name: int(number) for number, name in found}


def mode_number(facts: Document, wanted: Any) -> int | None:
    """Return the number of a power mode that is wanted by its number or name; None for none, or one without a name.

    nvpmodel itself says names otherwise than its file: MAXN SUPER for MAXN_SUPER, 30W for MODE_30W.
    """
    if re.fullmatch(r"\d+", str(wanted)):
        return int(wanted)
    return {_plain(name): number for name, number in power_modes(facts).items()}.get(_plain(str(wanted)))


def _plain(name: str) -> str:
    return re.sub(r"[\s_]+", "", name).upper().removeprefix("MODE")


def checks(facts: Document, docker: bool, in_group: bool, power_mode: Any) -> dict[str, tuple[str, str, str]]:
    """Return what preflight shows, by check: its state, a word, and a sentence's end.

    `docker` is whether that is the runtime, `in_group` whether the inventory calls it a Jetson, `power_mode` the one
    that is wanted.
    """
    result: dict[str, tuple[str, str, str]] = {}
    if facts["l4t"]:
        result["system"] = ("ok", f"L4T {facts['l4t']}", "")
    elif in_group and docker:
        result["system"] = ("fail", "no L4T", _release_problem(facts))
    if facts["kind"] == "jetson" and docker:
        if "error" not in facts["docker"]:
            result["nvidia"] = _nvidia_check(facts)
        result["power"] = _power_check(facts, power_mode)
    return result


def _nvidia_check(facts: Document) -> tuple[str, str, str]:
    """Judge whether a Jetson's containers get its GPU."""
    if "nvidia" in facts["docker"]["runtimes"]:
        return "ok", "yes", ""
    if wrong := _runtime_problem(facts):
        return "fail", "no", wrong
    if facts["engine"]["nvidia"]:
        return "warn", "no", "has a Docker engine that does not know its runtime nvidia yet: deploy.yml adds it"
    return "ok", "CDI", ""


def _power_check(facts: Document, wanted: Any) -> tuple[str, str, str]:
    """Show the power mode, and judge the one that is wanted."""
    mode, _ = power(facts)
    word = next((name for name, number in power_modes(facts).items() if number == mode), mode)
    if wrong := power_problem(facts, wanted):
        return "fail", str(wanted), wrong
    return ("-", "-", "") if word is None else ("ok", str(word), "")


def _release_problem(facts: Document) -> str:
    if facts["l4t"]:
        return ""
    return "is no Jetson (it has no /etc/nv_tegra_release that names its L4T): move it to another group"


def _runtime_problem(facts: Document) -> str:
    docker = facts["docker"]
    if "error" in docker or "nvidia" in docker["runtimes"] or facts["engine"]["nvidia"] or docker["cdi"]:
        return ""
    package = "nvidia-container-runtime" if facts["l4t"].startswith("32.") else "nvidia-container"
    return f"has a Docker engine that knows no runtime nvidia: install JetPack's package {package}"


def power(facts: Document) -> tuple[int | None, bool | None]:
    """Return the power mode, and whether the clocks are pinned; None for what the board cannot say."""
    mode = re.search(r"^(\d+)\s*$", facts["outputs"]["power_mode"], re.MULTILINE)
    gpu = re.search(r"GPU MinFreq=(\d+) MaxFreq=(\d+)", facts["outputs"]["clocks"])
    return int(mode[1]) if mode else None, gpu[1] == gpu[2] if gpu else None


def undo(facts: Document, hold: list[str]) -> Document:
    """Return what there is to do to give the board back, as `plan` does; nothing where the role changed nothing."""
    before = facts["before"].get("jetson")
    result: Document = {
        "release": [], "swap": False, "zram": False, "power_mode": None, "clocks": False, "target": "",
        "needed": before is not None,
    }  # fmt: skip
    if before is None:
        return result
    held = [name for name in _matching(facts, hold) if facts["packages"][name]["held"]]
    result["release"] = [name for name in held if name not in before["held"]]
    result["swap"] = SWAP_FILE in facts["swaps"] or _in_fstab(facts)
    result["zram"] = before["zram"] and "nvzramconfig.service" not in facts["enabled"]
    result["clocks"] = CLOCKS_UNIT in facts["files"]
    if before["power_mode"] != power(facts)[0]:
        result["power_mode"] = before["power_mode"]
    if before["target"] != facts["default_target"]:
        result["target"] = before["target"]
    return result


def _before(facts: Document) -> Document:
    """Return how the board is, in all that the role may change."""
    return {
        "held": sorted(name for name, package in facts["packages"].items() if package["held"]),
        "zram": "nvzramconfig.service" in facts["enabled"], "power_mode": power(facts)[0],
        "target": facts["default_target"], "time_service": facts["time_service"],
    }  # fmt: skip


def _matching(facts: Document, patterns: list[str]) -> list[str]:
    return sorted(name for name in facts["packages"] if any(fnmatch(name, pattern) for pattern in patterns))


def _in_fstab(facts: Document) -> bool:
    return re.search(rf"^{SWAP_FILE}\s", facts["files"].get("/etc/fstab", ""), re.MULTILINE) is not None


def _swap(facts: Document, size: int, result: Document) -> None:
    """A swap file of `size` MB in place of JetPack's compressed memory, which takes from training what it gives."""
    now = facts["swaps"].get(SWAP_FILE)
    if now is None or now + HEADER != size * 2**20:
        if facts["free"] - SPARE < size * 2**20 - (now or 0):
            result["notes"].append(
                f"has {facts['free'] / 1e9:.1f} GB of disk left, too little for a swap file of {size} MB, so its swap "
                "stays as it is: lower jetson_swap"
            )
            return
        result["swap"] = size
    result["fstab"] = not _in_fstab(facts)
    result["zram"] = sorted(name for name in facts["swaps"] if name.startswith("/dev/zram"))
    result["zram_service"] = "nvzramconfig.service" in facts["enabled"]


def _power(facts: Document, wanted: Document, result: Document) -> None:
    mode, pinned = power(facts)
    if mode is None:
        result["notes"].append("has no nvpmodel that says its power mode, so that stays as it is")
    elif wanted["power_mode"] != "" and mode != mode_number(facts, wanted["power_mode"]):
        result["power_mode"] = mode_number(facts, wanted["power_mode"])
    placed = facts["files"].get(CLOCKS_UNIT) == CLOCKS and "flowerbed-clocks.service" in facts["enabled"]
    if not wanted["clocks"]:
        result["clocks"] = "unpin" if CLOCKS_UNIT in facts["files"] else ""
    elif pinned is None:
        result["notes"].append("has no jetson_clocks, so its clocks stay as they are")
    elif not placed or not pinned or result["power_mode"] is not None:
        result["clocks"] = "pin"


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"jetson_plan": plan, "jetson_undo": undo, "jetson_checks": checks}
