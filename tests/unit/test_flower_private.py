"""What Flower does not promise and we use: each of these says what broke when a release takes it away."""

import base64
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
def test_a_node_asks_for_a_run_and_signs_that():
    from cryptography.hazmat.primitives.asymmetric import ec
    from flwr.common.constant import TIMESTAMP_HEADER
    from flwr.proto.run_pb2 import GetRunRequest
    from flwr.supercore import constant
    from flwr.supercore.primitives import asymmetric

    asked = GetRunRequest.FromString(flower_private.ask_for_run(7, 9))
    assert (asked.run_id, asked.node.node_id) == (7, 9)
    private = ec.generate_private_key(ec.SECP384R1())
    headers = flower_private.signed(asymmetric.private_key_to_bytes(private))
    assert set(headers) == {
        constant.FLEET_HTTP_PUBLIC_KEY_HEADER, constant.FLEET_HTTP_SIGNATURE_HEADER, TIMESTAMP_HEADER
    }  # fmt: skip
    key, signed_at = flower_private.shown(headers)
    assert key == asymmetric.public_key_to_bytes(private.public_key())
    signature = base64.b64decode(headers[constant.FLEET_HTTP_SIGNATURE_HEADER])
    assert asymmetric.verify_signature(private.public_key(), signed_at.isoformat().encode(), signature)


@needs_superlink
def test_a_superlink_s_database_has_its_tables(tmp_path):
    flower_private.make_database(f"sqlite:///{tmp_path}/superlink.db")
    with closing(sqlite3.connect(tmp_path / "superlink.db")) as database:
        assert database.execute("select count(*) from sqlite_master where name = 'run'").fetchone() == (1,)
