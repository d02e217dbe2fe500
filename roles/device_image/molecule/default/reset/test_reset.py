"""What the role's reset leaves on a board: no image that it brought."""


def test_the_image_is_gone(host):
    assert host.check_output("docker images --quiet") == ""
    assert not host.file("/opt/flowerbed/before/device_image.json").exists
