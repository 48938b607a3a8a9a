"""The torture's oracle finds what is wrong, and nothing else. Each test breaks one thing."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import attrs
import pytest

from cumulus_wire.codes import EndReason
from cumulus_wire.folder import ORDERS, segment_name
from cumulus_wire.journal import Kind, Record, encode, encode_json, gap_record
from cumulus_wire.states import JobState
from tests.torture import copies, disk, work
from tests.torture.finding import Finding
from tests.torture.oracle import judge
from tests.torture.oracle_bytes import compare, holes
from tests.torture.plan import End, Fault, Job
from tests.torture.seen import Copy, OnDisk, Seen, Window

COMPLETED = End(status=JobState.COMPLETED, exit_code=0)
JOB = Job(
    number=1,
    kind="binary",
    seed="1/1/1",
    at_s=0.0,
    expected=COMPLETED,
    out_bytes=3_000,
    err_bytes=700,
    as_lines=False,
)
RAISES = Job(
    number=2,
    kind="raises",
    seed="1/1/2",
    at_s=0.0,
    expected=End(status=JobState.FAILED, reason=EndReason.USER_ERROR, exit_code=1),
    end="raise",
)


@attrs.frozen(kw_only=True)
class Case:
    """A job's journal, view and reader, all right until somebody changes them."""

    job: Job
    parts: list[tuple[Kind, bytes]]
    view: dict[str, Any]

    @classmethod
    def right(cls, job: Job) -> "Case":
        out = work.sequence(job.seed, "stdout", job.out_bytes, job.as_lines)
        err = work.sequence(job.seed, "stderr", job.err_bytes, False)
        result = json.dumps(work.result(job.seed, job.result_bytes), separators=(",", ":"))
        completed = job.expected.status is JobState.COMPLETED
        exit_record = {"outcome": job.expected.status.value}
        parts = [
            (Kind.STATUS, b'{"phase":"running"}'),
            *[(Kind.STDOUT, out[at : at + 256]) for at in range(0, len(out), 256)],
            *[(Kind.STDERR, err)] * bool(err),
            *[(Kind.RESULT, result.encode())] * completed,
            (Kind.EXIT, json.dumps(exit_record).encode()),
        ]
        error = {"type": "ValueError", "traceback": f"as planned: {job.seed}"}
        end = {
            "reason": job.expected.reason,
            "message": "words",
            "hint": "advice",
            "log_tail": (out + err)[-4096:].decode(errors="replace").replace("\0", "\\0"),
            "exit_code": job.expected.exit_code,
            "signal": job.expected.signal,
            "error": None if completed else error,
        }
        view = {
            "job_id": "job_1",
            "status": job.expected.status.value,
            "phase": "ended",
            "worker": {"hostname": "worker1"},
            "created_at": 100.0,
            "started_at": 101.0,
            "completed_at": 110.0,
            "end": end,
        }
        return cls(job=job, parts=parts, view=view)

    def seen(self, **changes: Any) -> Seen:
        records = recorded(self.parts)
        copy = Copy(reader="calm", records=records, end=self.view, error=None)
        seen = {"job": self.job, "job_id": "job_1", "view": self.view, "records": records}
        return Seen(**{**seen, "copies": [copy], **changes})

    def ended(self, status: JobState, reason: EndReason, **end: Any) -> "Case":
        told = {**self.view["end"], "reason": reason, "exit_code": None, "error": None, **end}
        return attrs.evolve(self, view={**self.view, "status": status.value, "end": told})

    def without(self, kind: Kind, keep: int = 0) -> "Case":
        kept = [part for part in self.parts if part[0] is kind][:keep]
        return attrs.evolve(
            self, parts=[part for part in self.parts if part[0] is not kind or part in kept]
        )


def recorded(parts: list[tuple[Kind, bytes]]) -> list[Record]:
    records, at = [], 0
    for kind, payload in parts:
        size = len(encode(kind, payload))
        records.append(Record(kind, payload, 1, at, at + size))
        at += size
    return records


def counted(findings: list[Finding]) -> dict[str, int]:
    totals: dict[str, int] = {}
    for finding in findings:
        totals[finding.counter] = totals.get(finding.counter, 0) + finding.amount
    return totals


def window(fault: Fault, **where: Any) -> Window:
    return Window(fault=fault, began_at=105.0, over_at=120.0, **where)


@pytest.mark.parametrize("job", [JOB, RAISES], ids=lambda job: job.kind)
def test_what_is_right_is_found_right(job: Job) -> None:
    assert judge(Case.right(job).seen()) == []


