"""Which ends of a job, and of its attempts, are right. Pure."""

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind
from cumulus_wire.states import JobState
from tests.torture.plan import End, Fault
from tests.torture.seen import Seen, Stay, attempts, shown, stays


def is_own_end(expected: End, view: Mapping[str, Any]) -> bool:
    """Did it end as its code and its user meant?"""
    end = view["end"]
    if (view["status"], end["reason"]) != (expected.status, expected.reason):
        return False
    if expected.status in (JobState.CANCELLED, JobState.TIMEOUT):
        return True  # how its process left then is a race with the signal
    return (end["exit_code"], end["signal"]) == (expected.exit_code, expected.signal)


def wrong_ends(seen: Seen) -> list[str]:
    """What is wrong with how it ended."""
    assert seen.view is not None
    view, job = seen.view, seen.job
    ended = shown(view)
    wrong = []
    own = is_own_end(job.expected, view)
    *over, last = stays(view)
    lost = view["status"] == JobState.FAILED and _is_lost(seen, last, view["end"]["reason"])
    if not own and not (lost and len(over) == job.retries):
        wrong.append(f"it ended {ended}, not {_told(job.expected)}")
    for number, stay in enumerate(over, start=1):
        if not _is_lost(seen, stay, stay.reason):
            wrong.append(f"attempt {number} on {stay.worker} ended for {stay.reason}")
    finished = {disk.attempt for disk in seen.on_disk if disk.exited}
    if any(number <= len(over) or not own for number in finished):
        wrong.append(
            f"the last record of attempts {sorted(finished)} was on disk before the fault, yet it "
            f"ended {ended} after {len(over)} other attempts"
        )
    killed = [d for d in seen.on_disk if d.fault in (Fault.ENGINE_KILL, Fault.RUNNER_KILL)]
    # A cancel that was answered holds, whatever then befalls the job.
    if (
        own
        and job.cancel is None
        and not over
        and any(disk.running and not disk.exited for disk in killed)
    ):
        wrong.append(f"it was killed while its code ran, yet it ended {ended}")
    wrong += _wrong_attempts(seen)
    if own and job.end == "raise":
        error = view["end"].get("error") or {}
        if error.get("type") != "ValueError" or job.seed not in str(error.get("traceback")):
            wrong.append(f"its exception came as {error}")
    if view["status"] != JobState.COMPLETED and not (
        view["end"]["message"] and view["end"]["hint"]
    ):
        wrong.append(f"its end {ended} says not what happened or not what to do")
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
            wrong.append(f"its journal says {exits[0].json()}, its end {shown(seen.view)}")
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


def _told(end: End) -> str:
    return f"{end.status}/{end.reason} (exit code {end.exit_code}, signal {end.signal})"
