"""What was seen of a job in a round: its view, its records, the faults that could hit it."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind, Record, is_rest_missing
from tests.torture.plan import Fault, Job

#: Which reasons a job may fail for that a fault of the worker's side hit.
LOST_REASONS: Mapping[Fault, frozenset[str]] = {
    # An engine that dies between making a container and telling so makes it anew: name taken.
    Fault.ENGINE_KILL: frozenset({EndReason.WORKER_LOST, EndReason.LAUNCH_FAILED}),
    Fault.LINK_CUT: frozenset({EndReason.WORKER_LOST}),
    Fault.RUNNER_KILL: frozenset({EndReason.RUNNER_FAILED}),
}


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


def shown(view: Mapping[str, Any]) -> str:
    """Its end, in words."""
    end = view["end"]
    told = (
        f"{view['status']}/{end['reason']} (exit code {end['exit_code']}, signal {end['signal']})"
    )
    return f"{told}: {end['message']}"
