"""Measure a round: python benchmarks/round.py --data cifar10-images.zip

Runs the tutorial's model and data with ten devices, one system after the other in alternation, each on its own:
(a) bare Flower, the way its embedded example does it, (b) Flowerbed's stream link, (c) Flowerbed's superlink link,
(d) the training alone in two processes: the floor. The table goes to standard output and, with JSON, to
benchmarks/results/. DATA is CIFAR-10 as train/CLASS/*.png (or .jpg) and test/CLASS/*, a folder or a .zip of one.
"""

import argparse
import json
import sys
import time
from functools import cache
from pathlib import Path
from typing import Any

import report
from measure import BenchmarkError, MemoryWatch, cpu_seconds, in_folder, memory, wait_until
from systems import CHECKOUT, DEVICES, HERE, ROUND_SECONDS, SYSTEMS, Case, System, last_lines, make_shards


def cases(data: Path) -> list[Case]:
    """Return what is measured; where nothing is trained the data doesn't matter."""
    folder = {"dataset_name": "folder", "dataset_path": str(data), "dataset_partition": "iid", "dataset_heldout": 0.1}
    noop, large = HERE / "noop_task.py", "nothing to train, a model of 35 MB, number of tensors: {}"
    return [
        Case("training", "training: CIFAR-10, LeNet5", CHECKOUT / "fl_app" / "task.py", data=folder),
        Case("nothing", "nothing to train, a model as small as the tutorial's", noop),
        Case("35MB-1", large.format(1), noop, {"megabytes": 35, "tensors": 1}),
        Case("35MB-250", large.format(250), noop, {"megabytes": 35, "tensors": 250}),
    ]


def rounds_of(system: System, case: Case, rounds: int) -> int:
    """Return how many rounds are timed: fewer where one takes a minute, more where it takes a blink."""
    if system.letter in "ac" and case.name.startswith("35MB"):
        return 1 if system.letter == "a" else min(rounds, 2)
    if system.letter == "a":
        return min(rounds, 2)
    return max(rounds, 20) if (system.letter, case.name) == ("b", "nothing") else rounds


def measure(system: System, case: Case, rounds: int, with_memory: bool) -> dict[str, Any]:
    """Start a system, run a warm-up round and `rounds` more, and stop it. With memory, one further round is watched."""
    try:
        system.start(case)
        device = system.device() if with_memory else None
        idle = memory(device, system.training) if device else None
        run, path = system.launch(case, 1 + rounds + (device is not None))

        def ended() -> list[dict[str, Any]]:
            lines = path.read_text().splitlines(keepends=True) if path.exists() else []
            events = [json.loads(line) for line in lines if line.endswith("\n")]
            return [event for event in events if event["event"] == "round"]

        def wait(count: int) -> int:
            wait_until(lambda: len(ended()) >= count or run.poll() is not None, f"round {count} of system "
                       f"({system.letter}), {case.name} ({system.log('run')})", ROUND_SECONDS)  # fmt: skip
            if (seen := len(ended())) < count:
                raise BenchmarkError(f"({system.letter}) ended after {seen} rounds: {last_lines(system.log('run'))}")
            return seen

        first, cpu = wait(1), cpu_seconds()
        last, cpu = wait(1 + rounds), cpu_seconds() - cpu
        found = {"rounds": rounds, "cpu_seconds": cpu / max(last - first, 1)}
        if device:
            with MemoryWatch(device, system.training) as watch:
                wait(2 + rounds)
            samples = {"idle": idle, "peak": watch.peak}
            found["memory"] = {f"{kind}_{part}": round(value, 1) for kind, sample in samples.items()
                               for part, value in sample._asdict().items()}  # fmt: skip
        wait_until(lambda: run.poll() is not None, f"the run to end ({system.log('run')})", ROUND_SECONDS)
        events = ended()
        if few := [event for event in events if event["clients_answered"] < len(DEVICES)]:
            raise BenchmarkError(f"system ({system.letter}), {case.name}: not all devices answered: {few[0]}")
        found["seconds"] = (events[rounds]["time"] - events[0]["time"]) / rounds
        found["heldout_accuracy"] = events[-1].get("heldout_accuracy")
        return found
    finally:
        system.stop()


def benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all cases and systems that were asked for; keep the result after each case, for a run takes an hour."""
    shards = cache(lambda: make_shards(options.data, folder / "shards"))
    systems = [SYSTEMS[letter](folder, shards) for letter in options.only]
    results: dict[str, Any] = {}
    kept = options.results / time.strftime("round-%Y-%m-%d-%H%M")
    for case in options.cases:
        measured = results.setdefault(case.name, {})
        for alternation in range(options.alternations):
            for system in systems[:: -1 if alternation % 2 else 1]:  # there and back: nobody always follows the same
                if case.name != "training" and system.letter in ("a" if options.skip_bare else "") + "d":
                    continue
                with_memory = alternation == 0 and case.name != "nothing"
                found = measure(system, case, rounds_of(system, case, options.rounds), with_memory)
                print(f"{case.name}: ({system.letter}) {found['seconds']:.3g} s a round, "
                      f"{found['cpu_seconds']:.3g} CPU s", file=sys.stderr, flush=True)  # fmt: skip
                numbers = measured.setdefault(system.letter, {"seconds": [], "cpu_seconds": []})
                for key in ("seconds", "cpu_seconds"):
                    numbers[key].append(round(found.pop(key), 4))
                numbers.update(found)
        result = {
            "machine": report.machine(), "settings": {"devices": len(DEVICES), "rounds": options.rounds,
                                                      "alternations": options.alternations},
            "titles": {known.name: known.title for known in options.cases},
            "systems": {system.letter: system.title for system in systems},
            "cases": results, "ratios": report.ratios(results),
        }  # fmt: skip
        if not options.quick:
            options.results.mkdir(parents=True, exist_ok=True)
            kept.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            kept.with_suffix(".md").write_text(report.table(result))
    return result


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="CIFAR-10: class folders of images, or a .zip of them")
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds a run (bare Flower: at most 2) [5]")
    parser.add_argument("--alternations", type=int, default=3, help="how often all systems take their turn [3]")
    parser.add_argument("--only", default="a,b,c,d", help="systems, by letter [a,b,c,d]")
    parser.add_argument("--cases", default="training,nothing,35MB-1,35MB-250", help="cases, by name [all four]")
    parser.add_argument("--skip-bare", action="store_true", help="no bare Flower where nothing is trained")
    parser.add_argument("--quick", action="store_true", help="one round, once, of the first two cases; nothing is kept")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where table and JSON go")
    options = parser.parse_args()
    options.data = options.data.resolve()
    if not options.data.exists():
        parser.error(f"--data {options.data} is not there")
    known = {case.name: case for case in cases(options.data)}
    options.only, names = options.only.split(","), options.cases.split(",")
    if options.quick:
        options.rounds, options.alternations, names = 1, 1, names[:2]
    if unknown := (set(options.only) - SYSTEMS.keys()) | (set(names) - known.keys()):
        parser.error(f"{', '.join(sorted(unknown))}: systems are {', '.join(SYSTEMS)}; cases {', '.join(known)}")
    if options.rounds < 1 or options.alternations < 1:
        parser.error("--rounds and --alternations are at least 1")
    options.cases = [known[name] for name in names]
    return options


def main() -> None:
    """Measure, print, keep; end every process whatever happens."""
    options = parse()
    result = in_folder(lambda folder: benchmark(options, folder))
    print(report.table(result))


if __name__ == "__main__":
    main()
