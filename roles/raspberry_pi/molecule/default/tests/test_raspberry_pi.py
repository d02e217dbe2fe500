"""What the role raspberry_pi leaves on a board of each generation of Raspberry Pi OS."""

import pytest

LINE = "console=serial0,115200 console=tty1 root=PARTUUID=00000000-02 rootfstype=ext4 fsck.repair=yes rootwait"
UNIT, CONFIGURATION = "/etc/systemd/system/flowerbed-wifi.service", "/etc/NetworkManager/conf.d/90-flowerbed.conf"


@pytest.fixture
def release(host):
    return host.system_info.codename


def test_the_memory_cgroup_is_on(host, release):
    path = "/boot/cmdline.txt" if release == "bullseye" else "/boot/firmware/cmdline.txt"
    assert host.file(path).content_string == f"{LINE} cgroup_enable=memory\n"
    assert host.check_output("awk '$1 == \"memory\" { print $4 }' /proc/cgroups") == "1"


def test_wifi_does_not_save_power(host, release):
    assert host.check_output("iw dev wlan0 get power_save") == "Power save: off"
    assert host.file(UNIT).exists == (release == "bullseye")
    assert host.file(CONFIGURATION).exists == (release != "bullseye")


def test_swap_has_the_size_that_was_asked_for(host, release):
    (swap,) = host.check_output("tail -n +2 /proc/swaps").splitlines()
    path, _, size = swap.split()[:3]
    assert (path, int(size)) == (("/dev/zram0", 131072) if release == "trixie" else ("/var/swap", 131068))


def test_the_rest_of_the_swap_configuration_is_untouched(host, release):
    if release == "trixie":
        assert "FixedSizeMiB=128" not in host.file("/etc/rpi/swap.conf").content_string
    else:
        lines = host.file("/etc/dphys-swapfile").content_string.splitlines()
        assert [line for line in lines if line and not line.startswith("#")] == ["CONF_SWAPSIZE=128"]
