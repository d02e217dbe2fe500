"""What all tests share: the options by which fewer tests are left out, and how they share a machine."""

import os
from collections.abc import Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling
from xdist.workermanage import NodeManager

from flowerbed.trainer import keep

# Ctrl-C reaches a test five seconds later, which then has ten to stop what it has deployed.
NodeManager.EXIT_TIMEOUT = 20

OTHERS = "all other files"
# The order of files: the one that makes the images of boards, which the others with boards wait for; then the longest
# first, so that the short ones fill the end.
ORDER = [
    "rehearsal/test_images.py", "e2e/test_superlink.py", "e2e/test_life.py", "e2e/test_changes.py",
    "rounds/test_survival.py", "rehearsal/test_fleet.py", "e2e/test_examples.py", "e2e/test_mistakes.py",
    "rounds/test_rounds.py", "rehearsal/test_molecule.py", "rehearsal/test_engine.py", "rehearsal/test_boards.py",
    "e2e/test_board.py", "unit/test_tryout.py", OTHERS,
]  # fmt: skip


class Files(LoadFileScheduling):
    """Each worker gets a file at a time, of molecule's scenarios one."""

    def _split_scope(self, nodeid: str) -> str:
        return nodeid if "/test_molecule.py" in nodeid else super()._split_scope(nodeid)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options of .ci/run and of make test-all."""
    parser.addoption("--long", action="store_true", help="run the tests that take minutes, too")
    parser.addoption("--all", action="store_true", help="the same, and fail for each test that would be left out")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let a test that is left out fail, with its reason."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--all"):
        report.outcome = "failed"
        report.longrepr = f"left out: {report.longrepr[2].removeprefix('Skipped: ')}"
    return report


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Return how many files of tests run at a time: most of them wait for boards and processes most of their time."""
    only = config.args[0].partition("::")[0] if len(config.args) == 1 else ""
    return 0 if only.endswith(".py") else min((3 * (os.cpu_count() or 1) + 1) // 2, len(ORDER))


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> Files:
    """Return who hands out the tests."""
    return Files(config, log)


@pytest.fixture(autouse=True)
def state(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Let a trainer in this process keep its task's state out of this checkout."""
    monkeypatch.setattr(keep, "FOLDER", str(tmp_path_factory.getbasetemp() / keep.FOLDER))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Bring the tests in order, and leave out by name those that take minutes."""
    if not (config.getoption("--long") or config.getoption("--all")):
        for item in items:
            if item.get_closest_marker("long"):
                item.add_marker(pytest.mark.skip(reason="takes minutes: make test-all and CI run it, and --long does"))

    def place(item: pytest.Item) -> int:
        name = "/".join(item.path.parts[-2:])
        return ORDER.index(name if name in ORDER else OTHERS)

    items.sort(key=place)
