"""The books in libchronos, against a library with its ABI and its defects."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from cumulusd.chronos.libchronos import (
    BUILTIN,
    LIBCHRONOS,
    BackendState,
    Booking,
    BookingFailed,
    Libchronos,
    permille_of,
)
from cumulusd.chronos.libchronos_process import CHILD
from tests.unit.chronos.c_libraries import build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("libchronos_double", tmp_path_factory.mktemp("libchronos"))


class Double:
    """The library's folder, and books that are kept in it."""

    def __init__(self, library: Path, folder: Path) -> None:
        self.library = library
        self.folder = folder
        self.books: list[Libchronos] = []
        folder.mkdir()
        self.devices(2)

    def devices(self, count: int) -> None:
        (self.folder / "devices").write_text(str(count))

    def order(self, what: str) -> None:
        (self.folder / what).touch()

    def countermand(self, what: str) -> None:
        (self.folder / what).unlink()

    def calls(self, kind: str) -> list[str]:
        try:
            lines = (self.folder / "calls").read_text().splitlines()
        except FileNotFoundError:
            return []
        return [line for line in lines if line.split()[1] == kind]

    def locks(self) -> list[str]:
        return sorted(os.listdir(self.folder / "locks"))

    def locked(self) -> list[tuple[int, float]]:
        """Device and fraction that each lock is of."""
        return sorted(
            (int(said["device"]), float(said["fraction"]))
            for said in (
                dict(line.split(": ", 1) for line in path.read_text().splitlines())
                for path in (self.folder / "locks").iterdir()
            )
        )

    def lock(self, name: str, pid: int, host: str | None = None) -> Path:
        """One that somebody left."""
        (self.folder / "locks").mkdir(exist_ok=True)
        path = self.folder / "locks" / name
        path.write_text(f"pid: {pid}\nuser: x\nhost: {host or socket.gethostname()}\n")
        return path

    def start(self, required: bool = True, library: str | None = "", **bounds: float) -> Libchronos:
        books = Libchronos(
            reactor,
            required=required,
            python=sys.executable,
            library=str(self.library) if library == "" else library,
            locks=str(self.folder / "locks"),
            **{"call_s": 20.0, "audit_s": 0.1, **bounds},  # type: ignore[arg-type]
        )
        self.books.append(books)
        books.start()
        return books


@pytest.fixture
def double(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Double]:
    folder = tmp_path / "double"
    monkeypatch.setenv("CHRONOS_DOUBLE", str(folder))
    double = Double(library, folder)
    yield double
    for books in double.books:
        pytest_twisted.blockon(Deferred.fromCoroutine(books.stop()))


async def until(true: Callable[[], object], what: str) -> None:
    for _ in range(6000):
        if true():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError(what)


async def up(books: Libchronos) -> Libchronos:
    await until(lambda: books.state.backend == LIBCHRONOS, f"it is {books.state}")
    return books


def wanted(*bookings: tuple[str, int, int]) -> dict[str, Booking]:
    return {
        partition_id: Booking(
            partition_id=partition_id, device=device, permille=permille, remaining_s=60.4
        )
        for partition_id, device, permille in bookings
    }


def dead_pid() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def test_a_share_never_becomes_larger_in_permille() -> None:
    assert [permille_of(units) for units in (1, 9, 10, 3333, 9999, 10_000)] == [
        *(1, 1, 1, 333, 999, 1000),
    ]


@pytest_twisted.ensureDeferred
async def test_what_is_wanted_is_booked_and_given_back(double: Double) -> None:
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 500), ("p-2", 1, 250)))
    await books.book("p-1")
    await books.book("p-1")  # it is there
    await books.book("p-2")
    assert double.locked() == [(0, 0.5), (1, 0.25)]
    (first, second) = double.calls("create")
    # For its own user, and for longer than the partition lasts.
    assert first.split()[1:] == ["create", "0", "0.500", "3661", "-"]
    assert second.split()[2:4] == ["1", "0.250"]
    books.want(wanted(("p-2", 1, 250)))
    await until(lambda: double.locked() == [(1, 0.25)], "it was not released")
    await books.stop()
    assert double.locks() == []
    assert double.calls("partitioner_destroy") == []
    assert len(double.calls("partitioner_create")) == 1  # two handles overcommit


@pytest_twisted.ensureDeferred
async def test_a_stop_waits_for_a_request_and_gives_the_rest_back(double: Double) -> None:
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 500), ("p-2", 1, 250)))
    await books.book("p-2")
    await books.book("p-1")
    double.order("slow")
    books.want(wanted(("p-2", 1, 250)))
    await until(lambda: double.locked() == [(1, 0.25)], "it was not released")
    await books.stop()  # while the release is not answered yet
    assert double.locks() == []


