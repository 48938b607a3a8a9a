"""Folders, trees, journals and the runner's socket, one by one."""

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import Runner
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import reactor
from twisted.internet.address import UNIXAddress
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectingCancelledError
from twisted.internet.task import Clock, deferLater

from cumulus_wire import journal as wire
from cumulusd.agent.connection import Connector, Life
from cumulusd.agent.job_folder import JobFolder, JobFolders
from cumulusd.agent.journal import Journal, JournalBroken
from cumulusd.agent.orders import valid_job_id
from cumulusd.agent.runner_socket import MAX_CONNECTIONS, RunnerSocket
from cumulusd.errors import NotFound
from cumulusd.tasks import Tasks


@pytest.fixture
def folders(tmp_path: Path) -> Any:
    made = JobFolders(tmp_path / "root")
    yield made
    made.close()


@pytest.fixture
def folder(folders: JobFolders) -> Any:
    made = folders.create("job-1")
    yield made
    made.close()


@given(st.text(max_size=80))
@settings(max_examples=300)
def test_a_valid_job_id_is_a_plain_name(text: str) -> None:
    if valid_job_id(text):
        assert os.path.basename(text) == text
        assert text not in (".", "..", "")
        assert len(text) <= 64


def test_links_in_place_of_a_folder_are_not_followed(tmp_path: Path, folders: JobFolders) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "root/jobs/evil").symlink_to(tmp_path / "outside")
    assert folders.present() == []
    with pytest.raises(OSError):
        folders.open("evil")
    folders.discard("evil")
    folders.empty_trash()
    assert (tmp_path / "outside").is_dir()
    with pytest.raises(NotFound):
        folders.open("evil")


def test_a_tree_deeper_than_the_stack_and_any_path_goes(
    tmp_path: Path, folders: JobFolders, folder: JobFolder
) -> None:
    handle = os.dup(folder.handle)
    for _ in range(1500):
        os.mkdir("d" * 100, dir_fd=handle)
        inner = os.open("d" * 100, os.O_RDONLY | os.O_DIRECTORY, dir_fd=handle)
        os.close(handle)
        handle = inner
    os.close(handle)
    locked = folder.path / "locked"
    locked.mkdir()
    (locked / "file").write_text("x")
    locked.chmod(0)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (folder.path / "link").symlink_to(outside)
    os.mkfifo(folder.path / "fifo")
    folders.discard("job-1")
    folders.empty_trash()
    assert os.listdir(tmp_path / "root/trash") == []
    assert (outside / "kept").exists()


def test_a_deletion_cut_short_is_finished_later(tmp_path: Path, folders: JobFolders) -> None:
    for leftover in ("job-1~ab", "job-1~ab.0011"):
        (tmp_path / "root/trash" / leftover / "inner").mkdir(parents=True)
    folders.empty_trash()
    assert os.listdir(tmp_path / "root/trash") == []


@pytest.mark.parametrize("content", [b"", b"[]", b'{"attempt": "1"}', b'{"attempt": 0}', b"\xff"])
def test_orders_that_the_job_spoilt_say_nothing(folder: JobFolder, content: bytes) -> None:
    (folder.path / "job.json").write_bytes(content)
    assert folder.read_attempt() is None


def test_orders_that_are_a_pipe_dont_block(folder: JobFolder) -> None:
    os.mkfifo(folder.path / "job.json")
    assert folder.read_attempt() is None


def test_a_lock_is_free_exactly_when_its_last_holder_is_gone(folder: JobFolder) -> None:
    assert folder.lock_free()
    handle = os.open(folder.path / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(handle, fcntl.LOCK_EX)
    child = os.dup(handle)  # as a child process inherits it
    assert not folder.lock_free()
    os.close(handle)
    assert not folder.lock_free()
    os.close(child)
    assert folder.lock_free()


@settings(max_examples=50, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 300), min_size=1, max_size=30),
    chunk=st.integers(1, 700),
    ack_every=st.integers(1, 10),
)
def test_a_journal_reads_back_whatever_the_chunks(
    tmp_path_factory: pytest.TempPathFactory, sizes: list[int], chunk: int, ack_every: int
) -> None:
    path = tmp_path_factory.mktemp("journal")
    runner = Runner(path, "j", segment_bytes=200)
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    journal = Journal(handle)
    try:
        read = bytearray()
        for number, size in enumerate(sizes):
            runner.print(b"x" * size)
            journal.refresh()
            while data := journal.read(len(read), chunk):
                read += data
            if number % ack_every == 0:
                journal.delete_below(len(read))
                assert runner.segments()
        assert bytes(read) == runner.written
        assert journal.end == runner.end
        again = Journal(handle)
        again.refresh()
        assert (again.start, again.end) == (journal.start, journal.end)
        again.close()
    finally:
        journal.close()
        os.close(handle)


