"""The books in the real library, built from its published source, on this machine's OpenCL."""

import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from cumulusd.chronos import libchronos
from cumulusd.chronos.libchronos import (
    BUILTIN,
    DEFAULT_LOCKS,
    LIBCHRONOS,
    BackendState,
    Booking,
    BookingFailed,
    Libchronos,
)
from cumulusd.chronos.libchronos_process import CHILD, LibchronosProcess
from tests.unit.chronos.real_library import python_with_own_locks, real_library

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.fixture(scope="session")
def library() -> Path:
    return real_library()


class Real:
    """The library, and a folder of locks that is nobody else's."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.python = python_with_own_locks(folder)
        self._locks = folder / "tmp" / "chronos_locks"
        self.books: list[Libchronos] = []
        self.processes: list[LibchronosProcess] = []

    def start(self, library: Path | None = None, required: bool = True) -> Libchronos:
        books = Libchronos(
            reactor,
            required=required,
            python=str(self.python),
            library=str(library or self.library),
            call_s=60.0,
            start_s=120.0,
            audit_s=0.2,
        )
        self.books.append(books)
        books.start()
        return books

    async def process(self) -> LibchronosProcess:
        """One that is asked itself, with the library loaded."""
        process = LibchronosProcess(
            reactor, python=str(self.python), library=str(self.library), locks=DEFAULT_LOCKS
        )
        self.processes.append(process)
        hello = await process.hello(120.0)
        assert hello["ok"] and hello["devices"] >= 1, hello
        return process

    def locks(self) -> list[dict[str, str]]:
        """What its lock files say, by name."""
        return [
            {"name": path.name}
            | dict(line.split(": ", 1) for line in path.read_text().splitlines() if line)
            for path in sorted(self._locks.iterdir())
        ]

    def fractions(self) -> list[float]:
        return sorted(float(lock["fraction"]) for lock in self.locks())

    def leave(self, name: str, text: str) -> Path:
        """A lock that somebody left."""
        self._locks.mkdir(exist_ok=True)
        path = self._locks / name
        path.write_text(text)
        return path


@pytest.fixture
def real(library: Path, tmp_path: Path) -> Iterator[Real]:
    before = os.path.exists(DEFAULT_LOCKS) and sorted(os.listdir(DEFAULT_LOCKS))
    real = Real(library, tmp_path / "own")
    yield real
    for books in real.books:
        pytest_twisted.blockon(Deferred.fromCoroutine(books.stop()))
    for process in real.processes:
        process.kill("the test is over")
        pytest_twisted.blockon(process.ended)
    after = os.path.exists(DEFAULT_LOCKS) and sorted(os.listdir(DEFAULT_LOCKS))
    assert after == before, "this machine's own locks were touched"


async def until(true: Callable[[], object], what: str) -> None:
    for _ in range(12_000):
        if true():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError(what)


async def up(books: Libchronos) -> Libchronos:
    await until(lambda: books.state.backend == LIBCHRONOS, f"it is {books.state}")
    return books


def wanted(*bookings: tuple[str, int], remaining_s: float = 60.4) -> dict[str, Booking]:
    """Of the first device."""
    return {
        partition_id: Booking(
            partition_id=partition_id, device=0, permille=permille, remaining_s=remaining_s
        )
        for partition_id, permille in bookings
    }


@pytest_twisted.ensureDeferred
async def test_what_is_wanted_is_booked_and_given_back(real: Real) -> None:
    books = await up(real.start())
    books.want(wanted(("p-1", 500), ("p-2", 250)))
    await books.book("p-1")
    await books.book("p-2")
    assert real.fractions() == [0.25, 0.5]
    assert {(lock["device"], lock["name"]) for lock in real.locks()} == {
        ("0", f"{lock['partition']}.lock") for lock in real.locks()
    }
    books.want(wanted(("p-2", 250)))
    await until(lambda: real.fractions() == [0.25], "it was not released")
    assert books.state == BackendState(backend=LIBCHRONOS, fault=None)
    await books.stop()
    assert real.locks() == []


@pytest_twisted.ensureDeferred
async def test_equal_shares_are_all_booked(real: Real) -> None:
    books = await up(real.start())
    books.want(wanted(("p-1", 333), ("p-2", 333), ("p-3", 333)))
    for partition_id in ("p-1", "p-2", "p-3"):
        await books.book(partition_id)
    assert real.fractions() == [0.333] * 3
    assert books.state == BackendState(backend=LIBCHRONOS, fault=None)


@pytest_twisted.ensureDeferred
async def test_the_whole_device_is_booked_but_for_its_rounding(real: Real) -> None:
    """It counts bytes in floats: the whole may be more than there is; it's a permille less then."""
    books = await up(real.start())
    books.want(wanted(("p-1", 1000)))
    await books.book("p-1")
    assert real.fractions()[0] in (0.999, 1.0)


@pytest_twisted.ensureDeferred
async def test_what_does_not_fit_is_refused_with_the_librarys_own_reason(real: Real) -> None:
    books = await up(real.start())
    books.want(wanted(("p-1", 700), ("p-2", 700)))
    await books.book("p-1")
    with pytest.raises(BookingFailed, match="Not enough available memory on device 0"):
        await books.book("p-2")
    state = books.state
    assert state.backend == LIBCHRONOS
    assert state.fault is not None and "p-2" in state.fault
    books.want(wanted(("p-2", 700)))
    await until(lambda: books.state.fault is None, "p-2 was not booked when there was room")
    await until(lambda: real.fractions() == [0.7], "it is not held")


