"""The images that a deployment has brought to a board."""

import json
import os
import re
from pathlib import Path

import yaml

DEFAULTS = Path(os.environ["MOLECULE_PROJECT_DIRECTORY"]).parent / "fl/defaults/main.yml"
CLIENT = yaml.safe_load(DEFAULTS.read_text())["client_image"]
TRAINER = {"rpi-1": "lhkhiem28/rpi:1.4", "jetson-4gb-1": "lhkhiem28/jetson:1.0"}


def test_the_clients_image_runs(host):
    version = re.match(r"flwr/supernode:([\d.]+)-", CLIENT)[1]
    assert f"Flower version: {version}" in host.check_output(f"docker run --rm {CLIENT} --version")


def test_the_mirror_is_asked_first(host):
    mirrors = json.loads(host.check_output("docker info --format '{{json .RegistryConfig.Mirrors}}'"))
    assert mirrors == ["http://172.30.113.1:5000/", "http://172.30.113.2:5000/"]


def test_what_was_brought_is_written_down_for_root_alone(host):
    file = host.file("/opt/flowerbed/before/device_image.json")
    brought = json.loads(file.content_string)["brought"]
    assert file.mode == 0o600 and sorted(brought) == sorted([CLIENT, TRAINER[host.check_output("hostname")]])
