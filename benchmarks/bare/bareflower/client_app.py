"""The device's side: each message builds the model and loads the data anew, in a process of its own."""

from typing import Any

from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from bareflower import read_task

app = ClientApp()


def prepare(message: Message, context: Context) -> tuple[Any, ...]:
    """Return the task, its configuration, the model with the weights received, and both splits of the data."""
    task, config = read_task(context)
    model = task.build_model(config)
    model.load_state_dict(message.content["arrays"].to_torch_state_dict())
    return task, config, model, *task.load_data(context.node_config["data"], config)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train on this device's data and reply with the whole model."""
    task, config, model, data, _ = prepare(message, context)
    metrics = MetricRecord({**task.train(model, data, config), "num-examples": len(data)})
    content = RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics})
    return Message(content=content, reply_to=message)


@app.evaluate()
def evaluate(message: Message, context: Context) -> Message:
    """Evaluate the global model on this device's held-out data."""
    task, config, model, _, data = prepare(message, context)
    metrics = MetricRecord({**task.evaluate(model, data, config), "num-examples": len(data)})
    return Message(content=RecordDict({"metrics": metrics}), reply_to=message)
