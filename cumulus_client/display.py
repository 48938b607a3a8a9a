"""Shows a job while it runs: its output as it comes, its states as `[cumulus]` lines."""

import codecs
import contextlib
import io
import itertools
import operator
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO, TypeVar

from cumulus_client._job_stream import (
    Accepted,
    Ended,
    Event,
    Interrupted,
    Journal,
    StateChanged,
)
from cumulus_client._wording import (
    UV_CHATTER,
    fraction_told,
    gap_told,
    message_told,
    requirements_told,
)
from cumulus_wire.codes import WaitReason
from cumulus_wire.journal import Kind, Record
from cumulus_wire.states import JobState

PREFIX = "[cumulus] "
#: Changing numbers in a wait reason (positions, free shares) are shown this often at most.
WAIT_LINE_INTERVAL_S = 5.0
#: As is how far the code is; what it told last is always shown.
PROGRESS_LINE_INTERVAL_S = 1.0
#: A line of set-up output is shown at the latest when it is this long, as is one of a job's own
#: output that waits for its end while other jobs print.
MAX_LINE = 16384
#: Every new job is for a moment; no news.
_NO_NEWS = frozenset(
    {WaitReason.QUEUED, WaitReason.PLACING, WaitReason.LAUNCHING, WaitReason.STARTING}
)

#: The encodings of a usual stdout.
_TAKES_ASCII = frozenset({"utf-8", "utf8", "ascii", "us-ascii", "iso-8859-1", "latin-1", "cp1252"})
_OUTPUT = (Kind.STDOUT, Kind.STDERR)
_kind_of = operator.attrgetter("kind")

_Chunk = TypeVar("_Chunk", str, bytes)

writing = threading.RLock()  # whole lines, whichever thread and job they are of
_running: set["Display"] = set()  # the runs that this process shows now


def _begin_anew() -> None:
    """In a forked child: the runs are the parent's, a thread of which may have held the lock."""
    global writing
    writing = threading.RLock()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_begin_anew)


class _Cursor:
    """Where a job's output without a newline at its end was written last, and by which display."""

    stream: TextIO | None = None
    display: "Display | None" = None

    def after(self, display: "Display", stream: TextIO, *, midline: bool) -> None:
        """`display` has written output to `stream`."""
        if midline:
            self.stream, self.display = stream, display
        elif self.stream is not None and same_file(self.stream, stream):
            self.stream = self.display = None

    def end_line(self, stream: TextIO) -> None:
        """What is written to `stream` next begins a line."""
        if self.stream is not None and same_file(self.stream, stream):
            self.stream = self.display = None
            stream.write("\n")


cursor = _Cursor()


class OutputDecoder:
    """A job's stdout and stderr as text, in order. Each stream's UTF-8 is decoded on its own,
    incrementally; what is no UTF-8 becomes U+FFFD."""

    def __init__(self) -> None:
        make = codecs.getincrementaldecoder("utf-8")
        self._decoders = {Kind.STDOUT: make("replace"), Kind.STDERR: make("replace")}

    def feed(self, record: Record) -> str:
        """The text that `record` completes; "" for records that are no output."""
        return self.decode(record.kind, record.payload) if record.kind in _OUTPUT else ""

    def decode(self, kind: Kind, data: bytes) -> str:
        """The text that these bytes of stdout or stderr complete."""
        return self._decoders[kind].decode(data)

    def finish(self) -> list[tuple[Kind, str]]:
        """What is left of characters that never were completed."""
        rest = [(kind, decoder.decode(b"", True)) for kind, decoder in self._decoders.items()]
        return [(kind, text) for kind, text in rest if text]


