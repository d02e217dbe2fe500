"""What Flowerbed merges into a Docker engine's daemon.json, and that it can be taken out of it again."""

import importlib.util
import json
from pathlib import Path

import pytest

ROLE = Path(__file__).parents[2] / "roles" / "docker_engine"
spec = importlib.util.spec_from_file_location("docker_engine", ROLE / "filter_plugins" / "docker_engine.py")
docker_engine = importlib.util.module_from_spec(spec)
spec.loader.exec_module(docker_engine)

MIRROR = "http://192.0.2.10:5000"
WANTED = {"log_max_size": "10m", "log_max_file": 3, "mirror": "", "nvidia_default": True, "space": 1000}
LOGS = {"log-driver": "json-file", "log-opts": {"max-size": "10m", "max-file": "3"}}
NVIDIA = {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}}
PATH = "/etc/docker/daemon.json"


def found(text=None, before=None, kind="raspberry_pi", docker=(), engine=(), **other):
    """What board_facts has of a board with a running engine and this daemon.json."""
    runs = {
        "version": "20.10.24", "runtimes": ["nvidia", "runc"], "mirrors": [],
        "default_runtime": "nvidia" if kind == "jetson" else "runc",
        "live_restore": False, "containers": {}, "free": 9e9,
    }  # fmt: skip
    service = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled"}
    return {
        "kind": kind, "release": "Debian GNU/Linux 12 (bookworm)", "apt": True, "requests": True, "free": 9e9,
        "before": {"docker_engine": before} if before else {}, "docker": {**runs, **dict(docker)},
        "engine": {"path": PATH, "text": text, "mode": "0644", "options": [], "nvidia": kind == "jetson",
                   "command": True, "service": service, **dict(engine)}, **other,
    }  # fmt: skip


def plan(text=None, wanted=(), **changes):
    """Plan for such a board, where some variables are otherwise."""
    return docker_engine.plan(found(text, **changes), {**WANTED, **dict(wanted)})


def merged(document, wanted=(), **changes):
    """Return what a daemon.json becomes, which must not change once more."""
    text = document if document is None or isinstance(document, str) else json.dumps(document)
    first = plan(text, wanted, **changes)
    assert not first["problem"]
    second = plan(first["text"] or None, wanted, **{**changes, "before": first["before"]})
    assert second["text"] == first["text"] and not second["write"]
    return json.loads(first["text"])


def test_a_board_without_one_gets_log_rotation_as_strings():
    assert merged(None) == LOGS
    assert plan()["state"] == "restarted" and plan()["before"]["text"] is None


def test_a_board_on_which_all_is_done_needs_nothing():
    text = json.dumps(LOGS)
    assert not plan(text)["needed"] and plan(text)["before"] is None


@pytest.mark.parametrize("owners", [
    {"log-driver": "journald"}, {"log-driver": "local"}, {"log-driver": "json-file", "log-opts": {"max-size": "1g"}},
    {"log-opts": {"max-size": "50k", "tag": "{{.Name}}"}},
])  # fmt: skip
def test_logs_of_the_owners_choice_stay(owners):
    assert merged(owners) == owners and not plan(json.dumps(owners))["needed"]


def test_what_the_owner_had_stays_in_its_order_and_indentation():
    owners = '{\n  "data-root": "/mnt/é",\n  "log-opts": {"tag": "{{.Name}}"},\n  "dns": ["192.0.2.1"]\n}\n'
    result = plan(owners, {"mirror": MIRROR})
    assert list(json.loads(result["text"])) == ["data-root", "log-opts", "dns", "log-driver", "registry-mirrors"]
    assert result["text"].startswith('{\n  "data-root": "/mnt/é",\n  "log-opts": {\n    "tag": "{{.Name}}",')
    assert result["before"]["text"] == owners


def test_no_logs_are_rotated_where_that_is_not_wanted():
    assert not plan(wanted={"log_max_size": ""})["needed"]


def test_the_mirror_comes_before_the_owners_and_only_once():
    other = "https://mirror.example"
    assert merged({"registry-mirrors": [other, MIRROR + "/"]}, {"mirror": MIRROR})["registry-mirrors"] == [
        MIRROR,
        other,
    ]


@pytest.mark.parametrize("release", ["Ubuntu 22.04.5 LTS", "Ubuntu 24.04.1 LTS", "Debian GNU/Linux 12 (bookworm)"])
def test_where_dockers_command_is_in_its_package_only_that_is_installed(release):
    none = {"error": "not installed", "free": 9e9}
    todo = plan(kind="other", docker=none, engine={"command": False}, release=release)
    assert todo["packages"] == ["docker.io"] and not todo["problem"]


