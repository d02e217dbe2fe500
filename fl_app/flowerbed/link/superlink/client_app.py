"""The thin client as a Flower ClientApp: what a SuperNode starts for each message on the superlink link."""

import ssl
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from flowerbed import flower_private
from flowerbed.link.answers import ClientConfig, handle, query
from flowerbed.link.content import make_content, read_content
from flowerbed.link.identity import AUTHORITY, KEY
from flowerbed.parts import join, split
from flowerbed.trainer_socket import TrainerSocket

WATCH_SECONDS = 2.0

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
    threading.Thread(target=_watch, args=(client, context, trainer, done, limit), daemon=True).start()
    packed, config = read_content(message.content)
    result, metrics = handle(client, trainer, job, split(packed), config)
    done.set()
    return Message(make_content(join(result), metrics), reply_to=message)


def _watch(client: ClientConfig, context: Context, trainer: TrainerSocket, done: threading.Event, limit: float) -> None:
    """Stop the trainer once nobody waits for it: after the monotonic time `limit`, or when the run has ended.

    Flower lets a ClientApp go on to its end in both cases, and a SuperNode has no other work done meanwhile.
    """
    while not done.wait(WATCH_SECONDS):
        if time.monotonic() > limit or not running(client.server, client.identity, context.run_id, context.node_id):
            trainer.cancel()


def running(address: str, identity: Path, run_id: int, node_id: int) -> bool:
    """Return whether the SuperLink at `address` (host:port) has the run going and knows the node, whose tls/ this is.

    True while it doesn't answer.
    """
    try:
        tls = urllib.request.HTTPSHandler(context=ssl.create_default_context(cafile=str(identity / AUTHORITY)))
        ask = urllib.request.build_opener(urllib.request.ProxyHandler({}), tls)  # whatever proxy the environment names
        media = {"Content-Type": "application/protobuf", "Accept": "application/protobuf"}
        headers = media | flower_private.signed((identity / KEY).read_bytes())
        body = flower_private.ask_for_run(run_id, node_id)
        ask.open(urllib.request.Request(f"https://{address}/v1/fleet/get-run", body, headers), timeout=10).close()
    except urllib.error.HTTPError as error:
        return error.code >= 500
    except (OSError, ValueError):
        return True
    return True


def _client(context: Context) -> ClientConfig:
    return ClientConfig.load(str(context.node_config["client"]))