@pytest_twisted.ensureDeferred
async def test_equal_shares_are_booked_as_they_are(double: Double) -> None:
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 333), ("p-2", 0, 333), ("p-3", 0, 333)))
    await until(lambda: len(double.locks()) == 3, "they collide")
    assert double.locked() == [(0, 0.333)] * 3
    assert books.state == BackendState(backend=LIBCHRONOS, fault=None)


@pytest_twisted.ensureDeferred
async def test_equal_shares_step_down_a_permille_where_a_lock_is_a_shares(double: Double) -> None:
    double.order("share_locks")
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 333), ("p-2", 0, 333), ("p-3", 0, 333)))
    await until(lambda: len(double.locks()) == 3, "they collide")
    assert double.locks() == ["gpu_0_0331.lock", "gpu_0_0332.lock", "gpu_0_0333.lock"]
    # No call was spent on a share that was known to be locked.
    assert len(double.calls("create")) == 3
    assert books.state == BackendState(backend=LIBCHRONOS, fault=None)


@pytest_twisted.ensureDeferred
async def test_only_locks_of_the_provably_dead_are_removed(double: Double) -> None:
    double.order("share_locks")
    stale = double.lock("gpu_0_0500.lock", dead_pid())
    living = double.lock("gpu_0_0499.lock", os.getpid())
    foreign = double.lock("gpu_0_0498.lock", dead_pid(), host="elsewhere")
    nonsense = double.lock("gpu_0_0497.lock", 1)
    nonsense.write_text("what is this")
    other = double.lock("gpu_1_0500.lock", dead_pid())
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 500), ("p-2", 0, 500)))
    await books.book("p-1")
    await books.book("p-2")
    said = f"pid: {dead_pid()}"
    assert said not in stale.read_text()  # it is p-1's own now
    assert living.exists() and foreign.exists() and nonsense.exists() and not other.exists()
    assert (double.folder / "locks" / "gpu_0_0496.lock").exists()
    await books.stop()
    assert not stale.exists()
    assert living.exists() and foreign.exists() and nonsense.exists()


@pytest_twisted.ensureDeferred
async def test_locks_of_dead_processes_partitions_go_at_the_start(double: Double) -> None:
    stale = double.lock("partition_17_1795725570586_0001.lock", dead_pid())
    living = double.lock("partition_1_1795725570586_0001.lock", os.getpid())
    foreign = double.lock("partition_18_1795725570586_0001.lock", dead_pid(), host="elsewhere")
    another = double.lock("not_a_partition.lock", dead_pid())
    await up(double.start())
    assert not stale.exists()
    assert living.exists() and foreign.exists() and another.exists()


def test_a_lock_with_the_own_number_is_of_one_that_had_it_before(double: Double) -> None:
    """As in a container that starts anew, whose processes get the same numbers again."""
    locks = double.folder / "locks"
    locks.mkdir()
    shell = (
        'printf "pid: $$\\nhost: $2\\n" >"$1/partition_7_1795725570586_0001.lock"; ls "$1"; '
        'exec 3>&1; shift 2; exec "$@"'
    )
    words = (locks, socket.gethostname(), sys.executable, "-I", CHILD, double.library, locks)
    said = subprocess.run(
        ["bash", "-c", shell, "bash", *words],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout.splitlines()
    assert said == ["partition_7_1795725570586_0001.lock", '{"ok": true, "devices": 2}']
    assert double.locks() == []


@pytest_twisted.ensureDeferred
async def test_a_refusal_brings_the_reason_that_stood_on_stderr(double: Double) -> None:
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 700), ("p-2", 0, 700), ("p-3", 7, 100)))
    await books.book("p-1")
    with pytest.raises(BookingFailed, match="Not enough available memory on device 0"):
        await books.book("p-2")
    with pytest.raises(BookingFailed, match="none with index 7"):
        await books.book("p-3")
    with pytest.raises(BookingFailed, match="isn't wanted"):
        await books.book("p-4")
    state = books.state
    assert state.backend == LIBCHRONOS
    assert state.fault is not None and "2 partition(s) are not booked" in state.fault
    # When there is room, the next comparison books it.
    books.want(wanted(("p-2", 0, 700)))
    await until(lambda: books.state.fault is None, "p-2 was not booked later")


