"""Reading journals, the bounded queue, the result's check, the display. No I/O."""

import asyncio
import gc
import hashlib
import io
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus_client._arguments import decode_result, survives_json
from cumulus_client._job_stream import (
    Accepted,
    Ended,
    Event,
    Interrupted,
    JobStream,
    Journal,
    StateChanged,
    WaitingMessages,
)
from cumulus_client._journal_reader import JournalReader, ResultCollector
from cumulus_client._literals import literal_source
from cumulus_client.connection import backoff_s, normalise_url, websocket_url
from cumulus_client.display import Display
from cumulus_client.exceptions import ConnectionLost, InvalidArgument, ResultError
from cumulus_wire.journal import (
    FrameParser,
    JournalCorrupt,
    Kind,
    Record,
    encode,
    gap_record,
    rest_missing,
)


def record(kind: Kind, payload: bytes) -> Record:
    return Record(kind, payload, 0, 0, 1)


FRAMES = [encode(Kind.STDOUT, bytes([n]) * n, 0) for n in range(1, 12)]


@given(st.lists(st.tuples(st.integers(0, 10), st.integers(1, 5)), max_size=30))
def test_attaching_anew_anywhere_reads_each_record_once(follows: list[tuple[int, int]]) -> None:
    """Followings that begin at or before the reader's offset, and end anywhere."""
    starts = [sum(map(len, FRAMES[:n])) for n in range(len(FRAMES) + 1)]
    reader = JournalReader()
    seen: list[bytes] = []
    for back, count in [*follows, (0, len(FRAMES))]:
        begin = max(0, starts.index(reader.next_offset) - back)
        data = b"".join(FRAMES[begin : begin + count])
        seen += [r.payload for r in reader.frames(starts[begin], data)]
    while reader.next_offset < starts[-1]:
        at = starts.index(reader.next_offset)
        seen += [r.payload for r in reader.frames(starts[at], FRAMES[at])]
    assert seen == [bytes([n]) * n for n in range(1, 12)]


def test_holes_and_damage_are_no_silence() -> None:
    reader = JournalReader()
    with pytest.raises(ValueError, match="continues at 30, expected 0"):
        reader.frames(30, FRAMES[0])
    with pytest.raises(ValueError, match="incomplete"):
        reader.frames(0, FRAMES[0][:-1])
    with pytest.raises(JournalCorrupt):
        reader.frames(0, FRAMES[0][:-1] + b"!")
    assert reader.next_offset == 0
    (gap,) = reader.gap(0, 500)
    assert (gap.kind, gap.json()) == (Kind.GAP, {"from": 0, "to": 500})
    assert reader.gap(0, 500) == []
    with pytest.raises(ValueError, match="gap at 600"):
        reader.gap(600, 700)


def test_a_stream_left_half_read_says_nothing_when_its_client_is_closed() -> None:
    complaints: list[Mapping[str, Any]] = []

    class Caller:
        async def call_once(
            self,
            procedure: str,
            kwargs: Mapping[str, Any],
            on_progress: Callable[[dict[str, Any]], None],
        ) -> dict[str, Any]:
            on_progress({"event": "state", "job": {"job_id": "a"}})
            raise ConnectionLost("closed by this client")

    async def read_one() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, about: complaints.append(about))
        stream = JobStream(Caller(), job_id="a")
        await stream.next()
        await asyncio.sleep(0)
        del stream
        gc.collect()

    asyncio.run(read_one())
    assert complaints == []


def test_what_the_daemon_lost_is_a_gap_that_goes_back() -> None:
    """It was shown what no fsync had covered; another attempt went on before that."""
    asked: list[int] = []

    class Caller:
        async def call_once(
            self,
            procedure: str,
            kwargs: Mapping[str, Any],
            on_progress: Callable[[dict[str, Any]], None],
        ) -> dict[str, Any]:
            offset = kwargs["from_offset"]
            asked.append(offset)
            if offset == 525:
                raise InvalidArgument("inside a record", details={"continue_from": 200})
            frames = encode(Kind.STDOUT, b"again" if offset == 200 else b"first", 0)
            after = offset + len(frames)
            on_progress({"event": "state", "job": {"job_id": "a", "status": "running"}})
            on_progress(
                {"event": "journal", "offset": offset, "next_offset": after, "frames": frames}
            )
            if offset == 500:
                raise ConnectionLost("the daemon's power is lost")
            return {"event": "end", "job": {"job_id": "a", "status": "failed"}}

    async def read_all() -> list[Event]:
        stream = JobStream(Caller(), job_id="a", from_offset=500)
        return [event async for event in read(stream)]

    events = asyncio.run(read_all())
    assert asked == [500, 525, 200]
    first, gap, again = [
        one for event in events if isinstance(event, Journal) for one in event.records
    ]
    assert (gap.kind, gap.json()) == (Kind.GAP, {"from": 525, "to": 200})
    assert (first.payload, again.payload) == (b"first", b"again")
    shown = Shown()
    shown.show(*events)
    assert "the daemon has lost the last 325 B that are shown here" in shown.err.getvalue()
    assert shown.out.getvalue() == "firstagain"


