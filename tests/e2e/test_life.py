"""The life of a small fleet on the local inventory, through the playbooks its user calls."""

import json
import re

import pytest
from checkout import AWKWARD, TWO_GROUPS, until

pytestmark = pytest.mark.e2e
GROUPS, NAME, TASK = TWO_GROUPS, AWKWARD, "test task"  # a folder, see checkout.py


def test_a_check_on_a_clean_machine_leaves_nothing_behind(checkout):
    checkout.play("deploy", "--check", "--diff")
    assert not (checkout.folder / ".flowerbed").exists()
    assert "run ansible-playbook deploy.yml first" in checkout.fail("run_round")


def test_a_second_deploy_changes_nothing(checkout):
    changed = checkout.play("deploy").changed
    assert all(changed[device] for device in checkout.devices)
    before = checkout.programs()
    assert len(before) == 2 * (1 + len(checkout.devices))
    assert not any(checkout.play("deploy").changed.values())
    assert checkout.programs() == before
    status = checkout.play("playbooks/status").text
    assert all(device in status for device in checkout.devices)


def test_a_run_is_of_the_devices_that_are_chosen_and_waits_as_it_is_told(checkout):
    told = {"fl_enough": 0.5, "fl_grace": "2x", "fl_late": "carry", "fl_target_seconds": 5, "fl_round_retries": 0}
    checkout.run("chosen", devices="rpi", **told)
    run = json.loads((checkout.folder / "runs/chosen/run.json").read_text())
    assert (run["chosen"], run["fraction"], run["optional"]) == (["rpi-1"], 1, [])
    assert [run[name.removeprefix("fl_")] for name in told] == list(told.values())
    assert [event["device"] for event in checkout.events("chosen", "device")] == ["rpi-1"]
    words = checkout.fail("run_round", devices="rp,0.5")
    assert "devices on the command line has 'rp', which is no device of the inventory and no group" in words


def test_a_changed_group_variable_restarts_only_what_it_touches(checkout):
    before = checkout.programs()
    checkout.set_variables("rpi", fl_batch_size=16)
    changed = checkout.play("deploy").changed
    assert sorted(host for host, count in changed.items() if count) == ["rpi-1", "server"]  # which records it
    after = checkout.programs()
    assert {key for key in before if after.get(key) != before[key]} == {("rpi-1", "client")}
    checkout.set_variables(fl_batch_size=8)  # of all others, and a run may choose it
    checkout.run("overridden")
    run = json.loads((checkout.folder / "runs/overridden/run.json").read_text())
    assert (run["config"]["batch_size"], run["overrides"]) == (8, {"rpi-1": {"batch_size": 16}})
    checkout.set_variables()
    checkout.set_variables("rpi")
    words = checkout.fail("run_round", experiment="refused")
    assert "rpi-1: fl_batch_size (its default) is 32, but 16 is deployed: run deploy.yml with it first" in words


def test_a_changed_supervisor_takes_effect_at_once(checkout):
    template = checkout.folder / "templates/supervisord.conf.j2"
    original, before = template.read_text(), checkout.programs()
    template.write_text(original.replace("logfile_backups=3", "logfile_backups=4"))
    assert original != template.read_text()
    checkout.play("deploy")  # also what the test above took back
    after = checkout.programs()
    assert after.keys() == before.keys() and not {*after.values()} & {*before.values()}
    assert not any(checkout.play("deploy").changed.values())
    assert checkout.programs() == after


def test_a_run_says_what_it_cannot_change(checkout):
    words = checkout.fail("run_round", experiment="refused", fl_threads=2, dataset_seed=7, fl_task="fl_app/task.py")
    assert "because of 3 problems" in words
    assert "fl_threads on the command line is 2, but 0 is deployed: run" in words
    assert "fl_task on the command line is 'fl_app/task.py', but 'test task' is deployed: run" in words
    assert "dataset_seed on the command line is 7, which is not deployed: run" in words
    assert not (checkout.folder / "runs/refused").exists()


