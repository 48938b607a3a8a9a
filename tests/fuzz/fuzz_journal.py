"""Journal frames, as the daemon keeps them and as each of their readers takes them.

A job's journal is written as the job's own user, so it may hold anything.
"""

import io
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cumulus_client._job_stream import Journal as JournalEvent
from cumulus_client._journal_reader import JournalReader, ResultCollector
from cumulus_client.display import Display
from cumulus_client.exceptions import ResultError
from cumulus_wire.journal import (
    HEADER,
    MAX_PAYLOAD_BYTES,
    FrameParser,
    JournalCorrupt,
    Kind,
    Record,
    encode,
)
from cumulusd.errors import CumulusError
from cumulusd.jobs import checkpoints
from cumulusd.jobs.ends import end_of_exit, run_time
from cumulusd.jobs.journals import JournalDamaged, JournalHole, Journals
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.outputs import listed_outputs
from cumulusd.jobs.progress import ProgressBoard
from cumulusd.log_text import printed
from cumulusd.web.log_events import events_of
from tests.fuzz.fuzz_engine import Finding, Tally, Target
from tests.fuzz.fuzz_engine import Kind as FuzzKind
from tests.fuzz.fuzz_inputs import MemoryFolder, Source
from tests.fuzz.fuzz_values import json_text

_WORDS = (
    *("phase", "setup", "running", "fraction", "message", "outcome", "completed", "paused"),
    *("reason", "error", "result", "encoding", "size_bytes", "sha256", "outputs", "name", "run_s"),
    *("from", "to", "attempt", "checkpoints", "filename", "timestamp", "exit_code", "signal"),
    *("hint", "outputs_note", "requirements", "cached", "build_s", "type", "module", "traceback"),
)
_PAYLOADS = st.one_of(json_text(_WORDS), st.binary(max_size=60), st.just(b"{}"))
_FRAMES = st.lists(st.tuples(st.sampled_from(Kind), _PAYLOADS), max_size=6).map(
    lambda records: b"".join(encode(kind, payload, 1) for kind, payload in records)
)


class Frames(Target):
    """Bytes that may be frames: damaged ones, and whole ones whose content was damaged."""

    batch = 600

    def make(self, source: Source, count: int) -> list[bytes]:
        made = source.mixed(_FRAMES, ("journal",), count)
        return [_framed_anew(data) if index % 2 else data for index, data in enumerate(made)]


class Parser(Frames):
    """The parser, fed in pieces and as a whole: both give the same."""

    def run(self, data: bytes) -> Tally:
        whole, corrupt = _parsed([data])
        pieces, corrupt_too = _parsed(_cut(data))
        if corrupt != corrupt_too:
            raise Finding(f"whole: {corrupt}; in pieces: {corrupt_too}")
        # What a piece completes before the damage is told; of one piece with damage nothing is.
        if corrupt is None and [_plain(one) for one in whole] != [_plain(one) for one in pieces]:
            raise Finding("records differ when they come in pieces")
        for record in pieces:
            try:
                record.json()
            except ValueError:
                pass
        return Tally(1, int(corrupt is not None))


class DaemonsCopy(Frames):
    """The daemon's copy on disk: appended in pieces and read, also after it is opened again."""

    weight = 1.5

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self._folder = MemoryFolder()

    def run(self, data: bytes) -> Tally:
        refused = False
        root = self._folder.path / "journals"
        journals = _journals(root)
        try:
            journal = journals.open("job")
            offset = 0
            for piece in _cut(data):
                try:
                    journal.append(offset, piece)
                except (JournalDamaged, JournalHole):
                    refused = True
                    break
                offset += len(piece)
            before = _read(journal)
        finally:
            _close(journals)
        journals = _journals(root)
        try:
            after = _read(journals.open("job"))
        finally:
            _close(journals)
            shutil.rmtree(root)
        if before != after:
            raise Finding(f"{len(before)} B were kept, {len(after)} B are there when it is opened")
        return Tally(1, int(refused))

    def close(self) -> None:
        self._folder.remove()


class DaemonsReaders(Frames):
    """What the daemon makes of whole records: the job's state, its end, its log, its events."""

    def run(self, data: bytes) -> Tally:
        records, _ = _parsed([data])
        frames = b"".join(encode(each.kind, each.payload, each.time_us) for each in records)
        part = {"event": "journal", "offset": 0, "next_offset": len(frames), "frames": frames}
        for text in events_of(part):
            for line in text.decode().splitlines():
                if line.startswith("data: "):
                    json.loads(line[6:], parse_constant=_no_constant)
        b"".join(printed(_Held(frames), len(frames)))  # type: ignore[arg-type]
        refused = False
        clock: Any = Clock()
        board, tails = ProgressBoard(clock, lambda job_id: None), LogTails()
        for record in records:
            tails.feed("job", record)
            try:
                _heard(record, board)
            except ValueError:  # such a record ends its job
                refused = True
        tails.text("job")
        board.stop()
        return Tally(1, int(refused))