def test_a_job_that_is_not_known_or_never_ends_is_lost() -> None:
    case = Case.right(JOB)
    assert counted(judge(case.seen(view=None))) == {"lost_jobs": 1}
    unended = {**case.view, "end": None, "status": "running", "phase": "running"}
    assert counted(judge(case.seen(view=unended))) == {"lost_jobs": 1}


WRONG: dict[str, Callable[[Case], Case]] = {
    "another state": lambda c: c.ended(JobState.CANCELLED, EndReason.CANCELLED_BY_USER),
    "lost without a fault": lambda c: c.ended(JobState.FAILED, EndReason.WORKER_LOST),
    "another exit code": lambda c: attrs.evolve(
        c, view={**c.view, "end": {**c.view["end"], "exit_code": 3}}
    ),
    "two last records": lambda c: attrs.evolve(c, parts=[*c.parts, c.parts[-1]]),
    "a journal that says otherwise": lambda c: attrs.evolve(
        c, parts=[*c.parts[:-1], (Kind.EXIT, b'{"outcome":"timeout"}')]
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_end_is_found(name: str) -> None:
    findings = judge(WRONG[name](Case.right(JOB)).seen())
    assert counted(findings).get("wrong_ends", 0) >= 1


@pytest.mark.parametrize("key", ["message", "hint", "log_tail"])
def test_an_end_that_says_too_little_is_found(key: str) -> None:
    case = Case.right(RAISES)
    case.view["end"][key] = ""
    assert counted(judge(case.seen())) == {"wrong_ends": 1}


def test_an_exception_without_its_traceback_is_found() -> None:
    case = Case.right(RAISES)
    case.view["end"]["error"] = {"type": "ValueError", "traceback": "none"}
    assert counted(judge(case.seen())) == {"wrong_ends": 1}


def test_a_worker_s_fault_may_change_the_end_and_cut_the_output() -> None:
    case = Case.right(JOB).without(Kind.EXIT).without(Kind.RESULT).without(Kind.STDERR)
    lost = case.without(Kind.STDOUT, keep=4).ended(JobState.FAILED, EndReason.WORKER_LOST)
    hit = window(Fault.ENGINE_KILL, worker="worker1")
    assert judge(lost.seen(windows=[hit])) == []
    runner = window(Fault.RUNNER_KILL, job_id="job_1")
    assert counted(judge(lost.seen(windows=[runner]))) == {"wrong_ends": 1}


def test_a_cut_that_nobody_could_see_may_look_like_a_kill() -> None:
    case = Case.right(JOB).without(Kind.EXIT).without(Kind.RESULT).without(Kind.STDERR)
    killed = case.ended(JobState.FAILED, EndReason.RUNNER_FAILED)
    seen = window(Fault.LINK_CUT, worker="worker1")
    assert counted(judge(killed.seen(windows=[seen]))) == {"wrong_ends": 1}
    assert judge(killed.seen(windows=[replace(seen, unseen=True)])) == []


def test_whom_a_fault_can_touch() -> None:
    view = Case.right(JOB).view
    hit = window(Fault.ENGINE_KILL, worker="worker1")
    assert hit.touches(view)
    assert not hit.touches({**view, "worker": {"hostname": "worker2"}})
    assert not hit.touches({**view, "worker": None})
    assert not hit.touches({**view, "completed_at": 104.0}), "it had ended before"
    assert not hit.touches({**view, "started_at": 121.0, "completed_at": 130.0}), "it came after"
    assert not window(Fault.DAEMON_KILL).touches(view)
    assert not window(Fault.RUNNER_KILL, job_id="job_2").touches(view)


def test_what_was_on_disk_before_the_kill_decides() -> None:
    hit = window(Fault.ENGINE_KILL, worker="worker1")
    case = Case.right(JOB)
    exited = OnDisk(fault=Fault.ENGINE_KILL, attempt=1, end_offset=10, running=True, exited=True)
    cut = OnDisk(fault=Fault.ENGINE_KILL, attempt=1, end_offset=10, running=True, exited=False)
    lost = case.without(Kind.EXIT).ended(JobState.FAILED, EndReason.WORKER_LOST)
    assert judge(case.seen(windows=[hit], on_disk=[exited])) == []
    assert counted(judge(lost.seen(windows=[hit], on_disk=[exited]))) == {"wrong_ends": 1}
    assert judge(lost.seen(windows=[hit], on_disk=[cut])) == []
    assert counted(judge(case.seen(windows=[hit], on_disk=[cut]))) == {"wrong_ends": 1}


def test_attempts_for_a_worker_s_fault_only() -> None:
    case = Case.right(replace(JOB, retries=2))
    begun = (Kind.STATUS, b'{"phase":"setup"}')
    half = [begun, *[part for part in case.parts if part[0] is Kind.STDOUT][:4]]
    over = {
        "worker": {"hostname": "worker2"},
        "started_at": 101.0,
        "ended_at": 108.0,
        "reason": "worker_lost",
    }
    view = {**case.view, "attempts": [over], "started_at": 109.0}
    second = (Kind.STATUS, b'{"phase":"setup","attempt":2}')
    again = attrs.evolve(case, parts=[*half, second, *case.parts], view=view)
    hit = window(Fault.ENGINE_KILL, worker="worker2")
    assert judge(again.seen(windows=[hit])) == []
    assert counted(judge(again.seen())) == {"wrong_ends": 1}, "no fault hit the first attempt"
    elsewhere = window(Fault.ENGINE_KILL, worker="worker1")
    assert counted(judge(again.seen(windows=[elsewhere]))) == {"wrong_ends": 1}
    exited = OnDisk(fault=Fault.ENGINE_KILL, attempt=1, end_offset=10, running=True, exited=True)
    assert counted(judge(again.seen(windows=[hit], on_disk=[exited]))) == {"wrong_ends": 1}
    second_exited = replace(exited, fault=Fault.LINK_CUT, attempt=2)
    assert judge(again.seen(windows=[hit], on_disk=[second_exited])) == [], "its own end stays"
    left = OnDisk(fault=Fault.LINK_CUT, attempt=1, end_offset=2_000, running=True, exited=False)
    held = sum(len(encode(*part)) for part in half)
    assert counted(judge(again.seen(windows=[hit], on_disk=[left]))) == {"lost_bytes": 2_000 - held}
    hidden = attrs.evolve(again, view={**view, "attempts": []})
    assert counted(judge(hidden.seen(windows=[hit])))["wrong_ends"] == 1
    given_up = case.without(Kind.EXIT).without(Kind.RESULT).without(Kind.STDERR)
    lost = given_up.ended(JobState.FAILED, EndReason.WORKER_LOST)
    both = [window(Fault.ENGINE_KILL, worker="worker1")]
    assert counted(judge(lost.seen(windows=both))) == {"wrong_ends": 1}, "two attempts are left"


def test_a_gap_for_the_rest_of_an_attempt_allows_what_is_missing_there() -> None:
    case = Case.right(replace(JOB, retries=1))
    gap = (Kind.GAP, b'{"from":0,"to":null,"attempt":1}')
    half = [part for part in case.parts if part[0] is Kind.STDOUT][:4]
    over = {"worker": {"hostname": "worker2"}, "started_at": 101.0, "ended_at": 108.0}
    view = {**case.view, "attempts": [{**over, "reason": "worker_lost"}], "started_at": 109.0}
    second = (Kind.STATUS, b'{"phase":"setup","attempt":2}')
    hit = window(Fault.LINK_CUT, worker="worker2")
    left = OnDisk(fault=Fault.LINK_CUT, attempt=1, end_offset=2_000, running=True, exited=False)
    for first in ([*half, gap], [gap]):
        again = attrs.evolve(case, parts=[*first, second, *case.parts], view=view)
        assert judge(again.seen(windows=[hit], on_disk=[left])) == []
        assert counted(judge(again.seen(on_disk=[left])))["lost_bytes"] == 1, "for no fault"
        of_second = replace(left, attempt=2, end_offset=20_000)
        lost = counted(judge(again.seen(windows=[hit], on_disk=[of_second])))["lost_bytes"]
        assert lost == 20_000 - recorded(again.parts)[-1].next_offset, "of that attempt only"
    early = attrs.evolve(case, parts=[*half[:2], gap, *half[2:], second, *case.parts], view=view)
    assert counted(judge(early.seen(windows=[hit])))["lost_bytes"], "not within an attempt"


def test_two_attempts_at_a_time_are_found() -> None:
    begun = (Kind.STATUS, b'{"phase":"setup"}')
    case = Case.right(JOB)
    over = {"worker": {"hostname": "worker1"}, "started_at": 101.0, "ended_at": 108.0}
    view = {**case.view, "attempts": [{**over, "reason": "runner_failed"}]}
    again = attrs.evolve(case, parts=[begun, begun, *case.parts], view=view)
    records = recorded(again.parts)
    records[0].time_us = 5
    seen = again.seen(
        records=records, copies=[], windows=[window(Fault.RUNNER_KILL, job_id="job_1")]
    )
    assert counted(judge(seen)) == {"wrong_ends": 1}


def test_journal_left_on_a_worker_is_lost() -> None:
    case = Case.right(JOB)
    end = recorded(case.parts)[-1].next_offset
    there = OnDisk(fault=Fault.LINK_CUT, attempt=1, end_offset=end + 50, running=True, exited=False)
    assert counted(judge(case.seen(on_disk=[there]))) == {"lost_bytes": 50}


def test_output_that_is_missing_is_counted() -> None:
    assert counted(judge(Case.right(JOB).without(Kind.STDERR).seen()))["lost_bytes"] == 700
    result = len(dict(Case.right(JOB).parts)[Kind.RESULT])
    assert counted(judge(Case.right(JOB).without(Kind.RESULT).seen())) == {"lost_bytes": result}


def test_a_gap_where_the_cap_is_far_is_a_loss() -> None:
    case = Case.right(JOB)
    records = recorded(case.parts)
    gap = gap_record(records[2].offset, records[2].next_offset, 1)
    records[2:3] = [gap]
    copy = Copy(reader="calm", records=records, end=case.view, error=None)
    assert counted(judge(case.seen(records=records, copies=[copy])))["lost_bytes"] >= 276


def test_what_a_reader_was_given() -> None:
    case = Case.right(JOB)
    records = recorded(case.parts)

    def found(records: list[Record], end: Any = case.view, error: str | None = None) -> Any:
        copy = Copy(reader="calm", records=records, end=end, error=error)
        return counted(judge(case.seen(copies=[copy])))

    size = records[3].next_offset - records[3].offset
    assert found(records) == {}
    assert found(records[:-1]) == {"lost_bytes": records[-1].next_offset - records[-1].offset}
    assert found(records[:3] + records[4:])["lost_bytes"] >= size
    assert found(records[:4] + records[3:])["doubled_bytes"] == size
    assert found(records, end=None) == {"wrong_ends": 1}
    assert found(records, end=None, error="no daemon") == {"wrong_ends": 1}
    other = {**case.view, "status": "failed"}
    assert found(records, end=other) == {"wrong_ends": 1}
    changed = Record(Kind.STDOUT, b"x" * 256, 1, records[3].offset, records[3].next_offset)
    assert found([*records[:3], changed, *records[4:]]) == {"lost_bytes": 1}


def test_compare_tells_lost_from_doubled() -> None:
    right = work.sequence("s", "stdout", 2_000, False)
    assert compare(right, right, True)[:2] == (0, 0)
    assert compare(right[:1500], right, False)[:2] == (0, 0)
    assert compare(right[:1500], right, True)[:2] == (500, 0)
    assert compare(right[:600] + right[900:], right, True)[:2] == (300, 0)
    assert compare(right[:600] + right[400:], right, True)[:2] == (0, 200)
    assert compare(right + b"more", right, True)[:2] == (0, 4)
    assert compare(right[:600] + b"\0" * 300, right, False)[0] > 0


def test_holes_by_offsets() -> None:
    records = recorded([(Kind.STDOUT, b"a" * 100)] * 3)
    assert holes(records) == (0, 0)
    assert holes([records[0], records[2]]) == (120, 0)
    assert holes([records[0], records[0], records[1]]) == (0, 120)


def test_a_torn_copy_goes_on_behind_its_last_whole_record(tmp_path: Path) -> None:
    path = tmp_path / "job.copy"
    records = recorded([(Kind.STDOUT, b"one"), (Kind.STDERR, b"two")])
    copies.append(path, records)
    whole = path.stat().st_size
    copies.append(path, records[:1])
    with open(path, "r+b") as file:
        file.truncate(whole + 5)
    loaded = copies.load(path)
    assert [(r.kind, r.payload, r.next_offset) for r in loaded] == [
        (r.kind, r.payload, r.next_offset) for r in records
    ]
    assert path.stat().st_size == whole
    assert copies.load(tmp_path / "none") == []


def test_a_worker_s_disk_is_read_to_its_last_whole_record(tmp_path: Path) -> None:
    folder = tmp_path / "jobs/job_1/journal"
    folder.mkdir(parents=True)
    (folder.parent / ORDERS).write_text('{"attempt": 2}')
    first = encode_json(Kind.STATUS, {"phase": "running"}) + encode(Kind.STDOUT, b"a" * 50)
    second = encode(Kind.STDOUT, b"b" * 50)
    (folder / segment_name(0)).write_bytes(first)
    (folder / segment_name(len(first))).write_bytes(second + second[:30])
    (tmp_path / "jobs/job_2").mkdir()  # prepared; its runner hasn't begun
    there = disk.look(tmp_path, Fault.ENGINE_KILL)
    end = len(first) + len(second)
    assert there == {
        "job_1": OnDisk(
            fault=Fault.ENGINE_KILL, attempt=2, end_offset=end, running=True, exited=False
        )
    }
    last = second + encode_json(Kind.EXIT, {"outcome": "completed"})
    (folder / segment_name(len(first))).write_bytes(last)
    assert disk.look(tmp_path, Fault.ENGINE_KILL)["job_1"].exited
