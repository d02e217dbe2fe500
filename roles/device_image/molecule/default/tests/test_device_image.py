"""What the role leaves on a board."""

import json

IMAGE = "flwr/supernode:1.41.0-py3.11-ubuntu24.04"


def test_the_image_is_there_and_runs(host):
    assert "Flower version: 1.41.0" in host.check_output(f"docker run --rm {IMAGE} --version")


def test_the_mirror_is_asked_first(host):
    mirrors = json.loads(host.check_output("docker info --format '{{json .RegistryConfig.Mirrors}}'"))
    assert mirrors == ["http://172.30.113.1:5000/", "http://172.30.113.2:5000/"]


def test_what_was_brought_is_written_down_for_root_alone(host):
    file = host.file("/opt/flowerbed/before/device_image.json")
    assert file.mode == 0o600 and json.loads(file.content_string) == {"brought": [IMAGE]}