def test_a_board_with_nvidias_runtime_gets_it_and_a_jetson_as_its_default():
    assert merged({}, kind="jetson") == {**LOGS, "runtimes": NVIDIA, "default-runtime": "nvidia"}
    own = {"runtimes": {"nvidia": {"path": "/opt/nvidia"}}, "default-runtime": "runc"}
    assert merged(own, kind="jetson") == {**own, **LOGS}
    assert "default-runtime" not in merged({}, {"nvidia_default": False}, kind="jetson")
    assert merged({}, kind="jetson", engine={"nvidia": False}) == merged({}) == LOGS
    assert merged({}, kind="other", engine={"nvidia": True}) == {**LOGS, "runtimes": NVIDIA}


@pytest.mark.parametrize(("text", "sentence"), [
    ('{"debug": true,\n "dns": [}\n', "has a /etc/docker/daemon.json that is not JSON (line 2: Expecting value)"),
    ("[]", "holds no JSON object"), ('{"log-opts": []}', "in which log-opts is not an object"),
    ('{"registry-mirrors": "http://192.0.2.1"}', "in which registry-mirrors is not a list"),
    ('{"a": "\ufffd"}', "not UTF-8"),
])  # fmt: skip
def test_a_file_that_docker_could_not_use_is_left_alone(text, sentence):
    result = plan(text)
    assert sentence in result["problem"] and result["needed"] and not result["write"]
    assert sentence in docker_engine.reset(found(text, before={"text": None, "merged": "{}", "service": {}}))["problem"]


@pytest.mark.parametrize(("wanted", "sentence"), [
    ({"mirror": "http://192.0.2.1:5000/v2"}, "docker_engine_mirror http://192.0.2.1:5000/v2"),
    ({"mirror": "192.0.2.1:5000"}, "docker_engine_mirror"),
    ({"log_max_size": "10 MB"}, "docker_engine_log_max_size 10 MB"),
    ({"log_max_file": 0}, "docker_engine_log_max_file 0"),
])  # fmt: skip
def test_a_variable_that_would_keep_the_engine_from_starting_is_refused(wanted, sentence):
    assert sentence in plan(wanted=wanted)["problem"]


NONE = {
    "docker": {"error": "not installed", "free": 9e9},
    "engine": {"service": {"LoadState": "not-found"}, "command": False},
}


def test_without_an_engine_debians_is_installed_which_starts_with_the_merged_file():
    result = plan(**NONE, requests=False)
    assert result["packages"] == ["docker.io", "python3-requests"] and result["write"] and result["state"] == "started"
    assert plan(**NONE, release="Debian GNU/Linux 13 (trixie)")["packages"] == ["docker.io", "docker-cli"]


def test_an_engine_that_is_there_is_never_installed_anew():
    assert plan(docker={"error": "does not answer", "free": 9e9})["packages"] == []
    assert plan(json.dumps(LOGS), requests=False)["packages"] == ["python3-requests"]


@pytest.mark.parametrize(("changes", "sentence"), [
    ({**NONE, "kind": "jetson"}, "on a Jetson Docker comes with JetPack"),
    ({**NONE, "apt": False}, "no apt"), ({**NONE, "free": 9e8}, "has 900 MB of disk left, and Docker needs 1000 MB"),
    ({"engine": {"service": {"LoadState": "masked"}}}, "systemctl unmask docker.service"),
])  # fmt: skip
def test_a_board_that_cannot_have_an_engine_is_told_so(changes, sentence):
    result = plan(**changes)
    assert sentence in result["problem"] and result["packages"] == [] and not result["write"]


def test_a_board_that_was_not_looked_at_is_no_traceback():
    assert "could not be looked at" in docker_engine.plan({}, WANTED)["problem"]


def test_only_what_cannot_be_reloaded_restarts_the_engine():
    text = json.dumps(LOGS)
    assert plan(text, {"mirror": MIRROR})["state"] == "reloaded"
    assert plan(text, {"log_max_file": 4}, before={"text": None, "merged": text, "service": {}})["state"] == "restarted"
    with_mirror = plan(text, {"mirror": MIRROR})
    assert plan(with_mirror["text"], before=with_mirror["before"])["state"] == "restarted"  # a key that goes


def test_a_restart_that_would_stop_containers_is_left_to_the_owner():
    runs = {"containers": {"other": {"state": "running"}, "old": {"state": "exited"}}}
    result = plan(docker=runs)
    assert result["state"] == "reloaded" and "runs containers that a restart of Docker would stop" in result["notes"][0]
    assert plan(docker={**runs, "live_restore": True})["state"] == "restarted"


