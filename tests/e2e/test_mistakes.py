"""Mistakes: each ends in one sentence that says what is wrong, and afterwards the fleet works."""

import os
import re
import shutil
import socket

import numpy as np
import pytest
from checkout import Checkout

import images

pytestmark = pytest.mark.e2e

ON_DEVICE = {"dataset_name": "device", "dataset_device_path": "photos"}
PHOTOS = {"fl_config": {"channels": 3, "classes": 2}}  # what data on a device does not tell the server


def refused(garden: Checkout, playbook: str, **extra) -> str:
    """Return what a playbook said, which failed once."""
    words = garden.fail(playbook, **extra)
    assert words.count("FAILED!") == 1, words
    return words


def test_weights_and_a_task_that_make_no_sense_are_refused_before_anything_happens(garden):
    garden.play("deploy")
    before = garden.programs()
    (garden.folder / "half_task.py").write_text("def build_model(c): ...\ndef train(m, d, c): ...\nload_data = print\n")
    mistakes = [
        ("deploy", "fl_weight", -1, "is -1, but must be examples, uniform or a number"),
        ("run_round", "fl_weight", 0, "is 0 for every device: give at least one"),
        ("deploy", "fl_task", "half_task.py", "is half_task.py, which lacks evaluate:"),
    ]
    for playbook, name, value, sentence in mistakes:
        words = refused(garden, playbook, **{name: value})
        assert f"because of 1 problem: - {name} on the command line {sentence}" in words
    garden.set_variables("rpi", fl_weight=0.5)
    try:
        words = refused(garden, "run_round")
    finally:
        garden.set_variables("rpi")
    assert "rpi-1: fl_weight in inventory/local/group_vars/rpi.yml:3 gives a number, while" in words
    assert garden.programs() == before
    garden.check("after-refusals")


def test_a_port_in_use_is_told_with_the_process_that_has_it(garden):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        words = refused(garden, "deploy", fl_server_port=port)
    assert f"port {port} is in use by process {os.getpid()} (" in words and "run deploy.yml again" in words
    garden.play("deploy")
    garden.check("after-port")


def test_a_task_that_fails_while_it_trains_is_told_for_every_device(garden):
    words = refused(garden, "run_round", experiment="broken", fl_config={"fail": True})
    for device in garden.devices:
        assert f"{device} gave no update: train of the task failed: RuntimeError: the sensor is unplugged" in words
    assert garden.rounds("broken") == []
    assert "test_task.py" not in words and "task.py" in (garden.folder / "runs/broken/logs/run.log").read_text()
    garden.check("broken")


def test_a_corrupt_image_is_named_and_the_fleet_stays_as_it_was(garden):
    images.write(garden.folder / "photos", ["cat", "dog"], 20)
    folder = {"dataset_name": "folder", "dataset_path": "photos"}
    picture = garden.folder / "photos/cat/3.png"
    whole = picture.read_bytes()
    picture.write_bytes(whole[:40])
    assert f"cat/3.png in {garden.folder}/photos cannot be read as an image" in refused(garden, "deploy", **folder)
    garden.check("before-photos")
    picture.write_bytes(whole)
    garden.play("deploy", **folder)
    garden.check("photos", **folder)


def remove_photos(garden: Checkout) -> None:
    for device in garden.devices:
        shutil.rmtree(garden.home(device) / "photos", ignore_errors=True)


def place_photos(garden: Checkout) -> None:
    """Lay data on every device: rpi-1 has dogs only."""
    remove_photos(garden)
    for device in garden.devices:
        folder = garden.home(device) / "photos"
        images.write(folder, ["dog"] if device == "rpi-1" else ["cat", "dog"], 10)
        (folder / "classes.txt").write_text("cat\ndog\n")


def test_data_that_lies_on_the_devices_once_it_does(garden):
    remove_photos(garden)
    (garden.home("rpi-1") / "photos").mkdir(parents=True)
    images.write(garden.folder / "testset/test", ["cat", "dog"], 5)
    data = {**ON_DEVICE, "dataset_path": str(garden.folder / "testset")}
    words = garden.fail("deploy", **data)
    assert "The trainer of rpi-1 is not ready: photos holds no images: images belong in <class>/" in words
    first = re.search(r"The trainer of (jetson-.gb-1) is not ready: the data folder photos is missing", words)
    assert first and f"=> as on {first[1]}" in words, words  # what two devices have in common is said once

    place_photos(garden)
    (garden.home("rpi-1") / "photos/dog/10.heic").touch()
    said = garden.play("deploy", **data).words
    assert said.count("photos: left out are 1 .heic, for only .apng .bmp") == 1, said
    words = refused(garden, "run_round", experiment="too-few-classes", **data, fl_config={"channels": 3, "classes": 1})
    assert all(f"{device} gave no update:" in words for device in garden.devices)
    garden.check("on-device", **data, **PHOTOS)
    said = {event["device"]: event for event in garden.events("on-device", "device")}
    assert [(said[device]["examples"], said[device]["heldout_examples"]) for device in garden.devices] == [
        (9, 1), (18, 2), (18, 2)
    ]  # fmt: skip
    assert garden.events("on-device", "round")[0]["accuracy"] is not None


def test_a_relative_path_of_the_test_set_starts_at_the_checkout(garden):
    words = garden.play("deploy", "--check", "--diff", **ON_DEVICE, dataset_path="elsewhere").words
    assert f'"data": "{garden.folder}/elsewhere"' in words


@pytest.mark.parametrize("playbook", ["deploy", "playbooks/status", "playbooks/stop"])
def test_the_default_place_of_a_devices_data_is_known_everywhere(garden, playbook):
    garden.play(playbook, "--check", dataset_name="device")


def test_a_devices_own_data_is_never_removed(garden):
    mine = garden.home("rpi-1") / "data/train.npz"
    shutil.rmtree(mine.parent, ignore_errors=True)
    mine.parent.mkdir(parents=True)
    np.savez(mine, x=np.zeros((4, 8, 8, 1), np.uint8), y=np.array([0, 1, 0, 1]))
    garden.play("playbooks/reset", confirm=True, dataset_name="device")
    assert mine.exists()
