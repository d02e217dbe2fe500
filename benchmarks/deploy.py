"""Measure a deployment: python benchmarks/deploy.py --boards 3,10,30

Deploys to so many rehearsal boards, in the tutorial's proportions: from scratch, with the images in the rehearsal's
registry, again with nothing to do, and after one changed variable; as Flowerbed does it, and with forks=5 and without
pipelining as the base line, on boards made anew. Or to the devices of an inventory (--inventory), which are reset
before and after. The table goes to standard output and, with JSON, to benchmarks/results/.
"""

import argparse
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

import report
import yaml
from measure import BenchmarkError, adopt_orphans, cpu_seconds, end_all, wait_until
from systems import BIN, CHECKOUT, GROUPS, HERE, last_lines

NAME, SUBNET = "benchmark", "172.30.120.0/24"
LIMIT = 3600  # seconds that a playbook may take
OURS = "Flowerbed"
VARIANTS = {
    OURS: {},
    "forks=5, no pipelining": {"ANSIBLE_FORKS": "5", "ANSIBLE_PIPELINING": "False"},
}  # fmt: skip
PROMISE = ("10", OURS, "nothing to do", 45)  # seconds on 2 cores
SLOWEST = 8  # tasks that are kept


class Fleet:
    """Devices of an inventory that is there, as they are."""

    def __init__(self, folder: Path, inventory: Path) -> None:
        self.folder, self.inventory = folder, inventory
        self.title = str(inventory)

    def make(self) -> None:
        """Let nothing be deployed."""
        self.play("playbooks/reset.yml", "-e", "confirm=true")

    def remove(self) -> None:
        """Leave nothing that was deployed."""
        self.make()

    def received(self) -> dict[str, int]:
        """Return the bytes that each device has received so far; nothing where that cannot be known."""
        return {}

    def play(self, book: str, *arguments: str, **environment: str) -> None:
        """Run a playbook to its end. Raises BenchmarkError where it fails."""
        log = self.folder / f"{Path(book).stem}.log"
        own = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
        with open(log, "wb") as file:
            run = subprocess.Popen(
                [BIN / "ansible-playbook", "-i", self.inventory, book, *arguments], cwd=CHECKOUT, stdout=file,
                stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True,
                env={**own, "ANSIBLE_CONFIG": str(CHECKOUT / "ansible.cfg"), "LC_ALL": "C.UTF-8", **environment},
            )  # fmt: skip
        wait_until(lambda: run.poll() is not None, f"{book} to end ({log})", LIMIT, 0.01)
        if run.returncode:
            raise BenchmarkError(f"{book} failed: {last_lines(log, 40)}")


class Boards(Fleet):
    """Rehearsal boards, made from inventory/lab with more or fewer hosts."""

    def __init__(self, folder: Path, count: int) -> None:
        super().__init__(folder, folder / NAME)
        self.title = str(count)
        self.like = folder / f"like-{count}"
        shutil.copytree(CHECKOUT / "inventory/lab", self.like)
        hosts = yaml.safe_load((self.like / "hosts.yml").read_text())
        children = hosts["all"]["children"]["devices"]["children"]
        names = devices(count)
        self.containers = [f"{NAME}-{name}" for group in names.values() for name in group]
        for group, within in (("rpi", children), *((group, children["jetson"]["children"])
                                                   for group in ("jetson_2gb", "jetson_4gb"))):  # fmt: skip
            within[group]["hosts"] = dict.fromkeys(names[group.replace("_", "-")], {})
        (self.like / "hosts.yml").write_text(yaml.safe_dump(hosts, sort_keys=False))

    def make(self) -> None:
        """Make the boards anew."""
        self.remove()
        self._rehearse("present")

    def remove(self) -> None:
        """Remove the boards, and what runs here for them."""
        if self.inventory.exists():
            self.play("playbooks/reset.yml", "-e", "confirm=true", "--limit", "localhost,server")
        self._rehearse("absent")

    def received(self) -> dict[str, int]:
        """Return the bytes that each board's network has brought it."""
        file = "/sys/class/net/eth0/statistics/rx_bytes"
        return {name: int(subprocess.run(["docker", "exec", name, "cat", file], check=True, capture_output=True).stdout)
                for name in self.containers}  # fmt: skip

    def _rehearse(self, state: str) -> None:
        variables = {
            "state": state, "rehearsal_name": NAME, "rehearsal_subnet": SUBNET, "rehearsal_like": str(self.like),
            "rehearsal_inventory": str(self.inventory), "rehearsal_keep_images": True, "rehearsal_ready_timeout": 600,
        }  # fmt: skip
        self.play("playbooks/rehearsal.yml", "-e", json.dumps(variables))


