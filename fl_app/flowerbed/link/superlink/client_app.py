"""The thin client as a Flower ClientApp: what a SuperNode starts for each message on the superlink link."""

import threading
import time
import urllib.request

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flowerbed import flower_private
from flowerbed.link.answers import ClientConfig, handle, query
from flowerbed.link.content import make_content, read_content
from flowerbed.parts import join, split
from flowerbed.trainer_socket import TrainerSocket

WATCH_SECONDS = 2.0
_opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # no proxy, whatever the environment says

app = ClientApp()


@app.query()
def answer_query(message: Message, context: Context) -> Message:
    """Say who this device is."""
    client = _client(context)
    return Message(make_content(b"", query(client, TrainerSocket(client.trainer))), reply_to=message)


@app.train()
def answer_train(message: Message, context: Context) -> Message:
    """Train."""
    return _do("train", message, context)


@app.evaluate()
def answer_evaluate(message: Message, context: Context) -> Message:
    """Evaluate."""
    return _do("evaluate", message, context)


def _do(job: str, message: Message, context: Context) -> Message:
    client = _client(context)
    trainer = TrainerSocket(client.trainer)
    done = threading.Event()
    limit = time.monotonic() + message.metadata.ttl
    threading.Thread(target=_watch, args=(client.server, context.run_id, trainer, done, limit), daemon=True).start()
    packed, config = read_content(message.content)
    result, metrics = handle(client, trainer, job, split(packed), config)
    done.set()
    return Message(make_content(join(result), metrics), reply_to=message)


def _watch(address: str, run_id: int, trainer: TrainerSocket, done: threading.Event, limit: float) -> None:
    """Stop the trainer once nobody waits for it: after the monotonic time `limit`, or when the run has ended.

    Flower lets a ClientApp go on to its end in both cases, and a SuperNode has no other work done meanwhile.
    """
    while not done.wait(WATCH_SECONDS):
        if time.monotonic() > limit or not running(address, run_id):
            trainer.cancel()


def running(address: str, run_id: int) -> bool:
    """Return whether the SuperLink at `address` (host:port) still has the run going; True while it doesn't answer."""
    headers = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}
    request = urllib.request.Request(
        f"http://{address}/v1/control/list-runs", flower_private.ask_for_run(run_id), headers
    )
    try:
        with _opener.open(request, timeout=10) as response:
            return flower_private.runs(response.read()).get(run_id) == "running"
    except (OSError, ValueError):
        return True


def _client(context: Context) -> ClientConfig:
    return ClientConfig.load(str(context.node_config["client"]))
