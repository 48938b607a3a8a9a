"""What may be, once a round has settled: compares what was seen of a job with its plan. Pure.

A fault on the worker's side may change a job's end. The others (the daemon, the manager, an agent,
a client killed, a reader stalled) never do.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import JournalCorrupt, Kind, Record
from cumulus_wire.states import JobState
from tests.torture import work
from tests.torture.plan import End, Fault, Job

#: Which reasons a job may fail for that a fault of the worker's side hit.
LOST_REASONS: Mapping[Fault, frozenset[str]] = {
    Fault.ENGINE_KILL: frozenset({EndReason.WORKER_LOST, EndReason.RUNNER_FAILED}),
    Fault.LINK_CUT: frozenset({EndReason.WORKER_LOST, EndReason.RUNNER_FAILED}),
    Fault.RUNNER_KILL: frozenset({EndReason.RUNNER_FAILED}),
}
#: What counts against the system.
COUNTERS = ("lost_jobs", "lost_bytes", "doubled_bytes", "wrong_ends")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that must not be. `counter`: one of those above, or a leak's."""

    counter: str
    amount: int
    text: str
    job_id: str | None = None


@dataclass(frozen=True, kw_only=True)
class Window:
    """A fault that was carried out: when (unix time), and whom it could hit."""

    fault: Fault
    began_at: float
    over_at: float
    worker: str | None = None
    job_id: str | None = None

    def touches(self, view: Mapping[str, Any]) -> bool:
        """Could it change the end of the job of that view?"""
        if self.fault not in LOST_REASONS:
            return False
        if self.job_id is not None:
            return bool(view["job_id"] == self.job_id)
        if (view.get("worker") or {}).get("hostname") != self.worker:
            return False
        begins_at = view.get("started_at") or view["created_at"]
        return bool(begins_at <= self.over_at and (view["completed_at"] or 1e12) >= self.began_at)


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """A job's journal on its worker's disk, at a moment when nobody wrote it."""

    fault: Fault
    end_offset: int  #: behind the last whole record
    running: bool  #: the code had begun
    exited: bool  #: the last record was EXIT


@dataclass(frozen=True, kw_only=True)
class Copy:
    """What one reader was given of a job."""

    reader: str
    records: Sequence[Record]
    end: Mapping[str, Any] | None
    error: str | None


@dataclass(frozen=True, kw_only=True)
class Seen:
    """All that was seen of one job. `view` None: the daemon doesn't know it."""

    job: Job
    job_id: str
    view: Mapping[str, Any] | None
    records: Sequence[Record]  #: the daemon's whole journal, read when all was over
    copies: Sequence[Copy] = ()
    windows: Sequence[Window] = ()
    on_disk: Sequence[OnDisk] = field(default=())


def judge(seen: Seen) -> list[Finding]:
    """Everything that is wrong with one job."""
    if seen.view is None:
        return [_finding(seen, "lost_jobs", 1, "the daemon acknowledged it and doesn't know it")]
    if seen.view.get("end") is None:
        words = f"it has not ended: {seen.view['status']}, {seen.view['phase']}"
        return [_finding(seen, "lost_jobs", 1, f"{words}, wait {seen.view.get('wait')}")]
    found = [_finding(seen, "wrong_ends", 1, text) for text in _wrong_ends(seen)]
    found += _wrong_bytes(seen)
    for copy in seen.copies:
        found += _wrong_copy(seen, copy)
    return found


def _finding(seen: Seen, counter: str, amount: int, text: str) -> Finding:
    faults = ", ".join(sorted({w.fault.value for w in seen.windows})) or "none"
    return Finding(
        counter=counter,
        amount=amount,
        job_id=seen.job_id,
        text=f"{seen.job.name}: {text} (faults that may change its end: {faults})",
    )


# --- ends -----------------------------------------------------------------------------------------