class Display:
    """Writes one job's events. `raw` writes the job's bytes as they are, where the stream has a
    `buffer`; `quiet` leaves the `[cumulus]` lines and set-up output out. `told`: what a client
    has said already and need not say of every job.

    While a process shows several runs at a time, `[cumulus]` lines carry the job's id, and output
    comes in whole lines.
    """

    #: How whoever detached from a job gets at it again, `{}` standing for its id.
    come_back = "client.attach('{}')"

    def __init__(
        self,
        stdout: TextIO | None = None,
        stderr: TextIO | None = None,
        *,
        quiet: bool = False,
        raw: bool = False,
        told: set[str] | None = None,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stdout = stdout if stdout is not None else sys.stdout
        self._stderr = stderr if stderr is not None else sys.stderr
        self._quiet = quiet
        self._raw = raw
        self._told = told if told is not None else set()
        self._now = now
        self._decoder = OutputDecoder()
        self._setup = codecs.getincrementaldecoder("utf-8")("replace")
        self._setup_line = ""
        self._last_wait: tuple[Any, Any] = (None, None)
        self._wait_shown_at = float("-inf")
        self._progress: Mapping[str, Any] | None = None  # told, not shown yet
        self._progress_shown_at = float("-inf")
        self._shown: dict[str, Any] = {}
        self._job_id: str | None = None
        self._among_others = False
        self._stdout_ended = True  # the job's last line has its end
        self._held_text: dict[Kind, str] = {}  # the begun line of each stream, among others
        self._held_bytes: dict[Kind, bytes] = {}

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """While this run goes on."""
        with writing:
            _running.add(self)
            if len(_running) > 1:
                for display in _running:
                    display._among_others = True
        try:
            yield
        finally:
            with writing:
                _running.discard(self)

    def mute(self) -> None:
        """Whoever read this is gone: writes nothing any more."""
        self._quiet = True
        self._stdout = self._stderr = _Nowhere()

    def note(self, text: str) -> None:
        """One `[cumulus]` line on stderr."""
        if self._quiet:
            return
        prefix = PREFIX
        if self._among_others and self._job_id and self._job_id not in text:
            prefix = f"{PREFIX}{self._job_id}: "
        with writing:
            cursor.end_line(self._stderr)
            for line in text.splitlines():
                self._stderr.write(_encodable(prefix + line, self._stderr) + "\n")
            self._stderr.flush()

    def end_stdout_line(self) -> None:
        """What is written to stdout next begins a line."""
        with writing:
            if same_file(self._stdout, self._stderr):
                cursor.end_line(self._stdout)  # unless a note has ended it
            elif not self._stdout_ended:
                self._stdout.write("\n")
            self._stdout_ended = True
            self._stdout.flush()

    def cancelling(self) -> None:
        """The job is being cancelled from here; a note has said so."""

    def event(self, event: Event) -> None:
        """Shows one event of a JobStream."""
        if isinstance(event, Journal):
            # A job that prints much has many records in an event: they are written at once.
            for kind, records in itertools.groupby(event.records, _kind_of):
                if kind in _OUTPUT:
                    self._said(kind, b"".join([record.payload for record in records]))
                else:
                    for record in records:
                        self._record(record)
        elif isinstance(event, Accepted):
            self._job_id = str(event.job["job_id"])
            # Of a job that has ended the journal comes first, and this as its summary.
            self.note(f"job {self._job_id}" + ("" if event.job.get("end") else " accepted"))
            self._state(event.job)
        elif isinstance(event, StateChanged):
            self._state(event.job)
        elif isinstance(event, Interrupted):
            self.note("connection lost, reconnecting; the job goes on")
        elif isinstance(event, Ended):
            self._end(event.job)

    def _said(self, kind: Kind, data: bytes) -> None:
        """The job's next output."""
        if kind is Kind.STDOUT and data:
            self._stdout_ended = data.endswith(b"\n")
        self._output(kind, data, self._decoder.decode(kind, data))

    def _record(self, record: Record) -> None:
        """One that is no output."""
        if record.kind is Kind.SETUP:
            self._setup_line += self._setup.decode(record.payload)
            *lines, self._setup_line = self._setup_line.split("\n")
            if len(self._setup_line) > MAX_LINE:
                lines, self._setup_line = [*lines, self._setup_line], ""
            for line in lines:
                self._setup_note(line)
        elif record.kind is Kind.STATUS:
            told = requirements_told(record.said())
            if told is not None:
                self.note(told)
        elif record.kind is Kind.GAP:
            self.note(gap_told(record))
        elif record.kind is Kind.PROGRESS:
            self._progressed(record.said())

    def _progressed(self, progress: Mapping[str, Any]) -> None:
        self._progress = progress
        if self._now() - self._progress_shown_at >= PROGRESS_LINE_INTERVAL_S:
            self._show_progress()

    def _show_progress(self) -> None:
        progress, self._progress = self._progress, None
        if progress is None:
            return
        self._progress_shown_at = self._now()
        fraction = fraction_told(progress)
        share = "" if fraction is None else f"{fraction:.0%} "
        self.note(f"{share}{message_told(progress)}".strip() or "progress")

    def _setup_note(self, line: str) -> None:
        if line.strip() and not UV_CHATTER.fullmatch(line.rstrip("\r")):
            self._setup_said(line.rstrip("\r"))

    def _setup_said(self, line: str) -> None:
        self.note(line)

    # --- output ------------------------------------------------------------------------------

    def _output(self, kind: Kind, data: bytes, text: str, *, last: bool = False) -> None:
        stream = self._stdout if kind is Kind.STDOUT else self._stderr
        buffer = getattr(stream, "buffer", None) if self._raw else None
        with writing:
            if buffer is not None:
                data = self._whole_lines(self._held_bytes, kind, data, b"\n", last)
                midline = not data.endswith(b"\n")
            else:
                text = self._whole_lines(self._held_text, kind, text, "\n", last)
                midline = not text.endswith("\n")
            if not (text if buffer is None else data):
                return
            if self._among_others and cursor.display is not self:
                cursor.end_line(stream)
            if buffer is not None:
                stream.flush()
                buffer.write(data)
                buffer.flush()
            else:
                stream.write(_encodable(text, stream))
                stream.flush()
            cursor.after(self, stream, midline=midline)

    def _whole_lines(
        self, held: dict[Kind, _Chunk], kind: Kind, chunk: _Chunk, newline: _Chunk, last: bool
    ) -> _Chunk:
        """What of `chunk` is to be written now: all of it, but among other runs whole lines."""
        if kind in held:
            chunk = held.pop(kind) + chunk
        if not self._among_others or not chunk:
            return chunk
        if last:
            return chunk if chunk.endswith(newline) else chunk + newline
        lines, found, rest = chunk.rpartition(newline)
        if len(rest) > MAX_LINE:
            return chunk
        if rest:
            held[kind] = rest
        return lines + found

    # --- states ------------------------------------------------------------------------------

    def _state(self, job: Mapping[str, Any]) -> None:
        wait = job.get("wait")
        if wait:
            self._wait(wait)
        worker = job.get("worker") or {}
        if worker and self._changed("worker", worker.get("node_id")):
            self.note(f"worker {worker.get('hostname')}")
        partition = job.get("partition") or {}
        if partition and self._changed("partition", partition.get("partition_id")):
            self.note(_partition_line(partition) + self._tier(partition))
        status = job.get("status")
        if status in (JobState.STARTING, JobState.RUNNING, JobState.PAUSED) and self._changed(
            "status", status
        ):
            self.note(str(status))

    def _wait(self, wait: Mapping[str, Any]) -> None:
        what = (wait.get("reason"), wait.get("message"))
        if what == self._last_wait or what[0] in _NO_NEWS:
            return
        now = self._now()
        same_reason = what[0] == self._last_wait[0]
        if same_reason and now - self._wait_shown_at < WAIT_LINE_INTERVAL_S:
            return
        self._last_wait, self._wait_shown_at = what, now
        self.note(f"waiting: {what[1] or what[0]}")

    def _tier(self, partition: Mapping[str, Any]) -> str:
        """How binding the share is, in short and once: docs/client.md says it at length."""
        said = str(partition.get("tier_note") or partition.get("tier") or "").partition(":")[0]
        if not said or said in self._told:
            return ""
        self._told.add(said)
        return f"; {said}"

    def _changed(self, key: str, value: Any) -> bool:
        changed = bool(self._shown.get(key) != value)
        self._shown[key] = value
        return changed

    def _end(self, job: Mapping[str, Any]) -> None:
        rest = dict(self._decoder.finish())
        for kind in (Kind.STDOUT, Kind.STDERR):
            self._output(kind, b"", rest.get(kind, ""), last=True)
        self._setup_note(self._setup_line)
        self._setup_line = ""
        self._show_progress()
        started, completed = job.get("started_at"), job.get("completed_at")
        took = f" after {completed - started:.1f} s" if started and completed else ""
        self.note(self._end_said(job, f"{job.get('status')}{took}"))

    def _end_said(self, job: Mapping[str, Any], said: str) -> str:
        return said


class _Nowhere(io.StringIO):
    """Keeps nothing."""

    def write(self, text: str, /) -> int:
        return len(text)


def _partition_line(partition: Mapping[str, Any]) -> str:
    units = partition.get("units")
    share = f"{units / 100:g}% of " if isinstance(units, int) else ""
    size = partition.get("gpu_memory_bytes")
    memory = f" ({size / (1 << 30):.2f} GiB)" if isinstance(size, int) else ""
    device = partition.get("device_name") or partition.get("device_id")
    return f"partition {partition.get('partition_id')}: {share}{device}{memory}"


def same_file(one: TextIO, other: TextIO) -> bool:
    """Do both write to the same terminal, pipe or file?"""
    if one is other:
        return True
    try:
        return os.path.samestat(os.fstat(one.fileno()), os.fstat(other.fileno()))
    except (AttributeError, OSError, ValueError):
        return False


def _encodable(text: str, stream: TextIO) -> str:
    encoding = getattr(stream, "encoding", None) or "utf-8"
    if text.isascii() and encoding.lower() in _TAKES_ASCII:
        return text
    return text.encode(encoding, "backslashreplace").decode(encoding)
