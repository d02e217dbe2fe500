"""The same training with no federation: two warm processes share out the shards. python floor.py floor.json.

floor.json: task (path), config, shards (list of folders), rounds, events (path of the JSON lines file to append to).
"""

import importlib.util
import json
import multiprocessing
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

PROCESSES = 2

_warm: dict[str, Any] = {}  # what a worker keeps from round to round


def warm_up(settings: dict[str, Any]) -> None:
    """Load task, data and model into this worker."""
    import torch

    torch.set_num_threads(1)
    spec = importlib.util.spec_from_file_location("benchmark_task", settings["task"])
    task = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(task)
    config = settings["config"]
    data = {shard: task.load_data(shard, config)[0] for shard in settings["shards"]}
    _warm.update(task=task, config=config, data=data, initial=task.build_model(config).state_dict())


def train(shard: str) -> float:
    """Train a new model on one shard; return its training accuracy."""
    model = _warm["task"].build_model(_warm["config"])
    model.load_state_dict(_warm["initial"])
    return _warm["task"].train(model, _warm["data"][shard], _warm["config"])["accuracy"]


def main(path: str) -> None:
    """Train all shards once a round, and write when each round ended."""
    settings = json.loads(Path(path).read_text())
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(PROCESSES, spawn, warm_up, (settings,)) as pool, open(settings["events"], "a") as events:
        for number in range(1, settings["rounds"] + 1):
            trained = list(pool.map(train, settings["shards"]))
            event = {"event": "round", "time": time.time(), "round": number, "clients_answered": len(trained)}
            print(json.dumps(event), file=events, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