def test_a_reload_that_was_cut_short_is_made_good():
    text = plan(json.dumps(LOGS), {"mirror": MIRROR})["text"]
    assert plan(text, {"mirror": MIRROR})["state"] == "reloaded"
    assert not plan(text, {"mirror": MIRROR}, docker={"mirrors": [MIRROR + "/"]})["needed"]
    jetson = json.dumps(merged({}, kind="jetson"))
    assert plan(jetson, kind="jetson", docker={"runtimes": ["runc"]})["state"] == "reloaded"
    assert plan(jetson, kind="jetson", docker={"default_runtime": "runc"})["state"] == "reloaded"


def test_an_engine_that_does_not_run_or_not_at_boot_is_started():
    text, stopped = json.dumps(LOGS), {"error": "does not answer", "free": 9e9}
    assert plan(text, docker=stopped)["state"] == "started" and not plan(text, docker=stopped)["write"]
    disabled = {"service": {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "disabled"}}
    result = plan(text, engine=disabled)
    assert result["state"] == "started" and result["before"]["service"] == disabled["service"]
    assert docker_engine.reset(found(text, before=result["before"]))["disable"]


def test_what_dockerd_is_given_as_an_option_is_not_given_twice():
    result = plan(wanted={"mirror": MIRROR}, engine={"options": ["log-driver", "registry-mirror"]})
    assert (
        not result["write"]
        and "starts Docker with --registry-mirror, so registry-mirrors was not set" in result["notes"][2]
    )
    own = '{"runtimes": {"kata": {"path": "kata"}}}'
    result = plan(own, kind="jetson", engine={"options": ["add-runtime"]})
    assert json.loads(result["text"])["runtimes"] == {"kata": {"path": "kata"}}


def unmerged(owners, change=None, wanted=(), **changes):
    """Merge, let the owner change what is there, and return the text that reset leaves."""
    first = plan(owners, {"mirror": MIRROR, **dict(wanted)}, **changes)
    now = json.loads(first["text"])
    text = first["text"] if change is None else json.dumps(change(now) or now)
    result = docker_engine.reset(found(text, before=first["before"], **changes))
    assert result["needed"] and not result["problem"]
    return result["text"]


@pytest.mark.parametrize("owners", [
    None, "{}", '{"dns":\n["192.0.2.1"]}', '{"registry-mirrors": ["https://mirror.example"], "log-opts": {"tag": "x"}}',
    json.dumps({"registry-mirrors": ["https://mirror.example", MIRROR]}),
    '{"runtimes": {"nvidia": {"path": "nvidia-container-runtime", "runtimeArgs": []}}}',
])  # fmt: skip
def test_reset_gives_back_what_there_was_to_the_letter(owners):
    assert unmerged(owners) == (owners or "")
    assert unmerged(owners, kind="jetson") == (owners or "")


def test_reset_keeps_what_the_owner_changed_since():
    assert json.loads(unmerged(None, lambda now: {**now, "dns": ["192.0.2.1"]})) == {"dns": ["192.0.2.1"]}
    assert json.loads(unmerged(None, lambda now: now["log-opts"].update({"max-size": "1g"}))) == {
        "log-opts": {"max-size": "1g"}
    }  # fmt: skip
    more = unmerged('{"debug": true}', lambda now: now["registry-mirrors"].append("https://mirror.example"))
    assert json.loads(more) == {"debug": True, "registry-mirrors": ["https://mirror.example"]}
    assert json.loads(unmerged('{"debug": true}', lambda now: {"debug": False})) == {"debug": False}


def test_reset_of_a_file_that_the_owner_removed_makes_none():
    before = plan("{}")["before"]
    result = docker_engine.reset(found(None, before=before))
    assert result["text"] == "" and not result["write"]


def test_reset_has_nothing_to_do_where_nothing_was_done():
    assert not docker_engine.reset(found())["needed"]


def test_a_changed_variable_replaces_what_was_merged_before_and_not_what_the_owner_chose_since():
    first = plan(None, {"mirror": MIRROR})
    text = first["text"]
    second = plan(text, {"mirror": "http://192.0.2.20:5000", "log_max_size": "1g"}, before=first["before"])
    assert json.loads(second["text"]) == {
        "log-driver": "json-file", "log-opts": {"max-size": "1g", "max-file": "3"},
        "registry-mirrors": ["http://192.0.2.20:5000"],
    }  # fmt: skip
    assert second["before"]["text"] is None
    own = json.dumps({**json.loads(text), "log-opts": {"max-size": "7m", "max-file": "3"}})
    assert json.loads(plan(own, {"log_max_size": "1g"}, before=first["before"])["text"])["log-opts"]["max-size"] == "7m"


def test_a_start_that_failed_and_was_put_right_by_the_owner_is_not_taken_for_ours():
    failed = plan('{"no-such-option": true}')["before"]
    result = plan('{"debug": true}', before=failed)
    assert result["before"]["text"] == '{"debug": true}'
