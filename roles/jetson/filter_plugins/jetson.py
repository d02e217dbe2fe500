"""What there is to do on a Jetson Nano, and how to undo it, by what board_facts found there."""

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


def plan(found: Document, wanted: Document) -> Document:
    """Return what there is to do: see the keys of `result`.

    `found` is what board_facts has of the board; `wanted` has the role's variables power_mode, clocks, headless, swap
    and hold.
    """
    result: Document = {
        "problem": problem(found),  # the end of a sentence; nothing else is done then
        "hold": [],  # packages that apt must leave alone
        "swap": 0,  # MB of the swap file to be made
        "fstab": False,  # whether it must be noted there
        "zram": [],  # devices to be taken out of use
        "zram_service": False,  # whether JetPack's service for them must be disabled
        "power_mode": None,  # to be set
        "clocks": "",  # pin or unpin
        "unit": CLOCKS,  # that pins them
        "target": "",  # to boot to from now on
        "before": _before(found),  # what is to be remembered for reset
        "notes": [],  # the ends of sentences
        "needed": True,
    }
    if result["problem"]:
        return result
    result["hold"] = [name for name in _matching(found, wanted["hold"]) if not found["packages"][name]["held"]]
    if size := int(wanted["swap"]):
        _swap(found, size, result)
    _power(found, wanted, result)
    desktop = found["before"].get("jetson", result["before"])["target"]
    target = NO_DESKTOP if wanted["headless"] else desktop
    result["target"] = target if target != found["default_target"] else ""
    keys = ("hold", "swap", "fstab", "zram", "zram_service", "clocks", "target")
    result["needed"] = any(result[key] for key in keys) or result["power_mode"] is not None
    return result


def problem(found: Document) -> str:
    """Return what makes the board unusable."""
    return _release_problem(found) or _runtime_problem(found)


def checks(found: Document, docker: bool, in_group: bool) -> dict[str, tuple[str, str, str]]:
    """Return what preflight shows, by check: its state, a word, and a sentence's end.

    `docker` is whether that is the runtime, `in_group` whether the inventory calls it a Jetson.
    """
    release, wrong, result = _release(found), _release_problem(found), {}
    if release:
        result["system"] = ("fail" if wrong else "ok", f"L4T {release}", wrong)
    elif in_group and docker:
        result["system"] = ("fail", "no L4T", wrong)
    if docker and found["tegra"] and "error" not in found["docker"]:
        result["nvidia"] = _nvidia_check(found)
    return result


def _nvidia_check(found: Document) -> tuple[str, str, str]:
    """Judge whether a Jetson's containers get its GPU."""
    if "nvidia" in found["docker"]["runtimes"]:
        return "ok", "yes", ""
    if wrong := _runtime_problem(found):
        return "fail", "no", wrong
    return "warn", "no", "has a Docker engine that does not know its runtime nvidia yet: deploy.yml adds it"


def _release(found: Document) -> str:
    """Return the release of L4T, or "" where there is none."""
    tegra = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", found["tegra"] or "")
    return f"{tegra[1]}.{tegra[2]}" if tegra else ""


def _release_problem(found: Document) -> str:
    release = _release(found)
    if not release:
        return "is no Jetson (it has no /etc/nv_tegra_release that names its L4T): move it to another group"
    if re.match(r"32\.[67]\.", release):
        return ""
    return f"has L4T {release}, but the tutorial's image is made for JetPack 4.6, L4T 32.6 or 32.7: flash JetPack 4.6.1"


def _runtime_problem(found: Document) -> str:
    docker = found["docker"]
    if "error" in docker or "nvidia" in docker["runtimes"] or found["engine"]["nvidia"]:
        return ""
    return "has a Docker engine that knows no runtime nvidia: install JetPack's package nvidia-container-runtime"


def power(found: Document) -> tuple[int | None, bool | None]:
    """Return the power mode, and whether the clocks are pinned; None for what the board cannot say."""
    mode = re.search(r"^(\d+)\s*$", found["outputs"]["power_mode"], re.MULTILINE)
    gpu = re.search(r"GPU MinFreq=(\d+) MaxFreq=(\d+)", found["outputs"]["clocks"])
    return int(mode[1]) if mode else None, gpu[1] == gpu[2] if gpu else None


def undo(found: Document, hold: list[str]) -> Document:
    """Return what there is to do to give the board back, as `plan` does; nothing where the role changed nothing."""
    before = found["before"].get("jetson")
    result: Document = {
        "release": [], "swap": False, "zram": False, "power_mode": None, "clocks": False, "target": "",
        "needed": before is not None,
    }  # fmt: skip
    if before is None:
        return result
    held = [name for name in _matching(found, hold) if found["packages"][name]["held"]]
    result["release"] = [name for name in held if name not in before["held"]]
    result["swap"] = SWAP_FILE in found["swaps"] or _in_fstab(found)
    result["zram"] = before["zram"] and "nvzramconfig.service" not in found["enabled"]
    result["clocks"] = CLOCKS_UNIT in found["files"]
    if before["power_mode"] != power(found)[0]:
        result["power_mode"] = before["power_mode"]
    if before["target"] != found["default_target"]:
        result["target"] = before["target"]
    return result


def _before(found: Document) -> Document:
    """Return how the board is, in all that the role may change."""
    return {
        "held": sorted(name for name, package in found["packages"].items() if package["held"]),
        "zram": "nvzramconfig.service" in found["enabled"], "power_mode": power(found)[0],
        "target": found["default_target"], "time_service": found["time_service"],
    }  # fmt: skip


def _matching(found: Document, patterns: list[str]) -> list[str]:
    return sorted(name for name in found["packages"] if any(fnmatch(name, pattern) for pattern in patterns))


def _in_fstab(found: Document) -> bool:
    return re.search(rf"^{SWAP_FILE}\s", found["files"].get("/etc/fstab", ""), re.MULTILINE) is not None


def _swap(found: Document, size: int, result: Document) -> None:
    """A swap file of `size` MB in place of JetPack's compressed memory, which takes from training what it gives."""
    now = found["swaps"].get(SWAP_FILE)
    if now is None or now + HEADER != size * 2**20:
        if found["free"] - SPARE < size * 2**20 - (now or 0):
            result["notes"].append(
                f"has {found['free'] / 1e9:.1f} GB of disk left, too little for a swap file of {size} MB, so its swap "
                "stays as it is: lower jetson_swap"
            )
            return
        result["swap"] = size
    result["fstab"] = not _in_fstab(found)
    result["zram"] = sorted(name for name in found["swaps"] if name.startswith("/dev/zram"))
    result["zram_service"] = "nvzramconfig.service" in found["enabled"]


def _power(found: Document, wanted: Document, result: Document) -> None:
    mode, pinned = power(found)
    if mode is None:
        result["notes"].append("has no nvpmodel that says its power mode, so that stays as it is")
    elif mode != int(wanted["power_mode"]):
        result["power_mode"] = int(wanted["power_mode"])
    placed = found["files"].get(CLOCKS_UNIT) == CLOCKS and "flowerbed-clocks.service" in found["enabled"]
    if not wanted["clocks"]:
        result["clocks"] = "unpin" if CLOCKS_UNIT in found["files"] else ""
    elif pinned is None:
        result["notes"].append("has no jetson_clocks, so its clocks stay as they are")
    elif not placed or not pinned or result["power_mode"] is not None:
        result["clocks"] = "pin"


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"jetson_plan": plan, "jetson_undo": undo, "jetson_checks": checks}
