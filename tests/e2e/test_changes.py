"""A fleet that changes under an experiment: boards go, come, and come back."""

import json
import shutil

import pytest
from checkout import BIN, TWO_GROUPS, Checkout, Playing
from checkout import GROUPS as ALL

pytestmark = [pytest.mark.e2e, pytest.mark.long]
GROUPS = TWO_GROUPS
OTHER_TWO = {group: ALL[group] for group in ("rpi", "jetson_2gb")}
FOUR, TWO = ALL["jetson_4gb"], ALL["jetson_2gb"]


def shares(checkout: Checkout) -> dict[str, bytes]:
    """Return what each device trains on, by its name, as it lies on the device."""
    home = checkout.folder / ".flowerbed/local"
    return {path.parts[-3]: path.read_bytes() for path in home.glob("*/shard/train.npz")}


def programs_of(checkout: Checkout, host: str) -> dict[str, int]:
    return {program: pid for (name, program), pid in checkout.programs().items() if name == host}


def events(checkout: Checkout) -> list[tuple[list[str], list[str], list[str]]]:
    return [(each["came"], each["went"], each["changed"]) for each in checkout.events("changing", "fleet")]


def answered(checkout: Checkout) -> list[int]:
    return [event["clients_answered"] for event in checkout.events("changing", "round")]


def test_one_that_is_replaced_is_stopped_and_the_experiment_goes_on(checkout):
    checkout.play("deploy")
    checkout.run("changing")
    before, programs = shares(checkout), programs_of(checkout, "rpi-1")
    checkout.set_hosts(OTHER_TWO)
    played = checkout.play("deploy")
    assert f"{FOUR} is no longer in the inventory. It is stopped now." in played.words
    assert f"{TWO} takes over the share of {FOUR}" in played.words and "not stopped" not in played.words
    assert not programs_of(checkout, FOUR) and len(programs_of(checkout, TWO)) == 2
    assert programs_of(checkout, "rpi-1") == programs, "it is left alone"
    now = shares(checkout)
    assert (now["rpi-1"], now[TWO]) == (before["rpi-1"], before[FOUR])
    played = checkout.run("changing")
    assert f"the fleet is another than before: {TWO} came and {FOUR} went" in played.words
    assert events(checkout) == [([TWO], [FOUR], [])] and answered(checkout) == [2, 2]
    assert not any(checkout.play("deploy").changed.values())


def test_one_that_comes_is_deployed_alone_and_what_went_is_named_until_it_is_stopped(checkout):
    checkout.set_hosts(ALL)
    words = checkout.fail("deploy", "--limit", FOUR)
    assert f"no share of digits is left for {FOUR}: deploy to all devices, without --limit" in words
    checkout.set_hosts(TWO_GROUPS)
    before, programs = shares(checkout), programs_of(checkout, "rpi-1")
    played = checkout.play("deploy", "--limit", FOUR)
    named = f"No longer in the inventory, and not stopped: {TWO}."
    assert named in played.words and "rpi-1" not in played.changed
    assert shares(checkout) == {**before, FOUR: before[TWO]}
    assert named in checkout.run("changing").words and answered(checkout) == [2, 2, 2]
    assert programs_of(checkout, "rpi-1") == programs and len(programs_of(checkout, TWO)) == 2
    assert f"{TWO} is no longer in the inventory. It would be stopped." in checkout.play("deploy", "--check").words
    assert len(programs_of(checkout, TWO)) == 2
    assert f"{TWO} is no longer in the inventory. It is stopped now." in checkout.play("deploy").words
    assert not programs_of(checkout, TWO) and named not in checkout.run("changing").words


def test_one_on_a_fresh_card_has_the_same_share_and_the_experiment_does_not_notice(checkout):
    before, known = shares(checkout), events(checkout)
    checkout.play("playbooks/stop", "--limit", f"localhost,{FOUR}")
    shutil.rmtree(checkout.home(FOUR))
    checkout.play("deploy", "--limit", FOUR)
    assert shares(checkout) == before
    checkout.run("changing")
    assert answered(checkout)[-1] == 2 and events(checkout) == known


def test_one_that_cannot_be_reached_is_named_until_it_is(checkout):
    file = checkout.home("server") / "addresses.json"
    known = file.read_text()
    away = {"ansible_connection": "ssh", "ansible_host": "127.0.0.1", "ansible_port": 9}
    addresses = json.loads(known)
    file.write_text(json.dumps({**addresses, FOUR: {**addresses[FOUR], **away}}))
    checkout.set_hosts({"rpi": "rpi-1"})
    words = checkout.play("deploy").words
    assert f"{FOUR} is no longer in the inventory, and does not answer at 127.0.0.1, port 9: look whether" in words
    assert f"No longer in the inventory, and not stopped: {FOUR}." in words
    file.write_text(known)
    assert f"{FOUR} is no longer in the inventory. It is stopped now." in checkout.play("deploy").words
    assert not programs_of(checkout, FOUR)
    checkout.set_hosts(TWO_GROUPS)
    assert f"{FOUR} has its own share again" in checkout.play("deploy").words


def test_what_somebody_else_has_deployed_meanwhile_is_left_alone(checkout):
    """What runs in its folder belongs to another server by now."""
    client = checkout.home(FOUR) / "client.json"
    client.write_text(client.read_text().replace('"server": "127.0.0.1:', '"server": "192.0.2.1:'))
    programs = programs_of(checkout, FOUR)
    checkout.set_hosts({"rpi": "rpi-1"})
    assert f"{FOUR} is no longer in the inventory. There is nothing of it any more." in checkout.play("deploy").words
    assert programs_of(checkout, FOUR) == programs != {}


def test_where_nothing_is_left_the_others_give(checkout):
    checkout.set_hosts(ALL)
    played = checkout.play("deploy")
    assert f"{FOUR} has its own share again" in played.words
    assert f"each of the others gives {TWO} a part of its share" in played.words
    checkout.run("changing")
    assert answered(checkout)[-1] == 3 and "rpi-1" in events(checkout)[-1][2]


def test_without_the_callback_plugins_a_limit_must_name_the_server(checkout):
    without = ["env", "ANSIBLE_CALLBACK_PLUGINS=/nowhere", "ANSIBLE_STDOUT_CALLBACK=default"]
    command = [*without, str(BIN / "ansible-playbook"), "deploy.yml", "--limit", "rpi-1"]
    played = Playing(command, checkout.folder).end()
    assert played.status != 0 and "--limit leaves out server, which must know its devices" in played.words
