"""What the service manager is told, by a socket of the test's own in its place."""

import errno
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.task import Clock

from cumulusd.heartbeat import Heartbeat, status_line
from cumulusd.jobs.model import Phase
from cumulusd.notify import MAX_WAITING, RETRY_S, Notifier, asked


class Manager:
    """The other end of NOTIFY_SOCKET."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.path)
        self._socket.setblocking(False)

    def heard(self) -> list[dict[str, str]]:
        """The messages since the last call."""
        found = []
        while True:
            try:
                data = self._socket.recv(65536)
            except BlockingIOError:
                return found
            found.append(dict(line.split("=", 1) for line in data.decode().splitlines()))

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path / "notify")
    yield made
    made.close()


@pytest.mark.parametrize(
    ("environ", "address", "watchdog_s"),
    [
        ({}, None, None),
        ({"NOTIFY_SOCKET": ""}, None, None),
        ({"NOTIFY_SOCKET": "/run/n"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60000000"}, "/run/n", 60.0),
        ({"NOTIFY_SOCKET": "@n", "WATCHDOG_USEC": "1500000", "WATCHDOG_PID": "7"}, "@n", 1.5),
        # Another process' watchdog, inherited.
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "60", "WATCHDOG_PID": "8"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "0"}, "/run/n", None),
        ({"NOTIFY_SOCKET": "/run/n", "WATCHDOG_USEC": "soon"}, "/run/n", None),
        ({"WATCHDOG_USEC": "60000000"}, None, None),
    ],
)
def test_what_is_asked(
    environ: dict[str, str], address: str | None, watchdog_s: float | None
) -> None:
    told = asked(environ, 7)
    assert (told.address, told.watchdog_s) == (address, watchdog_s)


def test_the_life_of_a_daemon_as_told(manager: Manager) -> None:
    notifier = Notifier(manager.path, Clock())
    notifier.starting("Starting:\n  loading", 300.0)
    notifier.ready("Up")
    notifier.alive()
    notifier.reloading("Reloading")
    notifier.ready("Up again")
    notifier.stopping("Stopping")
    heard = manager.heard()
    moment = heard[3].pop("MONOTONIC_USEC")
    assert moment.isdecimal()
    assert heard == [
        {"STATUS": "Starting: loading", "EXTEND_TIMEOUT_USEC": "300000000"},
        {"READY": "1", "STATUS": "Up"},
        {"WATCHDOG": "1"},
        {"RELOADING": "1", "STATUS": "Reloading"},
        {"READY": "1", "STATUS": "Up again"},
        {"STOPPING": "1", "STATUS": "Stopping"},
    ]
    notifier.close()
    notifier.alive()
    assert manager.heard() == []


def test_an_abstract_address() -> None:
    name = f"cumulus-test-{id(object())}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind("\0" + name)
        other.setblocking(False)
        notifier = Notifier("@" + name, Clock())
        notifier.alive()
        assert other.recv(100) == b"WATCHDOG=1"
        notifier.close()


def test_nobody_listens() -> None:
    notifier = Notifier(None, Clock())
    assert not notifier.is_heard
    notifier.ready("Up")
    notifier.close()


def test_a_busy_manager_gets_all_of_it_later_and_in_order(manager: Manager) -> None:
    clock = Clock()
    notifier = Notifier(manager.path, clock)
    count = 0
    while not notifier._waiting:  # the kernel's queue of datagrams is short
        notifier.ready(str(count))
        count += 1
        assert count < 100_000
    notifier.status("passes")
    notifier.alive()
    notifier.status("stays")
    notifier.stopping("Stopping")
    first = manager.heard()
    assert {"STOPPING": "1", "STATUS": "Stopping"} not in first
    clock.advance(RETRY_S)
    told = first + manager.heard()
    assert [each["STATUS"] for each in told] == [*map(str, range(count)), "stays", "Stopping"]
    assert clock.getDelayedCalls() == []
    notifier.close()


def test_what_waits_is_bounded(manager: Manager) -> None:
    clock = Clock()
    notifier = Notifier(manager.path, clock)
    for number in range(1000):
        notifier.ready(str(number))
    assert len(notifier._waiting) == MAX_WAITING
    heard = manager.heard()
    while clock.getDelayedCalls():
        clock.advance(RETRY_S)
        heard += manager.heard()
    # The newest is what counts.
    assert heard[-1] == {"READY": "1", "STATUS": "999"}
    notifier.close()
    assert clock.getDelayedCalls() == []


def test_a_manager_that_is_gone_is_logged_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    told: list[dict[str, Any]] = []
    notifier = Notifier(str(tmp_path / "nothing"), clock)
    monkeypatch.setattr(
        notifier, "_log", type("Log", (), {"error": lambda self, text, **f: told.append(f)})()
    )
    notifier.ready("Up")
    assert clock.getDelayedCalls() == []
    assert [str(tmp_path / "nothing"), True] == [
        told[0]["address"],
        f"[Errno {errno.ENOENT}]" in told[0]["error"],
    ]
    notifier.close()


# --- the heartbeat --------------------------------------------------------------------------------


def beats(messages: list[dict[str, str]]) -> int:
    return sum("WATCHDOG" in each for each in messages)


def test_the_watchdog_is_fed_three_times_a_period_while_the_store_gets_on(
    manager: Manager,
) -> None:
    clock, stuck = Clock(), [0.0]
    notifier = Notifier(manager.path, clock)
    heart = Heartbeat(
        notifier, clock, watchdog_s=6.0, stuck_s=lambda: stuck[0], status=lambda: "Up"
    )
    assert heart.period_s == 2.0
    heart.start()
    assert beats(manager.heard()) == 1
    clock.pump([2.0, 2.0])
    assert beats(manager.heard()) == 2
    stuck[0] = 5.9  # slow, and still within the time
    clock.advance(2.0)
    assert beats(manager.heard()) == 1
    stuck[0] = 6.0
    clock.pump([2.0] * 5)
    assert beats(manager.heard()) == 0
    stuck[0] = 0.0
    clock.advance(2.0)
    assert beats(manager.heard()) == 1
    heart.stop()
    assert clock.getDelayedCalls() == []
    notifier.close()


def test_without_a_watchdog_only_a_status_that_has_changed_is_told(manager: Manager) -> None:
    clock, status = Clock(), ["Up"]
    notifier = Notifier(manager.path, clock)
    heart = Heartbeat(
        notifier, clock, watchdog_s=None, stuck_s=lambda: 0.0, status=lambda: status[0]
    )
    heart.start()
    clock.pump([heart.period_s] * 3)
    assert manager.heard() == [{"STATUS": "Up"}]
    status[0] = "Up: more"
    clock.advance(heart.period_s)
    assert manager.heard() == [{"STATUS": "Up: more"}]
    heart.stop()
    notifier.close()


def test_where_nobody_listens_nothing_beats() -> None:
    clock = Clock()
    heart = Heartbeat(
        Notifier(None, clock), clock, watchdog_s=1.0, stuck_s=lambda: 0.0, status=lambda: "Up"
    )
    heart.start()
    assert clock.getDelayedCalls() == []


class Record:
    """A job, as far as the line counts it."""

    def __init__(self, phase: Phase) -> None:
        self.phase = phase


def test_the_status_line() -> None:
    phases = [Phase.QUEUED, Phase.RETRYING, Phase.RUNNING, Phase.ENDING, Phase.PAUSED]
    records: Any = [Record(phase) for phase in phases]
    assert (
        status_line(records, 3, {"store": "ok", "platform": "ok"})
        == "Up: jobs 2 running, 2 waiting, 1 paused; 3 worker(s)"
    )
    assert status_line([], 0, {"store": "disk full", "platform": "ok"}) == (
        "Up: jobs 0 running, 0 waiting, 0 paused; 0 worker(s); NOT WELL: store: disk full"
    )
