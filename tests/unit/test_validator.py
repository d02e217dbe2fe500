import ast
import json
import os
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "roles/fl"))

from fl_validator import chosen, controller, deployed, validate  # noqa: E402
from fl_validator.addresses import listen  # noqa: E402
from fl_validator.deployed import ADVICE  # noqa: E402
from fl_validator.fleet import Fleet, Host, Source  # noqa: E402
from fl_validator.names import nearest  # noqa: E402
from fl_validator.places import LONGEST_SOCKET  # noqa: E402
from fl_validator.read import options  # noqa: E402
from fl_validator.report import listed  # noqa: E402
from fl_validator.values import typed_values  # noqa: E402

OPTIONS = options(ROOT / "roles")
FILE = "inventory/x/group_vars/all.yml"


def host(name, groups=(), **values):
    defaults = {
        "ansible_connection": "local", "fl_runtime": "process", "fl_link": "stream", "fl_home": f"/srv/{name}",
        "fl_task": str(ROOT / "fl_app/task.py"), "fl_server_host": "127.0.0.1", "fl_listen": "127.0.0.1",
        "fl_server_port": 9092, "fl_node_port": 9100 + sum(name.encode()), "fl_weight": "examples",
        "fl_experiment": "x", "fl_min_clients": 1,
    }  # fmt: skip
    return Host(name, {"all", *groups}, {**defaults, **values}, given={*values} - {"ansible_host"})


def device(name, **values):
    return host(name, groups=("devices", "rpi"), **values)


def remote(name, address, **values):
    reach = {"fl_server_host": "10.0.0.1", "ansible_connection": "ssh", "ansible_host": address, "fl_python": "/p"}
    return device(name, **{**reach, **values})


def fleet(*devices, servers=None, **fields):
    return Fleet(
        devices=list(devices),
        servers=[host("server")] if servers is None else servers,
        inventory="inventory/x",
        checkout=ROOT,
        leaf_groups={"rpi", "jetson_2gb"},
        options=OPTIONS,
        prefixes=("fl_", "dataset_", "trainer_"),
        source=lambda name, variable: Source(FILE, 3),
        **fields,
    )


def only(fleet):
    """The one sentence about a fleet."""
    (sentence,) = validate(fleet)
    return sentence


def test_good_fleet():
    assert validate(fleet(device("a"), device("b"), extra={"rounds": "3", "experiment": "a.b-2_c"})) == []


def test_no_devices():
    none = "inventory/x has no devices: put hosts into the group devices, or into one below it such as rpi."
    assert only(fleet()) == none
    hint = "Ansible passes over inventory/x/hosts.ini because of its suffix: a file of hosts can be called just hosts."
    assert only(fleet(passed_over=["inventory/x/hosts.ini"])) == f"{none} {hint}"


def test_no_server_and_two_servers():
    assert only(fleet(device("a"), servers=[])).startswith("inventory/x has no host named server: add it")
    assert "has 2 servers (s and t): keep one" in only(fleet(device("a"), servers=[host("s"), host("t")]))


def test_server_that_is_a_device():
    both = device("a")
    assert only(fleet(both, servers=[both])) == "a is the server and a device in inventory/x: choose one."


def test_groups():
    double, none = device("a"), host("b", groups=("devices",))
    double.groups.add("jetson_2gb")
    assert only(fleet(double, none)) == "a is in the groups jetson_2gb and rpi of inventory/x: keep one."


@pytest.mark.parametrize(
    ("variable", "value", "text"),
    [
        ("fl_batch_size", 0, "is 0, but must be a whole number of at least 1."),
        ("fl_batch_size", "2.5", "is '2.5', but must be a whole number of at least 1."),
        ("fl_batch_size", True, "is True, but must be a whole number of at least 1."),
        ("fl_local_epochs", "many", "is 'many', but must be a whole number of at least 1."),
        ("fl_learning_rate", 0, "is 0, but must be a number above 0."),
        ("fl_learning_rate", "nan", "is 'nan', but must be a number above 0."),
        ("fl_threads", -1, "is -1, but must be a whole number of at least 0."),
        ("fl_round_timeout", -1, "is -1, but must be a number above 0."),
        ("fl_server_port", 70000, "is 70000, but must be a whole number from 1 to 65535."),
        ("fl_seed", -1, "is -1, but must be a whole number from 0 to 4294967295."),
        ("fl_keep_checkpoints", 0, "is 0, but must be a whole number of at least 1."),
        ("fl_examples_cap", 1, "is 1, but must be a number above 1."),
        ("fl_config", None, "is None, but must be a mapping."),
        ("fl_server_host", "http://x:1", "is 'http://x:1', but must be an address or a name alone."),
        ("fl_runtime", "podman", "is 'podman', which is not one of its choices: choose process or docker."),
        ("fl_strategy", "FedAvgg", "is 'FedAvgg', which is not one of its choices: did you mean FedAvg?"),
        ("fl_weight", -1, "is -1, but must be examples, uniform or a number of at least 0."),
        ("fl_weight", 0, "is 0 for every device: give at least one device a weight above 0."),
        ("fl_home", "here", "is here, but must be an absolute path."),
        ("fl_min_clients", 2, None),  # the server's value counts
        ("fl_batch_size", "8", None),  # as -e gives it
        ("fl_learning_rate", "1e-4", None),
        ("fl_server_host", "[::1]", "is '[::1]', but must be an address or a name alone."),
        ("fl_server_host", "laptop.local", None),
        ("fl_server_host", "fe80::1%eth0", None),
        ("fl_weight", "0.2", None),
        ("fl_initial", "", None),
        ("fl_initial", None, "is None, but must be a path."),
    ],
)
def test_values(variable, value, text):
    found = validate(fleet(device("a", **{variable: value})))
    assert found == ([] if text is None else [f"a: {variable} in {FILE}:3 {text}"])


