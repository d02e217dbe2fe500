"""The machine's facts, the table, and the ratios."""

import os
import platform
import re
import time
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import psutil

# What Flowerbed promises on 2 cores of seconds a round: the bounds of numerator / denominator, and of a system's own
RATIOS = (
    ("a", "b", "training", "at least", 7),
    ("b", "d", "training", "at most", 1.25),
    ("a", "c", "training", "at least", 2),
)
SECONDS = (("b", "nothing", 0.2), ("b", "35MB-1", 4), ("b", "35MB-250", 4))


def machine() -> dict[str, Any]:
    """Return what a reader needs to know of this machine; no names."""
    cpu = re.search(r"^(?:model name|Model|Hardware)\s*: (.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return {
        "date": time.strftime("%Y-%m-%d"), "cpu": cpu[1] if cpu else platform.machine(),
        "cores": len(os.sched_getaffinity(0)), "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "kernel": re.match(r"[\d.]+", platform.release())[0].rstrip("."), "python": platform.python_version(),
        **{name: version(name) for name in ("flwr", "torch", "numpy", "ansible-core")},
    }  # fmt: skip


def ratios(cases: dict[str, Any]) -> list[dict[str, Any]]:
    """Return each promise that these measurements can tell of, with what was reached."""
    found = []

    def add(what: str, reached: float, word: str, bound: float) -> None:
        kept = reached >= bound if word == "at least" else reached <= bound
        found.append({"what": what, "reached": round(reached, 3), "promise": f"{word} {bound}", "kept": kept})

    for over, under, case, word, bound in RATIOS:
        measured = cases.get(case, {})
        if over in measured and under in measured:
            ratio = median(measured[over]["seconds"]) / median(measured[under]["seconds"])
            add(f"({over})/({under}), {case}", ratio, word, bound)
    for system, case, bound in SECONDS:
        if system in cases.get(case, {}):
            add(f"({system}), {case}, seconds", median(cases[case][system]["seconds"]), "at most", bound)
    for case, measured in cases.items():
        if "memory" in measured.get("a", {}) and "memory" in measured.get("b", {}):
            for kind in ("idle_outside", "peak_outside"):
                ratio = measured["b"]["memory"][kind] / measured["a"]["memory"][kind]
                add(f"(b)/(a), {case}, memory {kind.replace('_', ' ')} the training", ratio, "at most", 0.5)
    return found


def table(result: dict[str, Any]) -> str:
    """Return a benchmark's result as Markdown."""
    lines = ["# A round with ten devices on one machine", ""]
    lines += ["- " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result["machine"].items()),
              "- " + ", ".join(f"{key} {value}" for key, value in result["settings"].items())]  # fmt: skip
    lines += ["- seconds a round: median (range) over the alternations, after a warm-up round; CPU: all processes",
              "- memory: one device, MB of proportional set size (pages shared with the other nine count a share),",
              "  whole and, after the slash, without what trains; idle: connected, before the first run"]  # fmt: skip
    for name, measured in result["cases"].items():
        lines += ["", f"## {result['titles'][name]}", "",
                  "| system | s a round | range | CPU s a round | MB idle | MB peak | held-out accuracy |",
                  "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
        lines += [_row(letter, result["systems"][letter], numbers) for letter, numbers in sorted(measured.items())]
    if result["ratios"]:
        lines += ["", "## Promises", "", "| what | reached | promise | kept |", "|---|--:|---|---|"]
        lines += [f"| {row['what']} | {row['reached']:.3g} | {row['promise']} | {'yes' if row['kept'] else '**no**'} |"
                  for row in result["ratios"]]  # fmt: skip
    return "\n".join(lines) + "\n"


def _row(letter: str, title: str, numbers: dict[str, Any]) -> str:
    seconds, memory, accuracy = numbers["seconds"], numbers.get("memory"), numbers["heldout_accuracy"]
    idle, peak = ("", "") if not memory else (
        f"{memory[f'{kind}_whole']:.0f} / {memory[f'{kind}_outside']:.0f}" for kind in ("idle", "peak")
    )  # fmt: skip
    return (
        f"| ({letter}) {title} | {median(seconds):.3g} | {min(seconds):.3g}–{max(seconds):.3g} "
        f"| {median(numbers['cpu_seconds']):.3g} | {idle} | {peak} | {'' if accuracy is None else f'{accuracy:.3f}'} |"
    )
