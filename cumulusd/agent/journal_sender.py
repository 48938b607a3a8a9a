"""Which journal bytes go to the daemon next, fairly over the jobs. No I/O but reading segments."""

from collections import deque
from collections.abc import Callable
from enum import Enum

from twisted.logger import Logger

from cumulus_wire import link as wire
from cumulusd.agent.journal import Journal, JournalBroken

CHUNK_BYTES = 256 << 10
#: A journal that the daemon could not take is offered again after so many sweeps.
SWEEPS_TO_WAIT = 4


class _Answer(Enum):
    """What the daemon said to the offer."""

    NONE = "none"  #: nothing yet on this connection
    WAIT = "wait"  #: not now: to be offered again
    SEND = "send"
    DROP = "drop"  #: it doesn't know the job


class _Source:
    def __init__(self, job_id: str, attempt: int, journal: Journal) -> None:
        self.job_id = job_id
        self.attempt = attempt
        self.journal = journal
        self.answer = _Answer.NONE
        self.sweeps_to_wait = 0
        self.position = 0  #: next byte to send
        self.acked = 0  #: durable at the daemon
        self.broken = False

    @property
    def to_send(self) -> bool:
        return self.answer is _Answer.SEND and not self.broken and self.position < self.journal.end


class JournalSender:
    """All journals of this worker. `wake` is called when there is something to send,
    `progress` when a journal was acknowledged or dropped."""

    _log = Logger()

    def __init__(
        self,
        *,
        wake: Callable[[], None],
        progress: Callable[[], None],
        chunk_bytes: int = CHUNK_BYTES,
    ) -> None:
        self._wake = wake
        self._progress = progress
        self._chunk_bytes = chunk_bytes
        self._sources: dict[str, _Source] = {}
        self._offers: deque[str] = deque()
        self._turns: deque[str] = deque()  #: jobs with bytes to send, next one first
        self._connected = False

    def add(self, job_id: str, attempt: int, journal: Journal) -> None:
        """Follows the journal of this attempt until `remove`."""
        source = _Source(job_id, attempt, journal)
        self._sources[job_id] = source
        self._refresh(source)
        source.acked = journal.start  # what is deleted was acknowledged
        if self._connected:
            self._offers.append(job_id)
            self._wake()

    def remove(self, job_id: str) -> None:
        """Forgets the journal; the caller closes it."""
        self._sources.pop(job_id, None)

    def extent(self, job_id: str) -> tuple[int, int]:
        """(start, end) of what is on this worker now; (0, 0) for an unknown job."""
        source = self._sources.get(job_id)
        if source is None:
            return 0, 0
        self._refresh(source)
        return source.journal.start, source.journal.end

    def connected(self) -> None:
        """A new connection: everything is offered anew."""
        self._connected = True
        self._turns.clear()
        self._offers = deque(self._sources)
        for source in self._sources.values():
            source.answer = _Answer.NONE
        self._wake()

    def disconnected(self) -> None:
        """The connection is gone; nothing is lost but the place."""
        self._connected = False
        self._offers.clear()
        self._turns.clear()

    def begin(self, job_id: str, attempt: int, offset: int) -> None:
        """The daemon has it up to `offset`, on disk: go on from there."""
        source = self._of(job_id, attempt)
        if source is None:
            return
        self._refresh(source)
        if offset > source.journal.end:
            self._log.warn(
                "daemon has {offset} B of the journal of job {job_id}, this worker only {end} B: "
                "the end was lost here",
                job_id=job_id,
                offset=offset,
                end=source.journal.end,
            )
        source.answer = _Answer.SEND
        source.position = max(offset, source.journal.start)
        self.ack(job_id, attempt, offset)
        self._ready(source)

    def ack(self, job_id: str, attempt: int, offset: int) -> None:
        """The daemon has it on disk up to `offset`: whole segments below can go."""
        source = self._of(job_id, attempt)
        if source is None or offset < source.acked:
            return
        source.acked = offset
        try:
            source.journal.delete_below(offset)
        except JournalBroken as error:
            self._break(source, error)
        self._progress()

    def drop(self, job_id: str, attempt: int) -> None:
        """The daemon wants nothing of this attempt."""
        source = self._of(job_id, attempt)
        if source is not None:
            source.answer = _Answer.DROP
            self._progress()

    def hold(self, job_id: str, attempt: int) -> None:
        """The daemon can't take it now: it stays here, and is offered again."""
        source = self._of(job_id, attempt)
        if source is not None:
            source.answer = _Answer.WAIT
            source.sweeps_to_wait = SWEEPS_TO_WAIT

    def poke(self, job_id: str) -> None:
        """The runner says that it has appended."""
        source = self._sources.get(job_id)
        if source is not None:
            self._refresh(source)

    def sweep(self) -> None:
        """Looks at all journals, in case a poke was lost; offers those again that had to wait."""
        for source in list(self._sources.values()):
            self._refresh(source)
            if source.answer is _Answer.WAIT:
                source.sweeps_to_wait -= 1
                if source.sweeps_to_wait <= 0 and self._connected:
                    source.answer = _Answer.NONE
                    self._offers.append(source.job_id)
                    self._wake()

    def undelivered(self, job_id: str) -> str | None:
        """Why this journal may not be deleted yet; None when it may.

        Ask it when the writer is gone: a torn last frame is then no reason to wait.
        """
        source = self._sources.get(job_id)
        if source is None or source.answer is _Answer.DROP:
            return None
        self._refresh(source)
        if source.broken or source.acked >= source.journal.end:
            return None
        try:
            if not source.journal.whole_frame_at(source.acked):
                return None
        except JournalBroken as error:
            self._break(source, error)
            return None
        missing = source.journal.end - source.acked
        if not self._connected:
            return f"{missing} B of its journal are not at the daemon, and the link to it is down"
        return f"{missing} B of its journal are not yet on the daemon's disk"

    def next_message(self) -> bytes | None:
        """The next message for the link; None when there is nothing to say."""
        while self._offers:
            source = self._sources.get(self._offers.popleft())
            if source is not None:
                return wire.encode(
                    {
                        "t": "offer",
                        "job": source.job_id,
                        "attempt": source.attempt,
                        "start": source.journal.start,
                        "end": source.journal.end,
                    }
                )
        while self._turns:
            job_id = self._turns.popleft()
            source = self._sources.get(job_id)
            if source is None or not source.to_send:
                continue
            try:
                data = source.journal.read(source.position, self._chunk_bytes)
                if not data:
                    source.journal.refresh(source.position)
                    if source.position < source.journal.end:
                        raise JournalBroken(f"it ends before {source.journal.end}")
                    continue
            except JournalBroken as error:
                self._break(source, error)
                continue
            header = {"t": "data", "job": job_id, "attempt": source.attempt}
            message = wire.encode({**header, "offset": source.position}, data)
            source.position += len(data)
            if source.to_send:
                self._turns.append(job_id)
            return message
        return None

    def _of(self, job_id: str, attempt: int) -> _Source | None:
        """None also when what was said is of an attempt that was here before."""
        source = self._sources.get(job_id)
        return source if source is not None and source.attempt == attempt else None

    def _ready(self, source: _Source) -> None:
        if source.to_send:
            if source.job_id not in self._turns:
                self._turns.append(source.job_id)
            self._wake()

    def _refresh(self, source: _Source) -> None:
        """Looks how far the journal goes. Growth is seen once, so whoever sees it has it sent."""
        if source.broken:
            return
        try:
            grown = source.journal.refresh(source.position)
        except JournalBroken as error:
            self._break(source, error)
            return
        if grown:
            self._ready(source)

    def _break(self, source: _Source, error: JournalBroken) -> None:
        if not source.broken:
            source.broken = True
            self._log.error(
                "journal of job {job_id} is damaged from {offset} B on, nothing after that is "
                "sent: {error}",
                job_id=source.job_id,
                offset=source.position,
                error=error,
            )
            self._progress()