def test_bad_link_is_bad_for_its_choice_and_for_differing():
    assert [sentence.split(" is ", 1)[1] for sentence in validate(fleet(device("a", fl_link="stram")))] == [
        "'stram', which is not one of its choices: choose stream or superlink.",
        "'stram', but 'stream' for server: it must be the same everywhere.",
    ]


def test_a_number_for_one_device_only():
    found = only(fleet(device("a", fl_weight=0.2), device("b"), device("c")))
    assert found.startswith(f"a: fl_weight in {FILE}:3 gives a number, while ")


def test_unknown_names():
    found = validate(fleet(device("a", fl_btach_size=8, dataset_nme="digits", other=1), extra={"round": 3, "x": 1}))
    assert found == [
        f"a: dataset_nme in {FILE}:3 is no variable of Flowerbed; did you mean dataset_name?",
        f"a: fl_btach_size in {FILE}:3 is no variable of Flowerbed; did you mean fl_batch_size?",
        f"round in {FILE}:3 is no variable of Flowerbed; did you mean rounds?",
    ]
    assert nearest("fl_zzz", OPTIONS) is None


def test_unknown_name_on_the_command_line_is_said_once():
    spoilt = fleet(device("a", fl_lnk="x"), device("b", fl_lnk="x"), extra={"fl_lnk": "x"})
    spoilt.source = lambda name, variable: Source(command_line=True)
    assert only(spoilt) == "fl_lnk on the command line is no variable of Flowerbed; did you mean fl_link?"


def test_undefined():
    bad = device("a")
    bad.undefined["fl_config"] = "'gone' is undefined"
    assert only(fleet(bad)) == f"a: fl_config in {FILE}:3 cannot be worked out: 'gone' is undefined."


def test_the_same_problem_of_many_hosts_is_one_sentence():
    many = [device(f"d{index}", fl_threads=-1) for index in range(9)]
    assert only(fleet(*many)).startswith(f"d0, d1, d2 and 6 more: fl_threads in {FILE}:3 is -1")


def test_defaults_have_no_file():
    bad = fleet(device("a", fl_threads=-1))
    bad.source = lambda name, variable: Source()
    assert only(bad).startswith("a: fl_threads (its default) is -1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.1.2.3", "::1", "0.0.0.0", "localhost", "me.localhost"])
def test_server_out_of_reach(address):
    server = host("server", fl_listen="0.0.0.0")
    found = only(fleet(remote("a", "10.0.0.2", fl_server_host=address), servers=[server]))
    assert f"is {address}, where another machine cannot reach the server" in found


def test_server_listens_on_loopback():
    found = only(fleet(remote("a", "10.0.0.2")))
    assert "server: fl_listen" in found and "is 127.0.0.1, where a cannot reach the server" in found


@pytest.mark.parametrize(
    ("server_host", "address"),
    [
        ("127.0.0.2", "127.0.0.2"), ("::1", "::1"), ("localhost", "127.0.0.1"), ("me.localhost.", "127.0.0.1"),
        ("192.0.2.7", "0.0.0.0"), ("2001:db8::7", "::"), ("desk.example", "0.0.0.0"),
    ],
)  # fmt: skip
def test_the_server_listens_where_devices_reach_it_and_nowhere_else_if_that_is_here(server_host, address):
    assert listen(server_host) == address


def test_devices_that_reach_this_machine_where_the_server_does_not_listen_are_said():
    server = host("server")
    server.given.discard("fl_listen")
    assert only(fleet(device("a"), device("b", fl_server_host="127.0.0.2"), servers=[server])) == (
        f"b: fl_server_host in {FILE}:3 is 127.0.0.2, but the server listens at 127.0.0.1 alone: "
        "set fl_listen: 0.0.0.0 for server."
    )
    elsewhere = device("c", fl_server_host="192.168.255.1")  # which may be led here
    assert validate(fleet(elsewhere, servers=[server])) == []