@pytest_twisted.ensureDeferred
async def test_what_expired_is_booked_again(real: Real, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libchronos, "SLACK_S", 0.0)
    books = await up(real.start())
    books.want(wanted(("p-1", 500), remaining_s=1.0))
    await books.book("p-1")
    (first,) = real.locks()
    # Its own thread takes it back within two seconds, and the comparison after that books it anew.
    await until(
        lambda: [lock["name"] for lock in real.locks()] not in ([first["name"]], []),
        "it was not booked again",
    )
    assert real.fractions() == [0.5]
    assert books.state == BackendState(backend=LIBCHRONOS, fault=None)


@pytest_twisted.ensureDeferred
async def test_one_that_has_expired_counts_as_released(real: Real) -> None:
    process = await real.process()
    made = await process.ask({"do": "create", "device": 0, "permille": 100, "seconds": 1}, 60.0)
    assert made["ok"] and made["permille"] == 100
    assert await process.ask({"do": "held"}, 60.0) == {"ok": True, "held": [made["id"]]}
    await until(lambda: real.locks() == [], "it does not expire")
    assert await process.ask({"do": "held"}, 60.0) == {"ok": True, "held": []}
    assert await process.ask({"do": "release", "id": made["id"]}, 60.0) == {"ok": True}
    refused = await process.ask({"do": "create", "device": 9, "permille": 1, "seconds": 1}, 60.0)
    assert not refused["ok"] and "none with index 9" in refused["why"]


@pytest_twisted.ensureDeferred
async def test_a_killed_process_is_followed_by_one_that_books_anew_and_leaves_no_stale_lock(
    real: Real,
) -> None:
    books = await up(real.start())
    books.want(wanted(("p-1", 500), ("p-2", 333)))
    await books.book("p-1")
    await books.book("p-2")
    before = real.locks()
    (pid,) = {int(lock["pid"]) for lock in before}
    os.kill(pid, signal.SIGKILL)
    await until(
        lambda: (
            real.fractions() == [0.333, 0.5]
            and str(pid) not in {lock["pid"] for lock in real.locks()}
        ),
        f"it was not booked anew, or the dead process' locks stay: {real.locks()}",
    )
    await until(lambda: books.state == BackendState(backend=LIBCHRONOS, fault=None), "a fault")
    await books.stop()
    assert real.locks() == []


@pytest_twisted.ensureDeferred
async def test_locks_of_living_processes_and_other_machines_stay(real: Real) -> None:
    ours = f"pid: {os.getpid()}\nhost: {os.uname().nodename}\nfraction: 0.5\n"
    living = real.leave("partition_1_1795725570586_0001.lock", ours)
    foreign = real.leave("partition_2_1795725570586_0001.lock", "pid: 1\nhost: elsewhere\n")
    books = await up(real.start())
    books.want(wanted(("p-1", 500)))
    await books.book("p-1")
    await books.stop()
    assert living.exists() and foreign.exists()
    assert len(real.locks()) == 2


@pytest_twisted.ensureDeferred
async def test_without_a_driver_its_handle_is_a_fault(
    real: Real, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "no-drivers").mkdir()
    monkeypatch.setenv("OCL_ICD_VENDORS", str(tmp_path / "no-drivers"))
    books = real.start(required=False)
    await until(lambda: "no OpenCL device" in str(books.state.fault), f"{books.state}")
    assert books.state.backend == BUILTIN
    assert books.blocking_fault is None


_LOOK = """
import ctypes, json, os, runpy, sys

child = runpy.run_path(sys.argv[1])
library = child["Library"](sys.argv[2], child["Locks"](sys.argv[3]))


def look():
    infos = (child["Info"] * 8)()
    count = ctypes.c_size_t(8)
    library._library.chronos_list_partitions(library._handle, infos, ctypes.byref(count))
    return {
        "available": library._available(0),
        "partitions": [
            [one.id.decode(), one.device, round(one.fraction, 4), one.seconds, one.remaining,
             one.user.decode(), one.pid == os.getpid(), one.active]
            for one in infos[: count.value]
        ],
    }


seen = [look()]
made = library.create(0, 250, 500)
seen.append(look())
library.release(made["id"])
seen.append(look())
sys.stdout.flush()
with open(sys.argv[4], "w") as answer:
    json.dump([made, seen, library._available(64)], answer)
os._exit(0)
"""


def test_what_it_tells_of_itself(real: Real, tmp_path: Path) -> None:
    """Availability, and the form of a listing, of which the child relies on id and activity; what
    the library prints goes to stdout, where no answer is looked for."""
    look, answer = tmp_path / "look.py", tmp_path / "answer"
    look.write_text(_LOOK)
    done = subprocess.run(
        [real.python, look, CHILD, real.library, DEFAULT_LOCKS, answer],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    made, seen, nowhere = json.loads(answer.read_text())
    assert f"Created partition {made['id']} on device 0" in done.stdout
    before, held, after = seen
    assert before == {"available": 100.0, "partitions": []}
    assert held["available"] == pytest.approx(75.0, abs=0.01)
    ((name, device, fraction, seconds, remaining, user, is_own, active),) = held["partitions"]
    assert (name, device, fraction, seconds) == (made["id"], 0, 0.25, 500)
    assert 400 < remaining <= 500 and user and is_own and active == 1
    assert after["available"] == pytest.approx(100.0, abs=0.01) and after["partitions"] == []
    assert nowhere == -1.0
    assert real.locks() == []
