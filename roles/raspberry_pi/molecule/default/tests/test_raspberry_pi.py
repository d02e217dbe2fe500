def test_x(host):
    assert host.file("/etc/x").exists