@pytest_twisted.ensureDeferred
async def test_a_crash_is_told_and_the_rest_is_booked_anew(double: Double) -> None:
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 500)))
    await books.book("p-1")
    double.order("crash")
    books.want(wanted(("p-1", 0, 500), ("p-2", 0, 200)))
    with pytest.raises(BookingFailed, match=r"process ended.*std::system_error"):
        await books.book("p-2")
    double.countermand("crash")
    # p-1's lock was left by the dead process; p-2 has killed one process, and gets no other.
    await until(
        lambda: len(double.calls("partitioner_create")) == 2 and "p-1" in str(books._held),
        "it was not booked anew",
    )
    assert double.locked() == [(0, 0.5)]
    assert books.state.fault is not None and "p-2" in books.state.fault
    assert books.blocking_fault is None
    books.want(wanted(("p-1", 0, 500)))
    assert books.state.fault is None


@pytest_twisted.ensureDeferred
async def test_a_hanging_call_is_killed_within_its_bound(double: Double) -> None:
    books = await up(double.start(call_s=1.5))
    double.order("hang")
    books.want(wanted(("p-1", 0, 500)))
    with pytest.raises(BookingFailed, match=r"no answer within 1\.5 s"):
        await books.book("p-1")
    double.countermand("hang")
    await until(lambda: len(double.calls("partitioner_create")) > 1, "it was not restarted")


@pytest_twisted.ensureDeferred
async def test_a_library_that_hangs_when_loaded_is_a_fault(double: Double) -> None:
    double.order("hang_at_start")
    books = double.start(start_s=4.0)
    await until(lambda: "no answer within" in str(books.state.fault), "it hangs in silence")
    assert books.state.backend == BUILTIN
    assert books.blocking_fault is not None and "required" in books.blocking_fault
    with pytest.raises(BookingFailed, match="no answer within"):
        await books.book("p-1")
    double.countermand("hang_at_start")
    await up(books)


@pytest_twisted.ensureDeferred
async def test_a_handle_without_devices_is_a_fault(double: Double) -> None:
    double.devices(0)
    books = double.start(required=False)
    await until(lambda: "no OpenCL device" in str(books.state.fault), f"{books.state}")
    assert books.state.backend == BUILTIN
    assert books.blocking_fault is None  # it isn't required


@pytest_twisted.ensureDeferred
async def test_what_expired_by_its_own_clock_is_booked_again(double: Double) -> None:
    books = await up(double.start())
    books.want(wanted(("p-1", 0, 500)))
    await books.book("p-1")
    double.order("expire")
    await until(lambda: len(double.calls("create")) == 2, "it was not booked again")
    await until(lambda: double.locked() == [(0, 0.5)], "it is not held")
    # Released after it has expired: the library says -1, which is no fault.
    double.order("expire")
    books.want({})
    await until(lambda: double.locks() == [], "it is held")
    assert books.state == BackendState(backend=LIBCHRONOS, fault=None)


@pytest_twisted.ensureDeferred
async def test_without_the_library_auto_is_the_builtin_alone(
    double: Double, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("cumulusd.chronos.libchronos.DEFAULT_LIBRARY", "libchronos-isnt-here.so")
    books = double.start(required=False, library=None)
    await until(lambda: books.state == BackendState(backend=BUILTIN, fault=None), "it is a fault")
    required = double.start(library=None)
    await until(lambda: "can't be loaded" in str(required.state.fault), f"{required.state}")
    named = double.start(required=False, library="/nowhere/libchronos.so")
    await until(lambda: "/nowhere/libchronos.so" in str(named.state.fault), f"{named.state}")


@pytest_twisted.ensureDeferred
async def test_another_library_is_no_libchronos(double: Double) -> None:
    books = double.start(library="libm.so.6")
    await until(lambda: "is no libchronos" in str(books.state.fault), f"{books.state}")


@pytest_twisted.ensureDeferred
async def test_a_dead_agents_process_goes_at_once_and_its_locks_are_stale(
    double: Double, tmp_path: Path
) -> None:
    """Killed with its agent, by the kernel: the next agent's process takes its locks for dead."""
    code = (
        "import os, subprocess, sys, time\n"
        "os.dup2(1, 3)\n"
        "words = open(sys.argv[1], 'a+b')\n"
        "subprocess.Popen([sys.executable, '-I', *sys.argv[2:]], stdin=subprocess.PIPE,\n"
        "    stdout=words, stderr=words, pass_fds=[3])\n"
        "time.sleep(600)\n"
    )
    arguments = (tmp_path / "words", CHILD, double.library, double.folder / "locks")
    agent = subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
    )
    try:
        assert agent.stdout is not None
        assert b'"devices": 2' in agent.stdout.readline()
        (line,) = double.calls("partitioner_create")
        pid = int(line.split()[0])
    finally:
        agent.kill()
        agent.wait(10)
        assert agent.stdout is not None
        agent.stdout.close()
    stat = Path(f"/proc/{pid}/stat")
    await until(
        lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z",
        "it outlives its agent",
    )
