"""How far jobs say that they are: the last word of each, derived from its journal."""

from collections.abc import Callable, Mapping
from typing import Any

from cumulus_wire.journal import Record
from cumulusd.jobs.carried_text import carried
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.ports import Clock, DelayedCall

#: A job's progress is published at most so often; the last one always.
PUBLISH_INTERVAL_S = 1.0
_MAX_MESSAGE_CHARS = 500


class ProgressBoard:
    """The progress of the jobs whose code runs."""

    def __init__(self, clock: Clock, publish: Callable[[str], None]) -> None:
        """`publish(job id)`: what `of` gives for it is news."""
        self._clock = clock
        self._publish = publish
        self._shown: dict[str, dict[str, Any]] = {}
        self._published_at: dict[str, float] = {}
        self._timers: dict[str, DelayedCall] = {}

    def of(self, job_id: str) -> Mapping[str, Any] | None:
        """`{fraction, message}`; None: the code has said nothing, or doesn't run."""
        return self._shown.get(job_id)

    def feed(self, job_id: str, entry: Record) -> None:
        """A PROGRESS record. Raises ValueError when it holds no JSON object."""
        value = entry.json()
        fraction, message = value.get("fraction"), value.get("message")
        if (
            isinstance(fraction, bool)
            or not isinstance(fraction, int | float)
            or not 0 <= fraction <= 1
        ):
            fraction = None
        text = message if isinstance(message, str) else ""
        shown = {"fraction": fraction, "message": carried(text[:_MAX_MESSAGE_CHARS])}
        if shown == self._shown.get(job_id):
            return
        self._shown[job_id] = shown
        if job_id in self._timers:
            return
        due_at = self._published_at.get(job_id, float("-inf")) + PUBLISH_INTERVAL_S
        delay_s = max(0.0, due_at - self._clock.seconds())
        self._timers[job_id] = self._clock.callLater(delay_s, self._due, job_id)

    def job_changed(self, before: JobRecord | None, after: JobRecord) -> None:
        """To be called at every change of a record: what was said of an attempt goes with it."""
        runs = after.phase in (Phase.LAUNCHING, Phase.STARTING, Phase.RUNNING)
        if not runs or (before is not None and before.attempt != after.attempt):
            self._forget(after.job_id)

    def stop(self) -> None:
        """Publishes nothing more."""
        for job_id in list(self._shown):
            self._forget(job_id)

    def _forget(self, job_id: str) -> None:
        self._shown.pop(job_id, None)
        self._published_at.pop(job_id, None)
        timer = self._timers.pop(job_id, None)
        if timer is not None and timer.active():
            timer.cancel()

    def _due(self, job_id: str) -> None:
        del self._timers[job_id]
        self._published_at[job_id] = self._clock.seconds()
        self._publish(job_id)
