"""`logs` and `attach`: what a job wrote, and what it writes."""

import argparse
import sys
import time
from collections.abc import Mapping
from typing import Any

from cumulus_client._blocking import Interruption
from cumulus_client._following import follow_to_end
from cumulus_client._job_stream import Ended, Interrupted, Journal
from cumulus_client._wording import UV_CHATTER, gap_told
from cumulus_client.cli import values
from cumulus_client.cli.connecting import client_of, job_id, job_view
from cumulus_client.cli.displays import make_display, warn
from cumulus_client.cli.ends import show_end
from cumulus_client.cli.log_lines import (
    MAX_LINE_BYTES,
    MAX_TAIL,
    Line,
    LineSplitter,
    Tail,
    as_json,
    stamped,
)
from cumulus_client.cli.parser import UsageError, Verb, add_jobs, add_json, add_server
from cumulus_client.client import CumulusClient
from cumulus_wire.journal import Kind, Record


def _logs_arguments(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser)
    parser.add_argument(
        "-f", "--follow", action="store_true",
        help="go on until the job has ended; the exit code is the job's then",
    )  # fmt: skip
    parser.add_argument(
        "-t", "--timestamps", action="store_true", help="each line with the time it began (UTC)"
    )
    parser.add_argument(
        "--since", metavar="WHEN",
        help="only what was written after that: 10m (ago), 2026-11-26T12:00 (local time)",
    )  # fmt: skip
    parser.add_argument(
        "-n", "--tail", type=values.count, metavar="N",
        help=f"only the last N lines of what is there (at most {MAX_TAIL})",
    )  # fmt: skip
    parser.add_argument("-q", "--quiet", action="store_true", help="no [cumulus] lines")
    add_json(parser, "each line as JSON: time (unix seconds), stream, text")
    add_server(parser)


def _logs(options: argparse.Namespace) -> int:
    since_us = None
    if options.since is not None:
        try:
            since_us = round(values.moment(options.since, time.time()) * 1e6)
        except ValueError as error:
            raise UsageError(f"--since {error}") from None
    if options.tail is not None and options.tail > MAX_TAIL:
        raise UsageError(f"--tail takes at most {MAX_TAIL}; leave it out to see everything")
    with client_of(options) as client:
        view = job_view(client, options.job)
        writer = _Writer(options, since_us)
        ended = _read(client, view, writer, follow=options.follow)
    if ended is None or not options.follow:
        if view.get("end") and not options.quiet:
            show_end(view, quiet=False)  # a traceback is no output: the log alone may say nothing
        return 0
    return show_end(ended, quiet=options.quiet)


def _read(
    client: CumulusClient, view: Mapping[str, Any], writer: "_Writer", *, follow: bool
) -> Mapping[str, Any] | None:
    """Writes the journal; the view of the job's end, when it was come to."""
    there = int(view["journal"]["end_offset"])
    if there == 0 and not follow:
        return None
    stream = client._open_stream(str(view["job_id"]))
    try:
        writer.catching_up = there > 0
        while True:
            event = stream.next(None)
            if isinstance(event, Journal):
                for record in event.records:
                    writer.record(record)
                    if record.next_offset >= there:
                        writer.caught_up()
                        if not follow:
                            writer.finish()
                            return None
            elif isinstance(event, Interrupted):
                writer.note("connection lost, reconnecting; the job goes on")
            elif event is None or isinstance(event, Ended):
                writer.finish()
                return None if event is None else event.job
    finally:
        stream.close()


class _Writer:
    """Writes a job's records as the options ask: as they come, or in lines."""

    def __init__(self, options: argparse.Namespace, since_us: int | None) -> None:
        self._timestamps = options.timestamps
        self._json = options.json
        self._quiet = options.quiet
        self._since_us = since_us
        self._tail = None if options.tail is None else Tail(options.tail)
        self._splitter = LineSplitter()
        self._setup = b""  # the begun line of what the installer wrote
        self.catching_up = False  # what there was when this began is still being read

    def record(self, record: Record) -> None:
        """Output goes to the stream it came from, what is missing is told."""
        if record.kind is Kind.GAP:
            self.note(gap_told(record))
        if self._since_us is not None and record.time_us < self._since_us:
            return
        if record.kind is Kind.SETUP and self._tail is None:
            self._setup_said(record.payload)
        if record.kind not in (Kind.STDOUT, Kind.STDERR):
            return
        if self._tail is None and not (self._timestamps or self._json):
            _write(record.kind, record.payload)
            return
        for line in self._splitter.feed(record):
            self._line(line)

    def caught_up(self) -> None:
        """All that there was is read: the last lines of it are written."""
        if not self.catching_up:
            return
        self.catching_up = False
        if self._tail is not None:
            for line in self._tail.taken():
                self._write_line(line)

    def finish(self) -> None:
        """Nothing follows."""
        self._setup_said(b"\n")
        for line in self._splitter.finish():
            self._line(line)
        self.catching_up = True
        self.caught_up()

    def note(self, text: str) -> None:
        """One `[cumulus]` line."""
        if not self._quiet:
            warn(text)

    def _setup_said(self, data: bytes) -> None:
        *lines, self._setup = (self._setup + data).split(b"\n")
        if len(self._setup) > MAX_LINE_BYTES:
            lines, self._setup = [*lines, self._setup], b""
        for line in lines:
            text = line.decode("utf-8", "replace").rstrip("\r")
            if text.strip() and not UV_CHATTER.fullmatch(text):
                self.note(text)

    def _line(self, line: Line) -> None:
        if self._tail is not None and self.catching_up:
            self._tail.put(line)
        else:
            self._write_line(line)

    def _write_line(self, line: Line) -> None:
        if self._json:
            print(as_json(line), flush=True)
        else:
            _write(line.kind, stamped(line) if self._timestamps else line.data)


def _write(kind: Kind, data: bytes) -> None:
    stream = sys.stdout if kind is Kind.STDOUT else sys.stderr
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()


# --- attach -----------------------------------------------------------------------------------


def _attach_arguments(parser: argparse.ArgumentParser) -> None:
    add_jobs(parser)
    parser.add_argument("-q", "--quiet", action="store_true", help="no [cumulus] lines")
    add_server(parser)


def _attach(options: argparse.Namespace) -> int:
    display = make_display(quiet=options.quiet, fresh=False)
    with client_of(options) as client:
        stream = client._open_stream(job_id(client, options.job))
        interruption = Interruption(
            client._io,
            client._core,
            display.note,
            come_back=display.come_back,
            cancels_unread=False,
        )
        with display.running():
            try:
                view, _ = follow_to_end(stream, interruption, display)
            except BaseException:
                stream.close()
                raise
    return show_end(view, quiet=options.quiet)


LOGS = Verb(
    name="logs",
    about="show what a job wrote",
    usage="cumulus logs [options] JOB",
    description="The job's stdout and stderr, from the first byte, also long after its end. "
    "Ctrl-C ends the looking, never the job.",
    arguments=_logs_arguments,
    act=_logs,
)
ATTACH = Verb(
    name="attach",
    about="come back to a job: as if `run` had never been left",
    usage="cumulus attach [options] JOB",
    description="Shows the job from its first byte to its end, as `cumulus run` does; the exit "
    "code is the job's.\nCtrl-C, SIGTERM and SIGHUP cancel the job, after a second Ctrl-C nobody "
    "waits for its end. To look only: cumulus logs -f",
    arguments=_attach_arguments,
    act=_attach,
)
