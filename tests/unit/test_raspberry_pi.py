"""What there is to do on a Raspberry Pi, by what was found there."""

import importlib.util
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles" / "raspberry_pi"
spec = importlib.util.spec_from_file_location("raspberry_pi", ROLE / "filter_plugins" / "raspberry_pi.py")
role = importlib.util.module_from_spec(spec)
spec.loader.exec_module(role)


def wifi(**interfaces):
    """What iw says of these interfaces."""
    lines = [f"{name} Power save: {'on' if saves else 'off'}\n" for name, saves in interfaces.items()]
    return {"power_save": "".join(lines), "throttled": ""}


WANTED = {"swap": "2048", "wifi_power_save": False}
CMDLINE = "/boot/firmware/cmdline.txt"
SWAPFILE = "# a comment\nCONF_SWAPSIZE=512\n#CONF_MAXSWAP=2048\n"
FRESH = {
    "machine": "aarch64", "bits": 64, "free": 20e9, "memory_cgroup": False, "reboot": False, "before": {},
    "files": {CMDLINE: "console=tty1 rootwait\n", "/boot/cmdline.txt": "DO NOT EDIT\n", role.DPHYS: SWAPFILE},
    "swaps": {"/var/swap": 512 * 2**20}, "outputs": wifi(wlan0=True), "enabled": ["NetworkManager.service"],
    "time_service": True,
}  # fmt: skip


def plan(wanted=None, **changes):
    return role.plan({**FRESH, **changes}, {**WANTED, **(wanted or {})})


def files(**changes):
    """The files of a fresh board, changed; None for one that is not there."""
    found = {**FRESH["files"], **changes}
    return {path: text for path, text in found.items() if text is not None}


def done(found, wanted=None):
    """Return what board_facts finds where all that was to do has been done."""
    todo = role.plan(found, {**WANTED, **(wanted or {})})
    after = {**found, "files": {**found["files"], **todo["files"]}, "reboot": False, "memory_cgroup": True}
    if todo["cmdline"]:
        after["files"][todo["cmdline"]] = found["files"][todo["cmdline"]].rstrip("\n") + f" {role.TOKEN}\n"
    after["outputs"] = wifi(**dict.fromkeys(role.power_save(found), False))
    if todo["unit"]:
        after["enabled"] = [*found["enabled"], "flowerbed-wifi.service"]
    return {**after, "before": {"raspberry_pi": todo["before"]}}


BOARDS = {
    "bookworm": FRESH,
    "bullseye": {**FRESH, "enabled": [], "files": files(**{CMDLINE: None, "/boot/cmdline.txt": "rootwait\n"})},
    "trixie": {**FRESH, "files": files(**{role.DPHYS: None, role.RPI_SWAP: "[Main]\n"})},
    "with nothing to swap with": {**FRESH, "files": files(**{role.DPHYS: None})},
    "without Wi-Fi": {**FRESH, "outputs": wifi()},
}


@pytest.mark.parametrize("name", BOARDS)
def test_a_second_time_there_is_nothing_to_do(name):
    assert plan(**BOARDS[name])["needed"] and not plan(**done(BOARDS[name]))["needed"]


def test_the_firmwares_own_command_line_is_changed():
    assert plan()["cmdline"] == CMDLINE and plan()["reboot"]
    assert plan(**BOARDS["bullseye"])["cmdline"] == "/boot/cmdline.txt"


@pytest.mark.parametrize("line", ["cgroup_enable=memory rootwait", "rootwait cgroup_enable=memory"])
def test_a_token_that_is_there_is_not_added_again(line):
    todo = plan(files=files(**{CMDLINE: f"{line}\n"}))
    assert not todo["cmdline"] and not todo["reboot"] and todo["before"]["token"]


def test_a_token_like_it_is_another():
    assert plan(files=files(**{CMDLINE: "no_cgroup_enable=memory\n"}))["cmdline"] == CMDLINE


def test_a_kernel_that_has_it_anyway_is_left_alone():
    assert not plan(memory_cgroup=True)["cmdline"]


def test_a_reboot_that_a_deployment_did_not_get_to_is_made_good():
    assert plan(**{**done(FRESH), "reboot": True})["needed"]


def test_only_the_size_is_changed_in_the_swap_configuration():
    assert plan()["files"][role.DPHYS] == SWAPFILE.replace("=512", "=2048")


def test_more_swap_than_dphys_swapfile_makes_by_itself_has_its_limit_raised():
    text = plan({"swap": 4096})["files"][role.DPHYS]
    assert text == SWAPFILE.replace("=512", "=4096") + "CONF_MAXSWAP=4096\n"


def test_on_trixie_swap_needs_a_reboot():
    todo = plan(**{**BOARDS["trixie"], "memory_cgroup": True})
    assert "FixedSizeMiB=2048" in todo["files"][role.RPI_DROP_IN] and todo["reboot"] and not todo["swap"]


def test_a_swap_of_0_leaves_it_as_it_is():
    todo = plan({"swap": 0})
    assert not todo["swap"] and role.DPHYS not in todo["files"]


def test_where_there_is_no_room_swap_stays_as_it_is():
    todo = plan(free=1e9)
    (note,) = todo["notes"]
    assert note.startswith("has 1.0 GB of disk left, too little for swap of 2048 MB") and not todo["swap"]
    assert role.DPHYS not in todo["files"] and todo["cmdline"]


def test_wifi_that_may_save_power_is_left_alone():
    todo = plan({"wifi_power_save": True})
    assert not todo["wifi"] and role.NETWORK_MANAGER not in todo["files"]


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"bits": 32}, "has 32-bit programs on a 64-bit kernel (aarch64): install the 64-bit edition"),
        ({"machine": "armv7l", "bits": 32}, "has a 32-bit system (armv7l): install the 64-bit edition"),
    ],
)
def test_a_32_bit_board_is_named_and_left_alone(changes, sentence):
    todo = plan(**changes)
    assert todo["problem"].startswith(sentence) and todo["needed"] and not todo["cmdline"] and not todo["files"]


@pytest.mark.parametrize("name", BOARDS)
def test_undo_gives_back_what_there_was(name):
    found = done(BOARDS[name])
    todo = role.undo(found)
    left = {**found["files"], **todo["files"]}
    left = {path: text for path, text in left.items() if path not in todo["remove"]}
    assert todo["cmdline"] and todo["reboot"] and todo["wifi"] == list(role.power_save(BOARDS[name]))
    assert {**left, todo["cmdline"]: BOARDS[name]["files"][todo["cmdline"]]} == BOARDS[name]["files"]


def test_what_the_owner_had_before_stays():
    found = done({**FRESH, "memory_cgroup": True, "outputs": wifi(wlan0=False),
                  "files": files(**{CMDLINE: "rootwait cgroup_enable=memory\n"})})  # fmt: skip
    todo = role.undo(found)
    assert not todo["cmdline"] and not todo["reboot"] and not todo["wifi"]


def test_where_nothing_was_done_there_is_nothing_to_undo():
    assert not role.undo(FRESH)["needed"]
