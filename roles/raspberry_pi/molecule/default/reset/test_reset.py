def test_x(host):
    assert not host.file("/etc/x").exists
