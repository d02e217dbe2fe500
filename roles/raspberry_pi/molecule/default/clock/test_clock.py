"""A clock that was a year off is right again, though no time server answered."""

import time


def test_the_clock_is_right(host):
    assert abs(int(host.check_output("date +%s")) - time.time()) < 60


def test_it_was_set_once_and_follows_a_time_server(host):
    calls = host.file("/var/lib/rehearsal/calls").content_string.splitlines()
    assert len([call for call in calls if call.startswith("timedatectl set-time @")]) == 1
    assert host.service("systemd-timesyncd").is_enabled