@pytest.mark.long  # each of its deployments starts all trainers anew
def test_a_failure_of_all_trainers_is_said_once(checkout):
    task = checkout.folder / TASK / "task.py"
    original = task.read_text()
    task.write_text(f"{original}\nraise RuntimeError('no such layer')\n")
    played = checkout.begin("deploy").end()
    task.write_text(original)
    assert played.status != 0 and played.text.count("no such layer") == 1
    ((others, first),) = re.findall(r"fatal: \[(.*)\]: FAILED! => as on (\S+)", played.text)
    assert sorted([first, *others.split(", ")]) == sorted(["server", *checkout.devices])
    checkout.play("deploy")


def test_a_python_that_does_not_do_is_said_before_anything_changes(checkout):
    before = checkout.programs()
    words = checkout.fail("deploy", "--limit", "localhost,rpi-1", fl_python="/nowhere/python")
    assert "rpi-1: fl_python is /nowhere/python, which cannot be run: give a Python 3.10 or newer that has" in words
    assert checkout.programs() == before


def test_rounds_a_kill_and_a_resume(checkout):
    played = checkout.run("life", 2)
    assert "1 of 2" in played.text and "2 of 2" in played.text
    for program in ("client", "trainer"):
        checkout.kill("rpi-1", program)
    until(lambda: checkout.trainer("rpi-1").get("ready"), "the trainer of rpi-1")
    checkout.run("life", 1)
    assert checkout.rounds("life") == [1, 2, 3]
    assert [event["clients_answered"] for event in checkout.events("life", "round")] == [2, 2, 2]
    kept = [(event["device"], event["metrics"]["rounds_seen"]) for event in checkout.events("life", "device")]
    assert sorted(kept) == [(device, number) for device in sorted(checkout.devices) for number in (1, 2, 3)]
    names = {path.name for path in (checkout.folder / "runs/life").iterdir()}
    assert {"configuration.json", "run.json", "metrics.jsonl", "checkpoints", "model", "logs"} <= names
    taken = checkout.run("afterlife", 1, fl_initial="life").text
    assert "the first model has 20 of its 20 tensors from" in taken and "runs/life/model/best.safetensors" in taken


def test_ctrl_c_stops_the_training_on_all_devices(checkout):
    running = checkout.begin_slow_run("interrupted")
    running.press_ctrl_c()
    until(lambda: not checkout.busy(), "the devices to stop")
    running.end()
    assert checkout.rounds("interrupted") == []
    checkout.run("interrupted", 1)
    assert checkout.rounds("interrupted") == [1]


def test_another_data_set_is_refused_with_the_difference(checkout):
    checkout.run("data", 1)
    checkout.play("deploy", dataset_seed=7)
    words = checkout.fail("run_round", experiment="data", dataset_seed=7)
    assert "experiment data began with another model or data set" in words
    assert "dataset.seed was 0 and is now 7" in words


def test_a_device_whose_last_deployment_failed_or_that_kept_other_data_is_left_out(checkout):
    manifest = checkout.home("server") / "shards/manifest.json"
    fingerprints = json.loads(manifest.read_text())["fingerprints"]
    hosts = ["server", *checkout.devices]
    assert {host: checkout.trainer(host)["fingerprint"] for host in hosts} == fingerprints
    record, text = checkout.home("server") / "deployed.json", manifest.read_text()
    deployed = json.loads(record.read_text())
    record.write_text(json.dumps({host: deployed[host] for host in deployed if host != "rpi-1"}))
    manifest.write_text(text.replace(fingerprints["server"], "0" * 16))  # split anew, but not placed
    assert "server has data of another deployment" in checkout.fail("run_round", experiment="strayed", dataset_seed=7)
    manifest.write_text(text)
    checkout.run("strayed", 1, dataset_seed=7)
    record.write_text(json.dumps(deployed))
    said = {event["device"]: event.get("reason") for event in checkout.events("strayed", "device")}
    assert said.pop("rpi-1") == "rpi-1 is left out: its last deployment failed, or there was none: run deploy.yml"
    assert set(said.values()) == {None}


def test_stop_leaves_no_process_and_reset_no_file_but_the_runs(checkout):
    assert checkout.rounds("strayed") == [1]
    checkout.play("playbooks/stop")
    assert checkout.processes() == {}
    checkout.play("playbooks/reset", confirm=True)
    assert not (checkout.folder / ".flowerbed").exists()
    assert checkout.rounds("strayed") == [1]
    assert not any(checkout.play("playbooks/reset", confirm=True).changed.values())
