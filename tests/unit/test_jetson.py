"""What there is to do on a Jetson, by what was found there."""

import importlib.util
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles" / "jetson"
spec = importlib.util.spec_from_file_location("jetson", ROLE / "filter_plugins" / "jetson.py")
role = importlib.util.module_from_spec(spec)
spec.loader.exec_module(role)

HOLD = ["docker.io", "containerd", "nvidia-*"]
WANTED = {"power_mode": "0", "clocks": True, "headless": True, "swap": "4096", "hold": HOLD}
ZRAM = {f"/dev/zram{number}": 500 * 2**20 for number in range(4)}
PACKAGES = ("containerd", "docker.io", "docker-clean", "nvidia-l4t-core")


def power(mode, pinned):
    """What the programs say of the power mode and the clocks; None for one that is not there."""
    clocks = "" if pinned is None else f"GPU MinFreq={921 if pinned else 76} MaxFreq=921 CurrentFreq=76\n"
    return {"power_mode": "" if mode is None else f"NV Power Mode: X\n{mode}\n", "clocks": clocks}


FRESH = {
    "kind": "jetson", "l4t": "32.7.1", "docker": {"runtimes": ["nvidia", "runc"], "cdi": False},
    "engine": {"nvidia": True}, "before": {}, "free": 20e9,
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
        ({"l4t": ""}, "is no Jetson (it has no /etc/nv_tegra_release"),
        (
            {"docker": {"runtimes": ["runc"], "cdi": False}, "engine": {"nvidia": False}},
            "has a Docker engine that knows no runtime nvidia: install JetPack's package nvidia-container-runtime",
        ),
        (
            {"docker": {"runtimes": ["runc"], "cdi": False}, "engine": {"nvidia": False}, "l4t": "36.4.3"},
            "has a Docker engine that knows no runtime nvidia: install JetPack's package nvidia-container",
        ),
    ],
)
def test_a_board_that_cannot_be_set_up_is_named_and_left_alone(changes, sentence):
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


# The modes of an Orin Nano with JetPack 6.2 (its nvpmodel_p3767_0003_super.conf)
ORIN = """\
< PARAM TYPE=FILE NAME=CPU_ONLINE >
< POWER_MODEL ID=0 NAME=15W >
CPU_ONLINE CORE_0 1
< POWER_MODEL ID=1 NAME=25W >
< POWER_MODEL ID=2 NAME=MAXN_SUPER >
< POWER_MODEL ID=3 NAME=7W >
< PM_CONFIG DEFAULT=1 >
"""
ORINS = {"l4t": "36.4.3", "files": {**FRESH["files"], "/etc/nvpmodel.conf": ORIN}, "outputs": power(1, False)}


@pytest.mark.parametrize("wanted", ["MAXN_SUPER", "maxn super", "2", 2])
def test_a_power_mode_is_wanted_by_its_name_or_number(wanted):
    assert plan({"power_mode": wanted}, **ORINS)["power_mode"] == 2
    assert not plan({"power_mode": wanted}, **ORINS)["problem"]


def test_nvpmodels_own_names_are_known_too():
    agx = {"files": {"/etc/nvpmodel.conf": "< POWER_MODEL ID=2 NAME=MODE_30W >\n"}}
    assert plan({"power_mode": "30W"}, **{**ORINS, **agx, "outputs": power(0, True)})["power_mode"] == 2


def test_no_power_mode_wanted_leaves_it_as_it_is():
    todo = plan({"power_mode": ""}, **ORINS)
    assert todo["power_mode"] is None and not todo["problem"] and not todo["notes"]


@pytest.mark.parametrize(
    ("wanted", "changes", "sentence"),
    [
        ("30W", {}, "has no power mode 30W (jetson_power_mode): choose 15W, 25W, MAXN_SUPER, 7W"),
        (4, {}, "has no power mode 4 (jetson_power_mode): choose 15W, 25W, MAXN_SUPER, 7W"),
        ("MAXN", {"files": {}}, "has no power mode MAXN (jetson_power_mode): choose by its number"),
    ],
)
def test_a_power_mode_that_the_board_does_not_have_is_refused_with_those_that_it_has(wanted, changes, sentence):
    todo = plan({"power_mode": wanted}, **{**ORINS, **changes})
    assert todo["problem"].startswith(sentence) and not todo["hold"]


def test_cdi_gives_containers_the_gpu_where_there_is_no_runtime():
    changes = {"docker": {"runtimes": ["runc"], "cdi": True}, "engine": {"nvidia": False}}
    assert not plan(**ORINS, **changes)["problem"]
    assert role.checks({**FRESH, **ORINS, **changes}, True, True, "")["nvidia"] == ("ok", "CDI", "")


def test_preflight_shows_the_power_mode_by_its_name():
    facts = {**FRESH, **ORINS}
    assert role.checks(facts, True, True, "")["power"] == ("ok", "25W", "")
    assert role.checks(facts, True, True, "30W")["power"][:2] == ("fail", "30W")
    assert role.checks({**facts, "files": {}}, True, True, "")["power"] == ("ok", "1", "")
    assert set(role.checks(facts, False, True, "30W")) == {"system"}, "without root, nothing is set there"
