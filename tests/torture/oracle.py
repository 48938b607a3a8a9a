"""What may be, once a round has settled: compares what was seen of a job with its plan. Pure.

A fault on the worker's side may change a job's end. The others (the daemon, the manager, an agent,
a client killed, a reader stalled) never do.
"""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import JournalCorrupt, Kind, Record, is_rest_missing
from cumulus_wire.states import JobState
from tests.torture import work
from tests.torture.plan import End, Fault, Job

#: Which reasons a job may fail for that a fault of the worker's side hit.
LOST_REASONS: Mapping[Fault, frozenset[str]] = {
    Fault.ENGINE_KILL: frozenset({EndReason.WORKER_LOST}),
    Fault.LINK_CUT: frozenset({EndReason.WORKER_LOST}),
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
    #: daemon or manager were away meanwhile: nobody may have seen that the worker was cut off, and
    #: to its runners the Swarm's tidying up afterwards is a kill from outside
    unseen: bool = False

    @property
    def reasons(self) -> frozenset[str]:
        """Why a job may fail that it hit."""
        reasons = LOST_REASONS.get(self.fault, frozenset())
        if self.fault is Fault.LINK_CUT and self.unseen:
            reasons |= {EndReason.RUNNER_FAILED}
        return reasons

    def touches(self, view: Mapping[str, Any]) -> bool:
        """Could it change the end of the job of that view, or of an attempt of it?"""
        return any(self.hits(stay) for stay in stays(view))

    def hits(self, stay: "Stay") -> bool:
        """Could it end that attempt?"""
        if self.fault not in LOST_REASONS:
            return False
        if self.job_id is not None:
            return stay.job_id == self.job_id
        overlap = stay.from_at <= self.over_at and stay.to_at >= self.began_at
        return stay.worker == self.worker and overlap


@dataclass(frozen=True, kw_only=True)
class Stay:
    """An attempt: where it was, between which times (unix) at most. `reason`: of one that was
    followed by another, else None."""

    job_id: str
    worker: str | None
    from_at: float
    to_at: float
    reason: str | None = None


def stays(view: Mapping[str, Any]) -> list[Stay]:
    """The attempts of a job, the last one last."""
    found, since = [], float(view["created_at"])
    over = [dict(attempt) for attempt in view.get("attempts", ())]
    for each in [*over, {**view, "ended_at": view["completed_at"], "reason": None}]:
        to_at = each["ended_at"] or float("inf")
        worker = (each.get("worker") or {}).get("hostname")
        found.append(
            Stay(
                job_id=view["job_id"],
                worker=worker,
                from_at=each.get("started_at") or since,
                to_at=to_at,
                reason=each["reason"],
            )
        )
        since = to_at
    return found


@dataclass(frozen=True, kw_only=True)
class OnDisk:
    """A job's journal on its worker's disk, at a moment when nobody wrote it."""

    fault: Fault
    attempt: int
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
    *over, last = stays(view)
    lost = view["status"] == JobState.FAILED and _is_lost(seen, last, view["end"]["reason"])
    if not own and not (lost and len(over) == job.retries):
        wrong.append(f"it ended {shown}, not {_told(job.expected)}")
    for number, stay in enumerate(over, start=1):
        if not _is_lost(seen, stay, stay.reason):
            wrong.append(f"attempt {number} on {stay.worker} ended for {stay.reason}")
    finished = {disk.attempt for disk in seen.on_disk if disk.exited}
    if any(number <= len(over) or not own for number in finished):
        wrong.append(
            f"the last record of attempts {sorted(finished)} was on disk before the fault, yet it "
            f"ended {shown} after {len(over)} other attempts"
        )
    killed = [d for d in seen.on_disk if d.fault in (Fault.ENGINE_KILL, Fault.RUNNER_KILL)]
    # A cancel that was answered holds, whatever then befalls the job.
    if (
        own
        and job.cancel is None
        and not over
        and any(disk.running and not disk.exited for disk in killed)
    ):
        wrong.append(f"it was killed while its code ran, yet it ended {shown}")
    wrong += _wrong_attempts(seen)
    if own and job.end == "raise":
        error = view["end"].get("error") or {}
        if error.get("type") != "ValueError" or job.seed not in str(error.get("traceback")):
            wrong.append(f"its exception came as {error}")
    if view["status"] != JobState.COMPLETED and not (
        view["end"]["message"] and view["end"]["hint"]
    ):
        wrong.append(f"its end {shown} says not what happened or not what to do")
    if own and job.cancel is None and view["end"].get("log_tail") != (tail := log_tail(seen)):
        wrong.append(f"its log's tail is {view['end'].get('log_tail')!r}, not {tail!r}")
    return wrong


def log_tail(seen: Seen) -> str:
    """The last 4 KiB of its last attempt's output, as text; a character cut in two is left out."""
    output = [r for r in attempts(seen.records)[-1] if r.kind in (Kind.STDOUT, Kind.STDERR)]
    data = b"".join(record.payload for record in output)
    tail = data[-4096:]
    if len(tail) == 4096:
        cut = next((at for at in range(3) if tail[at] & 0xC0 != 0x80), 3)
        tail = tail[cut:]
    return tail.decode(errors="replace").replace("\0", "\\0")


def _is_lost(seen: Seen, stay: Stay, reason: str | None) -> bool:
    """May that attempt have ended for that reason? A fault hit it that makes such an end."""
    return any(w.hits(stay) and reason in w.reasons for w in seen.windows)


def _wrong_attempts(seen: Seen) -> list[str]:
    """By the journal: one last record for each attempt at most, the last of them is the end, and no
    attempt began before the one before was over (all on this machine's clock)."""
    assert seen.view is not None
    wrong = []
    parts = attempts(seen.records)
    for part in parts:
        exits = [record for record in part if record.kind is Kind.EXIT]
        if len(exits) > 1:
            wrong.append(f"an attempt has {len(exits)} last records")
        elif part is parts[-1] and exits and not _agrees(exits[0].json(), seen.view):
            wrong.append(f"its journal says {exits[0].json()}, its end {_shown(seen.view)}")
    for before, after in pairwise(parts):
        if before and after and before[-1].time_us > after[0].time_us:
            wrong.append(f"two attempts ran at a time, at {after[0].time_us / 1e6}")
    begun = len(seen.view.get("attempts", ())) + 1
    if len(parts) > begun:
        wrong.append(f"its journal holds {len(parts)} attempts, its view {begun}")
    return wrong


def _agrees(last: Mapping[str, Any], view: Mapping[str, Any]) -> bool:
    """Does the runner's last word fit the end? A cancelled job may have been ended from outside."""
    if view["status"] == JobState.CANCELLED and last.get("reason") == EndReason.RUNNER_FAILED:
        return True
    return bool(last["outcome"] == view["status"])


def attempts(records: Iterable[Record]) -> list[list[Record]]:
    """The records of each attempt that said anything; one at least."""
    parts: list[list[Record]] = [[]]
    for record in records:
        setup = record.kind is Kind.STATUS and record.json().get("phase") == "setup"
        if parts[-1] and (setup or is_rest_missing(parts[-1][-1])):
            parts.append([])
        parts[-1].append(record)
    return parts


def attempt_of(part: Sequence[Record]) -> int:
    """Which attempt these records are of: the first says it."""
    first = part[0].json() if part[0].kind in (Kind.STATUS, Kind.GAP) else {}
    return int(first.get("attempt", 1))


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
    but no job here comes near the cap: one is counted as what it replaced. The record that the rest
    of an attempt is missing replaces nothing: see `_wrong_gaps`."""
    lost = doubled = at = 0
    for record in records:
        lost += max(0, record.offset - at)
        doubled += max(0, at - record.offset)
        if record.kind is Kind.GAP and not is_rest_missing(record):
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
    parts = attempts(seen.records)
    for kind, stream, size in (
        (Kind.STDOUT, "stdout", job.out_bytes),
        (Kind.STDERR, "stderr", job.err_bytes),
    ):
        right = work.sequence(job.seed, stream, size, job.as_lines and kind is Kind.STDOUT)
        for number, part in enumerate(parts, start=1):
            is_last = number == len(parts)
            lost, doubled, where = compare(said(part, kind), right, whole and is_last)
            found += _counted(seen, lost, doubled, f"{stream} of attempt {number}: {where}")
    lost, doubled = holes(seen.records)
    found += _counted(seen, lost, doubled, "by the offsets of the daemon's journal")
    found += _wrong_gaps(seen, parts)
    for disk in seen.on_disk:
        there = [part for part in parts if part and attempt_of(part) == disk.attempt]
        if there and is_rest_missing(there[-1][-1]):
            continue  # its worker was given up, and whoever reads it is told so
        end = there[-1][-1].next_offset if there else 0
        words = (
            f"the worker's disk held {disk.end_offset} bytes of journal at the {disk.fault} of "
            f"attempt {disk.attempt}, the daemon has {end}"
        )
        found += _counted(seen, max(0, disk.end_offset - end), 0, words)
    if whole and job.expected.status is JobState.COMPLETED:
        text = said(parts[-1], Kind.RESULT)
        right = json.dumps(work.result(job.seed, job.result_bytes), separators=(",", ":")).encode()
        lost, doubled, where = compare(text, right, True)
        found += _counted(seen, lost, doubled, f"result: {where}")
    return found


def _wrong_gaps(seen: Seen, parts: Sequence[Sequence[Record]]) -> list[Finding]:
    """A record that the rest of an attempt is missing: only the last one of an attempt without an
    EXIT may be it, and only where a fault kept its worker away."""
    assert seen.view is not None
    found, told = [], stays(seen.view)
    for part in parts:
        for record in part:
            if not is_rest_missing(record):
                continue
            attempt = record.json()["attempt"]
            hit = attempt <= len(told) and any(
                window.hits(told[attempt - 1]) for window in seen.windows
            )
            exited = any(each.kind is Kind.EXIT for each in part)
            if record is not part[-1] or exited or not hit:
                words = f"the rest of attempt {attempt} was given up at {record.offset}"
                found += _counted(seen, 1, 0, f"{words}, where nothing allows that")
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
    missing = sum(
        record.next_offset - record.offset
        for record in seen.records[len(given) :]
        if not is_rest_missing(record)  # is known long after the end of a job whose worker is lost
    )
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