def is_own_end(expected: End, view: Mapping[str, Any]) -> bool:
    """Did it end as its code and its user meant?"""
    end = view["end"]
    if (view["status"], end["reason"]) != (expected.status, expected.reason):
        return False
    if expected.status in (JobState.CANCELLED, JobState.TIMEOUT):
        return True  # how its process left then is a race with the signal
    return (end["exit_code"], end["signal"]) == (expected.exit_code, expected.signal)


def _wrong_ends(seen: Seen) -> list[str]:
    assert seen.view is not None
    view, job = seen.view, seen.job
    shown = _shown(view)
    wrong = []
    own = is_own_end(job.expected, view)
    lost = any(
        view["status"] == JobState.FAILED and view["end"]["reason"] in LOST_REASONS[window.fault]
        for window in seen.windows
    )
    if not own and not lost:
        wrong.append(f"it ended {shown}, not {_told(job.expected)}")
    if not own and any(disk.exited for disk in seen.on_disk):
        wrong.append(f"its last record was on disk before the fault, yet it ended {shown}")
    killed = [d for d in seen.on_disk if d.fault in (Fault.ENGINE_KILL, Fault.RUNNER_KILL)]
    if own and any(disk.running and not disk.exited for disk in killed):
        wrong.append(f"it was killed while its code ran, yet it ended {shown}")
    exits = [record for record in seen.records if record.kind is Kind.EXIT]
    if len(exits) > 1:
        wrong.append(f"its journal has {len(exits)} last records")
    elif exits and exits[0].json()["outcome"] != view["status"]:
        wrong.append(f"its journal says {exits[0].json()}, its end {shown}")
    if own and job.end == "raise":
        error = view["end"].get("error") or {}
        if error.get("type") != "ValueError" or job.seed not in str(error.get("traceback")):
            wrong.append(f"its exception came as {error}")
    if view["status"] != JobState.COMPLETED and not view["end"]["message"]:
        wrong.append("its end has no words")
    return wrong


def _shown(view: Mapping[str, Any]) -> str:
    end = view["end"]
    told = (
        f"{view['status']}/{end['reason']} (exit code {end['exit_code']}, signal {end['signal']})"
    )
    return f"{told}: {end['message']}"


def _told(end: End) -> str:
    return f"{end.status}/{end.reason} (exit code {end.exit_code}, signal {end.signal})"


# --- bytes ----------------------------------------------------------------------------------------


def compare(given: bytes, right: bytes, whole: bool) -> tuple[int, int, str]:
    """(bytes lost, bytes doubled, where). `whole`: all of `right` must be there, else a beginning
    of it."""
    if right.startswith(given):
        lost = len(right) - len(given) if whole else 0
        return lost, 0, f"it ends after {len(given)} of {len(right)} bytes"
    at = next(
        (i for i, (one, other) in enumerate(zip(given, right, strict=False)) if one != other),
        min(len(given), len(right)),
    )
    if at == len(right):
        return 0, len(given) - at, f"{len(given) - at} bytes too many after {at}"
    # Where does it go on in what it should have said?
    sample = given[at : at + 24]
    before, behind = right.rfind(sample, 0, at + len(sample) - 1), right.find(sample, at + 1)
    if behind >= 0:
        return behind - at, 0, f"after {at} bytes it goes on at {behind}"
    if before >= 0:
        return 0, at - before, f"after {at} bytes it goes on at {before} again"
    return max(1, len(right) - at), 0, f"after {at} bytes it says something else"


def holes(records: Iterable[Record]) -> tuple[int, int]:
    """(journal bytes left out, given twice) by the records' offsets. A gap record leaves none out,
    but no job here comes near the cap: one is counted as what it replaced."""
    lost = doubled = at = 0
    for record in records:
        lost += max(0, record.offset - at)
        doubled += max(0, at - record.offset)
        if record.kind is Kind.GAP:
            lost += record.next_offset - record.offset
        at = record.next_offset
    return lost, doubled


