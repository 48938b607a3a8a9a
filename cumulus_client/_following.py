"""Shows one job to its end, with Ctrl-C meant for the job."""

import contextlib
import errno
from collections.abc import Callable
from typing import Any

from cumulus_client._blocking import Interruption
from cumulus_client._blocking_stream import BlockingStream
from cumulus_client._job_stream import Accepted, Ended, Event, Journal
from cumulus_client._journal_reader import ResultCollector
from cumulus_client.display import Display
from cumulus_client.exceptions import ClientTimeout, ServerError


def follow_to_end(
    stream: BlockingStream,
    interruption: Interruption,
    display: Display,
    *,
    deadline: float | None = None,
    accepted: Callable[[str], None] = lambda job_id: None,
) -> tuple[dict[str, Any], ResultCollector]:
    """The ended job's last view and its result's bytes. The caller closes `stream` when this
    raises. `accepted`: is told the job's id, first of all. `deadline`: `time.monotonic()`.

    Raises ClientTimeout, the interruption when there was one, CumulusError.
    """
    collector = ResultCollector()
    while True:
        try:
            event = stream.next(interruption.deadline or deadline)
        except KeyboardInterrupt as error:
            _interrupted(interruption, display, stream.stream.job_id, error)
            continue
        except ClientTimeout:
            interruption.gave_up(stream.stream.job_id)
            raise
        parts: list[Event | None] = [event]
        try:
            if isinstance(event, Accepted):
                accepted(str(event.job["job_id"]))
            elif isinstance(event, Journal):
                collector.feed(event.records)
                # So that Ctrl-C while one is written costs no more than its rest. All of them now:
                # a generator between them would be outside of what minds Ctrl-C.
                parts = list(event.parts())
        except KeyboardInterrupt as error:
            _interrupted(interruption, display, stream.stream.job_id, error)
        for part in parts:
            _show(part, display, interruption, stream.stream.job_id)
        if isinstance(event, Ended):
            interruption.raise_if_any()
            stream.close()
            return event.job, collector
        if event is None:
            raise ServerError("the job's events ended without its end")


def _show(
    event: Event | None, display: Display, interruption: Interruption, job_id: str | None
) -> None:
    try:
        if event is not None:
            display.event(event)
    except KeyboardInterrupt as error:
        _interrupted(interruption, display, job_id, error)
    except OSError as error:
        if not isinstance(error, BrokenPipeError) and error.errno != errno.EIO:
            _tell_unwritten(display, job_id, error)
            raise
        # Whoever read the output is gone, or the terminal.
        display.mute()
        interruption.unread(job_id, error)


def _interrupted(
    interruption: Interruption, display: Display, job_id: str | None, error: KeyboardInterrupt
) -> None:
    try:
        interruption.interrupted(job_id, error)
        display.cancelling()
    except KeyboardInterrupt as again:
        if again is error:
            raise
        # The next one came while the first was being told.
        interruption.interrupted(job_id, again)


def _tell_unwritten(display: Display, job_id: str | None, error: OSError) -> None:
    with contextlib.suppress(OSError):
        display.note(
            f"the output of job {job_id} can't be written here: {error.strerror or error}; the job "
            f"goes on: come back with {display.come_back.format(job_id)}"
        )
