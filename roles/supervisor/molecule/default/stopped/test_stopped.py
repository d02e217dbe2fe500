"""What playbooks/stop.yml leaves: all that was deployed, and nothing of it runs."""


def test_nothing_runs(folder, running):
    assert running == {}
    assert not list(folder.glob("*/supervisord.sock"))


def test_nothing_is_removed(folder):
    assert len(list(folder.glob("*/programs/*.conf"))) == 6
    assert (folder / "server/shards/manifest.json").exists()
