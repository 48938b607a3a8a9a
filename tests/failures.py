"""`--failed-to FILE`: keeps the ids of the tests that failed, a line each, for `script/test`."""

from pathlib import Path

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--failed-to", metavar="FILE", type=Path, help="writes failed tests' ids")


def pytest_configure(config: pytest.Config) -> None:
    to = config.getoption("failed_to")
    if to is not None and not hasattr(config, "workerinput"):  # one process writes for all
        config.pluginmanager.register(Failures(to), "failures")


class Failures:
    """Writes `to` when the run ends; what failed while being collected is in it by its file."""

    def __init__(self, to: Path) -> None:
        self._to = to
        self._ids: dict[str, None] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            self._ids[report.nodeid] = None

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self._ids[report.nodeid] = None

    def pytest_sessionfinish(self) -> None:
        self._to.write_text("".join(f"{each}\n" for each in self._ids))
