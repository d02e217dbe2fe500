"""What all tests share: the option with which no test may be left out."""

from collections.abc import Iterator

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of make test-all."""
    parser.addoption("--all", action="store_true", help="fail for each test that would be left out")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Let a test that is left out fail, with its reason."""
    report = yield
    if report.skipped and not hasattr(report, "wasxfail") and item.config.getoption("--all"):
        report.outcome = "failed"
        report.longrepr = f"left out: {report.longrepr[2].removeprefix('Skipped: ')}"
    return report
