"""What there is to do on a Jetson Nano, by what was found there."""

import importlib.util
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles" / "jetson"
spec = importlib.util.spec_from_file_location("jetson", ROLE / "filter_plugins" / "jetson.py")
role = importlib.util.module_from_spec(spec)
spec.loader.exec_module(role)

HOLD = ["docker.io", "containerd", "nvidia-*"]
WANTED = {"power_mode": "0", "clocks": True, "headless": True, "swap": "4096", "hold": HOLD}
TEGRA = "# R32 (release), REVISION: 7.1, GCID: 1, BOARD: t210ref"
ZRAM = {f"/dev/zram{number}": 500 * 2**20 for number in range(4)}
PACKAGES = ("containerd", "docker.io", "docker-clean", "nvidia-l4t-core")


def power(mode, pinned):
    """What the programs say of the power mode and the clocks; None for one that is not there."""
    clocks = "" if pinned is None else f"GPU MinFreq={921 if pinned else 76} MaxFreq=921 CurrentFreq=76\n"
    return {"power_mode": "" if mode is None else f"NV Power Mode: X\n{mode}\n", "clocks": clocks}


FRESH = {
    "tegra": TEGRA, "docker": {"runtimes": ["nvidia", "runc"]}, "engine": {"nvidia": True}, "before": {}, "free": 20e9,
    "packages": {name: {"version": "1", "held": False} for name in PACKAGES}, "swaps": ZRAM,
    "files": {"/etc/fstab": "/dev/root / ext4 defaults 0 1\n"}, "enabled": ["nvzramconfig.service"],
    "outputs": power(1, False), "default_target": "graphical.target", "time_service": True,
}  # fmt: skip


def plan(wanted=None, **changes):
    return role.plan({**FRESH, **changes}, {**WANTED, **(wanted or {})})


def deployed(**changes):
    """Return what board_facts finds where all that was to do has been done."""
    return {
        **FRESH, "before": {"jetson": plan()["before"]}, "swaps": {role.SWAP_FILE: 4096 * 2**20 - role.HEADER},
        "packages": {name: {"version": "1", "held": name != "docker-clean"} for name in PACKAGES},
        "files": {"/etc/fstab": f"{role.SWAP_FILE} none swap sw 0 0\n", role.CLOCKS_UNIT: role.CLOCKS},
        "enabled": ["flowerbed-clocks.service"], "outputs": power(0, True),
        "default_target": "multi-user.target", **changes,
    }  # fmt: skip


def test_what_there_is_to_do_on_a_fresh_board():
    todo = plan()
    assert todo["hold"] == ["containerd", "docker.io", "nvidia-l4t-core"]
    assert (todo["swap"], todo["fstab"], todo["zram"], todo["zram_service"]) == (4096, True, sorted(ZRAM), True)
    assert (todo["power_mode"], todo["clocks"], todo["target"]) == (0, "pin", "multi-user.target")
    assert todo["needed"] and not todo["notes"]


def test_a_second_time_there_is_nothing_to_do():
    assert not plan(**deployed())["needed"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"packages": {**deployed()["packages"], "nvidia-new": {"version": "1", "held": False}}},
            {"hold": ["nvidia-new"]},
        ),
        ({"outputs": power(1, True)}, {"power_mode": 0, "clocks": "pin"}),  # pinned at what mode 1 allows
        ({"outputs": power(0, False)}, {"clocks": "pin"}),
        ({"default_target": "graphical.target"}, {"target": "multi-user.target"}),
        ({"swaps": {}}, {"swap": 4096}),
        ({"files": {role.CLOCKS_UNIT: role.CLOCKS}}, {"fstab": True}),
    ],
)
def test_only_what_is_otherwise_is_done(changes, expected):
    nothing = plan(**deployed())
    todo = plan(**deployed(**changes))
    changed = {key for key, value in todo.items() if value != nothing[key]} - {"before"}
    assert {key: todo[key] for key in changed} == {**expected, "needed": True}


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"clocks": False}, {"clocks": "unpin"}),
        ({"headless": False}, {"target": "graphical.target"}),
        ({"power_mode": 1}, {"power_mode": 1, "clocks": "pin"}),
        ({"swap": 2048}, {"swap": 2048}),
        ({"swap": 0}, {}),
    ],
)
def test_a_changed_variable_changes_what_it_says(wanted, expected):
    nothing = plan(**deployed())
    todo = plan(wanted, **deployed())
    assert {key: value for key, value in todo.items() if value != nothing[key] and key != "needed"} == expected
    assert todo["needed"] == bool(expected)


def test_what_the_board_lacks_is_passed_over_with_a_reason():
    todo = plan(outputs=power(None, None), free=2e9)
    assert todo["power_mode"] is None and not todo["clocks"] and not todo["swap"] and not todo["zram"]
    swap, mode, clocks = todo["notes"]
    assert swap.startswith("has 2.0 GB of disk left, too little for a swap file of 4096 MB")
    assert "nvpmodel" in mode and "jetson_clocks" in clocks


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"tegra": None}, "is no Jetson (it has no /etc/nv_tegra_release"),
        ({"tegra": "# something else"}, "is no Jetson"),
        ({"tegra": TEGRA.replace("R32", "R35")}, "has L4T 35.7.1, but the tutorial's image is made for JetPack 4.6"),
        ({"tegra": TEGRA.replace("7.1", "5.2")}, "has L4T 32.5.2, but"),
        ({"docker": {"runtimes": ["runc"]}, "engine": {"nvidia": False}}, "has a Docker engine that knows no runtime"),
    ],
)
def test_a_board_that_the_image_is_not_made_for_is_named_and_left_alone(changes, sentence):
    todo = plan(**changes)
    assert todo["problem"].startswith(sentence) and todo["needed"] and not todo["hold"] and not todo["swap"]


def test_undo_gives_back_what_there_was():
    todo = role.undo(deployed(), HOLD)
    assert todo["release"] == ["containerd", "docker.io", "nvidia-l4t-core"]
    assert (todo["swap"], todo["zram"], todo["clocks"]) == (True, True, True)
    assert (todo["power_mode"], todo["target"]) == (1, "graphical.target")


def test_what_the_owner_had_before_stays():
    before = {
        "held": ["docker.io"],
        "zram": False,
        "power_mode": 0,
        "target": "multi-user.target",
        "time_service": True,
    }
    todo = role.undo(deployed(before={"jetson": before}), HOLD)
    assert todo["release"] == ["containerd", "nvidia-l4t-core"] and not todo["zram"]
    assert todo["power_mode"] is None and not todo["target"]


def test_where_nothing_was_done_there_is_nothing_to_undo():
    assert not role.undo(FRESH, HOLD)["needed"]