def said(records: Iterable[Record], kind: Kind) -> bytes:
    """All that was said of one kind."""
    return b"".join(record.payload for record in records if record.kind is kind)


def _wrong_bytes(seen: Seen) -> list[Finding]:
    assert seen.view is not None
    job, found = seen.job, []
    by_itself = job.expected.status in (JobState.COMPLETED, JobState.FAILED)
    whole = by_itself and is_own_end(job.expected, seen.view)
    for kind, stream, size in (
        (Kind.STDOUT, "stdout", job.out_bytes),
        (Kind.STDERR, "stderr", job.err_bytes),
    ):
        right = work.sequence(job.seed, stream, size, job.as_lines and kind is Kind.STDOUT)
        lost, doubled, where = compare(said(seen.records, kind), right, whole)
        found += _counted(seen, lost, doubled, f"{stream}: {where}")
    lost, doubled = holes(seen.records)
    found += _counted(seen, lost, doubled, "by the offsets of the daemon's journal")
    end = seen.records[-1].next_offset if seen.records else 0
    journalled = max((disk.end_offset for disk in seen.on_disk), default=0)
    words = f"{journalled} bytes of journal were on the worker's disk, {end} are at the daemon"
    found += _counted(seen, max(0, journalled - end), 0, words)
    if whole and job.expected.status is JobState.COMPLETED:
        text = said(seen.records, Kind.RESULT)
        right = json.dumps(work.result(job.seed, job.result_bytes), separators=(",", ":")).encode()
        lost, doubled, where = compare(text, right, True)
        found += _counted(seen, lost, doubled, f"result: {where}")
    return found


def _counted(seen: Seen, lost: int, doubled: int, text: str) -> list[Finding]:
    found = []
    if lost:
        found.append(_finding(seen, "lost_bytes", lost, f"{lost} bytes lost: {text}"))
    if doubled:
        found.append(_finding(seen, "doubled_bytes", doubled, f"{doubled} bytes doubled: {text}"))
    return found


def _wrong_copy(seen: Seen, copy: Copy) -> list[Finding]:
    """A reader is given what the daemon has, once, and is told the end that stays."""
    assert seen.view is not None
    who = f"reader {copy.reader}"
    lost, doubled = holes(copy.records)
    found = _counted(seen, lost, doubled, f"{who}, by the offsets")
    if copy.error is not None:
        found.append(_finding(seen, "wrong_ends", 1, f"{who} was told {copy.error}"))
    given, right = list(map(_key, copy.records)), list(map(_key, seen.records))
    if not lost and not doubled and given != right[: len(given)]:
        found.append(_finding(seen, "lost_bytes", 1, f"{who} was given other records"))
    if copy.end is None:
        if copy.error is None:
            found.append(_finding(seen, "wrong_ends", 1, f"{who} was never told its end"))
        return found
    missing = sum(record.next_offset - record.offset for record in seen.records[len(given) :])
    found += _counted(seen, missing, 0, f"{who} was told the end before it was given these")
    if _shown(copy.end) != _shown(seen.view):
        words = f"{who} was told {_shown(copy.end)}, now it is {_shown(seen.view)}"
        found.append(_finding(seen, "wrong_ends", 1, words))
    return found


def _key(record: Record) -> tuple[int, int, Kind, bytes]:
    return record.offset, record.next_offset, record.kind, record.payload


def readable(records: Iterable[Record]) -> str:
    """A journal's bare bones, for the evidence."""
    lines = []
    for record in records:
        text = ""
        if record.kind in (Kind.STATUS, Kind.EXIT):
            try:
                text = json.dumps(record.json())
            except (ValueError, JournalCorrupt) as error:
                text = repr(error)
        if text or record.kind in (Kind.ERROR, Kind.GAP, Kind.RESULT):
            lines.append(f"{record.offset} {record.kind.name} {text}".rstrip())
    return "\n".join(lines)
