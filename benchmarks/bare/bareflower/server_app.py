"""The server's side: FedAvg, which also writes down when each round ended."""

import json
import time
from collections.abc import Iterable

from flwr.app import ArrayRecord, Context, Message, MetricRecord
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg

from bareflower import read_task

app = ServerApp()


class TimedFedAvg(FedAvg):
    """FedAvg that appends one `round` event a round to the JSON lines file `events`."""

    def __init__(self, events: str, **arguments: float) -> None:
        super().__init__(**arguments)
        self.events = events
        self.answered = 0

    def aggregate_train(self, server_round: int, replies: Iterable[Message]) -> tuple:
        """Aggregate, and count the devices that trained."""
        replies = list(replies)
        self.answered = sum(not reply.has_error() for reply in replies)
        return super().aggregate_train(server_round, replies)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Aggregate, and write that the round ended: with no evaluation on the server, nothing follows."""
        metrics = super().aggregate_evaluate(server_round, replies)
        event = {"event": "round", "time": time.time(), "round": server_round, "clients_answered": self.answered}
        event["heldout_accuracy"] = metrics["accuracy"] if metrics else None
        with open(self.events, "a") as file:
            file.write(json.dumps(event) + "\n")
        return metrics


@app.main()
def main(grid: Grid, context: Context) -> None:
    """Run the rounds with all clients."""
    run, (task, config) = context.run_config, read_task(context)
    strategy = TimedFedAvg(
        str(run["events"]), fraction_evaluate=float(run["fraction-evaluate"]), min_train_nodes=int(run["clients"]),
        min_available_nodes=int(run["clients"]),
    )  # fmt: skip
    arrays = ArrayRecord(task.build_model(config).state_dict())
    strategy.start(grid=grid, initial_arrays=arrays, num_rounds=int(run["rounds"]))