async def read(stream: JobStream) -> AsyncIterator[Event]:
    while (event := await stream.next()) is not None:
        yield event


@pytest.mark.parametrize("told", [{}, {"continue_from": 500}, {"continue_from": 200}])
def test_an_offset_that_no_daemon_gave_is_an_error(told: dict[str, Any]) -> None:
    class Caller:
        async def call_once(
            self,
            procedure: str,
            kwargs: Mapping[str, Any],
            on_progress: Callable[[dict[str, Any]], None],
        ) -> dict[str, Any]:
            raise InvalidArgument("inside a record", details=told)

    with pytest.raises(InvalidArgument, match="inside a record"):
        asyncio.run(JobStream(Caller(), job_id="a", from_offset=500).next())


def test_results_are_gathered_and_verified() -> None:
    collector = ResultCollector()
    collector.feed([record(Kind.RESULT, b"killed in the middle")])
    collector.feed([record(Kind.STATUS, b'{"phase":"setup","attempt":2}')])
    collector.feed([record(Kind.RESULT, b"old"), record(Kind.EXIT, b"{}")])
    collector.feed(
        [record(Kind.STDOUT, b"x"), record(Kind.RESULT, b"4"), record(Kind.RESULT, b"2")]
    )
    collector.feed([record(Kind.EXIT, b"{}")])
    info = {"size_bytes": 2, "sha256": hashlib.sha256(b"42").hexdigest()}
    assert collector.verified(info) == b"42"
    assert collector.verified(info | {"size_bytes": 3}) is None
    assert collector.verified(info | {"sha256": "0" * 64}) is None
    with pytest.raises(ResultError, match="too large"):
        ResultCollector(3).feed([record(Kind.RESULT, b"1234")])


def test_waiting_messages_are_bounded() -> None:
    waiting = WaitingMessages(100)
    small: dict[str, Any] = {"event": "journal", "frames": b"x" * 60}
    assert waiting.put({"event": "journal", "frames": b"x" * 500})  # alone, however large
    assert not waiting.put(small)
    assert waiting.overflowed
    assert waiting.waiting_bytes == 500
    assert not waiting.put({"event": "journal", "frames": b""})  # nothing may overtake
    assert waiting.take() is not None and waiting.take() is None
    waiting.reset()
    assert waiting.put(small)
    assert (waiting.overflowed, waiting.waiting_bytes) == (False, 60)


def test_state_changes_count_too() -> None:
    waiting = WaitingMessages(10_000)
    taken = [waiting.put({"event": "state", "job": {}}) for _ in range(20)]
    assert 1 < taken.count(True) < 20


LEAVES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.complex_numbers() | st.text()
    | st.binary()
)  # fmt: skip
HASHABLE = LEAVES | st.tuples(LEAVES, LEAVES) | st.frozensets(LEAVES, max_size=3)
TREES = st.recursive(
    HASHABLE | st.sets(HASHABLE, max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner)
        | st.dictionaries(HASHABLE, inner, max_size=3)
    ),
    max_leaves=10,
)


@given(TREES)
def test_literals_give_back_the_same_value(value: object) -> None:
    source = literal_source(value)
    assert source is not None and "\n" not in source
    again = eval(source)
    assert literal_source(again) == source
    assert type(again) is type(value)


def test_what_is_no_literal() -> None:
    class Text(str):
        pass

    looped: list[object] = []
    looped.append(looped)
    for value in (object(), Text("x"), [object()], {1: Text()}, looped, range(3), print):
        assert literal_source(value) is None
    huge = 7**9999
    assert eval(str(literal_source(huge))) == huge


def test_json_is_used_only_where_it_is_exact() -> None:
    same: tuple[Any, ...] = (None, True, 1, -1.5, "ä\udc80", [1, [2]], {"a": {"b": []}})
    for exact in same:
        assert survives_json(exact)
    deep: list[Any] = []
    deep.append(deep)
    for changed in ((1,), {1: 2}, float("nan"), float("inf"), b"", {1}, 10**5000, deep, object()):
        assert not survives_json(changed)


def test_results_are_decoded_by_their_encoding() -> None:
    def decode(data: bytes, encoding: str, objection: str | None = None) -> Any:
        return decode_result(data, encoding, job_id="j", may_unpickle=objection, aliases={})

    assert decode(b"[1]", "json") == [1]
    with pytest.raises(ResultError, match=r"(?s)not opened: because.*hint"):
        decode(b"", "pickle", "because")
    with pytest.raises(ResultError, match="can't be opened here"):
        decode(b"junk", "pickle")
    with pytest.raises(ResultError, match="unknown encoding 'x'"):
        decode(b"", "x")


