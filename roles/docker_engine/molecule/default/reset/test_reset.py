"""What the role's reset leaves on a board: Docker's configuration as it was."""

import json


def test_the_configuration_is_as_it_was(host):
    runtimes = {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}}
    document = {"runtimes": runtimes} if host.file("/etc/nv_tegra_release").exists else {}
    document["registry-mirrors"] = ["http://172.30.114.2:5000"]
    assert host.file("/etc/docker/daemon.json").content_string == json.dumps(document, indent=4)
    assert not host.file("/opt/flowerbed/before/docker_engine.json").exists


def test_the_engine_follows_that(host):
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert info["DefaultRuntime"] == "runc"
