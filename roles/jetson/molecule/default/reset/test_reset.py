"""What is left of the role jetson after its reset: nothing."""


def test_no_package_is_held(host):
    assert host.check_output("apt-mark showhold") == ""


def test_swap_is_as_it_was(host):
    swaps = [line.split()[0] for line in host.check_output("tail -n +2 /proc/swaps").splitlines()]
    assert swaps == [f"/dev/zram{number}" for number in range(4)]
    assert not host.file("/var/flowerbed-swap").exists
    assert "flowerbed" not in host.file("/etc/fstab").content_string
    assert host.service("nvzramconfig").is_enabled


def test_power_mode_and_clocks_are_as_they_were(host):
    assert host.check_output("nvpmodel -q").splitlines()[-1] == "0"
    assert "MinFreq=76800000" in host.check_output("jetson_clocks --show")
    assert not host.file("/etc/systemd/system/flowerbed-clocks.service").exists


def test_the_desktop_is_back(host):
    assert host.check_output("systemctl get-default") == "graphical.target"
    assert host.service("gdm").is_running


def test_nothing_is_remembered(host):
    assert host.check_output("ls /opt/flowerbed/before") == ""