@pytest.mark.parametrize("address", ["0.0.0.0:9092", "http://x", "a b"])
def test_server_listens_on_what_is_no_address(address):
    found = only(fleet(device("a"), servers=[host("server", fl_listen=address)]))
    assert found == f"server: fl_listen in {FILE}:3 is {address!r}, but must be an address or a name alone."


@pytest.mark.parametrize("variable", ["fl_listen", "fl_server_host"])
def test_an_empty_address_is_said_once(variable):
    assert f"{variable} in {FILE}:3 is " in only(
        fleet(device("a", **{variable: ""}), servers=[host("server", **{variable: ""})])
    )


def test_example_addresses():
    server = host("server", fl_listen="0.0.0.0")
    assert validate(fleet(remote("a", "192.0.2.4", fl_server_host="203.0.113.9"), servers=[server])) == [
        f"a: ansible_host in {FILE}:3 is still an example: write the board's own address.",
        f"a: fl_server_host in {FILE}:3 is still an example: write the server's address, as boards see it.",
    ]


def test_one_board_twice():
    server = host("server", fl_listen="0.0.0.0")
    boards = [remote("a", "10.0.0.2"), remote("b", "10.0.0.2"), remote("c", "10.0.0.2", ansible_port=2222)]
    found = only(fleet(*boards, servers=[server]))
    assert found == f"b: ansible_host in {FILE}:3 is 10.0.0.2, as for a: each device needs its own."


def test_one_home_twice():
    assert "b: fl_home" in only(fleet(device("a", fl_home="/srv/x"), device("b", fl_home="/srv/x")))
    server = host("server", fl_listen="0.0.0.0")
    boards = [remote("a", "10.0.0.2", fl_home="/srv/x"), remote("b", "10.0.0.3", fl_home="/srv/x")]
    assert validate(fleet(*boards, servers=[server])) == []


def test_one_port_twice_matters_on_superlink(monkeypatch):
    monkeypatch.setattr(sys, "version_info", (3, 11, 2))
    link = {"fl_link": "superlink", "fl_node_port": 9092}
    assert validate(fleet(device("a", fl_node_port=9092))) == []
    found = only(fleet(device("a", **link), servers=[host("server", fl_link="superlink")]))
    assert found == f"a: fl_node_port in {FILE}:3 is 9092, as for server: each needs its own port."


def test_home_of_107_bytes():
    longest = "/" + "x" * (107 - len(LONGEST_SOCKET) - 1)
    assert validate(fleet(device("a", fl_home=longest))) == []
    assert only(fleet(device("a", fl_home=f"{longest}x"), device("b", fl_home=f"{longest}yy"))) == (
        f"a and b: fl_home in {FILE}:3 is 2 bytes too long for Unix sockets: set an fl_root that is so much shorter."
    )


@pytest.mark.parametrize(("variable", "value", "text"), [
    ("fl_home", "/srv/a:b", "is '/srv/a:b', but a path cannot have ':' in it: choose another."),
    ("fl_home", "/srv/$a", "is '/srv/$a', but a path cannot have '$' in it: choose another."),
    ("fl_home", "/srv/a\nb", "is '/srv/a\\nb', but a path cannot have '\\n' in it: choose another."),
    ("fl_home", "/srv/[a]", "is '/srv/[a]', but a path cannot have '[' in it: choose another."),
    ("fl_python", "/a=b/python", "is '/a=b/python', but a path cannot have '=' in it: choose another."),
    ("dataset_path", "/a{{b", "is '/a{{b', but a path cannot have '{{' in it: choose another."),
    ("dataset_device_path", "~/x", f"is ~/x, but must be written out, such as {Path.home()}/x."),
    ("fl_home", "~/x", f"is ~/x, but must be written out, such as {Path.home()}/x."),
    ("fl_home", "/srv/it's 5 % ;#é (b) & `c`", None),
    ("dataset_path", '/data/10:00/$a "b" [c]', None),
    ("dataset_path", "~/x", None),
    ("fl_runs", "~/x", None),
])  # fmt: skip
def test_paths(variable, value, text):
    found = validate(fleet(device("a", **{variable: value})))
    assert found == ([] if text is None else [f"a: {variable} in {FILE}:3 {text}"])


def test_a_folder_of_all_hosts_is_said_once_and_a_boards_home_is_not_this_users():
    server = host("server", fl_listen="0.0.0.0")
    board = remote("a", "10.0.0.2", fl_root="~/x", fl_home="~/x/a")
    board.given.discard("fl_home")
    found = only(fleet(board, servers=[server]))
    assert found == f"a: fl_root in {FILE}:3 is ~/x, but must be written out, such as /home/pi/x."


