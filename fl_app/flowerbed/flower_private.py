"""What is used of Flower without being promised by it: when a release breaks it, it breaks here.

Flower promises what `flwr.app`, `flwr.serverapp` and `flwr.clientapp` export. (Another such thing is in
link/superlink/sitecustomize.py, which must stand alone.) Imports are where they are needed: some take seconds.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import io
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .words import clean

if TYPE_CHECKING:
    import ssl

    from flwr.app import Message

KEY_HEADER, SIGNATURE_HEADER, TIME_HEADER = "flwr-public-key", "flwr-signature", "flwr-timestamp"
NODE_UNAVAILABLE = 5  # of flwr.common.constant.ErrorCode


def allow_messages() -> None:
    """Let messages be made outside of a run of Flower's, as on the stream link."""
    try:
        from flwr.supercore.task_identity import TaskIdentity
    except ImportError:  # flwr 1.30, the last one for Python 3.10, asks no such thing of who makes a message
        return
    TaskIdentity.run_id, TaskIdentity.node_id, TaskIdentity.task_id = 1, 1, 0


def number(message: Message, identifier: str) -> None:
    """Give a message its id, by which its reply is found: a SuperLink does so where there is one."""
    message.metadata.__dict__["_message_id"] = identifier


def ask_for_run(run_id: int, node_id: int) -> bytes:
    """Return the body of a node's request for a run, which a SuperLink grants only while the run goes on."""
    from flwr.proto.node_pb2 import Node as Asking
    from flwr.proto.run_pb2 import GetRunRequest

    return GetRunRequest(node=Asking(node_id=node_id), run_id=run_id).SerializeToString()


def signed(private_key: bytes) -> dict[str, str]:
    """Return the headers by which a node shows who it is: its public key, and the time, signed with its private key."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes, sign_message

    private = load_pem_private_key(private_key, password=None)
    time = datetime.datetime.now(datetime.UTC).isoformat()
    signature = sign_message(private, time.encode())
    return {
        KEY_HEADER: base64.b64encode(public_key_to_bytes(private.public_key())).decode(),
        SIGNATURE_HEADER: base64.b64encode(signature).decode(), TIME_HEADER: time,
    }  # fmt: skip


def shown(headers: Mapping[str, str]) -> tuple[bytes, datetime.datetime] | None:
    """Return the public key that a node's headers show, and when it signed; None where they don't."""
    try:
        signed_at = datetime.datetime.fromisoformat(headers[TIME_HEADER])
        signed_at.utcoffset().total_seconds()  # type: ignore[union-attr] # a time without a zone is none
        return base64.b64decode(headers[KEY_HEADER], validate=True), signed_at
    except (KeyError, ValueError, AttributeError):
        return None


def make_database(url: str) -> None:
    """Make the tables of a SuperLink's database."""
    from flwr.supercore.state.alembic.utils import run_migrations
    from sqlalchemy import create_engine

    engine = create_engine(url)
    run_migrations(engine)
    engine.dispose()


class Node(NamedTuple):
    """A node in a SuperLink's database, also one that is not registered any more; `key` is its public key, in PEM."""

    id: int
    name: str
    key: bytes
    registered: bool


def nodes(database: Path) -> list[Node]:
    """Return all nodes in a SuperLink's database; none where there is no such file yet."""
    import sqlite3

    if not database.exists():
        return []
    with contextlib.closing(sqlite3.connect(database)) as connection:
        rows = connection.execute("select node_id, name, public_key, status from node").fetchall()
    return [Node(number % 2**64, name or "", key, status != "unregistered") for number, name, key, status in rows]


def unregister(database: Path, gone: Iterable[Node]) -> None:
    """Take nodes' keys back in the database of a SuperLink that does not run."""
    import sqlite3

    numbers = [(node.id - 2**64 if node.id >= 2**63 else node.id,) for node in gone]
    with contextlib.closing(sqlite3.connect(database)) as connection, connection:
        connection.executemany("update node set status = 'unregistered' where node_id = ?", numbers)


def forget(database: Path, keys: Iterable[bytes]) -> None:
    """Let keys be registered again: a SuperLink keeps nodes that were unregistered, and takes no key twice."""
    import sqlite3

    with contextlib.closing(sqlite3.connect(database, timeout=30)) as connection, connection:
        connection.executemany(
            "delete from node where public_key = ? and status = 'unregistered'", [(key,) for key in keys]
        )


class CommandFailed(Exception):
    """What a `flwr` command said when it failed, on one line."""


def command(*arguments: str) -> None:
    """Do a `flwr` command in this process: to start one takes seconds. Raises CommandFailed."""
    import click

    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            code = _commands().main(list(arguments), standalone_mode=False)
    except click.ClickException as error:
        raise CommandFailed(clean(error.format_message()).rstrip(".")) from None
    except SystemExit as error:
        code = error.code
    if code:
        raise CommandFailed(clean(said.getvalue()) or f"flwr {' '.join(arguments)} ended with {code}")


@functools.cache
def _commands() -> Any:
    from flwr.cli.app import app
    from typer.main import get_command

    return get_command(app)


def serve_superlink(guard: Callable[[Any], Any], started: Callable[[ssl.SSLContext], None]) -> None:
    """Be a SuperLink, with the program's own arguments, until a signal ends it.

    `guard` gets the ASGI application and returns the one that is served. `started` gets what TLS stands on.
    """
    import uvicorn
    from flwr.superlink.cli.flower_superlink import flower_superlink

    def run(app: Any, **options: Any) -> None:
        config = uvicorn.Config(guard(app), proxy_headers=False, **options)
        config.load()
        started(config.ssl)
        uvicorn.Server(config).run()

    uvicorn.run = run
    flower_superlink()