def test_a_gap_between_segments_ends_the_journal(folder: JobFolder) -> None:
    runner = Runner(folder.path, "j", segment_bytes=50)
    for _ in range(6):
        runner.print(b"x" * 40)
    (folder.path / "journal" / runner.segments()[1]).unlink()
    journal = Journal(folder.handle)
    journal.refresh()
    assert journal.end == int(runner.segments()[0][:20]) + 60
    journal.close()


def test_a_torn_frame_is_told_from_a_whole_one(folder: JobFolder) -> None:
    runner = Runner(folder.path, "j")
    runner.print(b"whole")
    runner.append(wire.encode(wire.Kind.STDOUT, b"torn")[:-1])
    journal = Journal(folder.handle)
    journal.refresh()
    assert journal.whole_frame_at(0)
    assert not journal.whole_frame_at(25)
    assert not journal.whole_frame_at(journal.end)
    os.truncate(folder.path / "journal" / runner.segments()[0], 3)
    with pytest.raises(JournalBroken, match="shrank"):
        journal.refresh(4)
    assert not journal.refresh(3)
    assert journal.end == 3, "what nobody has read may go"
    journal.close()


class Heard:
    """A runner's socket and what came by it."""

    def __init__(self, folder: JobFolder) -> None:
        self.pokes = self.came = self.left = 0
        self.socket = RunnerSocket(
            reactor, folder, 1, poked=self._poked, came=self._came, left=self._left
        )
        self.socket.open()

    def _poked(self) -> None:
        self.pokes += 1

    def _came(self) -> None:
        self.came += 1

    def _left(self) -> None:
        self.left += 1


async def soon(true: Any) -> None:
    for _ in range(500):
        if true():
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("it never became true")


@pytest_twisted.ensureDeferred
async def test_hello_poke_bye_and_leaving(folder: JobFolder) -> None:
    heard = Heard(folder)
    runner = Runner(folder.path, "job-1")
    runner.connect()
    runner.poke()
    await soon(lambda: heard.pokes == 1)
    assert heard.socket.runner_is_there
    runner.say({"t": "bye"})
    await soon(lambda: heard.pokes == 2)
    assert not heard.socket.runner_is_there  # or about to leave
    runner.close()
    await soon(lambda: not heard.socket._connections)
    assert heard.left == 1
    assert not heard.socket.stop("cancelled_by_user", 1.0)
    heard.socket.close()


@pytest_twisted.ensureDeferred
async def test_pokes_that_come_together_are_one(folder: JobFolder) -> None:
    heard = Heard(folder)
    runner = Runner(folder.path, "job-1")
    runner.connect()
    await soon(lambda: heard.came == 1)
    runner.say_raw(b'{"t":"poke","end":1}\n' * 100)
    await soon(lambda: heard.pokes)
    assert heard.pokes == 1
    runner.close()
    await soon(lambda: heard.left == 1)
    assert heard.pokes == 1
    heard.socket.close()


