"""The live display: what a job does now, in the last rows of a terminal, below its output.

The job's bytes go to the terminal as they are, in whole lines above the status. A line that has no
end yet is shown as the first of the status until it has one.
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from cumulus_client._job_stream import Event, Interrupted, StateChanged
from cumulus_client._wording import requirements_told
from cumulus_client.cli.displays import PlainDisplay
from cumulus_client.cli.live_state import LiveState, place_told, visible
from cumulus_client.cli.status_area import StatusArea
from cumulus_client.display import MAX_LINE, cursor, same_file, writing
from cumulus_wire.journal import Kind, Record

#: How often the status is drawn.
INTERVAL_S = 0.1
_BETWEEN = ", "


class LiveDisplay(PlainDisplay):
    """Shows one job on a terminal. `area`: at the end of `stderr`."""

    def __init__(self, area: StatusArea, stdout: TextIO, stderr: TextIO, *, fresh: bool) -> None:
        super().__init__(stdout, stderr, raw=True)
        self._area = area
        self._live = LiveState(fresh=fresh)
        # What goes elsewhere than to this terminal needs no care.
        self._here = {
            Kind.STDOUT: same_file(stdout, stderr),
            Kind.STDERR: True,
        }
        self._midline = False  # the terminal's last row is a begun line of the job's
        self._active = False
        self._over = threading.Event()

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While this run goes on, the status is drawn."""
        ticking = threading.Thread(target=self._tick, name="cumulus-display", daemon=True)
        with writing:
            self._active = True
        ticking.start()
        try:
            with super().running():
                yield
        finally:
            self._over.set()
            with writing:
                self._active = False
                with contextlib.suppress(OSError, ValueError):
                    self._area.erase()
            ticking.join(1.0)

    def mute(self) -> None:
        """Whoever read this is gone: writes nothing any more."""
        with writing:
            self._active = False
            self._area.abandon()
            super().mute()

    def _tick(self) -> None:
        while not self._over.wait(INTERVAL_S):
            with writing:
                if not self._active or self._midline:
                    continue
                try:
                    begun = [visible(each.decode(errors="replace")) for each in self._begun()]
                    self._area.draw(self._live.told(time.time()), begun)
                except (OSError, ValueError):
                    self._active = False  # the terminal is gone; the job's own writing tells it

    def _begun(self) -> list[bytes]:
        return [self._held_bytes[kind] for kind in (Kind.STDOUT, Kind.STDERR)
                if kind in self._held_bytes]  # fmt: skip

    # --- what stays --------------------------------------------------------------------------

    def note(self, text: str) -> None:
        """One `[cumulus]` line above the status."""
        with writing:
            self._area.erase()
            super().note(text)
            self._midline = False

    def _output(self, kind: Kind, data: bytes, text: str, *, last: bool = False) -> None:
        if not self._here[kind]:
            super()._output(kind, data, text, last=last)
            return
        with writing:
            data = self._held_bytes.pop(kind, b"") + data
            ended, newline, rest = data.rpartition(b"\n")
            holds = rest and not last and len(rest) <= MAX_LINE
            if holds and (newline or not self._midline):
                self._held_bytes[kind] = rest
                data = ended + newline
            if not data:
                return
            stream = self._stdout if kind is Kind.STDOUT else self._stderr
            buffer = getattr(stream, "buffer", None)
            if buffer is None:
                return  # muted
            self._area.erase()
            stream.flush()
            buffer.write(data)
            buffer.flush()
            self._midline = not data.endswith(b"\n")
            cursor.after(self, stream, midline=self._midline)

    # --- what passes -------------------------------------------------------------------------

    def event(self, event: Event) -> None:
        """Shows one event of a JobStream."""
        with writing:
            if isinstance(event, Interrupted):
                self._live.lost = True
                return
            if isinstance(event, StateChanged):
                self._live.lost = False
        super().event(event)

    def cancelling(self) -> None:
        """Ctrl-C was pressed; the job is being cancelled."""
        with writing:
            self._live.cancelling = True

    def _state(self, job: Mapping[str, Any]) -> None:
        with writing:
            self._live.heard(job, time.time())

    def _record(self, record: Record) -> None:
        if record.kind is Kind.PROGRESS:
            with writing:
                self._live.progressed(record.said())
        elif record.kind is Kind.STATUS:
            status = record.said()
            with writing:
                if status.get("phase") == "setup":
                    self._live.began_setup()
                self._live.requirements = requirements_told(status) or self._live.requirements
        else:
            super()._record(record)

    def _setup_said(self, line: str) -> None:
        with writing:
            self._live.setup_line(visible(line))

    def _end(self, job: Mapping[str, Any]) -> None:
        with writing:
            self._active = False
            self._area.erase()
            super()._end(job)

    def _end_said(self, job: Mapping[str, Any], said: str) -> str:
        where = _BETWEEN.join(place_told(job)[:2])
        return f"{said} on {where}" if where and job.get("started_at") else said
