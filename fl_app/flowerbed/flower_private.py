"""What is used of Flower without being promised by it: when a release breaks it, it breaks here.

Flower promises what `flwr.app`, `flwr.serverapp` and `flwr.clientapp` export. (Another such thing is in
link/superlink/sitecustomize.py, which must stand alone.) Imports are where they are needed: some take seconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flwr.app import Message

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


def runs(body: bytes) -> dict[int, str]:
    """Return the runs in a SuperLink's answer to list-runs, and the status of each. Raises ValueError."""
    from flwr.proto.control_pb2 import ListRunsResponse
    from google.protobuf.message import DecodeError

    try:
        run_dict = ListRunsResponse.FromString(body).run_dict
    except DecodeError as error:
        raise ValueError(str(error)) from None
    return {number: run.status.status for number, run in run_dict.items()}


def ask_for_run(run_id: int) -> bytes:
    """Return the body of a request to list a run."""
    from flwr.proto.control_pb2 import ListRunsRequest

    return ListRunsRequest(run_id=run_id).SerializeToString()


def make_database(url: str) -> None:
    """Make the tables of a SuperLink's database."""
    from flwr.supercore.state.alembic.utils import run_migrations
    from sqlalchemy import create_engine

    engine = create_engine(url)
    run_migrations(engine)
    engine.dispose()