def test_a_name_that_no_folder_can_have():
    assert only(fleet(device("../a", fl_home="/srv/a"))) == (
        "../a has a / in its name in inventory/x, and its folder is called so."
    )


def test_a_checkout_that_must_move():
    moved = fleet(device("a", fl_home="/srv/a:b"))
    moved.checkout = Path("/srv/a:b")
    assert validate(moved)[0].startswith("this checkout, '/srv/a:b', has ':' in its path, which Flowerbed cannot use")


@pytest.mark.parametrize(("variables", "good"), [
    ({"CUDA_VISIBLE_DEVICES": 0, "A": "b ;c"}, True), ({"A=B": 1}, False), ({"A": "b\nc"}, False), ({"A": [1]}, False),
    ({1: "a"}, False), ({"PYTHONPATH": "/opt/mine"}, False), ({"FLOWERBED_HOME": "/tmp"}, False),
    ({"FLOWERBED_FILES": ""}, False), ({"PYTHONHASHSEED": 1, "FLOWERBED": 1}, True),
])  # fmt: skip
def test_a_trainers_environment(variables, good):
    found = validate(fleet(device("a", trainer_environment=variables)))
    assert good == (found == []) and all(text.startswith(f"a: trainer_environment in {FILE}:3 has ") for text in found)


def test_pythonpath_is_flowerbeds_on_the_server_too():
    """With another, its trainer would find no module named flowerbed."""
    servers = [host("server", trainer_environment={"PYTHONPATH": "/opt/mine"})]
    assert only(fleet(device("a"), servers=servers)) == (
        f"server: trainer_environment in {FILE}:3 has PYTHONPATH, which Flowerbed sets: install the package for the "
        "trainer's Python, or add its folder to sys.path in the task."
    )


def test_docker_is_for_devices_with_a_folder_of_their_own():
    good = remote("a", "10.0.0.2", fl_runtime="docker", fl_root="/opt/flowerbed")
    assert validate(fleet(good, servers=[host("server", fl_listen="0.0.0.0")])) == []
    boards = [remote("a", "10.0.0.2", fl_runtime="docker"), remote("b", "10.0.0.3", fl_runtime="docker")]
    for board in boards:
        board.given -= {"fl_root", "fl_home"}
    assert only(fleet(*boards, servers=[host("server", fl_listen="0.0.0.0")])).startswith("a and b: fl_root ")
    assert only(fleet(good, servers=[host("server", fl_listen="0.0.0.0", fl_runtime="docker")])) == (
        f"server: fl_runtime in {FILE}:3 is docker, which is for devices: set it for the group devices."
    )


def test_a_board_needs_a_python_of_its_own():
    board = remote("a", "10.0.0.2")
    board.given.discard("fl_python")
    found = only(fleet(board, servers=[host("server", fl_listen="0.0.0.0")]))
    assert found.startswith(f"a: fl_python in {FILE}:3 is this machine's: give the board's, 3.10 or newer")


def test_the_superlink_needs_a_newer_python(monkeypatch):
    link = {"fl_link": "superlink"}
    good = fleet(device("a", **link), servers=[host("server", **link)])
    monkeypatch.setattr(sys, "version_info", (3, 11, 2))
    assert validate(good) == []
    monkeypatch.setattr(sys, "version_info", (3, 10, 12))
    assert only(good).startswith(f"server: fl_link in {FILE}:3 is superlink, which needs Python 3.11 or 3.12")


def task(tmp_path, text):
    file = tmp_path / "task.py"
    file.write_text(text)
    names = {"fl_task": str(file)}
    return validate(fleet(device("a", **names), servers=[host("server", **names)]))


def test_task_lacks_names(tmp_path):
    (found,) = task(tmp_path, "def build_model(config): ...\ndef train(model, data, config): ...\n")
    assert found.startswith(f"server and a: fl_task in {FILE}:3 is ")
    assert "which lacks load_data and evaluate: a task has the functions build_model, load_data" in found


def test_task_with_names_from_elsewhere(tmp_path):
    assert task(tmp_path, "from mine import *\n") == []
    text = "from mine import build_model, fit as train\ntry:\n    load_data = None\nfinally:\n    evaluate: int = 1\n"
    assert task(tmp_path, text) == []


def test_task_is_not_python(tmp_path):
    assert "which is not Python (line 2): correct it" in task(tmp_path, "\ndef train(:\n")[0]


def test_a_task_in_the_users_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "task.py").write_text("from mine import *\n")
    names = {"fl_task": "~/task.py"}
    assert validate(fleet(device("a", **names), servers=[host("server", **names)])) == []


def test_task_is_missing():
    names = {"fl_task": "nowhere/task.py"}  # relative to the checkout
    (found,) = validate(fleet(device("a", **names), servers=[host("server", **names)]))
    assert "cannot be read (No such file or directory): give the path of a task" in found


