"""A job's events on their way to the thread that waits for them. A real loop, no connection."""

import asyncio
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any
from unittest.mock import Mock

import pytest

from cumulus_client._blocking_stream import AHEAD, BlockingStream
from cumulus_client._following import follow_to_end
from cumulus_client._io_thread import IoThread
from cumulus_client._job_stream import PART_BYTES, Accepted, Ended, Event, JobStream, Journal
from cumulus_client._read_pause import ReadPause
from cumulus_client.exceptions import ClientTimeout, ServerError
from cumulus_wire.journal import Kind, Record, encode

LONG_S = 60.0


class Scripted:
    """A stream whose events are those of a list; counts how far it was asked."""

    job_id = "job-1"

    def __init__(self, events: list[Any]) -> None:
        self.left = list(events)
        self.asked = 0
        self.closed = False

    async def next(self) -> Event | None:
        self.asked += 1
        event = self.left.pop(0)
        if isinstance(event, asyncio.Event):
            await event.wait()
        if isinstance(event, Exception):
            raise event
        return event  # type: ignore[no-any-return]

    async def close(self) -> None:
        self.closed = True


@pytest.fixture
def io() -> Iterator[IoThread]:
    thread = IoThread()
    yield thread
    thread.stop()


def reader_of(io: IoThread, stream: Any) -> BlockingStream:
    return BlockingStream(io, stream, "http://daemon")


def states(count: int) -> list[Event]:
    return [Accepted(job={"job_id": "job-1", "number": number}) for number in range(count)]


def deadline() -> float:
    return time.monotonic() + LONG_S


def test_events_come_in_order_then_the_error_then_more(io: IoThread) -> None:
    events = [*states(3 * AHEAD), ServerError("broken"), *states(1), None]
    reader = reader_of(io, Scripted(events))
    assert [reader.next(deadline()) for _ in range(3 * AHEAD)] == events[: 3 * AHEAD]
    with pytest.raises(ServerError, match="broken"):
        reader.next(deadline())
    assert [reader.next(deadline()) for _ in range(2)] == events[-2:]


def test_nobody_runs_far_ahead_of_a_reader_that_stands(io: IoThread) -> None:
    stream = Scripted([*states(10 * AHEAD), None])
    reader = reader_of(io, stream)
    reader.next(deadline())
    until = deadline()
    while stream.asked < AHEAD and time.monotonic() < until:
        time.sleep(0.001)
    io.run(asyncio.sleep(0)).wait(deadline())
    assert stream.asked == AHEAD
    assert sum(1 for _ in iter(lambda: reader.next(deadline()), None)) == 10 * AHEAD - 1


class _Clock:
    """`time.monotonic` that a signal comes in the middle of."""

    def __init__(self) -> None:
        self.interrupts = 0

    def monotonic(self) -> float:
        if self.interrupts:
            self.interrupts -= 1
            raise KeyboardInterrupt
        return time.monotonic()


