"""The life of a small fleet on the local inventory, through the playbooks its user calls."""

import numpy as np
import pytest
from checkout import DEVICES, until

pytestmark = pytest.mark.e2e


def test_a_check_on_a_clean_machine_leaves_nothing_behind(garden):
    garden.play("deploy", "--check", "--diff")
    assert not (garden.folder / ".flowerbed").exists()
    assert "run ansible-playbook deploy.yml first" in garden.fail("run_round")


def test_a_second_deploy_changes_nothing(garden):
    changed = garden.play("deploy").changed
    assert all(changed[device] for device in DEVICES)
    before = garden.programs()
    assert len(before) == 8
    assert not any(garden.play("deploy").changed.values())
    assert garden.programs() == before
    status = garden.play("playbooks/status").text
    assert all(device in status for device in DEVICES)


def test_a_changed_group_variable_restarts_only_what_it_touches(garden):
    before = garden.programs()
    garden.set_variables("rpi", fl_batch_size=16)
    changed = garden.play("deploy").changed
    assert [host for host, count in changed.items() if count] == ["rpi-1"]
    after = garden.programs()
    assert {key for key in before if after.get(key) != before[key]} == {("rpi-1", "client")}
    garden.set_variables("rpi")
    garden.play("deploy")


def test_rounds_a_kill_and_a_resume(garden):
    played = garden.run("life", 2)
    assert "1 of 2" in played.text and "2 of 2" in played.text
    for program in ("client", "trainer"):
        garden.kill("rpi-1", program)
    garden.play("deploy")  # waits until all is ready again
    garden.run("life", 1)
    assert garden.rounds("life") == [1, 2, 3]
    assert [event["clients_answered"] for event in garden.events("life", "round")] == [3, 3, 3]
    names = {path.name for path in (garden.folder / "runs/life").iterdir()}
    assert {"configuration.json", "run.json", "metrics.jsonl", "checkpoints", "model", "logs"} <= names


def test_ctrl_c_stops_the_training_on_all_devices(garden):
    running = garden.begin_slow_run("interrupted")
    running.press_ctrl_c()
    until(lambda: not garden.busy(), 20, "the devices to stop")
    running.end()
    assert garden.rounds("interrupted") == []
    garden.run("interrupted", 1)
    assert garden.rounds("interrupted") == [1]


def test_another_data_set_is_refused_with_the_difference(garden):
    garden.play("deploy")
    garden.run("data", 1)
    garden.play("deploy", dataset_seed=7)
    words = garden.fail("run_round", experiment="data", dataset_seed=7)
    assert "experiment data began with another model or data set" in words
    assert "dataset.seed was 0 and is now 7" in words


def test_both_links_give_the_same_model_bit_for_bit(garden):
    garden.play("deploy")
    garden.run("on-stream", 2)
    garden.play("deploy", fl_link="superlink")
    garden.run("on-superlink", 2, fl_link="superlink")
    stream, superlink = garden.model("on-stream"), garden.model("on-superlink")
    assert stream.keys() == superlink.keys()
    assert all(np.array_equal(stream[name], superlink[name]) for name in stream)


def test_stop_leaves_no_process_and_reset_no_file_but_the_runs(garden):
    garden.play("deploy")
    garden.run("kept", 1)
    garden.play("playbooks/stop")
    assert garden.processes() == {}
    garden.play("playbooks/reset", confirm=True)
    assert not (garden.folder / ".flowerbed").exists()
    assert garden.rounds("kept") == [1]
    assert not any(garden.play("playbooks/reset", confirm=True).changed.values())
