"""What the role jetson leaves on a board."""

MODES = {"jetson-2gb-1": 1, "jetson-4gb-1": 0}


def test_what_jetpack_brought_is_held(host):
    held = host.check_output("apt-mark showhold").split()
    assert held == ["containerd", "docker.io", "nvidia-container-runtime"]


def test_a_swap_file_takes_the_place_of_compressed_memory(host):
    (swap,) = host.check_output("tail -n +2 /proc/swaps").splitlines()
    path, kind, size = swap.split()[:3]
    assert (path, kind, int(size)) == ("/var/flowerbed-swap", "file", 128 * 1024 - 4)
    assert host.file(path).mode == 0o600
    assert host.check_output("grep -c '^/var/flowerbed-swap none swap sw' /etc/fstab") == "1"
    assert not host.service("nvzramconfig").is_enabled


def test_power_mode_and_clocks(host):
    assert host.check_output("nvpmodel -q").splitlines()[-1] == str(MODES[host.check_output("hostname")])
    assert "MinFreq=921600000" in host.check_output("jetson_clocks --show")
    assert host.service("flowerbed-clocks").is_enabled


def test_there_is_no_desktop(host):
    assert host.check_output("systemctl get-default") == "multi-user.target"
    assert not host.service("gdm").is_running


def test_the_nvidia_runtime_is_there(host):
    assert "nvidia" in host.check_output("docker info --format '{{json .Runtimes}}'")
