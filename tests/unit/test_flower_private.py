"""What Flower does not promise and we use: each of these says what broke when a release takes it away."""

import sqlite3
from contextlib import closing

import pytest
from checkout import needs_superlink
from flwr.app import Message

from flowerbed import flower_private
from flowerbed.link.content import make_content


def test_messages_can_be_made_outside_of_a_run_and_their_replies_are_found_by_id():
    flower_private.allow_messages()
    message = Message(make_content(b"", {}), 7, "train", ttl=20)
    flower_private.number(message, "an id")
    reply = Message(make_content(b"", {}), reply_to=message)
    assert (message.metadata.message_id, message.metadata.dst_node_id, message.metadata.ttl) == ("an id", 7, 20)
    assert reply.metadata.reply_to_message_id == "an id" and reply.metadata.message_type == "train"


def test_an_error_has_the_number_of_a_node_that_is_not_there():
    constants = pytest.importorskip("flwr.common.constant")
    assert constants.ErrorCode.NODE_UNAVAILABLE == flower_private.NODE_UNAVAILABLE


@needs_superlink
def test_runs_of_a_superlink_are_asked_for_and_read():
    from flwr.proto.control_pb2 import ListRunsRequest, ListRunsResponse
    from flwr.proto.run_pb2 import Run, RunStatus

    assert ListRunsRequest.FromString(flower_private.ask_for_run(7)).run_id == 7
    runs = {7: Run(run_id=7, status=RunStatus(status="running")), 8: Run(run_id=8, status=RunStatus(status="finished"))}
    answer = ListRunsResponse(run_dict=runs).SerializeToString()
    assert flower_private.runs(answer) == {7: "running", 8: "finished"}
    with pytest.raises(ValueError, match="."):
        flower_private.runs(b"\xff\xff")


@needs_superlink
def test_a_superlink_s_database_has_its_tables(tmp_path):
    flower_private.make_database(f"sqlite:///{tmp_path}/superlink.db")
    with closing(sqlite3.connect(tmp_path / "superlink.db")) as database:
        assert database.execute("select count(*) from sqlite_master where name = 'run'").fetchone() == (1,)
