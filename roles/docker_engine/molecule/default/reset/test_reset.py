"""What the role's reset leaves on a board: Docker's configuration as it was."""

import json


def test_the_configuration_is_as_it_was(host):
    file = host.file("/etc/docker/daemon.json")
    if host.file("/etc/nv_tegra_release").exists:
        assert file.content_string == (
            '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}}}\n'
        )
    else:
        assert not file.exists
    assert not host.file("/opt/flowerbed/before/docker_engine.json").exists


def test_the_engine_follows_that(host):
    info = json.loads(host.check_output("docker info --format '{{json .}}'"))
    assert info["DefaultRuntime"] == "runc"
