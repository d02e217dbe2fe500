"""Measure fl_target_seconds: python benchmarks/target.py

Three local devices train, of which two are stopped part of the time, so that all have another speed. First each does
the same work, then as many steps as fit in the time that the slowest had needed. Prints a table: how long devices were
at work in a round, what share of it they waited for the slowest, steps in a second, and the score.
"""

import argparse
import contextlib
import json
import statistics
import threading
import time
from pathlib import Path
from typing import Any

import psutil
import report
from measure import BenchmarkError, in_folder, wait_until
from systems import CHECKOUT, HERE, ROUND_SECONDS, Case, StreamLink, last_lines

SPEEDS = {"jetson-4gb-1": 1.0, "jetson-2gb-1": 0.5, "rpi-1": 0.25}  # as shares of the time
PERIOD = 0.2  # seconds


class Throttled(threading.Thread):
    """Stops a process for a share of the time."""

    def __init__(self, process: psutil.Process, share: float) -> None:
        super().__init__(daemon=True)
        self._process, self._share, self._over = process, share, threading.Event()

    def run(self) -> None:
        """Stop it and let it go on, again and again."""
        with contextlib.suppress(psutil.NoSuchProcess):
            while not self._over.is_set():
                self._process.suspend()
                time.sleep(PERIOD * (1 - self._share))
                self._process.resume()
                self._over.wait(PERIOD * self._share)

    def end(self) -> None:
        """Let it run."""
        self._over.set()
        self.join()


def trainer(system: StreamLink, device: str) -> psutil.Process:
    """Return the process in which a device trains."""
    top = psutil.Process(int((system.home.parent / device / "supervisord.pid").read_text()))
    return next(each for each in top.children(recursive=True) if "flowerbed.trainer" in each.cmdline())


def run(system: StreamLink, name: str, **variables: Any) -> list[dict[str, Any]]:
    """Run an experiment to its end; return its events."""
    asked = {"experiment": name, "devices": list(SPEEDS), **variables}
    process = system.playbook(name, "run_round.yml", "-e", json.dumps(asked))
    wait_until(lambda: process.poll() is not None, f"the run to end ({system.log(name)})", ROUND_SECONDS)
    if process.returncode:
        raise BenchmarkError(f"run_round.yml failed: {last_lines(system.log(name))}")
    lines = (system.folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def summary(events: list[dict[str, Any]], settled: int) -> dict[str, Any]:
    """Return what rounds after the first `settled` were like."""
    at_work: dict[int, dict[str, float]] = {}
    steps = 0
    for event in events:
        if event["event"] == "device" and event.get("status") == "ok" and event["round"] > settled:
            seconds = sum(event[part] for part in ("seconds_load", "seconds_train", "seconds_transfer"))
            at_work.setdefault(event["round"], {})[event["device"]] = seconds
            steps += int(event.get("steps") or event["metrics"]["steps"])
    whole = sum(max(times.values()) for times in at_work.values())
    spent = sum(statistics.mean(times.values()) for times in at_work.values())
    devices = {name: statistics.median(times[name] for times in at_work.values()) for name in SPEEDS}
    last = [event for event in events if event["event"] == "round"][-1]
    return {
        "seconds": {name: round(seconds, 2) for name, seconds in devices.items()},
        "waited": round(1 - spent / whole, 3), "steps_a_second": round(steps / whole, 2),
        "accuracy": last["accuracy"], "loss": last["loss"], "rounds": len(at_work),
    }  # fmt: skip


def benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure both, one after the other, with the same number of rounds of the same length."""
    system = StreamLink(folder, lambda: [])
    system.start(Case("digits", "the digits, LeNet5", CHECKOUT / "fl_app" / "task.py", data={"trainer_slots": ""}))
    throttled = [Throttled(trainer(system, device), share) for device, share in SPEEDS.items() if share < 1]
    for each in throttled:
        each.start()
    common = {"rounds": options.rounds, "fl_local_epochs": options.epochs, "fl_batch_size": 8}
    same_steps = {"steps": 17 * options.epochs}  # a tenth of the digits has 17 batches
    try:
        same = summary(run(system, "same", **common, fl_config=same_steps), 1)
        target = max(same["seconds"].values())
        fitted = summary(run(system, "fitted", **common, fl_target_seconds=round(target, 2)), 2)
    finally:
        for each in throttled:
            each.end()
        system.stop()
    return {"machine": report.machine(), "speeds": SPEEDS, "target_seconds": round(target, 2), "same": same,
            "fitted": fitted, "ratio": round(fitted["steps_a_second"] / same["steps_a_second"], 2)}  # fmt: skip


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = [
        f"| {' : '.join(f'{share:g}' for share in SPEEDS.values())} | s at work, {', '.join(SPEEDS)} | waited | "
        "steps a second | accuracy, loss |", "|---|---|--:|--:|---|",
    ]  # fmt: skip
    for name, title in (
        ("same", "the same work for all"),
        ("fitted", f"fl_target_seconds {result['target_seconds']:g}"),
    ):
        found = result[name]
        seconds = ", ".join(f"{each:g}" for each in found["seconds"].values())
        lines.append(
            f"| {title} | {seconds} | {found['waited']:.0%} | "
            f"{found['steps_a_second']:g} | {found['accuracy']:.1%}, {found['loss']:.2f} |"
        )
    return "\n".join([*lines, "", f"Steps a second: {result['ratio']:g} times as many."])


def main() -> None:
    """Measure and print; keep the result if that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=8, help="rounds of each [8]")
    parser.add_argument(
        "--epochs", type=int, default=20, help="passes over the data in a round, with the same work [20]"
    )
    parser.add_argument("--keep", action="store_true", help="keep the result in benchmarks/results: on a quiet machine")
    options = parser.parse_args()
    result = in_folder(lambda folder: benchmark(options, folder))
    if options.keep:
        kept = HERE / "results" / time.strftime("target-%Y-%m-%d-%H%M")
        kept.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
        kept.with_suffix(".md").write_text(table(result) + "\n")
    print(table(result))


if __name__ == "__main__":
    main()
