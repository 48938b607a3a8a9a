"""Following one job: its events in order, each once, over any number of connections.

Each consumer has a stream of its own with its own journal offset, so that a slow one holds nobody
up. WAMP gives no back-pressure to a caller, hence the bounds here: when much waits unread the
connection's socket is read no further for a moment, which a reader that is merely busy needs. When
more than `max_waiting_bytes` wait, the call is cancelled and made anew from where the reader is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from cumulus_client._journal_reader import JournalReader
from cumulus_client._read_pause import ReadPause
from cumulus_client.connection import backoff_s
from cumulus_client.exceptions import (
    ConnectionFailed,
    ConnectionLost,
    CumulusError,
    InvalidArgument,
    NotAuthenticated,
    ServerError,
    Unavailable,
)
from cumulus_wire import uris
from cumulus_wire.journal import JournalCorrupt, Record

MAX_WAITING_BYTES = 8 << 20
#: One event has the records of all messages that wait, up to about this.
EVENT_BYTES = 512 << 10
PART_BYTES = 64 << 10
#: Followings in a row that brought nothing, before the stream gives up.
MAX_FRUITLESS = 12
#: A following that lasted this long was worth it, whatever it brought.
LASTING_S = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class Accepted:
    """The job is known to the daemon, durably. Comes once, first."""

    job: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StateChanged:
    """State, phase, wait reason, worker or partition changed."""

    job: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Journal:
    """The next records."""

    records: list[Record]

    def parts(self) -> "Iterator[Journal]":
        """The same in pieces of about PART_BYTES."""
        begin, size_bytes = 0, 0
        for index, record in enumerate(self.records):
            size_bytes += len(record.payload)
            if size_bytes >= PART_BYTES:
                yield Journal(records=self.records[begin : index + 1])
                begin, size_bytes = index + 1, 0
        if begin < len(self.records):
            yield Journal(records=self.records[begin:])


@dataclass(frozen=True, kw_only=True, slots=True)
class Interrupted:
    """The connection broke; following goes on by itself."""

    reason: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Ended:
    """The job ended and all of its journal was read. Comes once, last."""

    job: dict[str, Any]


Event = Accepted | StateChanged | Journal | Interrupted | Ended


class Caller(Protocol):
    """What a stream needs of a connection."""

    async def call_once(
        self,
        procedure: str,
        kwargs: Mapping[str, Any],
        on_progress: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]: ...


class Submit(Protocol):
    """What a stream that submits needs to know of it: see `_submission.Submission`."""

    async def arguments(self) -> dict[str, Any]: ...

    def answered(self, *, accepted: bool) -> None: ...

    def mends(self, error: BaseException | None) -> bool: ...


class WaitingMessages:
    """Progressive results that nobody has read yet, bounded. No I/O."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._messages: deque[dict[str, Any]] = deque()
        self._bytes = 0
        #: Over the bound: nothing more is taken until `reset`.
        self.overflowed = False

    @property
    def waiting_bytes(self) -> int:
        """Bytes of journal that wait."""
        return self._bytes

    def put(self, message: dict[str, Any]) -> bool:
        """False when it is not taken. One message is taken however large it is, so that reading
        always goes forward."""
        size = _size(message)
        if self.overflowed or (self._messages and self._bytes + size > self._max_bytes):
            self.overflowed = True
            return False
        self._messages.append(message)
        self._bytes += size
        return True

    def take(self) -> dict[str, Any] | None:
        """The oldest, None when there is none."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        self._bytes -= _size(message)
        return message

    def reset(self) -> None:
        """Takes messages again; what waits is dropped."""
        self._messages.clear()
        self._bytes = 0
        self.overflowed = False


def _size(message: Mapping[str, Any]) -> int:
    frames = message.get("frames")
    # What a view weighs, roughly: many state changes must not add up unbounded either.
    return len(frames) if isinstance(frames, bytes) else 2048


class JobStream:
    """The events of one job. One reader; `next` and `close` on the connection's event loop."""

    def __init__(
        self,
        connection: Caller,
        *,
        job_id: str | None = None,
        submission: Submit | None = None,
        from_offset: int = 0,
        max_waiting_bytes: int = MAX_WAITING_BYTES,
        pause: ReadPause | None = None,
    ) -> None:
        """Either `job_id`, to attach, or `submission`, which is sent again when its
        acknowledgement was lost. `pause`: the connection's."""
        if (job_id is None) == (submission is None):
            raise ValueError("a stream needs either job_id or submission")
        self.job_id = job_id
        self._connection = connection
        self._submission = submission
        self._reader = JournalReader(from_offset)
        self._waiting = WaitingMessages(max_waiting_bytes)
        self._pause = pause
        self._pause_above_bytes = max_waiting_bytes // 4
        self._events: deque[Event] = deque()
        self._wake = asyncio.Event()
        self._call: asyncio.Task[dict[str, Any]] | None = None
        self._view: dict[str, Any] | None = None
        self._has_read = False  # so that its offset is one that the daemon gave
        self._fruitless = 0  # followings in a row that ended early and brought nothing
        self._damaged = 0  # messages in a row that could not be read
        self._followed_at = 0.0
        self._ended = False

    @property
    def next_offset(self) -> int:
        """The journal offset up to which events were returned or wait."""
        return self._reader.next_offset

    async def next(self) -> Event | None:
        """The next event; None after the last. Raises CumulusError. May be cancelled and called
        again: no event is lost by it."""
        while not self._events:
            if self._ended:
                return None
            if self._call is None:
                await self._follow()
                continue
            if self._interpret_waiting():
                continue
            if self._waiting.overflowed:
                await self._hang_up()
                continue
            if self._call.done():
                self._conclude(self._call)
                continue
            self._wake.clear()
            await self._wake.wait()
        return self._events.popleft()

    async def close(self) -> None:
        """Ends the following; the job goes on. Idempotent."""
        self._ended = True
        self._events.clear()
        self._wake.set()
        await self._hang_up()

    async def _follow(self) -> None:
        if self._fruitless:
            await asyncio.sleep(backoff_s(self._fruitless))
        if self.job_id is not None:
            procedure = uris.JOB_ATTACH
            kwargs: dict[str, Any] = {
                "job_id": self.job_id,
                "from_offset": self._reader.next_offset,
            }
        else:
            assert self._submission is not None
            arguments = await self._submission.arguments()
            procedure, kwargs = uris.JOB_SUBMIT, {**arguments, "follow": True}
        self._drop_waiting()
        self._followed_at = asyncio.get_running_loop().time()
        self._call = asyncio.ensure_future(
            self._connection.call_once(procedure, kwargs, self._progress)
        )
        self._call.add_done_callback(self._following_ended)

    def _following_ended(self, call: "asyncio.Task[dict[str, Any]]") -> None:
        if not call.cancelled():
            # Looked at now: where the client is closed before the reader asks for more, nobody
            # does, and asyncio would print it.
            call.exception()
        if self._submission is not None:
            accepted = not call.cancelled() and call.exception() is None
            self._submission.answered(accepted=accepted)
        self._wake.set()

    def _progress(self, message: dict[str, Any]) -> None:
        if self._submission is not None:
            self._submission.answered(accepted=True)
        if not self._waiting.put(message) and self._call is not None:
            self._call.cancel()
        if self._pause is not None and self._waiting.waiting_bytes > self._pause_above_bytes:
            self._pause.begin(self)
        self._wake.set()

    def _drop_waiting(self) -> None:
        self._waiting.reset()
        if self._pause is not None:
            self._pause.end(self)

    async def _hang_up(self) -> None:
        call, self._call = self._call, None
        self._drop_waiting()
        if call is not None:
            call.cancel()
            await asyncio.wait([call])
            if not call.cancelled():
                call.exception()  # it ended by itself meanwhile; attaching anew tells the same

    def _interpret_waiting(self) -> bool:
        """Makes events of what waits, of about EVENT_BYTES of it. False when nothing does."""
        before = self._waiting.waiting_bytes
        took = False
        while before - self._waiting.waiting_bytes < EVENT_BYTES:
            message = self._waiting.take()
            if message is None:
                break
            took = True
            self._interpret(message)
        if self._pause is not None and self._waiting.waiting_bytes < self._pause_above_bytes // 2:
            self._pause.end(self)
        return took

    def _interpret(self, message: dict[str, Any]) -> None:
        event = message.get("event")
        try:
            if event in ("accepted", "state"):
                self._heard_of(message["job"])
            elif event == "journal":
                self._records(self._reader.frames(int(message["offset"]), message["frames"]))
            elif event == "gap":
                self._records(self._reader.gap(int(message["offset"]), int(message["next_offset"])))
            # Unknown events of a newer daemon are ignored: docs/protocol.md.
        except (JournalCorrupt, KeyError, TypeError, ValueError) as error:
            self._damaged += 1
            if self._damaged > 2:
                raise ServerError(
                    f"the daemon's {event} message of job {self.job_id} can't be read: {error}",
                    job_id=self.job_id,
                ) from error
            # Perhaps damaged on the way: ask again from the last whole record.
            self._waiting.reset()
            self._waiting.overflowed = True

    def _heard_of(self, view: dict[str, Any]) -> None:
        first = self._view is None
        if view != self._view:
            self._fruitless = 0
            self._view = view
            self.job_id = str(view["job_id"])
            self._events.append(Accepted(job=view) if first else StateChanged(job=view))

    def _records(self, records: list[Record]) -> None:
        if records:
            self._has_read = True
            self._fruitless = self._damaged = 0
            last = self._events[-1] if self._events else None
            if isinstance(last, Journal):  # which nobody has seen yet
                last.records.extend(records)
            else:
                self._events.append(Journal(records=records))

    def _conclude(self, call: "asyncio.Task[dict[str, Any]]") -> None:
        self._call = None
        if call.cancelled():
            return  # over the bound; `next` attaches anew
        error = call.exception()
        if error is None:
            answer = call.result()
            if answer.get("event") != "end" or "job" not in answer:
                raise ServerError(
                    f"following job {self.job_id} ended without the job's end", job_id=self.job_id
                )
            self._ended = True
            if self._view is None:
                self._heard_of(answer["job"])
            self._events.append(Ended(job=answer["job"]))
            return
        if self._submission is not None and self._view is None and self._submission.mends(error):
            return  # `next` submits again
        begin = error.details.get("continue_from") if isinstance(error, InvalidArgument) else None
        if self._has_read and isinstance(begin, int) and 0 <= begin < self._reader.next_offset:
            self._events.append(Journal(records=self._reader.rewind(begin)))
            return
        passing = isinstance(error, ConnectionLost) or (
            isinstance(error, Unavailable) and self._view is not None
        )
        if asyncio.get_running_loop().time() - self._followed_at > LASTING_S:
            self._fruitless = 0
        self._fruitless += 1
        if passing and self._fruitless <= MAX_FRUITLESS:
            self._events.append(Interrupted(reason=str(error)))
            return
        if isinstance(error, ConnectionFailed | NotAuthenticated) and error.job_id is None:
            error.job_id = self.job_id
        if not isinstance(error, CumulusError):
            raise ServerError(
                f"following job {self.job_id} failed: {type(error).__name__}: {error}",
                job_id=self.job_id,
            ) from error
        raise error