def test_an_interrupted_wait_loses_nothing(io: IoThread, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = _Clock()
    monkeypatch.setattr("cumulus_client._blocking_stream.time", clock)
    events = [*states(40), None]
    reader, seen, interrupted = reader_of(io, Scripted(list(events))), [], 0
    while not seen or seen[-1] is not None:
        clock.interrupts = 1
        try:
            seen.append(reader.next(deadline()))
        except KeyboardInterrupt:
            interrupted += 1
            clock.interrupts = 0
            seen.append(reader.next(deadline()))
    assert seen == events
    assert interrupted


def test_a_signal_beside_giving_an_event_loses_none(
    io: IoThread, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(value: object, kind: Any) -> bool:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt  # Python looks for signals after each call of C code
        return isinstance(value, kind)

    events = [*states(2), None]
    reader = reader_of(io, Scripted(list(events)))
    with monkeypatch.context() as patched:
        patched.setattr("cumulus_client._blocking_stream.isinstance", interrupted, raising=False)
        with pytest.raises(KeyboardInterrupt):
            reader.next(deadline())
    assert [reader.next(deadline()) for _ in range(3)] == events


class _Cut(Journal):
    """Ctrl-C comes while it is divided."""

    def parts(self) -> Iterator[Journal]:
        yield Journal(records=self.records[:1])
        raise KeyboardInterrupt


def test_ctrl_c_while_an_event_is_divided_is_meant_for_the_job(io: IoThread) -> None:
    journal = _Cut(records=[Record(Kind.STDOUT, b"x", 0, at, at + 1) for at in range(3)])
    reader = reader_of(io, Scripted([*states(1), journal, Ended(job={"job_id": "job-1"})]))
    interruption, display = Mock(deadline=None), Mock()
    view, _ = follow_to_end(reader, interruption, display, deadline=deadline())
    assert view == {"job_id": "job-1"}
    (call,) = interruption.interrupted.call_args_list
    assert call.args[0] == "job-1"
    assert [each.args[0] for each in display.event.call_args_list].count(journal) == 1


def test_a_reader_gives_up_in_time_and_comes_back(io: IoThread) -> None:
    async def gate() -> asyncio.Event:
        return asyncio.Event()

    held = io.run(gate())
    held.wait(deadline())
    event = held.result()
    stream = Scripted([event, None])
    reader = reader_of(io, stream)
    with pytest.raises(ClientTimeout, match="job-1"):
        reader.next(time.monotonic() + 0.01)

    async def let_go() -> None:
        event.set()

    io.run(let_go()).wait(deadline())
    assert reader.next(deadline()) is event
    assert reader.next(deadline()) is None
    reader.close()
    until = deadline()
    while not stream.closed and time.monotonic() < until:
        time.sleep(0.001)
    assert stream.closed


FRAME = encode(Kind.STDOUT, b"x" * 1000, 0)


def flooded(messages: int, pause: ReadPause | None) -> tuple[list[Event | None], int]:
    """The events of a job whose journal comes at once, one frame a message; how many calls."""
    calls = 0

    class Caller:
        async def call_once(
            self, procedure: str, kwargs: Mapping[str, Any], on_progress: Any
        ) -> dict[str, Any]:
            nonlocal calls
            calls += 1
            first = int(kwargs["from_offset"]) // len(FRAME)
            for number in range(first, messages):
                offset = number * len(FRAME)
                on_progress(
                    {
                        "event": "journal",
                        "offset": offset,
                        "next_offset": offset + len(FRAME),
                        "frames": FRAME,
                    }
                )
            return {"event": "end", "job": {"job_id": "job-1"}}

    async def read() -> list[Event | None]:
        stream = JobStream(Caller(), job_id="job-1", pause=pause)
        events = [await stream.next() for _ in range(3)]
        await stream.close()
        return events

    return asyncio.run(read()), calls


def test_what_waits_is_one_event() -> None:
    (journal, accepted, ended), calls = flooded(300, None)
    assert isinstance(journal, Journal) and isinstance(accepted, Accepted)
    assert isinstance(ended, Ended) and calls == 1
    offsets = [record.offset for record in journal.records]
    assert offsets == [number * len(FRAME) for number in range(300)]
    parts = list(journal.parts())
    assert [record for part in parts for record in part.records] == journal.records
    sizes = [sum(len(record.payload) for record in part.records) for part in parts]
    assert len(sizes) > 1 and max(sizes) <= PART_BYTES + 1000


def test_parts_of_large_records_are_those_records() -> None:
    records = [Record(Kind.STDOUT, b"x" * PART_BYTES, 0, n, n + 1) for n in range(3)]
    assert [part.records for part in Journal(records=records).parts()] == [[r] for r in records]


class _Transport:
    def __init__(self) -> None:
        self.paused: list[bool] = []

    def pause_reading(self) -> None:
        self.paused.append(True)

    def resume_reading(self) -> None:
        self.paused.append(False)


def test_a_busy_reader_holds_the_socket_back_and_lets_it_go() -> None:
    transport = _Transport()
    events, calls = flooded(5000, ReadPause(lambda: transport))
    assert calls == 1, "less than what may wait: nothing was hung up on"
    assert isinstance(events[0], Journal)
    assert transport.paused == [True, False]


def test_a_reader_that_stands_holds_nobody_back_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cumulus_client._read_pause.PAUSE_S", 0.01)
    transport = _Transport()

    async def stand() -> None:
        pause = ReadPause(lambda: transport)
        pause.begin("one")
        pause.begin("two")
        pause.end("two")
        assert transport.paused == [True, True], "one still wants it"
        until = deadline()
        while transport.paused[-1] and time.monotonic() < until:
            await asyncio.sleep(0.001)
        pause.begin("one")  # no second time before it has caught up
        assert transport.paused == [True, True, False]
        pause.end("one")
        pause.begin("one")
        assert transport.paused == [True, True, False, True]
        pause.end("one")
        assert transport.paused == [True, True, False, True, False]

    asyncio.run(stand())


def test_news_that_another_thread_tells_at_the_same_time_is_no_error(io: IoThread) -> None:
    """The pump's end is told by whoever cancels it, beside the event loop."""

    class ToldMeanwhile:
        """Released between a look at it and one's own release."""

        def locked(self) -> bool:
            return True

        def release(self) -> None:
            raise RuntimeError("release unlocked lock")

    reader = reader_of(io, Scripted([]))
    reader._news = ToldMeanwhile()  # type: ignore[assignment]
    reader._tell()
