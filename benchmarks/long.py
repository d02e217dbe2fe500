"""Look for what grows in a long run: python benchmarks/long.py

Ten local devices train 300 rounds on scikit-learn's digits, then do 30 rounds with a model of 35 MB and nothing to
train. After each round every process is looked at: memory, open files, threads; and the disk that the fleet takes, but
for the record of the rounds, which has to grow. Each series is fitted with a line; it is flat where the line's slope is
zero within its 95 % interval, or where all the rounds together change less than 2 % of its mean. The table and the
curves go to benchmarks/results/.
"""

import argparse
import contextlib
import json
import math
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import report
from matplotlib.figure import Figure
from measure import BenchmarkError, in_folder, wait_until
from systems import CHECKOUT, DEVICES, HERE, ROUND_SECONDS, Case, StreamLink, last_lines

CASES = {
    "digits": (Case("digits", "training on the digits", CHECKOUT / "fl_app" / "task.py"), 300),
    "35MB": (Case("35MB", "nothing to train, a model of 35 MB", HERE / "noop_task.py",
                  {"megabytes": 35, "tensors": 10}), 30),
}  # fmt: skip
ROLES = {
    "flowerbed.server": "server", "flowerbed.client": "clients", "flowerbed.trainer": "trainers",
    "supervisord": "supervisors",
}  # fmt: skip
WARM_UP = 0.2  # of the rounds, which are left out of the lines
SMALL = 0.02  # of the mean: a change of less is none, however sure it is
RECORD = "metrics.jsonl"
LEAST = 10  # rounds


def sample(folders: list[Path]) -> dict[str, float]:
    """Return memory (MB of proportional set size), open files and threads by role, and the disk of folders in MB."""
    found: dict[str, float] = {}
    for process in psutil.Process().children(recursive=True):
        try:
            words = " ".join(process.cmdline())
            role = next((role for word, role in ROLES.items() if word in words), None)
            if role is None:
                continue
            values = {"MB": process.memory_full_info().pss / 1e6, "files": process.num_fds(),
                      "threads": process.num_threads()}  # fmt: skip
        except psutil.Error:
            continue
        for unit, value in values.items():
            found[f"{role}, {unit}"] = found.get(f"{role}, {unit}", 0) + value
    found["disk, MB"] = sum(map(size, folders)) / 1e6
    return found


def size(folder: Path) -> int:
    """Return the bytes of the files in a folder, but for the record; some may come and go meanwhile."""
    found = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                found += os.lstat(os.path.join(root, name)).st_size if name != RECORD else 0
    return found


def run(system: StreamLink, case: Case, rounds: int) -> dict[str, list[float]]:
    """Do the rounds; return by name what was measured after each."""
    try:
        system.start(case)
        process, path = system.launch(case, rounds)
        series: dict[str, list[float]] = {}
        times: list[float] = []
        while len(times) < rounds:

            def ended() -> list[float]:
                lines = path.read_text().splitlines(keepends=True) if path.exists() else []
                events = [json.loads(line) for line in lines if line.endswith("\n") and '"round"' in line]
                return [event["time"] for event in events if event["event"] == "round"]

            wait_until(lambda: len(ended()) > len(times) or process.poll() is not None,  # noqa: B023 - used at once
                       f"round {len(times) + 1} ({system.log('run')})", ROUND_SECONDS)  # fmt: skip
            if len(now := ended()) == len(times):
                raise BenchmarkError(f"the run ended after {len(times)} rounds: {last_lines(system.log('run'))}")
            values = sample([system.folder])
            for name, value in values.items():
                series.setdefault(name, []).extend([value] * (len(now) - len(times)))
            times = now
        wait_until(lambda: process.poll() is not None, f"the run to end ({system.log('run')})", ROUND_SECONDS)
        series["seconds a round"] = [later - earlier for earlier, later in zip(times, times[1:], strict=False)]
        return series
    finally:
        system.stop()


