"""Break a fleet in many ways while it trains, and see what that costs: python benchmarks/faults.py --only reboot

Deploys a server and three devices as processes of this machine, on a network of their own (root, unshare, iptables and
tc are needed). Each fault has an experiment of its own, of four rounds, and comes in the second one. The table says how
many rounds were lost, how long the next round with all devices took to come, and whether the model of each round is,
bit for bit, that of a run without faults, as far as the same devices answered. It goes to standard output and, with
JSON, to benchmarks/results/.
"""

import argparse
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import report
from breaking import GROUPS, PATIENCE, Fleet, Playing, apart
from measure import BenchmarkError, wait_until
from systems import HERE

from flowerbed.rounds import checkpoint as checkpoints

ROUNDS = 4
SECONDS = 2  # that a device trains, at least
MOST_RUNS = 4  # until an experiment has its rounds
DEVICE = "rpi-1"
OTHERS = [device for device in GROUPS.values() if device != DEVICE]
DAY = 86400
LEFT_OUT = "left out"

Broken = Callable[[Fleet, Playing], None]


@dataclass(frozen=True)
class Fault:
    """What is broken, and mended again: `do` returns when that is over. `between` says that no run goes on then."""

    name: str
    do: Broken
    between: bool = False
    deploys: bool = False  # before the run is called again
    link: str = "stream"


def kill(host: str, program: str) -> Broken:
    """Return what ends a program without a warning."""
    return lambda fleet, run: fleet.signal(host, program)


def freeze(host: str, program: str, seconds: float) -> Broken:
    """Return what stops a program for a time."""
    return lambda fleet, run: fleet.freeze([fleet.programs()[host, program]], seconds)


def kill_run(fleet: Fleet, run: Playing) -> None:
    """End the process of the run."""
    for pid in fleet.of_run():
        os.kill(pid, signal.SIGKILL)


def kill_supervisor(fleet: Fleet, run: Playing) -> None:
    """End a device's supervisord and its client, which nobody starts again; then deploy, which does."""
    client = fleet.programs()[DEVICE, "client"]
    os.kill(int((fleet.home(DEVICE) / "supervisord.pid").read_text()), signal.SIGKILL)
    os.kill(client, signal.SIGKILL)
    wait_round(fleet, run)
    fleet.deploy(force=True)


def reboot(fleet: Fleet, run: Playing) -> None:
    """Switch a device off, and on again after five seconds."""
    fleet.switch_off(DEVICE)
    time.sleep(5)
    fleet.switch_on(DEVICE)


def reboot_server(fleet: Fleet, run: Playing) -> None:
    """Switch the server off, with all that runs on its machine."""
    os.killpg(run.process.pid, signal.SIGKILL)
    fleet.switch_off("server", *GROUPS.values())


def cut(seconds: float, *devices: str) -> Broken:
    """Return what cuts the network of devices while a slow one is in mid-transfer."""

    def do(fleet: Fleet, run: Playing) -> None:
        with fleet.slow(devices[0], "256kbit"):
            wait_until(lambda: devices[0] not in fleet.busy(), f"{devices[0]} to have trained", PATIENCE, 0.1)
            time.sleep(1)
            with fleet.cut(*devices):
                time.sleep(seconds)

    return do


def slow(fleet: Fleet, run: Playing) -> None:
    """Let a device have a slow link until the run has ended."""
    with fleet.slow(DEVICE, "64kbit"):
        wait_ended(run)


def full_device(fleet: Fleet, run: Playing) -> None:
    """Let a device's disk be full for a round."""
    with fleet.full(fleet.home(DEVICE)):
        wait_round(fleet, run)


def full_server(fleet: Fleet, run: Playing) -> None:
    """Let the disk of the experiments be full until the run has ended."""
    with fleet.full(fleet.folder / "runs"):
        wait_ended(run)


def jump(seconds: int, *hosts: str) -> Broken:
    """Return what lets clocks jump for a round."""

    def do(fleet: Fleet, run: Playing) -> None:
        fleet.set_clock(seconds, *hosts)
        wait_round(fleet, run)
        fleet.set_clock(0, *hosts)

    return do


def shorten(pattern: str, bytes_less: int) -> Broken:
    """Return what cuts off the end of the newest file of the experiment that fits."""

    def do(fleet: Fleet, run: Playing) -> None:
        path = max((fleet.folder / "runs" / fleet.experiment).glob(pattern))
        os.truncate(path, path.stat().st_size - bytes_less)

    return do


