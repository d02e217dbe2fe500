"""What the role leaves on a board."""

import json

LOGS = {"max-size": "10m", "max-file": "3"}


def test_the_engine_runs_now_and_after_a_boot(host):
    assert host.service("docker").is_running and host.service("docker").is_enabled


def test_its_command_is_there(host):
    assert host.exists("docker")


def test_what_is_merged_is_what_the_engine_does(host):
    document = json.loads(host.file("/etc/docker/daemon.json").content_string)
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    jetson = host.file("/etc/nv_tegra_release").exists
    assert document["log-opts"] == LOGS and document["log-driver"] == info["LoggingDriver"] == "json-file"
    assert document.get("default-runtime") == ("nvidia" if jetson else None)
    assert document["registry-mirrors"] == ["http://172.30.114.2:5000"]  # the owner's
    assert info["DefaultRuntime"] == ("nvidia" if jetson else "runc") and ("nvidia" in info["Runtimes"]) == jetson


def test_a_new_containers_log_is_rotated(host):
    host.check_output("tar -C /etc -c hostname | docker import - empty && docker create --name new empty true")
    try:
        assert (
            json.loads(host.check_output("docker inspect --format '{{json .HostConfig.LogConfig.Config}}' new")) == LOGS
        )
    finally:
        host.check_output("docker rm new && docker rmi empty")


def test_ansibles_python_can_speak_to_it(host):
    host.check_output("/usr/bin/python3 -c 'import requests'")


def test_how_it_was_is_written_down_for_root_alone(host):
    file = host.file("/opt/flowerbed/before/docker_engine.json")
    assert file.mode == 0o600 and set(json.loads(file.content_string)) == {"text", "merged", "service"}