def line(values: list[float]) -> dict[str, Any]:
    """Fit a line to a series, without its beginning, by least squares; `low` and `high` are its slope's 95 % interval.

    The residuals of neighbouring samples are alike, so their number counts as if it were n (1 - r) / (1 + r), r being
    the correlation of neighbours (Bartlett, 1935).
    """
    y = np.array(values[round(WARM_UP * len(values)) :])
    x = np.arange(len(y))
    slope, start = np.polyfit(x, y, 1)
    left = y - (slope * x + start)
    power = float(left @ left)
    alike = min(max(float(left[1:] @ left[:-1]) / power, 0.0), 0.99) if power > 0 else 0.0
    count = max(len(y) * (1 - alike) / (1 + alike), 3.0)
    error = math.sqrt(power / len(y) / (count - 2) / float(np.var(x))) if power > 0 else 0.0
    low, high = slope - 1.96 * error, slope + 1.96 * error
    sure = max(low, -high, 0.0) * len(y)  # what it changes at the least
    return {"mean": float(y.mean()), "slope": slope, "low": low, "high": high,
            "flat": bool(sure <= SMALL * abs(y.mean()))}  # fmt: skip


def draw(cases: dict[str, dict[str, list[float]]], path: Path) -> None:
    """Draw all series, a row a case."""
    figure = Figure(figsize=(14, 4 * len(cases)), layout="constrained")
    axes = figure.subplots(len(cases), 4, squeeze=False)
    for row, (case, series) in zip(axes, cases.items(), strict=True):
        for axis, unit in zip(row, ("MB", "files", "threads", "seconds a round"), strict=True):
            for name, values in series.items():
                if name.endswith(unit):
                    axis.plot(values, label=name.rpartition(",")[0] or case)
            axis.set(title=f"{case}: {unit}", xlabel="round", ylim=(0, None))
            axis.legend(fontsize="small")
    figure.savefig(path)


def table(machine: dict[str, Any], lines: dict[str, dict[str, Any]]) -> str:
    """Return the lines as Markdown."""
    text = ["# What grows in a long run", "", "- " + ", ".join(f"{key} {value}" for key, value in machine.items()), ""]
    for case, found in lines.items():
        text += [f"## {CASES[case][0].title}", "", "| what, all ten devices together | mean | slope a round | its 95 % "
                 "interval | flat |", "|---|--:|--:|--:|---|"]  # fmt: skip
        text += [f"| {name} | {each['mean']:.4g} | {each['slope']:.2g} | {each['low']:.2g} to {each['high']:.2g} | "
                 f"{'yes' if each['flat'] else '**no**'} |" for name, each in found.items()]  # fmt: skip
        text.append("")
    return "\n".join(text)


def main() -> int:
    """Run the cases, keep and print what was found; 1 if anything is not flat."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default=",".join(CASES), help="cases, by name [both]")
    parser.add_argument("--rounds", type=int, help="rounds of each [300 and 30]")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where table and curves go")
    options = parser.parse_args()
    cases = options.cases.split(",")
    if unknown := sorted(set(cases) - CASES.keys()):
        parser.error(f"{', '.join(unknown)}: cases are {', '.join(CASES)}")
    if options.rounds is not None and options.rounds < LEAST:
        parser.error(f"--rounds is at least {LEAST}, for a line through them")
    os.environ.setdefault("LC_ALL", "C.UTF-8")

    def work(folder: Path) -> dict[str, dict[str, list[float]]]:
        measured = {}
        for name in cases:
            case, rounds = CASES[name]
            (folder / name).mkdir()
            measured[name] = run(StreamLink(folder / name, lambda: DEVICES), case, options.rounds or rounds)
        return measured

    measured = in_folder(work)
    lines = {case: {name: line(values) for name, values in sorted(series.items())} for case, series in measured.items()}
    options.results.mkdir(parents=True, exist_ok=True)
    kept = options.results / time.strftime("long-%Y-%m-%d-%H%M")
    text = table(report.machine(), lines)
    kept.with_suffix(".md").write_text(text)
    kept.with_suffix(".json").write_text(json.dumps({"lines": lines, "series": measured}, indent=None) + "\n")
    draw(measured, kept.with_suffix(".svg"))
    print(text)
    return 0 if all(each["flat"] for found in lines.values() for each in found.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
