"""Which image fits a board: what an image's name and its own Python say of it, against what board_facts found."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[3] / "fl_app"))
from flowerbed.words import clean, clean_all

Document = dict[str, Any]

JETPACKS = {32: "4", 35: "5", 36: "6", 38: "7"}  # by L4T
# CUDA of a Jetson, by the L4T from which on it has that
CUDA = {(38, 0): "13.0", (36, 4): "12.6", (36, 0): "12.2", (35, 0): "11.4", (32, 4): "10.2"}
TUTORIALS_JETSON, TUTORIALS_PI = "lhkhiem28/jetson:1.0", "lhkhiem28/rpi:1.4"
# An image that fits, by the L4T or the CUDA of a driver from which on it does
OF_JETSONS = {
    (36, 4): "dustynv/l4t-pytorch:r36.4.0", (36, 0): "dustynv/l4t-pytorch:r36.2.0",
    (35, 0): "dustynv/l4t-pytorch:r35.4.1", (32, 6): TUTORIALS_JETSON,
}  # fmt: skip
OF_CARDS = {
    (12, 8): "pytorch/pytorch:2.7.1-cuda12.8-cudnn9-runtime", (12, 0): "pytorch/pytorch:2.5.1-cuda12.4-cudnn9-runtime",
    (11, 8): "pytorch/pytorch:2.5.1-cuda11.8-cudnn9-runtime",
}  # fmt: skip
WITHOUT_CARD = OF_CARDS[12, 0]  # trains on a processor, too
SMALL_PAGE = 4096
SAID = ("python", "numpy", "torch", "cuda", "gpu", "why", "l4t")  # by files/probe.py


def checks(facts: Document, image: str, docker: bool) -> dict[str, tuple[str, str, str]]:
    """Return what preflight shows, by check: its state, a word, and a sentence's end; nothing of what is right.

    `docker` is whether that is the runtime: in the other one no image is involved.
    """
    result = {}
    if docker and (wrong := misnamed(facts, image)):
        result["images"] = ("fail", "wrong", wrong)
    if facts["kind"] != "jetson" and (_driver(facts) or _card(facts)):
        result["nvidia"] = _card_check(facts, docker)
    return result


def _card_check(facts: Document, docker: bool) -> tuple[str, str, str]:
    """Judge whether a trainer gets a card of NVIDIA's."""
    if not _driver(facts):
        return "warn", "no", ("has an NVIDIA card but not NVIDIA's driver, so it trains on its processor: install the "
                              "driver there (on Debian the package nvidia-driver)")  # fmt: skip
    if docker and "error" not in facts["docker"]:
        if not way(facts):
            return "warn", "no", ("has an NVIDIA card that containers cannot use, so it trains on its processor: "
                                  "install NVIDIA's package nvidia-container-toolkit there")  # fmt: skip
        if way(facts) == "runtime" and "nvidia" not in facts["docker"]["runtimes"]:
            return "warn", "no", "has a Docker engine that does not know its runtime nvidia yet: deploy.yml adds it"
    return "ok", f"CUDA {cuda(facts)}", ""


def way(facts: Document) -> str:
    """Return how a container gets the board's NVIDIA GPU: runtime (nvidia), cdi, or "" for not at all."""
    docker = facts.get("docker") or {"error": "not looked at"}
    if "error" in docker or not (facts["kind"] == "jetson" or _driver(facts)):
        return ""
    if "nvidia" in docker["runtimes"] or facts["engine"]["nvidia"]:
        return "runtime"
    return "cdi" if docker["cdi"] else ""


def misnamed(facts: Document, image: str) -> str:
    """Return what is wrong with an image by its name alone, the end of a sentence; "" where that says nothing wrong."""
    made, called = _made_for(image), f"the image {image} (trainer_image)"
    if image in (TUTORIALS_JETSON, TUTORIALS_PI):
        called = "the tutorial's image"
    if image == TUTORIALS_JETSON and facts["l4t"].startswith("32.") and _l4t(facts) < (32, 6):
        return (
            f"has L4T {facts['l4t']}, but {called} is made for JetPack 4.6, L4T 32.6 or 32.7: flash JetPack 4.6.1, or "
            f"set trainer_image to {_such_as(facts)}"
        )
    if image == TUTORIALS_PI and facts["kind"] == "other" and facts["machine"] == "x86_64":
        wrong = f"has an x86_64 processor, but {called} is made for a Raspberry Pi's"
    elif made and facts["l4t"] and made != _l4t(facts)[0]:
        of = "JetPack 4.6, L4T 32.6 or 32.7" if image == TUTORIALS_JETSON else f"L4T {made}"
        wrong = f"has L4T {facts['l4t']}, but {called} is made for {of}"
    elif made and facts["kind"] != "jetson" and re.search("l4t|jetson|dustynv", image):
        wrong = f"is no Jetson, but {called} is made for one"
    else:
        return ""
    return f"{wrong}: set trainer_image to {_such_as(facts)}"


def verdict(answer: Document, facts: Document, image: str) -> Document:
    """Return what an image's own Python said of it (`has`), the `problem` with it on this board, and what to `note`.

    `answer` is what the command returned that asked; both are ends of sentences, "" for none.
    """
    problem, note, has = "", "", {}
    try:
        if answer["rc"]:
            problem = _failure(answer, facts)
        else:
            said = clean_all(json.loads(answer["stdout"].strip().splitlines()[-1]))
            has = {name: said[name] for name in SAID}
            problem, note = _misfit(has, facts, image)
    except (LookupError, TypeError, ValueError, AttributeError, RecursionError):
        problem, has = "gives no answer:", {}
    return {
        "has": has, "problem": problem and f"{problem} choose {_such_as(facts)}",
        "note": note and f"{note}. For its GPU, choose {_such_as(facts)}",
    }  # fmt: skip