def expire(fleet: Fleet, run: Playing) -> None:
    """Let a device's certificate expire, and the device come back with it; then deploy, which makes it a new one."""
    fleet.expire(DEVICE, 5)
    time.sleep(10)
    fleet.signal(DEVICE, "client")
    wait_round(fleet, run)
    fleet.deploy(force=True)


def second_run(fleet: Fleet, run: Playing) -> None:
    """Call run_round.yml again while it goes on."""
    with fleet.held():
        refused(fleet.begin("run_round", experiment=fleet.experiment), "goes on: wait for it, or stop it first")


def second_inventory(fleet: Fleet, run: Playing) -> None:
    """Call run_round.yml for the same experiment by another inventory."""
    other = fleet.inventory.with_name("other")
    with fleet.held():
        if not other.exists():
            shutil.copytree(fleet.inventory, other)
            played = fleet.begin("deploy", "-i", str(other)).end()
            if played.status:
                raise BenchmarkError(f"the other inventory cannot be deployed: {played.text[-2000:]}")
        called = fleet.begin("run_round", "-i", str(other), experiment=fleet.experiment)
        refused(called, f"another run of experiment {fleet.experiment} goes on")


def deploy(fleet: Fleet, run: Playing) -> None:
    """Call deploy.yml."""
    with fleet.held():
        refused(fleet.begin("deploy"), "is being trained: wait for its end")


def deploy_by_force(fleet: Fleet, run: Playing) -> None:
    """Call deploy.yml with force=true, with something changed."""
    with fleet.held():
        deploying = fleet.begin("deploy", force=True, fl_device_facts={"note": fleet.experiment})
        asked = fleet.folder / "runs" / fleet.experiment / "end-after-round"
        wait_until(lambda: asked.exists() or deploying.process.poll() is not None, "deploy.yml to wait", PATIENCE)
    if (played := deploying.end()).status:
        raise BenchmarkError(f"deploy.yml -e force=true failed: {played.text[-2000:]}")
    fleet.deploy()


FAULTS = [
    Fault("kill -9 of a device's trainer", kill(DEVICE, "trainer")),
    Fault("SIGSTOP of a device's trainer, 20 s", freeze(DEVICE, "trainer", 20)),
    Fault("kill -9 of a device's client", kill(DEVICE, "client")),
    Fault("SIGSTOP of a device's client, 10 s", freeze(DEVICE, "client", 10)),
    Fault("SIGSTOP of a device's client, 60 s", freeze(DEVICE, "client", 60)),
    Fault("kill -9 of the server", kill("server", "server")),
    Fault("SIGSTOP of the server, 20 s", freeze("server", "server", 20)),
    Fault("kill -9 of the server's trainer", kill("server", "trainer")),
    Fault("SIGSTOP of the server's trainer, 20 s", freeze("server", "trainer", 20)),
    Fault("kill -9 of the run", kill_run),
    Fault("SIGSTOP of the run, 20 s", lambda fleet, run: fleet.freeze(fleet.of_run(), 20)),
    Fault("kill -9 of ansible-playbook", lambda fleet, run: os.kill(run.process.pid, signal.SIGKILL)),
    Fault("SIGSTOP of ansible-playbook, 20 s", lambda fleet, run: fleet.freeze([run.process.pid], 20)),
    Fault("Ctrl-C", lambda fleet, run: run.press_ctrl_c()),
    Fault("kill -9 of a device's supervisord and client", kill_supervisor),
    Fault("reboot of a device", reboot),
    Fault("reboot of the server's machine", reboot_server, deploys=True),
    Fault("network of a device cut for 60 s, in mid-transfer", cut(60, DEVICE)),
    Fault("network of all cut for 60 s, in mid-transfer", cut(60, DEVICE, *OTHERS)),
    Fault("network of a device cut for 5 s, in mid-transfer", cut(5, DEVICE)),
    Fault("a device's link of 64 kbit/s", slow),
    Fault("a device's disk full", full_device),
    Fault("the server's disk full", full_server),
    Fault("a device's clock a day ahead", jump(DAY, DEVICE)),
    Fault("a device's clock a day behind", jump(-DAY, DEVICE)),
    Fault("the server's clock an hour ahead", jump(3600, "server")),
    Fault("the server's clock an hour behind", jump(-3600, "server")),
    Fault("the newest checkpoint truncated", shorten("checkpoints/*", 1000), between=True),
    Fault("the metrics cut in mid-line", shorten("metrics.jsonl", 20), between=True),
    Fault("a certificate that expires during a run", expire),
    Fault("two run_round.yml at once", second_run),
    Fault("two inventories on one experiment", second_inventory),
    Fault("deploy.yml during a run", deploy),
    Fault("deploy.yml -e force=true during a run", deploy_by_force),
    Fault("kill -9 of a SuperNode", kill(DEVICE, "client"), link="superlink"),
    Fault("SIGSTOP of a SuperNode, 20 s", freeze(DEVICE, "client", 20), link="superlink"),
    Fault("kill -9 of the SuperLink", kill("server", "server"), link="superlink"),
    Fault("SIGSTOP of the SuperLink, 20 s", freeze("server", "server", 20), link="superlink"),
]