@pytest.mark.parametrize(
    "line",
    [
        b"x" * 70_000 + b"\n",
        b"x" * 70_000,
        b"[]\n",
        b"\xff\xfe\n",
        b"[" * 60_000 + b"\n",
        b'{"t":"mood"}\n',
        b'{"t":"hello","job_id":"other","attempt":1}\n',
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_rude_connection_is_dropped(folder: JobFolder, line: bytes) -> None:
    heard = Heard(folder)
    runner = Runner(folder.path, "job-1")
    runner.connect()
    await soon(lambda: heard.came == 1)
    runner.say_raw(line)
    await soon(lambda: runner.hear() == b"")
    await soon(lambda: heard.left == 1)
    runner.close()
    heard.socket.close()


@pytest_twisted.ensureDeferred
async def test_connections_are_bounded(folder: JobFolder) -> None:
    heard = Heard(folder)
    runners = [Runner(folder.path, "job-1") for _ in range(MAX_CONNECTIONS + 1)]
    for runner in runners[:-1]:
        runner.connect()
    await soon(lambda: heard.came == MAX_CONNECTIONS)
    runners[-1].connect()
    await soon(lambda: runners[-1].hear() == b"")
    for runner in runners:
        runner.close()
    heard.socket.close()
    await soon(lambda: not heard.socket._connections)


@pytest_twisted.ensureDeferred
async def test_a_runner_that_doesnt_read_is_dropped(folder: JobFolder) -> None:
    heard = Heard(folder)
    runner = Runner(folder.path, "job-1")
    runner.connect()
    await soon(lambda: heard.came == 1)
    taken = True
    for _ in range(5000):
        taken = heard.socket.stop("cancelled_by_user" * 20, 1.0)
        if not taken:
            break
        await deferLater(reactor, 0)
    assert not taken
    await soon(lambda: heard.left == 1)
    runner.close()
    heard.socket.close()


@pytest_twisted.ensureDeferred
async def test_a_stale_socket_and_a_link_in_its_place_are_replaced(
    tmp_path: Path, folder: JobFolder
) -> None:
    stale = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    stale.bind(folder.socket_path())
    stale.close()
    Heard(folder).socket.close()
    target = tmp_path / "target"
    target.write_text("x")
    target.chmod(0o600)
    (folder.path / "agent.sock").unlink()
    (folder.path / "agent.sock").symlink_to(target)
    heard = Heard(folder)
    assert target.read_text() == "x"
    assert target.stat().st_mode & 0o777 == 0o600
    heard.socket.close()


class Made:
    """A connection that a test ends."""

    def __init__(self) -> None:
        self.life = Life()
        self.dropped = False

    def drop(self) -> None:
        self.dropped = True
        self.life.gone("dropped")


class Endpoint:
    """Gives connections, or fails."""

    def __init__(self) -> None:
        self.made: list[Made] = []
        self.works = True

    async def _connect(self) -> Made:
        if not self.works:
            raise ConnectionRefusedError("refused")
        self.made.append(Made())
        return self.made[-1]

    def connect(self, factory: Any) -> Any:
        return Deferred.fromCoroutine(self._connect())


@pytest_twisted.ensureDeferred
async def test_pauses_grow_to_a_bound_and_stopping_drops_the_connection() -> None:
    clock, endpoint, tasks = Clock(), Endpoint(), Tasks()
    endpoint.works = False
    factory: Any = None
    connector = Connector(
        clock, endpoint, factory, what="test", max_pause_s=3.0, jitter=lambda: 1.0
    )
    tasks.start(connector.run(), "test")
    pauses = []
    for _ in range(8):
        (call,) = clock.getDelayedCalls()
        pauses.append(round(call.getTime() - clock.seconds(), 3))
        clock.advance(call.getTime() - clock.seconds())
    assert pauses == [0.1, 0.2, 0.4, 0.8, 1.6, 3.0, 3.0, 3.0]
    endpoint.works = True
    clock.advance(3.0)
    (made,) = endpoint.made
    made.life.ready()
    clock.advance(60.0)
    made.life.gone("cut")
    (call,) = clock.getDelayedCalls()
    assert call.getTime() - clock.seconds() == pytest.approx(0.1)
    clock.advance(0.1)
    endpoint.made[1].life.ready()
    await tasks.stop()
    assert endpoint.made[1].dropped
    assert clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_a_connection_that_never_gets_ready_is_given_up() -> None:
    clock, endpoint, tasks = Clock(), Endpoint(), Tasks()
    factory: Any = None
    tasks.start(Connector(clock, endpoint, factory, what="test").run(), "test")
    clock.advance(15.0)
    assert endpoint.made[0].dropped
    await tasks.stop()
    assert clock.getDelayedCalls() == []


class SlowEndpoint:
    """Never gets there; says so when it is cancelled, in Twisted's own words."""

    def __init__(self) -> None:
        self.asked = 0

    def connect(self, factory: Any) -> Deferred[Any]:
        self.asked += 1
        address = UNIXAddress("/nowhere")
        return Deferred(lambda waiting: waiting.errback(ConnectingCancelledError(address)))


@pytest_twisted.ensureDeferred
async def test_stopping_while_connecting_ends_it() -> None:
    clock, endpoint, tasks = Clock(), SlowEndpoint(), Tasks()
    factory: Any = None
    tasks.start(Connector(clock, endpoint, factory, what="test").run(), "test")
    clock.pump([15.0, 0.2])  # the first attempt times out, the next one is under way
    assert endpoint.asked == 2
    stopping = Deferred.fromCoroutine(tasks.stop())
    assert stopping.called
    await stopping
    assert clock.getDelayedCalls() == []
