"""What there is to do on a Raspberry Pi, and how to undo it, by what board_facts found there."""

from __future__ import annotations

import re
from typing import Any

Document = dict[str, Any]

CMDLINES = ("/boot/firmware/cmdline.txt", "/boot/cmdline.txt")  # bookworm has both, and the second is but a note
TOKEN = "cgroup_enable=memory"

DPHYS, RPI_SWAP, RPI_DROP_IN = "/etc/dphys-swapfile", "/etc/rpi/swap.conf", "/etc/rpi/swap.conf.d/90-flowerbed.conf"
MAX_SWAP = 2048  # what dphys-swapfile makes at most unless it is told otherwise, in MB
RPI_SIZE = """\
# Flowerbed: raspberry_pi_swap
[File]
FixedSizeMiB={size}

[Zram]
FixedSizeMiB={size}
"""
SPARE = 500e6  # bytes of disk that swap leaves

NETWORK_MANAGER, UNIT = "/etc/NetworkManager/conf.d/90-flowerbed.conf", "/etc/systemd/system/flowerbed-wifi.service"
POWER_SAVE_OFF = """\
# Flowerbed: Wi-Fi that saves power answers late
[connection]
wifi.powersave = 2
"""
AWAKE = """\
[Unit]
Description=Flowerbed: Wi-Fi that saves power answers late
After=network.target

[Service]
Type=oneshot
RemainAfterExit=true
ExecStart=/bin/sh -c '{commands}'

[Install]
WantedBy=multi-user.target
"""


def plan(facts: Document, wanted: Document) -> Document:
    """Return what there is to do: see the keys of `result`.

    `facts` is what board_facts has of the board; `wanted` has the role's variables swap and wifi_power_save.
    """
    result: Document = {
        "problem": problem(facts),  # the end of a sentence; nothing else is done then
        "cmdline": "",  # path of the kernel's command line, if it lacks the token
        "files": {},  # text by path, to be placed
        "wifi": [],  # interfaces that save power now
        "unit": False,  # whether the unit that keeps them awake must be enabled
        "swap": False,  # whether dphys-swapfile must make its file anew
        "reboot": facts["reboot"],  # whether what was changed needs one
        "before": _before(facts),  # what is to be remembered for reset
        "notes": [],  # the ends of sentences
        "needed": True,
    }
    if result["problem"]:
        return result
    _memory_cgroup(facts, result)
    if not wanted["wifi_power_save"]:
        _wifi(facts, result)
    if size := int(wanted["swap"]):
        _swap(facts, size, result)
    result["needed"] = any(result[key] for key in ("cmdline", "files", "wifi", "unit", "swap", "reboot"))
    return result


def problem(facts: Document) -> str:
    """Return what makes the board unusable: PyTorch has no 32-bit build."""
    if facts["machine"] in ("aarch64", "x86_64") and facts["bits"] == 64:
        return ""
    what = "32-bit programs on a 64-bit kernel" if facts["machine"] in ("aarch64", "x86_64") else "a 32-bit system"
    return f"has {what} ({facts['machine']}): install the 64-bit edition of its operating system"


def checks(facts: Document, docker: bool) -> dict[str, tuple[str, str, str]]:
    """Return what preflight shows, by check: its state, a word, and a sentence's end. `docker` is the runtime."""
    wrong = problem(facts)
    return {
        "bits": ("fail", "32", wrong) if wrong else ("ok", "64", ""),
        "cgroup": _cgroup_check(facts, docker),
        "throttled": _throttled_check(facts),
    }


def _cgroup_check(facts: Document, docker: bool) -> tuple[str, str, str]:
    """Judge whether a container's memory can be limited."""
    if facts["memory_cgroup"]:
        return "ok", "yes", ""
    if not docker:
        return "-", "no", ""
    later = " yet: deploy.yml turns that on, and reboots it" if facts["kind"] == "raspberry_pi" else ""
    return "warn", "no", f"cannot limit a container's memory{later}"


def _throttled_check(facts: Document) -> tuple[str, str, str]:
    """Judge vcgencmd get_throttled: bits 0 to 3 are now, 16 to 19 since boot."""
    output = re.search(r"throttled=(0x[0-9a-fA-F]+)", facts["outputs"]["throttled"])
    if not output:
        return "-", "-", ""
    bits = int(output[1], 16)
    if not bits:
        return "ok", "no", ""
    when = "is" if bits & 0xF else "was since its boot"
    why = "short of voltage: use a stronger power supply" if bits & 0x10001 else "too hot: give it a cooler"
    return "warn", "now" if bits & 0xF else "was", f"{when} slowed down, {why}"


def power_save(facts: Document) -> dict[str, bool]:
    """Return by wireless interface whether it saves power."""
    lines = (line.partition(" ") for line in facts["outputs"]["power_save"].splitlines())
    return {name: ": on" in answer for name, _, answer in lines}


