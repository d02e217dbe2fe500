"""What playbooks/reset.yml leaves on a board: nothing that was deployed."""


def test_containers_and_images_are_gone(host):
    assert host.check_output("docker ps --all --quiet; docker images --quiet") == ""


def test_its_folder_is_gone(host):
    assert not host.file("/opt/flowerbed").exists
