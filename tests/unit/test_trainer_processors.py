"""How many processors a trainer counts, from what the kernel shows of its control groups."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fleet
from flowerbed.trainer import processors
from flowerbed.trainer.worker import Worker

V1 = "33 32 0:30 {root} {tree} rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct\n"
OTHER = "34 32 0:31 {root} {tree}/none rw,relatime - cgroup cgroup rw,memory\n"
V2 = "31 23 0:28 {root} {tree} rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


@pytest.fixture(autouse=True)
def eight(monkeypatch):
    """Eight processors, whatever this machine has."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


def counted(folder: Path, own: str, mount: str, root: str, quotas: dict[str, str]) -> int:
    """Count in a tree of control groups in which these (version 2), or their halves (version 1), are set."""
    (folder / "cgroup").write_text(own)
    (folder / "mountinfo").write_text((OTHER + mount).format(root=root, tree=folder / "tree"))
    for group, quota in quotas.items():
        place = folder / "tree" / group
        place.mkdir(parents=True, exist_ok=True)
        if mount == V2:
            (place / "cpu.max").write_text(f"{quota}\n")
        else:
            for name, value in zip(("quota", "period"), quota.split(), strict=True):
                (place / f"cpu.cfs_{name}_us").write_text(f"{value}\n")
    return processors.count(str(folder))


OF_V1 = "9:memory:/x\n3:cpu,cpuacct:{}\n0::/y\n"
OF_V2 = "0::{}\n"


@pytest.mark.parametrize(
    ("own", "mount", "root", "quotas", "count"),
    [
        (OF_V2.format("/a/b"), V2, "/", {"a/b": "max 100000"}, 8),
        (OF_V2.format("/a/b"), V2, "/", {"a/b": "300000 100000"}, 3),
        (OF_V2.format("/a/b"), V2, "/", {"a/b": "75000 100000"}, 1),
        (OF_V2.format("/a/b"), V2, "/", {"a/b": "max 100000", "a": "250000 100000"}, 2),
        (OF_V2.format("/"), V2, "/", {"": "150000 50000"}, 3),  # a container with a namespace of its own
        (OF_V2.format("/a"), V2, "/", {"b": "100000 100000"}, 8),  # another's
        (OF_V2.format("/a"), V2, "/", {"a": "900000 100000"}, 8),
        (OF_V1.format("/a/b"), V1, "/", {"a/b": "-1 100000"}, 8),
        (OF_V1.format("/a/b"), V1, "/", {"a/b": "-1 100000", "a": "200000 100000"}, 2),
        (OF_V1.format("/docker/c"), V1, "/docker/c", {"": "100000 50000"}, 2),  # a container that sees the host's names
        (OF_V1.format("/elsewhere"), V1, "/docker/c", {"": "100000 50000"}, 2),
        (OF_V1.format("/a"), V1, "/", {"a": "100000 0"}, 8),
        ("nonsense\n", V1, "/", {"": "100000 100000"}, 8),
    ],
)
def test_the_smallest_limit_above_it_holds(own, mount, root, quotas, count, tmp_path):
    assert counted(tmp_path, own, mount, root, quotas) == count


def test_without_control_groups_there_are_as_many_as_it_may_run_on(tmp_path):
    assert processors.count(str(tmp_path)) == 8


def test_what_it_is_bound_to_is_all_that_it_has():
    bound = "import os; from flowerbed.trainer import processors as p; os.sched_setaffinity(0, {0}); print(p.count())"
    done = subprocess.run([sys.executable, "-c", bound], env=fleet.ENVIRONMENT, capture_output=True, text=True)
    assert done.stdout == "1\n", done.stderr


@pytest.mark.parametrize(
    ("config", "threads"),
    [({"threads": 0}, 8), ({}, 8), ({"threads": 3}, 3), ({"threads": 16}, 16), ({"threads": 0, "slots": "slots"}, 1),
     ({"threads": 2, "slots": "slots"}, 2)],
)  # fmt: skip
def test_threads_follow_what_there_is_unless_set(config, threads, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(processors, "count", lambda: 8)
    worker = Worker({"name": "d", "task": "task.py", **config})
    assert worker.health(busy=False)["threads"] == threads
