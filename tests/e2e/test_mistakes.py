"""Mistakes: each ends in one sentence that says what is wrong, and afterwards the fleet works."""

import os
import shutil
import socket

import numpy as np
import pytest
from checkout import TWO_GROUPS, Checkout

import images

pytestmark = [pytest.mark.e2e, pytest.mark.long]
GROUPS = TWO_GROUPS

ON_DEVICE = {"dataset_name": "device", "dataset_device_path": "photos"}
PHOTOS = {"fl_config": {"channels": 3, "classes": 2}}  # what data on a device does not tell the server


def refused(checkout: Checkout, playbook: str, *arguments: str, **extra) -> str:
    """Return what a playbook said, which failed once."""
    words = checkout.fail(playbook, *arguments, **extra)
    assert words.count("FAILED!") == 1, words
    return words


def test_weights_and_a_task_that_make_no_sense_are_refused_before_anything_happens(checkout):
    checkout.play("deploy")
    before = checkout.programs()
    (checkout.folder / "half_task.py").write_text(
        "def build_model(c): ...\ndef train(m, d, c): ...\nload_data = print\n"
    )
    words = refused(checkout, "deploy", fl_weight=-1, fl_task="half_task.py")
    assert "because of 2 problems: - " in words
    assert "- fl_weight on the command line is -1, but must be examples, uniform or a number" in words
    assert "- fl_task on the command line is half_task.py, which lacks evaluate:" in words
    words = refused(checkout, "run_round", fl_weight=0)
    assert "because of 1 problem: - fl_weight on the command line is 0 for every device: give at least one" in words
    checkout.set_variables("rpi", fl_weight="examples")
    checkout.set_variables("jetson_4gb", fl_weight=0.5)
    try:
        words = refused(checkout, "run_round")
    finally:
        checkout.set_variables("rpi")
        checkout.set_variables("jetson_4gb")
    assert "rpi-1: fl_weight in inventory/local/group_vars/rpi.yml:3 gives no number, while" in words
    assert checkout.programs() == before


def test_a_port_in_use_is_told_with_the_process_that_has_it(checkout):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = refused(checkout, "deploy", "--limit", "localhost,server", fl_server_port=port)
    assert f"port {port} is in use by process {os.getpid()} (" in words and "run deploy.yml again" in words
    checkout.play("deploy")


def test_a_task_that_fails_while_it_trains_is_told_for_every_device(checkout):
    words = refused(checkout, "run_round", experiment="broken", fl_config={"fail": True})
    for device in checkout.devices:
        assert f"{device} gave no update: train of the task failed: RuntimeError: the sensor is unplugged" in words
    assert checkout.rounds("broken") == []
    assert "test_task.py" not in words and "task.py" in (checkout.folder / "runs/broken/logs/run.log").read_text()
    checkout.check("broken")


def test_a_corrupt_image_is_named_and_the_fleet_stays_as_it_was(checkout):
    images.write(checkout.folder / "photos", ["cat", "dog"], 20)
    folder = {"dataset_name": "folder", "dataset_path": "photos"}
    picture = checkout.folder / "photos/cat/3.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:40])
    assert f"cat/3.png in {checkout.folder}/photos cannot be read as an image" in refused(checkout, "deploy", **folder)
    checkout.check("before-photos")
    picture.write_bytes(whole)
    checkout.play("deploy", **folder)
    checkout.check("photos", **folder)


def remove_photos(checkout: Checkout) -> None:
    for device in checkout.devices:
        shutil.rmtree(checkout.home(device) / "photos", ignore_errors=True)


def place_photos(checkout: Checkout) -> None:
    """Lay data on every device: rpi-1 has dogs only."""
    remove_photos(checkout)
    for device in checkout.devices:
        folder = checkout.home(device) / "photos"
        images.write(folder, ["dog"] if device == "rpi-1" else ["cat", "dog"], 10)
        (folder / "classes.txt").write_text("cat\ndog\n")


def test_data_that_lies_on_the_devices_once_it_does(checkout):
    remove_photos(checkout)
    (checkout.home("rpi-1") / "photos").mkdir(parents=True)
    images.write(checkout.folder / "testset/test", ["cat", "dog"], 5)
    data = {**ON_DEVICE, "dataset_path": str(checkout.folder / "testset")}
    words = checkout.fail("deploy", **data)
    assert "The trainer of rpi-1 is not ready: photos holds no images: images belong in <class>/" in words
    assert "The trainer of jetson-4gb-1 is not ready: the data folder photos is missing" in words

    place_photos(checkout)
    (checkout.home("rpi-1") / "photos/dog/10.heic").touch()
    said = checkout.play("deploy", **data).words
    assert said.count("photos: left out are 1 .heic, for only .apng .bmp") == 1, said
    words = refused(
        checkout, "run_round", experiment="too-few-classes", **data, fl_config={"channels": 3, "classes": 1}
    )
    assert all(f"{device} gave no update:" in words for device in checkout.devices)
    checkout.check("on-device", **data, **PHOTOS)
    said = {event["device"]: event for event in checkout.events("on-device", "device")}
    assert [(said[device]["examples"], said[device]["heldout_examples"]) for device in checkout.devices] == [
        (9, 1), (18, 2)
    ]  # fmt: skip
    assert checkout.events("on-device", "round")[0]["accuracy"] is not None


def test_a_relative_path_of_the_test_set_starts_at_the_checkout(checkout):
    words = checkout.play("deploy", "--check", "--diff", dataset_name="device", dataset_path="elsewhere").words
    assert f'"data": "{checkout.folder}/elsewhere"' in words


@pytest.mark.parametrize("playbook", ["playbooks/status", "playbooks/stop"])  # and deploy, above
def test_the_default_place_of_a_devices_data_is_known_everywhere(checkout, playbook):
    checkout.play(playbook, "--check", dataset_name="device")


def test_a_devices_own_data_is_never_removed(checkout):
    mine = checkout.home("rpi-1") / "data/train.npz"
    shutil.rmtree(mine.parent, ignore_errors=True)
    mine.parent.mkdir(parents=True)
    np.savez(mine, x=np.zeros((4, 8, 8, 1), np.uint8), y=np.array([0, 1, 0, 1]))
    checkout.play("playbooks/reset", confirm=True, dataset_name="device")
    assert mine.exists()
