"""What a failed run leaves for support, and that none of the secrets that are planted here is in it."""

import json
import re
import tarfile

import pytest
from checkout import TWO_GROUPS, until

pytestmark = pytest.mark.e2e
GROUPS = TWO_GROUPS
KEY = "MIGkPLANTEDAgEBBDB8Vq3eN0qkZw7T2pxkYl4MIGkPLANTEDAgEBBDB8Vq3eN0\n" * 4


@pytest.fixture(scope="module")
def deployed(checkout):
    checkout.set_variables(
        trainer_environment={"MY_SETTING": "PLANTED-in-environment", "MY_SIZE": "7"},
        fl_config={"hub_token": "PLANTED-in-config"}, ansible_become_password="PLANTED-to-become",
    )  # fmt: skip
    checkout.play("deploy")
    for log in ("server/logs/server.log", "rpi-1/logs/client.log"):
        with open(checkout.home(log), "a") as file:
            file.write(f"sudo said PLANTED-to-become\n-----BEGIN PRIVATE KEY-----\n{KEY}-----END PRIVATE KEY-----\n"
                       "MY_SETTING is PLANTED-in-environment, by http://me:PLANTED-proxy@proxy.lab:3128\n")  # fmt: skip
    return checkout


def bundles(checkout, experiment):
    return sorted((checkout.folder / "runs" / experiment / "support").glob("*"))


def members(path):
    with tarfile.open(path) as archive:
        return {entry.name.partition("/")[2]: archive.extractfile(entry).read() for entry in archive.getmembers()}


def test_a_failed_run_says_what_explains_it_and_leaves_a_bundle(deployed):
    words = deployed.fail("run_round", experiment="failed", fl_config={"fail": True, "hub_token": "PLANTED-in-config"})
    sentence = json.loads((deployed.folder / "runs/failed/metrics.jsonl").read_text().splitlines()[-1])["message"]
    assert f"1. the run, its last sentence: {sentence[:100]}" in words
    assert re.search(r"2\. server, \S+\.log: RuntimeError: the sensor is unplugged \(\S+task\.py, line \d+\)", words)
    assert words.index("Support bundle, ") < words.index("fatal: [server]: FAILED!")
    (bundle,) = bundles(deployed, "failed")
    assert str(bundle) in words and bundle.stat().st_mode & 0o777 == 0o600
    found = members(bundle)
    assert {
        "summary.txt", "server/versions.txt", "server/system.txt", "server/experiment/metrics.jsonl",
        "server/experiment/logs/run.log", "server/logs/server.log", "server/supervisor_status.txt",
        "rpi-1/logs/trainer.log", "rpi-1/client.json", "rpi-1/trainer_status.txt", "jetson-4gb-1/logs/client.log",
    } <= set(found)  # fmt: skip
    assert b"torch" in found["server/versions.txt"] and b"ready" in found["rpi-1/trainer_status.txt"]
    assert [name for name, data in found.items() if b"PLANTED" in data] == []
    assert found["rpi-1/logs/client.log"].count(b"[removed]") >= 4
    assert [name for name in found if re.search(r"tls|programs|deployed\.json|\.(pem|key|conf)$", name)] == []


def test_a_bundle_can_be_asked_for_before_any_run(deployed):
    words = deployed.play("playbooks/support", experiment="none").words
    (bundle,) = (deployed.folder / ".flowerbed/support").glob("*")
    assert str(bundle) in words and b"PLANTED" not in b"".join(members(bundle).values())
    bundle.unlink()
    bundle.parent.rmdir()


def test_a_run_that_is_stopped_leaves_none(deployed):
    running = deployed.begin_slow_run("stopped")
    running.press_ctrl_c()
    until(lambda: not deployed.busy(), "the devices to stop")
    assert "upport bundle" not in running.end().text and bundles(deployed, "stopped") == []


def test_a_deployment_waits_for_a_run_or_is_refused(deployed):
    hold = deployed.folder / "hold"
    hold.touch()
    running = deployed.begin("run_round", experiment="deployed", rounds=5, fl_config={"hold": str(hold)})
    deployed.wait_for_training(running)
    before = deployed.programs()
    words = deployed.fail("deploy", fl_threads=2)
    assert "Nothing was done, because experiment deployed is being trained: wait for its end, stop it" in words
    assert deployed.programs() == before and deployed.busy() == deployed.devices
    deploying = deployed.begin("deploy", fl_threads=2, force=True)
    until((deployed.folder / "runs/deployed/end-after-round").exists, "deploy.yml to ask for the round's end")
    hold.unlink()
    assert deploying.end().status == 0
    played = running.end()
    assert played.status == 0 and "round 1 is done; 4 more are left, for deploy.yml has waited" in played.words
    assert deployed.rounds("deployed") == [1] and deployed.programs() != before
    deployed.run("deployed", 1, fl_threads=2)
    assert deployed.rounds("deployed") == [1, 2]
    assert [event["clients_answered"] for event in deployed.events("deployed", "round")] == [2, 2]
