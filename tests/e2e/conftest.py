"""Daemons for the end-to-end tests: one shared by those that don't touch it, others on demand."""

import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.e2e.harness import Daemon
from tests.e2e.shell import Shell


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """A daemon without tokens that counts PoCL; every test leaves it without jobs."""
    daemon = Daemon(tmp_path_factory.mktemp("shared"))
    try:
        yield daemon.start()
    finally:
        assert daemon.stop() == -signal.SIGTERM, "twistd ends by the signal it was sent"


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    """The shared daemon, proven to hold nothing of a job when the test is over."""
    yield shared
    try:
        shared.wait_nothing_left()
    except AssertionError:
        shared.cancel_all()  # one test fails, not those after it
        raise


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Makes daemons of the test's own, not started; all are stopped at its end."""
    made: list[Daemon] = []

    def make(**options: object) -> Daemon:
        daemon = Daemon(tmp_path / f"daemon{len(made)}", **options)  # type: ignore[arg-type]
        made.append(daemon)
        return daemon

    yield make
    for daemon in made:
        if daemon.process is not None:
            daemon.stop()


@pytest.fixture
def shell(daemon: Daemon, tmp_path: Path) -> Shell:
    """The command `cumulus`, for the shared daemon, in a folder of its own."""
    return Shell(tmp_path, CUMULUS_SERVER_URL=daemon.url)
