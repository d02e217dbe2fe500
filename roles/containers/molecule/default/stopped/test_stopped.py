"""What playbooks/stop.yml leaves on a board: all that was deployed, and nothing of it runs."""


def test_its_containers_are_there_and_stopped(host):
    lines = host.check_output("docker ps --all --format '{{.Names}} {{.State}}'").splitlines()
    kind = "jetson" if host.check_output("hostname") == "jetson-4gb-1" else "rpi"
    assert dict(line.split() for line in lines) == {"flowerbed-client": "exited", f"{kind}-container": "exited"}
