"""What is left of the role raspberry_pi after its reset: nothing."""

import pytest

LINE = "console=serial0,115200 console=tty1 root=PARTUUID=00000000-02 rootfstype=ext4 fsck.repair=yes rootwait"


@pytest.fixture
def release(host):
    return host.system_info.codename


def test_the_memory_cgroup_is_off(host, release):
    path = "/boot/cmdline.txt" if release == "bullseye" else "/boot/firmware/cmdline.txt"
    assert host.file(path).content_string == f"{LINE}\n"
    assert host.check_output("awk '$1 == \"memory\" { print $4 }' /proc/cgroups") == "0"


def test_wifi_saves_power(host):
    assert host.check_output("iw dev wlan0 get power_save") == "Power save: on"
    assert host.check_output("find /etc -name '*flowerbed*'") == ""


def test_swap_is_as_it_was(host, release):
    (swap,) = host.check_output("tail -n +2 /proc/swaps").splitlines()
    path, _, size = swap.split()[:3]
    assert (path, int(size)) == (("/dev/zram0", 2048 * 1024) if release == "trixie" else ("/var/swap", 102396))


def test_nothing_is_remembered(host):
    assert host.check_output("ls /opt/flowerbed/before") == ""
