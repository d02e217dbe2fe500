"""What a deployment has to itself on a host: it refuses a folder with other things, and removes only its own."""

import hashlib
import importlib.util
import json
import os
import socket
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
import yaml
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROOT = Path(__file__).parents[2]
MODULE = ROOT / "plugins" / "modules" / "fl_files.py"
spec = importlib.util.spec_from_file_location("fl_files", MODULE)
fl_files = importlib.util.module_from_spec(spec)
spec.loader.exec_module(fl_files)

# What a deployment places, and what its programs write
PLACED = ["app/flowerbed/__init__.py", "app/task.py", "trainer.json", "programs/trainer.conf", "shard/train.npz"]
WRITTEN = [
    "logs/trainer.log", "logs/supervisord.log.1", "app/__pycache__/task.cpython-311.pyc", "supervisord.pid",
    "superlink.db-wal", "slots/slot-0", "shards/rpi-1/train.npz", "shards/.state.json", "shards/.fetched/files/a/b",
    "flwr/apps/a/b/c.py",
]  # fmt: skip
DOWNLOADS = {"cifar10": ["cifar-10-binary.tar.gz"]}


class Host:
    """A host's folder, and the one that it shares."""

    def __init__(self, root: Path, name: str, homes: list[str], *known: str) -> None:
        self.root, self.home = root, root / name
        self.owns = {"root": str(root), "homes": [str(root / each) for each in homes], "known": [*known]}

    def write(self, *paths: str) -> None:
        for path in paths:
            (self.home / path).parent.mkdir(parents=True, exist_ok=True)
            (self.home / path).write_text("1")

    def strangers(self) -> tuple | None:
        return fl_files.strangers(str(self.home), **self.owns)

    def deploy(self, *written: str) -> None:
        """Claim the folder, place files and run programs, as a deployment does."""
        assert self.strangers() is None
        fl_files.claim(str(self.home), str(self.root))
        fl_files.write(str(self.home / fl_files.RECORD), {**self.record(), "files": PLACED})
        self.write(*PLACED, *written)

    def record(self) -> dict:
        return json.loads((self.home / fl_files.RECORD).read_text())

    def reset(self, *keep: str) -> dict[str, list[str]]:
        return fl_files.absent(str(self.home), self.owns, DOWNLOADS, keep, check=False)[1]


@pytest.fixture
def host(tmp_path) -> Host:
    return Host(tmp_path / "above" / "root", "rpi-1", ["rpi-1", "rpi-2"])


@pytest.mark.parametrize("place", ["", "rpi-1/"])
@pytest.mark.parametrize("name", ["notes.txt", "app/main.py", "logs/mine.log", "downloads/holiday.jpg", "results.json"])
def test_a_folder_that_holds_anything_else_is_refused(host, place, name):
    host.root.mkdir(parents=True)
    path = host.root / place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine")
    variable, folder = ("fl_home", host.home) if place else ("fl_root", host.root)
    assert host.strangers() == (variable, str(folder), [name.partition("/")[0]])


def test_what_is_no_stranger(host):
    for folder in (host.home, host.root / "rpi-2" / "data", host.root / "before", host.root / "lost+found"):
        folder.mkdir(parents=True)
    (host.root / "before" / "docker_engine.json").write_text("{}")
    assert host.strangers() is None
    (host.home / "photos").mkdir()
    assert host.strangers() == ("fl_home", str(host.home), ["photos"])
    assert Host(host.root, "rpi-1", ["rpi-1", "rpi-2"], str(host.home / "photos/2026")).strangers() is None
    (host.root / "before" / "mine.json").write_text("{}")
    assert host.strangers() is not None


def test_an_earlier_deployment_is_taken_over(host):
    host.write(*PLACED, "notes.txt", "app/flowerbed/gone.py")
    (host.root / "downloads").mkdir()  # of an earlier Flowerbed, as the next host of the inventory finds it
    assert host.strangers() is None and Host(host.root, "rpi-2", ["rpi-1", "rpi-2"]).strangers() is None
    assert set(fl_files.recorded(str(host.home))["files"]) == {*PLACED, "app/flowerbed/gone.py"}
    assert host.reset() == {str(host.home): ["notes.txt"]}
    assert [path.name for path in host.home.rglob("*")] == ["notes.txt"]


def test_a_reset_of_an_earlier_deployment_leaves_no_empty_folder_of_ours(host):
    other = Host(host.root, "rpi-2", ["rpi-1", "rpi-2"])
    host.write(*PLACED)
    other.write(*PLACED)
    assert host.reset() == {} and not host.home.exists() and other.home.exists()
    assert other.reset() == {} and not host.root.exists()


def test_a_reset_leaves_an_empty_folder_that_no_host_was_in(host, tmp_path):
    host.root.mkdir(parents=True)
    assert host.reset() == {} and host.root.exists()
    host.home = tmp_path / "elsewhere"
    host.write(*PLACED)
    assert host.reset() == {} and not host.home.exists() and host.root.exists()


def test_a_reset_leaves_nothing_of_ours(host):
    other = Host(host.root, "rpi-2", ["rpi-1", "rpi-2"])
    host.deploy(*WRITTEN, "trainer.json.new")
    other.deploy(*WRITTEN)
    with socket.socket(socket.AF_UNIX) as trainer:
        trainer.bind(str(host.home / "trainer.sock"))
    (host.root / "downloads/cifar10").mkdir(parents=True)
    (host.root / "downloads/cifar10/cifar-10-binary.tar.gz").write_text("1")
    assert other.reset() == {} and not other.home.exists() and host.home.exists()
    assert host.reset() == {} and not host.root.parent.exists()  # which was made for it, too
    assert host.reset() == {}