def devices(count: int) -> dict[str, list[str]]:
    """Return the names of so many devices by group, at least one of each, else as the tutorial has them of ten."""
    counts = {group: max(1, count * share // 10) for group, share in GROUPS.items()}
    counts["jetson-4gb"] += count - sum(counts.values())
    return {group: [f"{group}-{number}" for number in range(1, counts[group] + 1)] for group in GROUPS}


def deploy(fleet: Fleet, variables: dict[str, Any], environment: dict[str, str]) -> dict[str, Any]:
    """Run deploy.yml and return what it took."""
    times = fleet.folder / "times.json"
    plugins = f"{CHECKOUT / 'plugins/callback'}:{HERE / 'callback_plugins'}"
    before, cpu, began = fleet.received(), cpu_seconds(), time.monotonic()
    fleet.play("deploy.yml", *(["-e", json.dumps(variables)] if variables else []), **environment,
               FLOWERBED_TASK_TIMES=str(times), ANSIBLE_CALLBACK_PLUGINS=plugins,
               ANSIBLE_CALLBACKS_ENABLED="task_times")  # fmt: skip
    seconds, cpu, after = time.monotonic() - began, cpu_seconds() - cpu, fleet.received()
    tasks = json.loads(times.read_text())
    sent = [after[name] - before[name] for name in before]
    return {
        "seconds": round(seconds, 1), "cpu_seconds": round(cpu, 1),
        "tasks": sum(task["ok"] + task["changed"] > 0 for task in tasks),
        "changed": sum(task["changed"] for task in tasks), "kilobytes_sent": [round(number / 1e3) for number in sent],
        "by_task": sorted(tasks, key=lambda task: -task["seconds"])[:SLOWEST],
    }  # fmt: skip


def benchmark(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measure all fleets and variants; keep the result after each, for thirty boards take long."""
    fleets = [Fleet(folder, options.inventory)] if options.inventory else [Boards(folder, n) for n in options.boards]
    name, _, value = options.change.partition("=")
    phases = {
        "from scratch": options.extra, "nothing to do": options.extra,
        "one changed variable": {**options.extra, name: yaml.safe_load(value)},
    }  # fmt: skip
    result: dict[str, Any] = {
        "machine": report.machine(), "settings": {"changed variable": options.change, **options.extra}, "fleets": {}
    }  # fmt: skip
    kept = options.results / time.strftime("deploy-%Y-%m-%d-%H%M")
    for fleet in fleets:
        for variant, environment in VARIANTS.items():
            if variant != OURS and not options.baseline & {fleet.title, "all"}:
                continue
            fleet.make()
            try:
                for phase, variables in phases.items():
                    found = deploy(fleet, variables, environment)
                    result["fleets"].setdefault(fleet.title, {}).setdefault(variant, {})[phase] = found
                    print(f"{fleet.title}, {variant}, {phase}: {found['seconds']} s, {found['cpu_seconds']} CPU s, "
                          f"{found['changed']} changed", file=sys.stderr, flush=True)  # fmt: skip
            finally:
                with contextlib.suppress(BenchmarkError):  # of boards that are half made
                    fleet.remove()
            options.results.mkdir(parents=True, exist_ok=True)
            kept.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            kept.with_suffix(".md").write_text(table(result))
    return result


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["# A deployment", ""]
    lines += ["- " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result[part].items())
              for part in ("machine", "settings")]  # fmt: skip
    lines += ["- tasks: those that ran on any device; CPU: of this machine's part, the server included",
              "- KB: what a device received, the median (most)", "",
              "| devices | how | what | s | tasks | changed | CPU s | KB |",
              "|---|---|---|--:|--:|--:|--:|--:|"]  # fmt: skip
    for fleet, variants in result["fleets"].items():
        for variant, phases in variants.items():
            for phase, found in phases.items():
                sent = sorted(found["kilobytes_sent"])
                kilobytes = f"{median(sent):.0f} ({sent[-1]})" if sent else ""
                lines.append(f"| {fleet} | {variant} | {phase} | {found['seconds']} | {found['tasks']} "
                             f"| {found['changed']} | {found['cpu_seconds']} | {kilobytes} |")  # fmt: skip
    lines += growth(result["fleets"])
    *_, fleet = result["fleets"]
    for phase, found in result["fleets"][fleet][OURS].items():
        lines += ["", f"## Seconds by task: {fleet}, {phase}", "", "| task | s | hosts |", "|---|--:|--:|"]
        lines += [f"| {task['task']} | {task['seconds']:.1f} | {task['ok'] + task['changed']} |"
                  for task in found["by_task"]]  # fmt: skip
    devices, variant, phase, bound = PROMISE
    if reached := result["fleets"].get(devices, {}).get(variant, {}).get(phase):
        kept = "kept" if reached["seconds"] <= bound else "**not kept**"
        lines += ["", f"Promise: {phase} on {devices} boards takes at most {bound} s: {kept}, {reached['seconds']} s."]
    return "\n".join(lines) + "\n"


def growth(fleets: dict[str, Any]) -> list[str]:
    """Return what each device more costs, from the smallest to the largest fleet of a variant."""
    lines = []
    for variant in VARIANTS:
        counts = sorted(int(fleet) for fleet in fleets if fleet.isdigit() and variant in fleets[fleet])
        if len(counts) < 2:
            continue
        few, many = counts[0], counts[-1]
        for phase, found in fleets[str(many)][variant].items():
            more = (found["seconds"] - fleets[str(few)][variant][phase]["seconds"]) / (many - few)
            lines.append(f"| {variant} | {few} to {many} | {phase} | {more:.2f} |")
    head = ["", "## What a device more costs", "", "| how | devices | what | s |", "|---|---|---|--:|"]
    return head + lines if lines else []


def parse() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--boards", default="3,10,30", help="numbers of boards, at least 3 each [3,10,30]")
    parser.add_argument("--inventory", type=Path, help="devices to deploy to instead of boards; RESET before and after")
    parser.add_argument("--change", default="fl_threads=2", help="the variable that is changed [fl_threads=2]")
    parser.add_argument("--extra", default="{}", help="more variables, as JSON [{}]")
    parser.add_argument("--baseline", default="all", help="--boards with the base line, too: all, none or some [all]")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where table and JSON go")
    options = parser.parse_args()
    options.baseline = set(options.baseline.split(","))
    try:
        options.boards = sorted({int(number) for number in options.boards.split(",")})
        options.extra = json.loads(options.extra)
    except ValueError as error:
        parser.error(f"--boards are numbers, --extra is JSON: {error}")
    if options.boards[0] < 3 or options.boards[-1] > 200:
        parser.error("--boards are at least 3, one of each group, and at most 200")
    fleets = {str(options.inventory)} if options.inventory else {*map(str, options.boards)}
    if unknown := options.baseline - {"all", "none"} - fleets:
        parser.error(f"--baseline {','.join(sorted(unknown))}: give all, none, or some of {','.join(sorted(fleets))}")
    if "=" not in options.change:
        parser.error(f"--change {options.change}: give NAME=VALUE")
    if options.inventory and not options.inventory.exists():
        parser.error(f"--inventory {options.inventory} is not there")
    return options


def main() -> None:
    """Measure, print, keep; end every process whatever happens."""
    options = parse()
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell started this in the background
        signal.signal(number, signal.default_int_handler)
    folder = Path(tempfile.mkdtemp(prefix="fb-"))
    try:
        adopt_orphans()
        result = benchmark(options, folder)
    except BenchmarkError as error:
        sys.exit(f"{error}\nThe logs stay in {folder}")
    except KeyboardInterrupt:
        sys.exit("stopped")
    finally:
        end_all()
    shutil.rmtree(folder)
    print(table(result))


if __name__ == "__main__":
    main()
