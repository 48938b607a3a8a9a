"""Outputs over the agent's link: what the daemon gets of them, and what no job can make it read."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import NODE, World
from twisted.internet.defer import Deferred, gatherResults
from twisted.python.failure import Failure

from cumulus_wire import link as wire
from cumulusd.agent.output_files import read_output
from cumulusd.agent.output_sender import MAX_FETCHES, OutputSender
from cumulusd.errors import NotFound, Unavailable
from cumulusd.web.output_fetches import OutputFetches

DATA = bytes(range(256)) * 4096  # 1 MiB


def fetch(world: World, name: str, offset: int = 0, length: int = 256 << 10, **other: Any) -> Any:
    assert world.links is not None
    asked = {"job_id": "job-1", "attempt": 1, **other}
    return world.links.fetch(NODE, name=name, offset=offset, length=length, **asked)


async def with_outputs(world: World) -> Path:
    await world.start()
    await world.prepare()
    await world.until(lambda: world.links is not None and world.links._links)
    folder = world.root / "kept" / "job-1" / "outputs"
    (folder / "sub").mkdir()
    (folder / "sub" / "big").write_bytes(DATA)
    return folder


@pytest_twisted.ensureDeferred
async def test_ranges_come_in_order_and_whole(make: Callable[..., World]) -> None:
    world = make()
    await with_outputs(world)
    length = 300_000
    ranges = [fetch(world, "sub/big", at, length) for at in range(0, len(DATA), length)]
    answers = await gatherResults(ranges)
    assert b"".join(data for data, _ in answers) == DATA
    assert {total for _, total in answers} == {len(DATA)}
    assert await fetch(world, "sub/big", len(DATA)) == (b"", len(DATA))


@pytest_twisted.ensureDeferred
async def test_a_job_can_make_nothing_else_be_read(
    make: Callable[..., World], tmp_path: Path
) -> None:
    world = make()
    folder = await with_outputs(world)
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    (folder / "link").symlink_to(secret)
    (folder / "up").symlink_to(world.root)
    os.mkfifo(folder / "fifo")
    for name in ("link", "up/ledger.json", "fifo", "sub", "none", "../../job-1/outputs/sub/big"):
        with pytest.raises(NotFound):
            await fetch(world, name)
    # Of no other job, and no attempt that isn't here.
    for other in ({"job_id": "job-2"}, {"attempt": 2}):
        with pytest.raises(NotFound, match="isn't on this worker"):
            await fetch(world, "sub/big", **other)
    # The folder itself replaced.
    (folder / "sub" / "big").rename(tmp_path / "big")
    for path in (folder / "sub", folder / "link", folder / "up", folder / "fifo"):
        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    folder.rmdir()
    folder.symlink_to(tmp_path)
    with pytest.raises(NotFound, match="output folder"):
        await fetch(world, "big")


@pytest_twisted.ensureDeferred
async def test_who_asked_over_a_link_that_is_cut_is_told(make: Callable[..., World]) -> None:
    world = make()
    await with_outputs(world)
    assert world.links is not None
    asked = fetch(world, "sub/big")
    failure: list[object] = []
    asked.addBoth(failure.append)
    for connection in list(world.links._made):
        connection.drop()
    await world.until(lambda: failure)
    assert failure[0].check(Unavailable)  # type: ignore[attr-defined]
    await world.until(lambda: world.links is not None and world.links._links)
    assert (await fetch(world, "sub/big"))[1] == len(DATA)
    await world.stop_agent()
    with pytest.raises(Unavailable, match=r"is down|went down"):
        await fetch(world, "sub/big")


@pytest_twisted.ensureDeferred
async def test_journals_come_beside_outputs(make: Callable[..., World]) -> None:
    world = make()
    await with_outputs(world)
    runner = world.runner()
    runner.lock()
    ranges = [fetch(world, "sub/big") for _ in range(40)]
    runner.print(b"x" * 500_000)
    await world.until(lambda: len(world.desk.journals.get("job-1", b"")) > 500_000)
    await gatherResults(ranges)
    runner.close()


@pytest_twisted.ensureDeferred
async def test_a_cancelled_question_is_forgotten(make: Callable[..., World]) -> None:
    world = make()
    await with_outputs(world)
    asked = fetch(world, "sub/big")
    asked.addErrback(lambda _: None)
    asked.cancel()
    assert (await fetch(world, "sub/big", 5, 10))[0] == DATA[5:15]


class Reader:
    """Answers when it is told to."""

    def __init__(self) -> None:
        self.asked: list[Deferred[tuple[bytes, int]]] = []

    async def read(self, *asked: Any) -> tuple[bytes, int]:
        self.asked.append(Deferred())
        return await self.asked[-1]


def a_fetch(number: int, **changes: Any) -> dict[str, Any]:
    header = {"t": "fetch", "id": number, "job": "j", "attempt": 1, "name": "a", "offset": 0}
    return {**header, "length": 10, **changes}


@pytest_twisted.ensureDeferred
async def test_no_more_is_read_than_the_link_takes() -> None:
    reader, sender = Reader(), OutputSender(wake=lambda: None)
    sender.serve(reader.read)
    for number in range(10):
        sender.fetch(a_fetch(number))
    for _ in range(5):
        if not reader.asked[-1].called:
            reader.asked[-1].callback((b"data", 4))
    assert len(reader.asked) == 2
    message = sender.next_message()
    assert message is not None
    assert wire.decode(message) == ({"t": "output", "id": 0, "total": 4}, b"data")
    assert len(reader.asked) == 3
    await sender.stop()


@pytest_twisted.ensureDeferred
async def test_an_answer_to_a_link_before_is_not_sent_on_the_next() -> None:
    reader, sender = Reader(), OutputSender(wake=lambda: None)
    sender.serve(reader.read)
    sender.fetch(a_fetch(1))
    sender.disconnected()
    reader.asked[0].callback((b"old", 3))
    sender.fetch(a_fetch(1))
    reader.asked[1].callback((b"new", 3))
    message = sender.next_message()
    assert message is not None
    assert wire.decode(message)[1] == b"new"
    assert sender.next_message() is None
    await sender.stop()


@pytest.mark.parametrize(
    "changes",
    [{"id": -1}, {"job": ""}, {"name": 5}, {"name": "x" * 600}, {"length": 0}, {"length": 2 << 20}],
)
def test_what_is_no_question_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(wire.LinkError):
        OutputSender(wake=lambda: None).fetch(a_fetch(1, **changes))


def test_too_many_questions_are_refused() -> None:
    reader, sender = Reader(), OutputSender(wake=lambda: None)
    sender.serve(reader.read)
    for number in range(MAX_FETCHES + 1):
        sender.fetch(a_fetch(number))
    with pytest.raises(wire.LinkError):
        sender.fetch(a_fetch(MAX_FETCHES + 1))


@pytest.mark.parametrize(
    ("error", "gone"),
    [(NotFound("ä" * 2000), True), (Unavailable("no"), False)],
)
@pytest_twisted.ensureDeferred
async def test_a_refusal_says_whether_asking_again_is_of_use(error: Exception, gone: bool) -> None:
    async def read(*asked: Any) -> tuple[bytes, int]:
        raise error

    sender = OutputSender(wake=lambda: None)
    sender.serve(read)
    sender.fetch(a_fetch(3))
    message = sender.next_message()
    assert message is not None
    header, _ = wire.decode(message)
    assert (header["t"], header["id"], header["gone"]) == ("no_output", 3, gone)
    await sender.stop()


def test_a_device_or_pipe_is_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    handle = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with pytest.raises(NotFound, match="no regular file"):
            read_output(handle, "fifo", 0, 10)
    finally:
        os.close(handle)


def test_who_hears_that_the_link_is_lost_may_cancel_what_else_it_asked_for() -> None:
    fetches = OutputFetches(lambda header: None)
    asked = [fetches.fetch("j", 1, "a", at, 1) for at in range(3)]
    failures: list[Failure] = []

    def failed(failure: Failure) -> None:
        failures.append(failure)
        for other in asked:
            other.cancel()

    for one in asked:
        one.addErrback(failed)
    fetches.lost()
    assert len(failures) == 3
    assert sum(bool(failure.check(Unavailable)) for failure in failures) == 1
    after: list[Failure] = []
    fetches.fetch("j", 1, "a", 0, 1).addErrback(after.append)
    assert after[0].check(Unavailable)


@pytest.mark.parametrize("depth", [900, 2000])
def test_a_header_that_nests_too_deep_is_no_message(depth: int) -> None:
    header = b'{"t":' + b"[" * depth
    with pytest.raises(wire.LinkError):
        wire.decode(len(header).to_bytes(2, "big") + header)
