"""The round loop as a Flower ServerApp: what `flwr run` starts on the superlink link."""

import contextlib
import dataclasses
import logging
import threading
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp

from flowerbed.rounds import lock
from flowerbed.rounds.config import RunConfig, RunFailed, RunStopped
from flowerbed.rounds.log import log_to
from flowerbed.rounds.loop import run_rounds

app = ServerApp()


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Do the run that run.json describes. Its outcome, a failure's sentence too, is in the experiment's events."""
    run = RunConfig.load(str(context.run_config["run"]))
    run = dataclasses.replace(run, task_hash=str(context.run_config["task-hash"]))
    folder = Path(run.directory)
    logging.getLogger("flwr").setLevel(logging.WARNING)
    stop = threading.Event()
    threading.Thread(target=_watch, args=(folder, stop), daemon=True).start()
    with log_to(folder / "logs" / "run.log"), contextlib.suppress(RunFailed, RunStopped):
        run_rounds(NamedGrid(grid), run, stop)


class NamedGrid:
    """Flower's Grid, with the name of each node: that by which deploy.yml has registered its key."""

    def __init__(self, grid: Grid) -> None:
        self._grid = grid
        self.names: dict[int, str] = {}

    def get_node_ids(self) -> list[int]:
        """Return the ids of the nodes that are connected."""
        self.names = {node.node_id: node.name for node in self._grid.get_nodes()}
        return list(self.names)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._grid, name)


def _watch(folder: Path, stop: threading.Event) -> None:
    """Set `stop` when whoever asked for the run has gone."""
    while not stop.wait(0.5):
        with contextlib.suppress(OSError):  # a full disk is no reason to stop hearing
            lock.beat(folder)
        if not lock.held(folder):
            stop.set()