def test_min_clients():
    found = only(fleet(device("a"), servers=[host("server", fl_min_clients=2)]))
    assert "fl_min_clients" in found and "is 2, but the inventory has 1: lower it or add devices" in found


@pytest.mark.parametrize("name", ["", "a b", "../x", ".hidden", "a/b", "é"])
def test_experiment(name):
    assert validate(fleet(device("a"), extra={"experiment": name}))[0].startswith(f"experiment in {FILE}:3 is {name!r}")


@pytest.mark.parametrize("rounds", ["0", "-1", "1.5", "many", "", 0, None])
def test_rounds(rounds):
    assert "but must be a whole number of at least 1" in only(fleet(device("a"), extra={"rounds": rounds}))


def test_types_are_restored():
    good = fleet(device("a", fl_batch_size="8", fl_learning_rate="1e-2", fl_weight="0.5", fl_config={"b": "1"}))
    values = typed_values(good)["a"]
    assert (values["fl_batch_size"], values["fl_learning_rate"], values["fl_weight"]) == (8, 0.01, 0.5)
    assert values["fl_config"] == {"b": "1"} and values["fl_home"] == "/srv/a"


@pytest.mark.parametrize(("python", "ansible", "words"), [
    ((3, 9), "2.16.19", ["Python 3.9", "3.11 or 3.12"]),
    ((3, 13), "2.16.19", ["Python 3.13"]),
    ((3, 12), "2.17.1", ["ansible-core 2.17.1", "2.16.x"]),
    ((3, 11), "2.16.0", []),
    ((3, 12), "2.16.0", []),
])  # fmt: skip
def test_controller(python, ansible, words):
    found = controller.problems(python, ansible, str(ROOT / "ansible.cfg"), ROOT)
    assert len(found) == bool(words) and all(word in found[0] for word in words)


def test_controller_and_bootstrap_take_the_same_pythons():
    taken = re.search(r"if version not in (\(.*\)):", (ROOT / "bootstrap.sh").read_text())[1]
    good = [
        f"3.{minor}" for minor in range(6, 16)
        if not controller.problems((3, minor), "2.16.19", str(ROOT / "ansible.cfg"), ROOT)
    ]  # fmt: skip
    assert good == list(ast.literal_eval(taken))


def test_configuration_of_another_place(monkeypatch):
    monkeypatch.delenv("ANSIBLE_CONFIG", raising=False)
    (found,) = controller.problems((3, 11), "2.16.19", None, ROOT)
    assert found == f"Ansible reads no ansible.cfg, but Flowerbed needs its own: run ansible-playbook in {ROOT}."


def test_strategies_are_those_that_a_run_accepts():
    strategy = pytest.importorskip("flowerbed.rounds.strategy")
    assert OPTIONS["fl_strategy"]["choices"] == strategy.names()


def test_overrides_are_what_a_device_has_otherwise():
    server = host("server", fl_batch_size="32", fl_learning_rate=0.01, fl_config={"a": 1, "b": [2]})
    same = {"fl_batch_size": 32, "fl_learning_rate": 0.01}
    others = fleet(
        device("a", **same, fl_config={"a": 1, "b": [2]}),
        device("b", **{**same, "fl_batch_size": 16}, fl_config={"b": [3], "c": None}),
        servers=[server],
    )
    assert deployed.overrides(others) == {"a": {}, "b": {"batch_size": 16, "b": [3], "c": None}}


@pytest.fixture
def record(tmp_path):
    """Return what is wrong with a fleet, of a server and the devices a and b, where another one is deployed."""

    def compare(then, now):
        def made(values):
            own = {"fl_batch_size": 32, "fl_threads": 1}
            named = [device(name, **{**own, **values.get("all", {}), **values.get(name, {})}) for name in "ab"]
            return fleet(*named, servers=[host("server", fl_home=str(tmp_path), **{**own, **values.get("all", {})})])

        (tmp_path / "deployed.json").write_text(json.dumps(deployed.fixed(made(then))))
        return validate(made(now), as_deployed=True)

    return compare


@pytest.mark.parametrize(("then", "now", "text"), [
    ({}, {"a": {"fl_threads": 2}}, "a: fl_threads in {} is 2, but 1 is deployed"),
    ({}, {"all": {"fl_threads": "2"}}, "server, a and b: fl_threads in {} is 2, but 1 is deployed"),
    ({}, {"a": {"dataset_size": 9}}, "a: dataset_size in {} is 9, which is not deployed"),
    ({"a": {"dataset_size": 9}}, {}, "a: dataset_size in {} is not given, but 9 is deployed"),
    ({}, {"a": {"fl_batch_size": 16}}, "a: fl_batch_size in {} is 16, which is not deployed"),
    # The device would go on to override what is asked for.
    ({"a": {"fl_batch_size": 16}}, {"all": {"fl_batch_size": 8}}, "a: fl_batch_size in {} is 8, but 16 is deployed"),
])  # fmt: skip
def test_what_is_not_deployed_is_said(record, then, now, text):
    assert record(then, now) == [
        text.format(f"{FILE}:3") + (ADVICE if "not given" not in text else ": run deploy.yml first") + "."
    ]


