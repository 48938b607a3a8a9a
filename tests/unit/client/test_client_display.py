"""The `[cumulus]` lines: no noise, the job's id among several, nothing glued to a job's output."""

import asyncio
import io
import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from cumulus_client import AsyncCumulusJob, CumulusJob
from cumulus_client._job_stream import Accepted, Ended, Event, Journal, StateChanged
from cumulus_client._journal_reader import ResultCollector
from cumulus_client._wording import fraction_told
from cumulus_client.display import Display
from cumulus_wire.journal import Kind, Record

END = Ended(job={"status": "completed"})


def output(kind: Kind, payload: bytes) -> Journal:
    return Journal(records=[Record(kind, payload, 0, 0, 1)])


def accepted(job_id: str) -> Accepted:
    return Accepted(job={"job_id": job_id, "status": "pending"})


def show(display: Display, *events: Event) -> None:
    for event in events:
        display.event(event)


def waits(reason: str, message: str) -> StateChanged:
    return StateChanged(job={"status": "pending", "wait": {"reason": reason, "message": message}})


def test_what_is_no_news_is_left_out() -> None:
    err = io.StringIO()
    display = Display(io.StringIO(), err)
    chatter = (
        b"Using CPython 3.11.2 interpreter at: /usr/bin/python3\n"
        b"Creating virtual environment at: /x\nUsing Python 3.11.2 environment at: /x\n"
        b"Resolved 1 package in 2ms\n"
    )
    show(
        display,
        waits("queued", "waiting to be placed"),
        waits("no_free_share", "position 1 of 1"),
        waits("placing", "a partition is made"),
        output(Kind.SETUP, chatter),
        END,
    )
    assert err.getvalue().splitlines() == [
        "[cumulus] waiting: position 1 of 1",
        "[cumulus] Resolved 1 package in 2ms",
        "[cumulus] completed",
    ]


def test_what_became_of_the_requirements() -> None:
    lines = []
    for told in (
        {"phase": "setup", "attempt": 1},
        {"phase": "running", "cached": False, "requirements": 0, "build_s": None},
        {"phase": "running", "cached": False, "requirements": 1, "build_s": 3.24},
        {"phase": "running", "cached": True, "requirements": 1, "build_s": None},
        {"phase": "running", "cached": False, "requirements": 1},  # of an older runner
    ):
        err = io.StringIO()
        show(Display(io.StringIO(), err), output(Kind.STATUS, json.dumps(told).encode()))
        lines.append(err.getvalue())
    assert lines == [
        "",
        "",
        "[cumulus] requirements: installed in 3.2 s\n",
        "[cumulus] requirements: cached\n",
        "[cumulus] requirements: installed\n",
    ]


def test_the_tier_is_told_once_a_client_and_in_short() -> None:
    told: set[str] = set()
    lines = []
    for number in (1, 2):
        err = io.StringIO()
        partition = {
            "partition_id": f"p-{number}", "units": 5000, "device_name": "A100",
            "tier_note": "booked, not enforced: the share is reserved and ...",
        }  # fmt: skip
        view = {"status": "pending", "partition": partition}
        Display(io.StringIO(), err, told=told).event(StateChanged(job=view))
        lines.append(err.getvalue())
    assert lines == [
        "[cumulus] partition p-1: 50% of A100; booked, not enforced\n",
        "[cumulus] partition p-2: 50% of A100\n",
    ]


def test_several_runs_have_their_ids_and_whole_lines() -> None:
    both = io.StringIO()
    one, two = Display(both, both), Display(both, both)
    with one.running():
        show(one, accepted("job_1"), output(Kind.STDOUT, b"alone "))
        with two.running():
            show(two, accepted("job_2"), output(Kind.STDOUT, b"two be"))
            show(one, output(Kind.STDOUT, b"one be"), output(Kind.STDERR, b"err"))
            show(two, output(Kind.STDOUT, b"gins\ntwo rests"), END)
        show(one, output(Kind.STDOUT, b"gins\n"), END)
    assert both.getvalue().splitlines() == [
        "[cumulus] job job_1 accepted",
        "alone ",
        "[cumulus] job job_2 accepted",
        "two begins",
        "two rests",
        "[cumulus] job_2: completed",
        "one begins",
        "err",
        "[cumulus] job_1: completed",
    ]