class ClientsReaders(Frames):
    """What the client makes of them: the result, and what a terminal shows."""

    def run(self, data: bytes) -> Tally:
        reader, collector = JournalReader(), ResultCollector()
        out, err = io.StringIO(), io.StringIO()
        display = Display(stdout=out, stderr=err)
        records, _ = _parsed([data])
        refused = False
        for record in records:
            frame = data[record.offset : record.next_offset]
            fresh = reader.frames(record.offset, frame) + reader.frames(record.offset, frame)
            if len(fresh) != 1:
                raise Finding(f"a record that came twice is given {len(fresh)} times")
            try:
                collector.feed(fresh)
            except ResultError:
                refused = True
            display.event(JournalEvent(records=fresh))
        rest = data[reader.next_offset :]
        if rest:
            try:
                reader.frames(reader.next_offset, rest)
            except ValueError:  # JournalCorrupt is one
                refused = True
            else:
                raise Finding("what is no whole frame was taken")
        return Tally(1, int(refused))


def kind(share: float) -> FuzzKind:
    """All of it."""
    return FuzzKind(
        name="journal_frames",
        share=share,
        targets=(
            Parser("parser"),
            DaemonsCopy("daemons-copy"),
            DaemonsReaders("daemons-readers"),
            ClientsReaders("clients-readers"),
        ),
    )


class _Held:
    """A journal for those who read."""

    def __init__(self, frames: bytes) -> None:
        self._frames = frames

    def read(self, offset: int, max_bytes: int) -> Any:
        from cumulusd.jobs.chunk import Chunk

        end = len(self._frames)
        return Chunk(kind="frames", offset=offset, next_offset=end, data=self._frames[offset:])


def _heard(record: Record, board: ProgressBoard) -> None:
    """As the daemon's intake. Raises ValueError."""
    if record.kind is Kind.STATUS:
        record.json().get("phase")
    elif record.kind is Kind.PROGRESS:
        board.feed("job", record)
        board.of("job")
    elif record.kind is Kind.CHECKPOINT:
        checkpoints.read(record.json())
    elif record.kind is Kind.EXIT:
        said = record.json()
        if said.get("outcome") == "paused":
            run_time(said)
        end_of_exit(said, said)
        listed_outputs(said)


def _no_constant(name: str) -> None:
    raise Finding(f"an event holds {name}, which is no JSON")


def _plain(record: Record) -> tuple[Any, ...]:
    return record.kind, record.payload, record.time_us, record.offset, record.next_offset


def _parsed(pieces: list[bytes]) -> tuple[list[Record], int | None]:
    """The records before any damage, and where that is."""
    parser = FrameParser()
    records: list[Record] = []
    for piece in pieces:
        try:
            records += parser.feed(piece)
        except JournalCorrupt as error:
            if error.offset and len(pieces) == 1:
                records = FrameParser().feed(piece[: error.offset])
            return records, error.offset
    return records, None


def _framed_anew(data: bytes) -> bytes:
    """The same with the checksums, and the kinds where they are none, put right."""
    frames, at = [], 0
    while at + HEADER.size <= len(data):
        _, kind_id, _, length, time_us, _ = HEADER.unpack_from(data, at)
        payload = data[at + HEADER.size : at + HEADER.size + min(length, MAX_PAYLOAD_BYTES)]
        frames.append(encode(Kind(kind_id % len(Kind) + 1), payload, time_us))
        at += HEADER.size + len(payload)
    return b"".join(frames) + data[at:]


def _cut(data: bytes) -> list[bytes]:
    """In pieces, the same ones for the same bytes."""
    rng = random.Random(data)
    pieces, at = [], 0
    while at < len(data):
        size = rng.choice((1, 7, 19, 20, 21, 100, 1000, 70_000))
        pieces.append(data[at : at + size])
        at += size
    return pieces


def _journals(root: Path) -> Journals:
    clock: Any = Clock()
    return Journals(
        root,
        clock=clock,
        run_in_thread=_at_once,
        on_durable=lambda job_id, offset: None,
        cap_bytes=64 << 10,
        segment_bytes=8 << 10,
    )


def _at_once(function: Any) -> Any:
    done: Deferred[Any] = Deferred()
    try:
        done.callback(function())
    except Exception as error:
        done.errback(error)
    return done


def _close(journals: Journals) -> None:
    failed: list[Any] = []
    Deferred.fromCoroutine(journals.stop()).addErrback(failed.append)
    if failed:
        failed[0].raiseException()


def _read(journal: Any) -> bytes:
    return b"".join(_pieces(journal))


def _pieces(journal: Any) -> Iterator[bytes]:
    offset = 0
    while offset < journal.end_offset:
        try:
            chunk = journal.read(offset, 5000)
        except CumulusError as error:
            raise Finding(
                f"whole records up to {journal.end_offset} can't be read: {error}"
            ) from error
        if chunk.next_offset <= offset:
            raise Finding(f"reading stands still at {offset} of {journal.end_offset}")
        chunk.records()
        yield chunk.data or f"<gap to {chunk.next_offset}>".encode()
        offset = chunk.next_offset