@pytest.mark.parametrize("values", [
    {"fl_batch_size": 8, "fl_learning_rate": 0.5, "fl_config": {"a": 1}},
    {"fl_seed": 4, "fl_strategy": "FedProx", "fl_strategy_args": {"proximal_mu": 1}, "fl_experiment": "y"},
    {"fl_weight": 0.5}, {"fl_round_timeout": 3, "fl_min_clients": 2}, {"trainer_ready_timeout": 1},
    {"fl_keep_checkpoints": 9, "fl_examples_cap": 2, "fl_initial": "first"},
    {"fl_metric": "loss", "fl_metric_better": "lower", "fl_show": ["loss"]},
    {"ansible_host": "10.0.0.9"},
])  # fmt: skip
def test_what_a_run_may_choose_needs_no_deployment(record, values):
    assert record({}, {"all": values}) == []


def test_a_host_without_a_record_and_a_fleet_without_one_are_left_to_the_run(tmp_path):
    asked = fleet(device("a", fl_threads=2), servers=[host("server", fl_home=str(tmp_path))])
    assert validate(asked, as_deployed=True) == []
    for text in ("{}", "{", json.dumps({"server": deployed.fixed(asked)["server"]})):
        (tmp_path / "deployed.json").write_text(text)
        assert validate(asked, as_deployed=True) == []


def test_another_port_for_a_supernode_is_of_account_where_there_is_one(record):
    assert record({"a": {"fl_node_port": 9201}}, {"a": {"fl_node_port": 9202}}) == []
    link = {"all": {"fl_link": "superlink"}}
    [sentence] = record({**link, "a": {"fl_node_port": 9201}}, {**link, "a": {"fl_node_port": 9202}})
    assert "fl_node_port" in sentence and "is 9202, but 9201 is deployed" in sentence


def test_a_change_with_many_values_is_one_sentence(tmp_path):
    def made(first):
        many = [device(f"d{index}", fl_threads=first + index) for index in range(9)]
        return fleet(*many, servers=[host("server", fl_home=str(tmp_path))])

    (tmp_path / "deployed.json").write_text(json.dumps(deployed.fixed(made(2000))))
    found = validate(made(3000), as_deployed=True)
    assert found == [
        f"d0, d1, d2 and 6 more: fl_threads in {FILE}:3 is not what is deployed: run deploy.yml with it first."
    ]


def test_every_variable_has_a_default_and_a_description():
    yaml = pytest.importorskip("yaml")
    defaults = yaml.safe_load((ROOT / "roles/fl/defaults/main.yml").read_text())
    assert {*defaults} <= {*OPTIONS}
    assert {name for name in OPTIONS if name.startswith("fl_")} <= {*defaults}
    assert all(option["description"] and option["type"] for option in OPTIONS.values())


def test_listed():
    assert [listed("abcd"[:size]) for size in range(5)] == ["", "a", "a and b", "a, b and c", "a, b, c and d"]
    assert listed("abcdef", "or") == "a, b, c or 3 more"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ({"tau": 0}, "does not fit FedAdam: tau is 0, but must be a number above 0."),
        ({"eta": "fast"}, "does not fit FedAdam: eta is 'fast', but must be a number above 0."),
        ({"proximal_mu": 1}, "does not fit FedAdam: proximal_mu is not one of its arguments, which are beta_1,"),
        ({"min_train_nodes": 2}, "does not fit FedAdam: min_train_nodes is 2, more than the devices that train (1)."),
        ({"eta": "1e-2"}, None),
    ],
)
def test_a_strategy_s_arguments_are_checked(arguments, text):
    pytest.importorskip("flwr")
    found = validate(
        fleet(device("a"), servers=[host("server", fl_strategy="FedAdam", fl_strategy_args=arguments)])
    )  # fmt: skip
    assert len(found) == (text is not None)
    assert all(sentence.startswith(f"server: fl_strategy_args in {FILE}:3 {text}") for sentence in found)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("Bulyan", "Bulyan: num_malicious_nodes is 0, for which it needs 3 devices, but 1 train."),
        ("QFedAvg", "QFedAvg: client_learning_rate is missing."),
        ("FedAdam", None),
    ],
)
def test_a_strategy_without_arguments_is_checked(name, text):
    pytest.importorskip("flwr")
    found = validate(fleet(device("a"), servers=[host("server", fl_strategy=name, fl_strategy_args={})]))
    assert found == ([] if text is None else [f"server: fl_strategy_args in {FILE}:3 does not fit {text}"])


