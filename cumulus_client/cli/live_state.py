"""What there is to tell of a job at a moment, for the live display. No I/O, no terminal."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from cumulus_client._wording import fraction_told, message_told
from cumulus_client.cli.output import duration_told
from cumulus_wire.codes import WaitReason
from cumulus_wire.states import JobState

#: Escape sequences, which a begun line must not bring into the status area.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\-_])")
#: What is said of the moments between acceptance and the first line of code.
_STEPS = {
    WaitReason.QUEUED: "waiting to be placed",
    WaitReason.PLACING: "making room for it",
    WaitReason.LAUNCHING: "starting its container",
    WaitReason.STARTING: "starting",
}


@dataclass(frozen=True)
class Told:
    """One moment of a job. `what` is in words, `facts` stand beside it, `detail` below it.
    `fraction`: 0 to 1, None for unknown; `bar`: the code has told its progress."""

    what: str
    facts: tuple[str, ...] = ()
    detail: str = ""
    bar: bool = False
    fraction: float | None = None
    message: str = ""


class LiveState:
    """Takes what is heard of a job and tells how it stands."""

    def __init__(self, *, fresh: bool) -> None:
        """`fresh`: the job was submitted just now, so that the first view tells how far the
        daemon's clock is from this one."""
        self._fresh = fresh
        self._job: Mapping[str, Any] = {}
        self._status: str | None = None
        self._status_since: float | None = None
        self._skew_s: float | None = None
        self._setting_up = False
        self._setup_line = ""
        self.requirements = ""
        self._progress: Mapping[str, Any] | None = None
        self.lost = False
        self.cancelling = False

    def heard(self, job: Mapping[str, Any], now: float) -> None:
        """A view of the job came. `now`: unix seconds here."""
        self.lost = False
        attempt = job.get("attempt")
        if self._job and attempt != self._job.get("attempt"):
            self._setting_up, self._setup_line, self.requirements = False, "", ""
            self._progress = None
        status = str(job.get("status"))
        if status != self._status:
            self._status, self._status_since = status, now
        if status == JobState.RUNNING:
            self._setup_line = ""
        self._job = job
        if job.get("progress"):
            self._progress = job["progress"]
        times = [job.get(key) for key in ("created_at", "started_at", "completed_at")]
        newest = max((at for at in times if isinstance(at, int | float)), default=None)
        if newest is not None:
            # At least so much this clock is before the daemon's; how old the view is, nobody says.
            bound = now - newest
            self._skew_s = bound if self._skew_s is None else min(self._skew_s, bound)

    def began_setup(self) -> None:
        """The runner is up and makes ready."""
        self._setting_up = True

    def setup_line(self, line: str) -> None:
        """The installer wrote that."""
        self._setting_up = True
        self._setup_line = line.strip()

    def progressed(self, progress: Mapping[str, Any]) -> None:
        """The code told how far it is."""
        self._progress = progress

    def told(self, now: float) -> Told:
        """How it stands. `now`: unix seconds here."""
        told = self._told(now)
        if self.lost:
            return Told("connection lost, reconnecting; the job goes on", told.facts)
        if self.cancelling:
            return Told("cancelling", told.facts)
        return told

    def _told(self, now: float) -> Told:
        status = self._status
        if status is None:
            return Told("sending the job")
        since = duration_told(now - (self._status_since or now))
        if status == JobState.RUNNING:
            return self._running(now)
        if status == JobState.PAUSED:
            return Told(f"paused for {since}; cumulus resume {self._job['job_id']}")
        if status == JobState.STARTING or self._setting_up:
            if self._setup_line:
                return Told(f"installing requirements {since}", self._place(), self._setup_line)
            if self._setting_up:
                return Told(f"setting up {since}", self._place())
        wait = self._job.get("wait") or {}
        reason = wait.get("reason")
        if reason in _STEPS:
            return Told(f"{_STEPS[reason]} {since}", self._place())
        if wait:
            details = wait.get("details") or {}
            facts: tuple[str, ...] = ()
            position, waiting = details.get("position"), details.get("waiting")
            message = str(wait.get("message") or reason)
            if position is not None and str(position) not in message:
                facts = (f"{position} of {waiting}" if waiting else f"position {position}",)
            return Told(f"waiting {since}", facts, message)
        return Told(f"{status} {since}", self._place())

    def _running(self, now: float) -> Told:
        wait = self._job.get("wait") or {}
        if wait.get("reason") == WaitReason.STORING_OUTPUTS:
            return Told("storing its outputs", self._place(), str(wait.get("message") or ""))
        facts = []
        started, allowed = self._job.get("started_at"), self._job.get("duration_s")
        ran_s = 0.0
        if started is not None:
            ran_s = max(0.0, now - self._skew() - started)
        elif self._status_since is not None:
            ran_s = now - self._status_since
        if allowed is not None:
            left_s = allowed - ran_s - float(self._job.get("ran_s") or 0.0)
            facts.append(f"{duration_told(left_s)} left")
        facts += self._place()
        if self.requirements:
            facts.append(self.requirements)
        what = "pausing" if self._job.get("pause_requested") else "running"
        progress = self._progress
        if progress is None:
            return Told(f"{what} {duration_told(ran_s)}", tuple(facts))
        return Told(
            f"{what} {duration_told(ran_s)}",
            tuple(facts),
            bar=True,
            fraction=fraction_told(progress),
            message=visible(message_told(progress)),
        )

    def _skew(self) -> float:
        if self._skew_s is None:
            return 0.0
        return self._skew_s if self._fresh else min(0.0, self._skew_s)

    def _place(self) -> tuple[str, ...]:
        return place_told(self._job)


def place_told(job: Mapping[str, Any]) -> tuple[str, ...]:
    """Where a job is: worker, share of which device, what holds it to that."""
    facts = []
    hostname = (job.get("worker") or {}).get("hostname")
    if hostname:
        facts.append(str(hostname))
    partition = job.get("partition") or {}
    units = partition.get("units")
    if isinstance(units, int):
        facts.append(f"{units / 100:g}% of {partition.get('device_name')}")
        tier = str(partition.get("tier_note") or partition.get("tier") or "").partition(":")[0]
        if tier:
            facts.append(tier)
    return tuple(facts)


def visible(text: str) -> str:
    """What a terminal would show of one line's text after its last carriage return, without what
    moves the cursor or colours."""
    text = _ESCAPES.sub("", text.rstrip("\r\n").rpartition("\r")[2])
    return "".join(char if char.isprintable() else " " for char in text.expandtabs(8))