def test_a_line_without_its_end_is_ended_where_a_note_would_be_glued_to_it(tmp_path: Path) -> None:
    def shown(out: Any, err: Any) -> None:
        show(Display(out, err, raw=True), output(Kind.STDOUT, b"no newline"), END)
        out.flush()

    path = tmp_path / "both"
    with open(path, "w") as out, os.fdopen(os.dup(out.fileno()), "w") as err:
        shown(out, err)
    assert path.read_text() == "no newline\n[cumulus] completed\n"
    with open(tmp_path / "out", "w") as out, open(tmp_path / "err", "w") as err:
        shown(out, err)
    assert (tmp_path / "out").read_text() == "no newline"
    assert (tmp_path / "err").read_text() == "[cumulus] completed\n"


def test_a_muted_display_writes_nothing() -> None:
    out, err = io.StringIO(), io.StringIO()
    display = Display(out, err, raw=True)
    display.mute()
    show(display, accepted("j"), output(Kind.STDOUT, b"x\n"), output(Kind.STDERR, b"y"), END)
    assert out.getvalue() == err.getvalue() == ""


def test_a_job_that_had_ended_is_not_accepted_after_its_output() -> None:
    err = io.StringIO()
    ended = {"job_id": "j", "status": "completed", "end": {"reason": "completed"}}
    show(Display(err, err), output(Kind.STDOUT, b"x\n"), Accepted(job=ended), Ended(job=ended))
    assert err.getvalue() == "x\n[cumulus] job j\n[cumulus] completed\n"


def test_progress_is_shown_now_and_then_and_at_last() -> None:
    err = io.StringIO()
    now = [0.0]
    display = Display(io.StringIO(), err, now=lambda: now[0])
    for step in range(11):
        now[0] = step / 10
        fraction = b'{"fraction": %.1f, "message": "epoch %d"}' % (step / 10, step)
        show(display, output(Kind.PROGRESS, fraction))
    show(display, output(Kind.PROGRESS, b'{"fraction": null, "message": "saving"}'))
    show(display, END)
    assert err.getvalue().splitlines() == [
        "[cumulus] 0% epoch 0",
        "[cumulus] 100% epoch 10",
        "[cumulus] saving",
        "[cumulus] completed",
    ]


class Kept:
    """A client of either kind that has one job, which has ended amid a character."""

    def __init__(self, record: Record) -> None:
        self._view = {"status": "completed", "journal": {"end_offset": record.next_offset}}
        self._events_left = [Journal(records=[record]), Ended(job={"status": "completed"})]

    def get_job_status(self, job_id: str) -> dict[str, Any]:
        return self._view

    def _open_stream(self, job_id: str, from_offset: int) -> "Kept":
        return self

    def next(self, deadline: float | None) -> Any:
        return self._events_left.pop(0)

    def close(self) -> None: ...


class AsyncKept(Kept):
    async def get_job_status(self, job_id: str) -> dict[str, Any]:  # type: ignore[override]
        return self._view

    async def _events(self, *_: object) -> AsyncIterator[Any]:
        for event in self._events_left:
            yield event


@pytest.mark.parametrize("follow", [True, False])
def test_logs_end_with_what_a_begun_character_has(follow: bool) -> None:
    record = Record(Kind.STDOUT, b"ok \xe2\x82", 0, 0, 25)
    kept: Any = Kept(record)
    assert "".join(CumulusJob(kept, "job_1").logs(follow)) == "ok \ufffd"
    kept = AsyncKept(record)

    async def read() -> list[str]:
        return [text async for text in AsyncCumulusJob(kept, "job_1").logs(follow)]

    assert "".join(asyncio.run(read())) == "ok \ufffd"


@pytest.mark.parametrize("kind", [Kind.STATUS, Kind.PROGRESS, Kind.GAP])
@pytest.mark.parametrize(
    "payload",
    [
        b"\x96",
        b"[]",
        b"{}",
        b'{"from":"a","to":[]}',
        b'{"phase":"running","requirements":1,"build_s":1' + b"0" * 400 + b"}",
        b'{"fraction":1' + b"0" * 400 + b"}",
        b'{"fraction":NaN}',
        b'{"message":' + b"[" * 900 + b"]" * 900 + b"}",
        b'{"message":' + b"[" * 100_000,
    ],
)
def test_what_a_job_forged_keeps_nobody_from_its_output(kind: Kind, payload: bytes) -> None:
    out = io.StringIO()
    display = Display(out, io.StringIO())
    collector = ResultCollector()
    events = output(kind, payload), output(Kind.STDOUT, b"after\n")
    for event in events:
        collector.feed(event.records)
    show(display, *events, END)
    assert out.getvalue() == "after\n"


def test_progress_out_of_bounds_is_shown_within_them() -> None:
    told = [fraction_told({"fraction": value}) for value in (-1, 0.25, 10**400, True, "1", None)]
    assert told == [0.0, 0.25, 1.0, None, None, None]