def _failure(answer: Document, facts: Document) -> str:
    """Return why an image's Python could not say what it has."""
    said, lines = answer["stderr"], [clean(line) for line in answer["stderr"].strip().splitlines()]
    if "exec format error" in said:
        return f"is made for another processor than this board's, {facts['machine']}:"
    if answer["rc"] == 132:
        return "has a numpy or torch that this processor cannot run (illegal instruction):"
    if facts["page"] > SMALL_PAGE and re.search("page-aligned|page size", said):
        return (
            f"has programs for memory in pages of 4 kB, and this board's kernel has pages of {facts['page'] // 1024} "
            "kB: boot the other kernel (on a Raspberry Pi 5, kernel=kernel8.img in /boot/firmware/config.txt), or"
        )
    if answer["rc"] > 1:
        return f"cannot be asked what it has: {lines[0] if lines else 'no answer'}:"
    return f"{lines[-1] if lines else 'gives no answer'}:"


def _misfit(has: Document, facts: Document, image: str) -> tuple[str, str]:
    """Return what is wrong with an image that trains on the processor at least, and what is but a pity."""
    if has["gpu"] or not way(facts):
        return "", ""
    if not has["cuda"]:
        return "", "has a torch without CUDA, so the board trains on its processor"
    said = re.search(r"R(\d+) \(release\)|\br(3\d)\.\d", has["l4t"])
    made = int(said[1] or said[2]) if said else _made_for(image)
    if facts["l4t"] and made and made != _l4t(facts)[0]:
        return f"is made for L4T {made}, but this board has {_board(facts)}:", ""
    image_has, board_has = int(has["cuda"].split(".")[0]), int((cuda(facts) or has["cuda"]).split(".")[0])
    if image_has > board_has or (facts["l4t"] and image_has != board_has):
        return f"has a torch for CUDA {has['cuda']}, but this board has {_board(facts)}:", ""
    if not facts["outputs"]["nvidia_nodes"].strip():
        return "", "finds no GPU, for this board's kernel shows none, so the board trains on its processor"
    why = has["why"] or "torch sees no GPU"
    return f"cannot run a CUDA kernel on this board, which has {_board(facts)} ({why}):", ""


def _made_for(image: str) -> int | None:
    """Return the L4T, such as 36, that an image is made for by its name, or None where that does not say it."""
    if image == TUTORIALS_JETSON:
        return 32
    tag = re.search(r"(?<![a-z0-9])r(3[2568])\.\d", image.rpartition("/")[2])
    return int(tag[1]) if tag else None


def cuda(facts: Document) -> str:
    """Return the CUDA that the board's driver is for, "" where that is not known."""
    if facts["l4t"]:
        return _newest(CUDA, _l4t(facts)) or ""
    said = re.search(r"CUDA Version: (\d+\.\d+)", facts["outputs"]["nvidia_smi"])
    return said[1] if said else ""


def _such_as(facts: Document) -> str:
    """Return which image to choose for the board."""
    if facts["l4t"]:
        image = _newest(OF_JETSONS, _l4t(facts))
    elif facts["kind"] == "raspberry_pi" or facts["machine"] != "x86_64":
        image = TUTORIALS_PI
    else:
        driver = tuple(map(int, (cuda(facts) or "0.0").split(".")))
        image = next((image for newest, image in OF_CARDS.items() if newest <= driver), WITHOUT_CARD)
    such_as = f", such as {image}" if image else ""
    return f"one with Python 3.6 or newer, numpy and torch for {_board(facts)}{such_as}"


def _board(facts: Document) -> str:
    """Return what counts of a board for an image."""
    if facts["l4t"]:
        jetpack = JETPACKS.get(_l4t(facts)[0])
        words = [f"L4T {facts['l4t']}", jetpack and f"JetPack {jetpack}", cuda(facts) and f"CUDA {cuda(facts)}"]
    else:
        words = [facts["machine"], cuda(facts) and f"CUDA {cuda(facts)}"]
    first, *rest = filter(None, words)
    return f"{first} ({', '.join(rest)})" if rest else first


def _newest(table: dict[tuple[int, int], str], version: tuple[int, ...]) -> str | None:
    """Return what a table has for the newest version that is no newer than `version`, and of its own first number."""
    return next((value for key, value in sorted(table.items(), reverse=True)
                 if key <= version and key[0] == version[0]), None)  # fmt: skip


def _l4t(facts: Document) -> tuple[int, ...]:
    return tuple(int(number) for number in facts["l4t"].split(".")[:2])


def _driver(facts: Document) -> bool:
    return "Driver Version" in facts["outputs"]["nvidia_smi"]


def _card(facts: Document) -> bool:
    return any(line.startswith("0x03") for line in facts["outputs"]["nvidia_cards"].splitlines())


class FilterModule:
    """The filters, by name."""

    def filters(self) -> dict[str, Any]:
        """Return them."""
        return {"trainer_image_checks": checks, "trainer_image_verdict": verdict, "trainer_image_way": way}