def wait_ended(run: Playing) -> None:
    """Wait until a run has ended."""
    wait_until(lambda: run.process.poll() is not None, "the run to end", PATIENCE)


def wait_round(fleet: Fleet, run: Playing) -> None:
    """Wait until another round is finished, or the run has ended."""
    before = len(fleet.rounds(fleet.experiment))
    ended = lambda: run.process.poll() is not None or len(fleet.rounds(fleet.experiment)) > before  # noqa: E731
    wait_until(ended, "the next round", PATIENCE)


def refused(called: Playing, sentence: str) -> None:
    """Check that a playbook is refused with a sentence."""
    played = called.end()
    if played.status == 0 or sentence not in played.words:
        raise BenchmarkError(f"it was not refused as it should be ({sentence}): {played.text[-2000:]}")


def begin(fleet: Fleet, rounds: int) -> Playing:
    """Call run_round.yml."""
    return fleet.begin(
        "run_round", experiment=fleet.experiment, rounds=rounds, fl_config={"seconds": SECONDS, "hold": str(fleet.hold)}
    )


def wait_second_round(fleet: Fleet, run: Playing) -> None:
    """Wait until the second round is being trained."""

    def there() -> bool:
        return run.process.poll() is not None or bool(fleet.rounds(fleet.experiment)) and DEVICE in fleet.busy()

    wait_until(there, "the second round", PATIENCE)


def try_out(fleet: Fleet, fault: Fault) -> dict[str, Any]:
    """Break a fleet while it trains, and return what became of the experiment."""
    run = begin(fleet, 2 if fault.between else ROUNDS)
    wait_ended(run) if fault.between else wait_second_round(fleet, run)
    if len(fleet.rounds(fleet.experiment)) != (2 if fault.between else 1):
        raise BenchmarkError(f"nothing is broken yet, but the run is not as it should be: {run.text[-2000:]}")
    fault.do(fleet, run)
    over, before, runs = time.time(), len(fleet.rounds(fleet.experiment)), 1
    if fault.between:
        run = begin(fleet, ROUNDS - 2)
    while wait_ended(run) or max(fleet.rounds(fleet.experiment)) < ROUNDS:
        if runs == MOST_RUNS:
            raise BenchmarkError(f"it does not end in {runs} runs: {run.text[-2000:]}")
        if fault.deploys:
            fleet.deploy()
        fleet.wait_free()
        runs += 1
        run = begin(fleet, ROUNDS - max(fleet.rounds(fleet.experiment)))
    if not (whole := whole_rounds(fleet, before)):  # the fault's end came late, or took long
        run = begin(fleet, 1)
        wait_ended(run)
        whole = whole_rounds(fleet, before)
    rounds = fleet.events(fleet.experiment, "round")
    redone = len(rounds) - len({event["round"] for event in rounds})
    return {
        "rounds_lost": redone + runs - 1 if not fault.between else redone, "finished_rounds_lost": redone, "runs": runs,
        "seconds": round(whole[0] - over, 1) if whole else None, "answered": answered(fleet), "said": run.text[-1000:],
    }  # fmt: skip


def whole_rounds(fleet: Fleet, before: int) -> list[float]:
    """Return when rounds with all devices ended, but for the first `before` rounds."""
    events = fleet.events(fleet.experiment, "round")[before:]
    return [event["time"] for event in events if event["clients_answered"] == len(GROUPS)]


def answered(fleet: Fleet) -> dict[str, list[str]]:
    """Return which devices answered in each round."""
    found: dict[str, list[str]] = {}
    for event in fleet.events(fleet.experiment, "device"):
        found.setdefault(str(event["round"]), [])
        if event.get("status", "ok") == "ok":
            found[str(event["round"])].append(event["device"])
    return {number: sorted(set(devices)) for number, devices in found.items()}


def models(fleet: Fleet, experiment: str) -> dict[int, dict[str, np.ndarray]]:
    """Return the global model after each round."""
    folder = fleet.folder / "runs" / experiment / "checkpoints"
    return {number: checkpoints.load(checkpoints.path_of(folder, number)).model for number in range(1, ROUNDS + 1)}