def test_a_reset_leaves_what_is_not_ours(host):
    host.root.mkdir(parents=True)  # by its owner
    host.deploy(*WRITTEN)
    mine = ["notes.txt", "app/mine.py", "logs/mine.log", "data/train/cat/1.png", "results.json", "slots/mine"]
    host.write(*mine)
    (host.root / "downloads/cifar10").mkdir(parents=True)
    (host.root / "downloads/cifar10/mine.gz").write_text("1")
    left = host.reset()
    assert left == {str(host.home): sorted({path.partition("/")[0] for path in mine}), str(host.root): ["downloads"]}
    assert sorted(str(path.relative_to(host.home)) for path in host.home.rglob("*") if path.is_file()) == sorted(mine)
    assert (host.root / "downloads/cifar10/mine.gz").exists() and not (host.root / fl_files.MARK).exists()


@pytest.mark.parametrize("runs", ["runs", "rpi-1/runs"])
@pytest.mark.parametrize("data", ["data", "photos/2026"])
def test_experiments_and_device_data_outlive_a_reset_and_do_not_keep_a_deployment_out(tmp_path, runs, data):
    root = tmp_path / "root"
    variables = yaml.safe_load((ROOT / "roles/fl/vars/main.yml").read_text())
    render = Templar(DataLoader(), variables={
        **variables, "fl_checkout": str(tmp_path), "fl_root": str(root), "fl_home": str(root / "rpi-1"),
        "fl_runs": f"root/{runs}", "dataset_name": "digits", "dataset_device_path": data,
        "fl_fleet": {"hosts": {"rpi-1": {"fl_home": str(root / "rpi-1")}}},
    })  # fmt: skip
    host = Host(root, "rpi-1", [])
    host.owns = render.template(variables["fl_owns"])
    files = [root / runs / "first/log.csv", host.home / data / "train/cat/1.png"]
    for file in files:
        file.parent.mkdir(parents=True)
        file.write_text("mine")
    for _ in range(2):
        host.deploy(*WRITTEN)
        assert host.reset() == {}
    assert sorted(path for path in root.rglob("*") if path.is_file()) == sorted(files)
    host.write("notes.txt")
    assert host.strangers() == ("fl_home", str(host.home), ["notes.txt"])


def test_a_link_to_a_users_folder_is_left_with_what_is_in_it(host, tmp_path):
    host.deploy()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/1.png").write_text("1")
    (host.home / "data").symlink_to(tmp_path / "mine")
    (host.home / "logs").symlink_to(tmp_path / "mine")
    assert host.reset() == {str(host.home): ["data", "logs"]}
    assert (tmp_path / "mine/1.png").exists()


def test_what_is_to_be_kept_is_kept_until_it_is_not(host):
    host.deploy()
    host.write("hosts.json")
    fl_files.write(str(host.home / fl_files.RECORD), {**host.record(), "files": [*PLACED, "hosts.json"]})
    assert host.reset("hosts.json") == {}
    assert sorted(os.listdir(host.home)) == ["hosts.json", fl_files.RECORD]
    assert host.strangers() is None
    assert host.reset() == {} and not host.root.parent.exists()


def test_a_check_removes_nothing(host):
    host.deploy(*WRITTEN)
    removed, left = fl_files.absent(str(host.home), host.owns, DOWNLOADS, [], check=True)
    assert {*PLACED, *WRITTEN} == {*removed} and left == {}
    assert all((host.home / path).exists() for path in [*PLACED, *WRITTEN])


def test_only_what_was_placed_is_a_stray(host):
    host.deploy()
    host.write("app/flowerbed/old.py", "app/flowerbed/mine.py", "app/flowerbed/__pycache__/old.pyc")
    wanted, old = ["app/flowerbed/__init__.py"], "app/flowerbed/old.py"
    assert fl_files.strays(str(host.home), ["app/flowerbed"], wanted, [*wanted, old]) == [old]
    assert fl_files.strays(str(host.home), ["app/flowerbed"], wanted, None) == ["app/flowerbed/mine.py", old]


def test_a_programs_environment_is_its_users_alone_also_after_an_upgrade(tmp_path):
    """trainer_environment is in programs/trainer.conf, and in the server's record, which all could read before."""
    home, paths = tmp_path / "home", ["deployed.json", "programs/trainer.conf", "trainer.json"]
    with tarfile.open(tmp_path / "files.tar", "w") as tar:
        for path in paths:
            (tmp_path / "source").write_text(path)
            tar.add(tmp_path / "source", arcname=path)

    def placed(**arguments: str) -> list[str]:
        checksums = {path: hashlib.sha256(path.encode()).hexdigest() for path in paths}
        request = json.dumps({"ANSIBLE_MODULE_ARGS": {"home": str(home), "checksums": checksums, **arguments}})
        answer = subprocess.run([sys.executable, MODULE], input=request, capture_output=True, text=True, check=True)
        return json.loads(answer.stdout)["placed"]

    def modes() -> list[int]:
        return [(home / path).stat().st_mode & 0o777 for path in paths]

    archive = str(tmp_path / "files.tar")
    assert placed(archive=archive) == paths and modes() == [0o600, 0o600, 0o644]
    for path in paths[:2]:
        (home / path).chmod(0o644)
    assert placed() == paths[:2] == placed(archive=archive)
    assert placed() == [] and modes() == [0o600, 0o600, 0o644]
    assert (home / paths[0]).read_text() == paths[0]


def test_names_in_a_sentence_are_printable_and_few():
    names = ["a\x1b[31m\n", os.fsdecode(b"\xff"), "ä", "b", "c", "d", "e"]
    assert fl_files.listed(names) == "a?[31m?, \ufffd, ä, b, c and 2 more"
