"""What the tests of security share."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.security.authority import Authority
from tests.security.daemons import GuardedDaemon, outside_address


@pytest.fixture
def make_guarded(tmp_path: Path) -> Iterator[Callable[..., GuardedDaemon]]:
    """Makes daemons with tokens, not started; all are stopped at the test's end."""
    made: list[GuardedDaemon] = []

    def make(*listen: str, **options: object) -> GuardedDaemon:
        folder = tmp_path / f"daemon{len(made)}"
        made.append(GuardedDaemon(folder, *listen, **options))  # type: ignore[arg-type]
        return made[-1]

    yield make
    for daemon in made:
        if daemon.process is not None:
            daemon.stop()


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """One that nobody trusts unless told to."""
    return Authority(tmp_path / "ca", "root")


@pytest.fixture
def outside() -> str:
    """An address of this machine's that others reach."""
    address = outside_address()
    if address is None:
        pytest.skip("this machine has no address but loopback")
    return address