def same(fleet: Fleet, found: dict[str, Any], baseline: dict[int, dict[str, np.ndarray]]) -> str:
    """Return whether the models are those of a run without faults, as far as the same devices answered."""
    for number, model in models(fleet, fleet.experiment).items():
        if lacking := sorted(set(GROUPS.values()) - set(found["answered"][str(number)])):
            return f"to round {number - 1}; then without {', '.join(lacking)}"
        if any(not np.array_equal(model[name], array) for name, array in baseline[number].items()):
            return f"**no**, from round {number} on"
    return "yes"


def benchmark(options: argparse.Namespace) -> dict[str, Any]:
    """Break the fleet in each way; keep the result after each."""
    chosen = [fault for fault in FAULTS if re.search(options.only, fault.name)]
    result: dict[str, Any] = {
        "machine": report.machine(), "settings": {"devices": len(GROUPS), "rounds": ROUNDS}, "faults": {}
    }  # fmt: skip
    path = options.results / time.strftime("faults-%Y-%m-%d-%H%M")
    fleet = Fleet()
    try:
        fleet.deploy()
        fleet.experiment = "undisturbed"
        if (played := begin(fleet, ROUNDS).end()).status:
            raise BenchmarkError(f"a run without a fault fails: {played.text[-2000:]}")
        baseline, link = models(fleet, "undisturbed"), "stream"
        for number, fault in enumerate(chosen):
            fleet.experiment = f"fault-{number}"
            if "clock" in fault.name and not fleet.clock(DEVICE).exists():
                result["faults"][fault.name] = {"problem": f"{LEFT_OUT}: this machine has no C compiler"}
                continue
            if fault.link != link:
                link = fault.link
                fleet.link(link)
                fleet.deploy()
            try:
                found = try_out(fleet, fault)
                found["same"] = same(fleet, found, baseline)
            except (BenchmarkError, AssertionError, OSError, KeyError, ValueError) as error:
                found = {"problem": f"{type(error).__name__}: {error}"}
                fleet.deploy(force=True)
            result["faults"][fault.name] = found
            print(f"{fault.name}: {row(found)}", file=sys.stderr, flush=True)
            options.results.mkdir(parents=True, exist_ok=True)
            path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n")
            path.with_suffix(".md").write_text(table(result))
    finally:
        fleet.close()
    return result


def row(found: dict[str, Any]) -> str:
    """Return what became of a fault as the cells of a row."""
    if "problem" in found:
        return f"| | | {found['problem'][:300]} |".replace("\n", " ")
    seconds = "–" if found["seconds"] is None else found["seconds"]
    return f"| {found['rounds_lost']} | {found['finished_rounds_lost']} | {seconds} | {found['same']} |"


def table(result: dict[str, Any]) -> str:
    """Return the result as Markdown."""
    lines = ["# A fleet that is broken", ""]
    lines += ["- " + ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in result[part].items())
              for part in ("machine", "settings")]  # fmt: skip
    lines += [
        "- lost: rounds that had begun, or were finished, and were done again",
        "- s: from the end of the fault to the end of the next round with all devices; it may be another call's",
        "- same model: after each round, bit for bit, as without the fault", "",
        "| fault | rounds lost | finished ones | s | same model |", "|---|--:|--:|--:|---|",
        *(f"| {name} {row(found)}" for name, found in result["faults"].items()),
    ]  # fmt: skip
    broken = [name for name, found in result["faults"].items() if not kept(found)]
    lines += ["", f"Promise: at most the unfinished round is lost: **not kept**, {'; '.join(broken)}."
              if broken else "Promise: at most the unfinished round is lost: kept."]  # fmt: skip
    return "\n".join(lines) + "\n"


def kept(found: dict[str, Any]) -> bool:
    """Return whether a fault cost no more than the unfinished round."""
    if "problem" in found:
        return found["problem"].startswith(LEFT_OUT)
    return found["rounds_lost"] <= 1 and "no" not in found["same"][:5]


def main() -> None:
    """Break, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="faults whose name fits this regular expression [all]")
    parser.add_argument("--list", action="store_true", help="only name the faults")
    parser.add_argument("--results", type=Path, default=HERE / "results", help="where table and JSON go")
    options = parser.parse_args()
    try:
        re.compile(options.only)
    except re.error as error:
        parser.error(f"--only {options.only} is no regular expression: {error}")
    if options.list:
        print("\n".join(fault.name for fault in FAULTS))
        return
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)
    try:
        apart()
        print(table(benchmark(options)))
    except BenchmarkError as error:
        sys.exit(str(error))
    except KeyboardInterrupt:
        sys.exit("stopped")


if __name__ == "__main__":
    main()