def undo(facts: Document) -> Document:
    """Return what there is to do to give the board back, as `plan` does; nothing where the role changed nothing."""
    before, files = facts["before"].get("raspberry_pi"), facts["files"]
    result: Document = {
        "cmdline": "", "files": {}, "remove": [], "wifi": [], "swap": False, "reboot": False,
        "needed": before is not None,
    }  # fmt: skip
    if before is None:
        return result
    if _token(facts) and not before["token"]:
        result |= {"cmdline": _cmdline(facts), "reboot": True}
    result["remove"] = [path for path in (NETWORK_MANAGER, UNIT, RPI_DROP_IN) if path in files]
    result["reboot"] |= RPI_DROP_IN in files
    saved = [name for name, saves in before["power_save"].items() if saves]
    result["wifi"] = [name for name in saved if power_save(facts).get(name) is False]
    if DPHYS in files:
        text = files[DPHYS]
        for name, value in before["swap"].items():
            text = _assign(text, name, value)
        if text != files[DPHYS]:
            result |= {"files": {DPHYS: text}, "swap": True}
    return result


def _before(facts: Document) -> Document:
    """Return how the board is, in all that the role may change."""
    swap = facts["files"].get(DPHYS, "")
    return {
        "token": _token(facts), "power_save": power_save(facts), "time_service": facts["time_service"],
        "swap": {name: _value(swap, name) for name in ("CONF_SWAPSIZE", "CONF_MAXSWAP")},
    }  # fmt: skip


def _cmdline(facts: Document) -> str:
    """Return the path of what the firmware gives the kernel as its command line, or ""."""
    return next((path for path in CMDLINES if path in facts["files"]), "")


def _token(facts: Document) -> bool:
    """Return whether the token is on that line."""
    return TOKEN in facts["files"].get(_cmdline(facts), "").partition("\n")[0].split()


def _memory_cgroup(facts: Document, result: Document) -> None:
    """A container's memory can be limited only if the kernel's command line says so."""
    if not facts["memory_cgroup"] and not _token(facts) and _cmdline(facts):
        result |= {"cmdline": _cmdline(facts), "reboot": True}


def _wifi(facts: Document, result: Document) -> None:
    """Wi-Fi stays awake: by NetworkManager where that is in charge, else by a unit of ours."""
    interfaces = power_save(facts)
    result["wifi"] = [name for name, saves in interfaces.items() if saves]
    if not interfaces:
        return
    if "NetworkManager.service" in facts["enabled"]:
        path, text = NETWORK_MANAGER, POWER_SAVE_OFF
    else:
        commands = "; ".join(f"iw dev {name} set power_save off" for name in sorted(interfaces))
        path, text = UNIT, AWAKE.format(commands=commands)
        result["unit"] = "flowerbed-wifi.service" not in facts["enabled"]
    if facts["files"].get(path) != text:
        result["files"][path] = text


def _swap(facts: Document, size: int, result: Document) -> None:
    """Swap of `size` MB, by what the system's generation makes it with."""
    files = facts["files"]
    if RPI_SWAP in files:
        path, text, reboot = RPI_DROP_IN, RPI_SIZE.format(size=size), True  # says swap.conf(5)
    elif DPHYS in files:
        path, text, reboot = DPHYS, _assign(files[DPHYS], "CONF_SWAPSIZE", size), False
        if size > int(_value(text, "CONF_MAXSWAP") or MAX_SWAP):
            text = _assign(text, "CONF_MAXSWAP", size)
    else:
        result["notes"].append("has neither dphys-swapfile nor rpi-swap, so its swap stays as it is")
        return
    now = sum(facts["swaps"].values())
    if files.get(path) == text and (reboot or now):
        return
    if facts["free"] - SPARE < size * 2**20 - now:
        result["notes"].append(
            f"has {facts['free'] / 1e9:.1f} GB of disk left, too little for swap of {size} MB, so that stays as it is: "
            "lower raspberry_pi_swap"
        )
        return
    if files.get(path) != text:
        result["files"][path] = text
        result["reboot"] |= reboot
    result["swap"] = not reboot


def _value(text: str, name: str) -> str | None:
    """Return what a shell fragment assigns to `name`, or None."""
    values = re.findall(rf"^{name}=(.*)$", text, re.MULTILINE)
    return values[-1] if values else None


def _assign(text: str, name: str, value: Any) -> str:
    """Return a shell fragment that assigns `value` to `name`, or nothing where that is None; the rest stays."""
    line = f"{name}={value}"
    if value is None:
        return re.sub(rf"^{name}=.*\n?", "", text, flags=re.MULTILINE)
    if _value(text, name) is not None:
        return re.sub(rf"^{name}=.*$", line, text, flags=re.MULTILINE)
    return f"{text.rstrip()}\n{line}\n" if text.strip() else f"{line}\n"


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"raspberry_pi_plan": plan, "raspberry_pi_undo": undo, "raspberry_pi_checks": checks}
