"""Which bytes of a job are right, in the daemon's journal and in what readers were given. Pure."""

import json
from collections.abc import Iterable, Sequence

from cumulus_wire.journal import Kind, Record, is_rest_missing
from cumulus_wire.states import JobState
from tests.torture import work
from tests.torture.finding import Finding, finding
from tests.torture.oracle_ends import is_own_end
from tests.torture.seen import Copy, Seen, attempt_of, attempts, shown, stays


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


def wrong_bytes(seen: Seen) -> list[Finding]:
    """What is wrong with what the daemon has of it."""
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


def wrong_copy(seen: Seen, copy: Copy) -> list[Finding]:
    """A reader is given what the daemon has, once, and is told the end that stays."""
    assert seen.view is not None
    who = f"reader {copy.reader}"
    lost, doubled = holes(copy.records)
    found = _counted(seen, lost, doubled, f"{who}, by the offsets")
    if copy.error is not None:
        found.append(finding(seen, "wrong_ends", 1, f"{who} was told {copy.error}"))
    given, right = list(map(_key, copy.records)), list(map(_key, seen.records))
    if not lost and not doubled and given != right[: len(given)]:
        found.append(finding(seen, "lost_bytes", 1, f"{who} was given other records"))
    if copy.end is None:
        if copy.error is None:
            found.append(finding(seen, "wrong_ends", 1, f"{who} was never told its end"))
        return found
    missing = sum(
        record.next_offset - record.offset
        for record in seen.records[len(given) :]
        if not is_rest_missing(record)  # is known long after the end of a job whose worker is lost
    )
    found += _counted(seen, missing, 0, f"{who} was told the end before it was given these")
    if shown(copy.end) != shown(seen.view):
        words = f"{who} was told {shown(copy.end)}, now it is {shown(seen.view)}"
        found.append(finding(seen, "wrong_ends", 1, words))
    return found


def _key(record: Record) -> tuple[int, int, Kind, bytes]:
    return record.offset, record.next_offset, record.kind, record.payload


def _counted(seen: Seen, lost: int, doubled: int, text: str) -> list[Finding]:
    found = []
    if lost:
        found.append(finding(seen, "lost_bytes", lost, f"{lost} bytes lost: {text}"))
    if doubled:
        found.append(finding(seen, "doubled_bytes", doubled, f"{doubled} bytes doubled: {text}"))
    return found