@pytest.mark.parametrize(
    ("value", "strategy", "text"),
    [
        ({"clip": 1, "noise": "5e-1"}, "Krum", None),
        ({"clip": 1, "noise": 1, "where": "server"}, "FedAdam", None),
        ({"clip": 0, "noise": 1}, "FedAvg", "has clip 0, but it must be a number above 0."),
        ("1", "FedAvg", "is '1', but must be a mapping."),
        (
            {"clip": 1, "noise": 1, "where": "server"}, "FedMedian",
            "has where server, which blurs the updates' mean, but FedMedian takes another: choose one of FedAdagrad, "
            "FedAdam, FedAvg, FedAvgM, FedProx, FedYogi, or where: device.",
        ),
    ],
)  # fmt: skip
def test_privacy_is_checked(value, strategy, text):
    pytest.importorskip("flwr")
    hosts = [device("a", fl_privacy=value)]
    found = validate(fleet(*hosts, servers=[host("server", fl_strategy=strategy, fl_privacy=value)]))
    assert [sentence.partition(f"fl_privacy in {FILE}:3 ")[2] for sentence in found] == ([text] if text else [])


def test_privacy_is_the_same_everywhere():
    found = only(fleet(device("a", fl_privacy={"clip": 1, "noise": 1}), servers=[host("server", fl_privacy={})]))
    assert found.endswith("is {'clip': 1, 'noise': 1}, but {} for server: it must be the same everywhere.")


def test_text_that_yaml_takes_for_no_number_is_one():
    config = {"decay": "1e-2", "deep": {"list": ["-2.5E+3", ".5e1"]}, "name": "1e", "hash": "1e999", "text": "0.5"}
    good = fleet(device("a", fl_config=config), servers=[host("server", fl_strategy_args={"eta": "1e-2"})])
    values = typed_values(good)
    assert values["a"]["fl_config"] == {
        "decay": 0.01, "deep": {"list": [-2500.0, 5.0]}, "name": "1e", "hash": "1e999", "text": "0.5"
    }  # fmt: skip
    assert values["server"]["fl_strategy_args"] == {"eta": 0.01}
    assert deployed.overrides(good)["a"]["decay"] == 0.01


@pytest.mark.parametrize(
    ("variables", "right"),
    [
        ({"fl_metric": "auto"}, True), ({"fl_metric": "loss"}, True), ({"fl_metric": "top5_accuracy"}, True),
        ({"fl_metric": "mae"}, False), ({"fl_metric": "mae", "fl_metric_better": "lower"}, True),
    ],
)  # fmt: skip
def test_a_metric_of_one_s_own_says_whether_more_is_better(variables, right):
    found = validate(fleet(device("a"), servers=[host("server", **variables)]))
    assert found == ([] if right else [
        f"server: fl_metric_better in {FILE}:3 is auto, but fl_metric is mae: say higher or lower."
    ])  # fmt: skip


def test_a_list_may_come_from_the_command_line_as_text():
    several = fleet(device("a"), servers=[host("server", fl_show="f1, mae")])
    assert validate(several) == [] and typed_values(several)["server"]["fl_show"] == ["f1", "mae"]


def _folder(path, **more):
    """Make a task's folder, and more files in it: text, bytes in MiB, or a link's target."""
    path.mkdir()
    (path / "task.py").write_text("from net import build_model, load_data, train, evaluate\n")
    (path / "net.py").touch()
    for name, content in more.items():
        whole = path / name.replace("__", "/").replace("_py", ".py")
        whole.parent.mkdir(exist_ok=True)
        if isinstance(content, int):
            with open(whole, "wb") as file:
                file.truncate(content << 20)
        elif isinstance(content, Path):
            whole.symlink_to(content)
        else:
            whole.write_text(content)
    return path


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        ({}, None),
        ({".git__big": 100, "__pycache____net": 100, "words": "a b"}, None),
        ({"data": 2048}, "a folder of 2048 MiB, most of it in {folder}/data: a task, which goes to every device, has"),
        ({"again": Path(".")}, "in which {folder}/again is a link to a folder, or to nothing: put the folder itself"),
        ({"nowhere": Path("gone")}, "in which {folder}/nowhere is a link to a folder, or to nothing"),
        ({"circle": Path("circle")}, "in which {folder}/circle is a link to a folder, or to nothing"),
        ({"torch_py": ""}, "in which torch would hide the package of that name: call it otherwise"),
        ({"parts__broken_py": "def f(:\n"}, "is {folder}/parts/broken.py, which is not Python (line 1): correct it"),
        ({"task_py": "from net import train"}, "is {folder}/task.py, which lacks build_model, load_data and evaluate"),
    ],
)
def test_a_task_may_be_a_folder_that_can_be_sent(tmp_path, more, sentence):
    folder = _folder(tmp_path / "task", **more)
    found = validate(fleet(device("a", fl_task=str(folder)), servers=[host("server", fl_task=str(folder))]))
    assert len(found) == (sentence is not None), found
    assert all(sentence.format(folder=folder) in each for each in found), found