def test_urls() -> None:
    assert normalise_url(" http://h:50051/ ") == "http://h:50051"
    assert websocket_url("http://h:1") == "ws://h:1/ws"
    assert websocket_url(normalise_url("https://[::1]:5/pre/")) == "wss://[::1]:5/pre/ws"
    assert normalise_url("http://h") == normalise_url("ws://h/ws") == "http://h:50051"
    assert normalise_url("https://h/pre") == "https://h:443/pre"
    assert websocket_url(normalise_url("http://[::1]/")) == "ws://[::1]:50051/ws"
    for wrong in ("h:50051", "ftp://h", "http://", "http://h?a=1", "http://["):
        with pytest.raises(ValueError, match="server_url"):
            normalise_url(wrong)
    for port in ("x", "70000", "0", "-1"):
        with pytest.raises(
            ValueError, match=f"port of server_url .* 1 to 65535: 'http://h:{port}'"
        ):
            normalise_url(f"http://h:{port}")


def test_backoff_grows_and_is_capped() -> None:
    assert backoff_s(0) == 0
    for failures in range(1, 200):
        full = min(15.0, 0.2 * 2 ** min(failures - 1, 16))
        assert full / 2 <= backoff_s(failures) <= full


class Shown:
    """A display on two buffers."""

    def __init__(self, **options: Any) -> None:
        self.now = 0.0
        self.out, self.err = io.StringIO(), io.StringIO()
        self.display = Display(self.out, self.err, now=lambda: self.now, **options)

    def show(self, *events: Event) -> None:
        for event in events:
            self.display.event(event)


def waits(message: str, reason: str = "no_free_share") -> StateChanged:
    return StateChanged(job={"status": "pending", "wait": {"reason": reason, "message": message}})


def test_display_tells_what_happens_to_the_job() -> None:
    shown = Shown()
    worker = {"node_id": "n", "hostname": "gpu-1"}
    partition = {
        "partition_id": "p-1", "units": 2500, "device_name": "A100", "gpu_memory_bytes": 10 << 30,
        "tier": "x", "tier_note": "advisory",
    }  # fmt: skip
    running = {"status": "running", "worker": worker, "partition": partition}
    shown.show(
        Accepted(job={"job_id": "j1", "status": "pending", "wait": None}),
        waits("position 3"),
        waits("position 2"),
        waits("behind", "behind_others"),
        StateChanged(job=running),
        StateChanged(job=running | {"phase": "running"}),
        Journal(records=[record(Kind.SETUP, b"Resolved 1\nInst"), record(Kind.SETUP, b"alled\n")]),
        Journal(records=[gap_record(10, 30, 0)]),
        Journal(records=FrameParser(30).feed(rest_missing(30, 2))),
        Interrupted(reason="x"),
        Ended(job={"status": "completed", "started_at": 1.0, "completed_at": 3.5}),
    )
    assert shown.err.getvalue().splitlines() == [
        "[cumulus] job j1 accepted",
        "[cumulus] waiting: position 3",
        "[cumulus] waiting: behind",
        "[cumulus] worker gpu-1",
        "[cumulus] partition p-1: 25% of A100 (10.00 GiB); advisory",
        "[cumulus] running",
        "[cumulus] Resolved 1",
        "[cumulus] Installed",
        "[cumulus] 20 B of the job's output are not kept: over the size cap",
        "[cumulus] more output of attempt 2 may be missing here: its worker was given up",
        "[cumulus] connection lost, reconnecting; the job goes on",
        "[cumulus] completed after 2.5 s",
    ]
    assert shown.out.getvalue() == ""


def test_display_shows_changing_waits_every_few_seconds() -> None:
    shown = Shown()
    for number in range(100):
        shown.now = number * 0.1
        shown.show(waits(f"position {number}"))
    assert len(shown.err.getvalue().splitlines()) == 2


def test_display_decodes_each_stream_on_its_own() -> None:
    shown = Shown(quiet=True)
    e, u = "é".encode(), "ü".encode()
    shown.show(
        Journal(
            records=[
                record(Kind.STDOUT, b"a" + e[:1]),
                record(Kind.STDERR, u[:1]),
                record(Kind.STDOUT, e[1:] + b"\xff\n"),
                record(Kind.STDERR, u[1:]),
                record(Kind.STDOUT, e[:1]),
            ]
        ),
        Ended(job={"status": "completed"}),
    )
    assert shown.out.getvalue() == "aé\ufffd\n\ufffd"
    assert shown.err.getvalue() == "ü"


def test_raw_display_writes_the_bytes_as_they_are() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    display = Display(out, io.StringIO(), raw=True)
    display.event(
        Journal(records=[record(Kind.STDOUT, b"\x00\xff\xc3"), record(Kind.STDOUT, b"\xa9")])
    )
    display.event(Ended(job={"status": "completed"}))
    assert out.buffer.getvalue() == b"\x00\xff\xc3\xa9"


def test_display_survives_a_narrow_encoding() -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    display = Display(out, io.StringIO())
    display.event(Journal(records=[record(Kind.STDOUT, "é\n".encode())]))
    assert out.buffer.getvalue() == b"\\xe9\n"
