"""How each strategy learns the default task: python benchmarks/strategies.py --rounds 3,20 [--data PATH].

The devices are in this process: the trainers' own code, the data as a deployment splits it, and the strategies as a run
has them. So the numbers do not depend on the machine's speed: they are those of a run in which all devices take part,
but for the devices' names, by which each shuffles its data.
Prints a table for docs/training.md: after some rounds, the accuracy and the loss on the test set.
"""

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "fl_app"))

import flowerbed.link.stream.grid  # noqa: F401 - it tells Flower whose messages these are
from flowerbed import tensors
from flowerbed.rounds import weights
from flowerbed.rounds.config import RunFailed
from flowerbed.rounds.strategy import Aggregation
from flowerbed.trainer.worker import Worker

TASK = Path(__file__).resolve().parents[1] / "fl_app/task.py"
LOCAL = {"batch_size": 32, "local_epochs": 1, "learning_rate": 0.001}  # the defaults of fl_batch_size and the like
STRATEGIES: list[tuple[str, dict[str, Any]]] = [
    ("FedAvg", {}),
    ("FedProx", {"proximal_mu": 0.1}),
    ("FedAvgM", {"server_momentum": 0.5}),
    ("FedAdam", {}),
    ("FedAdagrad", {}),
    ("FedYogi", {}),
    ("QFedAvg", {"client_learning_rate": 1}),
    ("FedMedian", {}),
    ("FedTrimmedAvg", {}),
    ("Krum", {"num_malicious_nodes": 1}),
    ("MultiKrum", {"num_malicious_nodes": 1, "num_nodes_to_select": 5}),
    ("Bulyan", {"num_malicious_nodes": 1}),
]
FLOWERS = [("FedAdam", {"eta": 0.1}), ("FedAdagrad", {"eta": 0.1})]  # as by Flower's defaults


def split(folder: Path, devices: list[str], data: str | None, size: int, seed: int) -> dict[str, Any]:
    """Split a data set among devices, as a deployment does; return what is told of it."""
    about = {"name": "folder", "path": data, "partition": "sizes"} if data else {"name": "digits"}
    about |= {"sizes": dict.fromkeys(devices, size)} if data else {}
    config = folder / "dataset.json"
    config.write_text(json.dumps({**about, "devices": devices, "output": str(folder / "shards"), "seed": seed}))
    environment = {"PYTHONPATH": str(TASK.parent), "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-m", "flowerbed.dataset", str(config)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr.strip())
    return json.loads(done.stdout)["manifest"]


class Fleet:
    """Devices, and a server with a test set, in this process."""

    def __init__(self, folder: Path, devices: list[str], manifest: dict[str, Any], seed: int) -> None:
        self.config = {**LOCAL, "channels": manifest["shape"][-1], "classes": len(manifest["classes"]), "seed": seed}
        self.workers = {name: self._worker(name, folder / "shards" / name) for name in ["server", *devices]}
        self.devices = devices

    def _worker(self, name: str, data: Path) -> Worker:
        worker = Worker({"name": name, "task": str(TASK), "data": str(data), "threads": 1})
        worker.warm_up()
        if worker.problem:
            sys.exit(f"{name}: {worker.problem}")
        return worker

    def train(self, name: str, arguments: dict[str, Any], shown: list[int]) -> Iterator[dict[str, float]]:
        """Train up to the last of the rounds `shown`; yield what the test set says of the global model after each."""
        server = self.workers["server"]
        packed, about = server.initial(b"", {**self.config, "round": 0})
        state = tensors.unpack(packed)
        aggregation = Aggregation(name, arguments, set(json.loads(about["buffers"])))
        places = list(range(len(self.devices)))
        for number in range(1, max(shown) + 1):
            chosen, extra = aggregation.choose("train", number, state, places, self.config["seed"])
            config = {**self.config, "round": number, **extra}
            packed = tensors.pack(state)
            answers = {name: self.workers[name].train(packed, config) for name in (self.devices[at] for at in chosen)}
            examples = {name: metrics["examples"] for name, (_, metrics) in answers.items()}
            shares = weights.resolve(dict.fromkeys(answers, "examples"), examples)
            updates = {
                name: (tensors.unpack(update), {**_scores(metrics), "weight": shares[name]})
                for name, (update, metrics) in answers.items()
            }
            state = aggregation.aggregate(number, state, updates)
            if number in shown:
                yield _scores(server.evaluate(tensors.pack(state), {**self.config, "round": number})[1])


def _scores(metrics: dict[str, Any]) -> dict[str, float]:
    return {name: metrics["metrics"][name] for name in ("loss", "accuracy")}


def main() -> None:
    """Print a row for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", default="3,20", help="after which rounds the test set is asked")
    parser.add_argument("--devices", type=int, default=10)
    parser.add_argument(
        "--data",
        type=os.path.abspath,
        help="a folder or a zip of class folders; else scikit-learn's digits",
    )
    parser.add_argument("--size", type=int, default=500, help="how many examples of --data a device gets")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help='one strategy, as in FedAdam={"eta": 0.1}')
    options = parser.parse_args()
    logging.getLogger("flwr").setLevel(logging.ERROR)
    shown = sorted(int(number) for number in options.rounds.split(","))
    devices = [f"d{index}" for index in range(options.devices)]
    name, _, given = options.only.partition("=")
    rows = [(name, json.loads(given or "{}"))] if options.only else [*STRATEGIES, *FLOWERS]
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)  # where trainers keep what is a task's
        manifest = split(Path(folder), devices, options.data, options.size, options.seed)
        fleet = Fleet(Path(folder), devices, manifest, options.seed)
        print("| strategy | arguments |", " | ".join(f"{number} rounds" for number in shown), "|")
        print("|---|---|" + "---|" * len(shown))
        for name, arguments in rows:
            try:
                scores = fleet.train(name, arguments, shown)
                cells = [f"{100 * each['accuracy']:.1f} %, {each['loss']:.2f}" for each in scores]
            except RunFailed as error:
                sys.exit(str(error))
            told = ", ".join(f"{key}: {value}" for key, value in arguments.items())
            print(f"| {name} | `{{{told}}}` |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