def test_a_task_s_folder_has_a_bound_on_its_files_and_they_are_files(tmp_path):
    many = _folder(tmp_path / "many", **{f"file-{number}": "" for number in range(1000)})
    pipe = _folder(tmp_path / "pipe")
    os.mkfifo(pipe / "fifo")
    for folder, sentence in ((many, "a folder of more than 1000 files"), (pipe, "/fifo is no regular file: remove it")):
        [found] = validate(fleet(device("a", fl_task=str(folder)), servers=[host("server", fl_task=str(folder))]))
        assert sentence in found


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"fl_enough": "all"}, None), ({"fl_enough": 2}, None), ({"fl_enough": "0.5", "fl_grace": "2x"}, None),
        ({"fl_grace": 0}, None), ({"fl_late": "carry", "fl_strategy": "FedAdam"}, None),
        ({"fl_enough": 0}, "fl_enough in {} is 0, but must be all, a whole number of at least 1, or a fraction"),
        ({"fl_enough": 3}, "fl_enough in {} is 3, but the inventory has 2 devices: lower it, or write all."),
        ({"fl_enough": None}, "fl_enough in {} is None, but must be all"),
        ({"fl_grace": "soon"}, "fl_grace in {} is 'soon', but must be seconds of at least 0, or a multiple"),
        ({"fl_late": "keep"}, "fl_late in {} is 'keep', which is not one of its choices: choose drop or carry."),
        ({"fl_late": "carry", "fl_strategy": "Krum"}, "fl_late in {} is carry, but fl_strategy is Krum, which"),
        ({"fl_target_seconds": "20", "fl_strategy": "FedAvgM"}, None),
        ({"fl_target_seconds": -1}, "fl_target_seconds in {} is -1, but must be a number of at least 0."),
        ({"fl_target_seconds": 20, "fl_strategy": "FedMedian"}, "fl_target_seconds in {} is 20, but fl_strategy"),
        ({"fl_round_retries": -1}, "fl_round_retries in {} is -1, but must be a whole number of at least 0."),
    ],
)  # fmt: skip
def test_how_long_a_round_waits(values, text):
    fleet_of_two = fleet(device("a"), device("b"), servers=[host("server", **values)])
    if text is None:
        assert validate(fleet_of_two) == []
    else:
        assert only(fleet_of_two).startswith("server: " + text.format(f"{FILE}:3"))


def three(value=None, **fields):
    servers = [host("server")] if value is None else [host("server", fl_devices=value)]
    jetson = host("c", groups=("devices", "jetson_2gb"))
    return fleet(device("a"), device("b"), jetson, servers=servers, **fields)


@pytest.mark.parametrize(
    ("value", "names", "fraction"),
    [
        (None, "abc", 1), ("devices", "abc", 1), ("rpi", "ab", 1), ("c,a", "ac", 1), (["c", "rpi"], "abc", 1),
        ("0.5", "abc", 0.5), (0.5, "abc", 0.5), (1, "abc", 1), ("rpi, 0.5", "ab", 0.5), (["a"], "a", 1),
    ],
)  # fmt: skip
def test_the_devices_of_a_run(value, names, fraction):
    assert validate(three(value)) == [] and chosen.chosen(three(value)) == {"names": [*names], "fraction": fraction}
    if value is not None:
        given = three("rpi", extra={"devices": value})
        assert validate(given) == [] and chosen.chosen(given) == {"names": [*names], "fraction": fraction}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("rp", "has 'rp', which is no device of the inventory and no group of them: did you mean rpi?"),
        ("server", "has 'server', which is no device of the inventory and no group of them: the groups are all,"),
        ("", "has '', which is no device"), ([], "names no device: name some, or a group, or write a fraction such as"),
        (0, "is 0, but a fraction of the devices is one number above 0, and at most 1."), ("2", "is '2', but a"),
        ("0.5,0.2", "is '0.5,0.2', but a fraction"), ("-0.1", "is '-0.1', but"), (None, "has 'None', which is no"),
        ({"rpi": 1}, "has \"{'rpi': 1}\", which is no"),
    ],
)  # fmt: skip
def test_devices_that_are_none(value, text):
    assert only(three(extra={"devices": value})).startswith(f"devices in {FILE}:3 {text}")
    if value is not None:
        assert only(three(value)).startswith(f"server: fl_devices in {FILE}:3 {text}")


def test_true_is_true_from_the_command_line_too():
    values = {"a": True, "b": "true", "c": "no"}
    several = fleet(*(device(name, fl_optional=value) for name, value in values.items()))
    assert validate(several) == []
    assert [typed_values(several)[name]["fl_optional"] for name in values] == [True, True, False]
    assert "fl_optional in" in only(fleet(device("a", fl_optional="perhaps")))
