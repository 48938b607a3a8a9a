"""Brings a job's outputs from its worker to the daemon's disk, before its end is told.

Whatever happens to worker, link, file or disk: it ends within its bounds, and says what is missing.
"""

import errno
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeVar

from twisted.internet.defer import Deferred, DeferredSemaphore
from twisted.logger import Logger

from cumulusd.errors import CumulusError, NotFound
from cumulusd.jobs.model import JobRecord, OutputInfo
from cumulusd.jobs.outputs import IncomingOutput, ListedOutput, Outputs
from cumulusd.jobs.ports import Clock, RunInThread
from cumulusd.jobs.store import StoreFailed
from cumulusd.tasks import sleep, wait_at_most

_T = TypeVar("_T")
#: One range, and how many are asked for ahead of what is on disk: what one pull holds in memory.
CHUNK_BYTES = 256 << 10
WINDOW = 4
#: Jobs whose outputs come from one node at a time.
PULLS_PER_NODE = 2
#: An agent answers a range within this, or is asked again.
_ANSWER_S = 15.0
_PAUSE_S = 0.5
_FULL = (errno.ENOSPC, errno.EDQUOT)
#: How often one that waits for others looks whether it is still wanted.
_LOOK_S = 1.0
#: A pull that is slower than this is given up in the end, however steady it is.
_SLOWEST_BYTES_PER_S = 256 << 10
_MAX_NAMED = 5


class OutputSource(Protocol):
    """Who asks agents for their files."""

    def __call__(
        self, node_id: str, job_id: str, attempt: int, name: str, offset: int, length: int
    ) -> Deferred[tuple[bytes, int]]:
        """(at most that range, the file's size). NotFound: it isn't there any more; other
        CumulusErrors: not now. Cancelling it forgets the answer."""


class _GivenUp(Exception):
    """This output won't come; the message says why. `all`: nor any other."""

    def __init__(self, why: str, *, all_of_them: bool = False) -> None:
        super().__init__(why)
        self.all = all_of_them


class OutputPull:
    """Pulls for every job that ends."""

    _log = Logger()

    def __init__(
        self,
        *,
        outputs: Outputs,
        source: OutputSource,
        clock: Clock,
        run_in_thread: RunInThread,
        agent_grace_s: float,
        max_bytes: int,
        no_room: Callable[[int], str | None] = lambda size_bytes: None,
        make_room: Callable[[int], Awaitable[None]] | None = None,
    ) -> None:
        """`agent_grace_s`: how long a pull may stand still. `max_bytes`: of one job, whatever its
        runner listed, which the job may have had in its hands. `no_room(bytes)`: why so much
        isn't to be put on the disk now. `make_room(bytes)` takes older jobs' outputs away until so
        much more is within the bound on all of them."""
        self._outputs = outputs
        self._source = source
        self._clock = clock
        self._run_in_thread = run_in_thread
        self._agent_grace_s = agent_grace_s
        self._max_bytes = max_bytes
        self._no_room = no_room
        self._make_room = make_room
        self._nodes: dict[str, DeferredSemaphore] = {}

    async def pull(
        self,
        record: JobRecord,
        listed: Sequence[ListedOutput],
        called_off: Callable[[], bool],
    ) -> tuple[tuple[OutputInfo, ...], str | None]:
        """(what is stored, durably; why something is missing). `called_off()`: nobody wants to wait
        for it any more. Raises nothing but a cancellation."""
        if not listed or record.placement is None:
            return (), None
        job_id = record.job_id
        pull = _Pull(self, record, record.placement.node_id, called_off)
        stored: list[OutputInfo] = []
        wanted, missing = self._within_bound(listed)
        total_bytes = sum(one.size_bytes for one in wanted)
        why_none: str | None = None
        try:
            if self._make_room is not None:
                await self._make_room(total_bytes)
            self._outputs.promise(job_id, total_bytes)
            pull.begin(total_bytes)
            for one in wanted:
                try:
                    if why_none is not None:
                        raise _GivenUp(why_none)
                    stored.append(one.stored(await pull.one(one)))
                except _GivenUp as error:
                    missing.append((one.name, str(error)))
                    if error.all:
                        why_none = str(error)
        except CumulusError as error:
            why_none = error.message
            known = {one.name for one in stored} | {name for name, _ in missing}
            missing += [(one.name, why_none) for one in listed if one.name not in known]
        try:
            await self._outputs.settle(job_id)
        except StoreFailed as error:
            stored, missing = [], [(one.name, error.message) for one in listed]
        if missing:
            self._log.warn(
                "job {job_id}: {count} of its {of} outputs could not be stored: {why}",
                job_id=job_id,
                count=len(missing),
                of=len(listed),
                why=missing[-1][1],
            )
        return tuple(stored), _note(missing)

    def _within_bound(
        self, listed: Sequence[ListedOutput]
    ) -> tuple[list[ListedOutput], list[tuple[str, str]]]:
        """(those that are within the bound on all of a job's, the others with the reason)."""
        wanted: list[ListedOutput] = []
        over: list[tuple[str, str]] = []
        left_bytes = self._max_bytes
        for one in listed:
            if one.size_bytes <= left_bytes:
                left_bytes -= one.size_bytes
                wanted.append(one)
            else:
                over.append((one.name, f"a job may leave {self._max_bytes} bytes in all"))
        return wanted, over

    # -- for the pulls

    @property
    def clock(self) -> Clock:
        """The one that never jumps."""
        return self._clock

    def incoming(self, job_id: str, listed: ListedOutput) -> IncomingOutput:
        """Where that output is put."""
        return self._outputs.incoming(job_id, listed)

    def no_room(self, size_bytes: int) -> str | None:
        """Why so much isn't to be put on the disk now."""
        return self._no_room(size_bytes)

    async def discard(self, incoming: IncomingOutput) -> None:
        """Nothing of that is wanted any more."""
        try:
            await self._run_in_thread(incoming.discard)
        except OSError as error:
            # `settle` tries it again, and says so where that fails too: the end is told.
            self._log.warn("an output that won't come can't be deleted: {error}", error=error)

    async def in_thread(self, function: Callable[[], _T]) -> _T:
        """Off the reactor."""
        return await self._run_in_thread(function)

    def node(self, node_id: str) -> DeferredSemaphore:
        """Who may pull from it now."""
        return self._nodes.setdefault(node_id, DeferredSemaphore(PULLS_PER_NODE))

    def fetch(
        self, node_id: str, record: JobRecord, name: str, offset: int, length: int
    ) -> Deferred[tuple[bytes, int]]:
        """One range."""
        return self._source(node_id, record.job_id, record.attempt, name, offset, length)

    @property
    def grace_s(self) -> float:
        """How long one may stand still."""
        return self._agent_grace_s


class _Pull:
    """One job's."""

    def __init__(
        self, owner: OutputPull, record: JobRecord, node_id: str, called_off: Callable[[], bool]
    ) -> None:
        self._owner = owner
        self._record = record
        self._node_id = node_id
        self._called_off = called_off
        self._clock = owner.clock
        self._over_at = 0.0
        self._give_up_at = 0.0
        self._problem: str | None = None  #: what it stands still for

    def begin(self, total_bytes: int) -> None:
        """The time runs from now on."""
        now = self._clock.seconds()
        self._over_at = now + self._owner.grace_s + total_bytes / _SLOWEST_BYTES_PER_S
        self._advanced()

    async def one(self, listed: ListedOutput) -> str:
        """The SHA-256 of that output, which is stored. Raises _GivenUp, CumulusError."""
        incoming = self._owner.incoming(self._record.job_id, listed)
        try:
            await self._try_disk(incoming.open)
            if incoming.whole_sha256 is not None:
                return incoming.whole_sha256
            while True:
                while incoming.held_bytes < listed.size_bytes:
                    await self._some(listed, incoming)
                resumed = incoming.resumed
                found = await self._try_disk(incoming.finish)
                if found is not None:
                    return found
                if not resumed:
                    raise _GivenUp("its bytes aren't those that the runner hashed: it was changed")
        except _GivenUp:
            await self._owner.discard(incoming)
            raise
        finally:
            incoming.close()

    async def _some(self, listed: ListedOutput, incoming: IncomingOutput) -> None:
        """As much of it as comes without a break; waits after one, within the bounds."""
        problem = self._owner.no_room(listed.size_bytes - incoming.held_bytes)
        if problem is None:
            node = self._owner.node(self._node_id)
            await self._turn(node)
            try:
                problem = await self._stream(listed, incoming)
            finally:
                node.release()
        if problem is not None:
            await self._pause(problem)

    async def _turn(self, node: DeferredSemaphore) -> None:
        """Waits behind others of this node, which has no part in this one's time."""
        begun_at = self._clock.seconds()
        while await wait_at_most(self._clock, _LOOK_S, node.acquire()) is None:
            if self._called_off():
                raise _called_off()
        waited_s = self._clock.seconds() - begun_at
        self._over_at += waited_s
        self._give_up_at += waited_s

    async def _stream(self, listed: ListedOutput, incoming: IncomingOutput) -> str | None:
        """Asks ahead, writes in order; why it broke off, None: it is all here."""
        asked: deque[tuple[int, Deferred[tuple[bytes, int]]]] = deque()
        next_offset = incoming.held_bytes
        try:
            while incoming.held_bytes < listed.size_bytes:
                while len(asked) < WINDOW and next_offset < listed.size_bytes:
                    length = min(CHUNK_BYTES, listed.size_bytes - next_offset)
                    fetching = self._owner.fetch(
                        self._node_id, self._record, listed.name, next_offset, length
                    )
                    asked.append((length, fetching))
                    next_offset += length
                self._check()
                length, fetching = asked.popleft()
                answer = await wait_at_most(self._clock, _ANSWER_S, fetching)
                if answer is None:
                    return f"its worker's agent did not answer within {_ANSWER_S:g} s"
                data, total = answer
                if total != listed.size_bytes or len(data) != length:
                    raise _GivenUp(
                        f"it has {total} bytes now, and had {listed.size_bytes} at the job's end"
                    )
                await self._owner.in_thread(lambda data=data: incoming.write(data))  # type: ignore[misc]
                self._advanced()
            return None
        except NotFound as error:
            raise _GivenUp(error.message) from error
        except CumulusError as error:
            return error.message
        except OSError as error:
            return f"the daemon's disk refuses it: {error.strerror}"
        finally:
            for _, fetching in asked:
                fetching.addErrback(lambda _: None)
                fetching.cancel()

    async def _try_disk(self, work: Callable[[], _T]) -> _T:
        """Blocking work on our disk; again while it is full, within the bounds."""
        while True:
            try:
                return await self._owner.in_thread(work)
            except OSError as error:
                why = f"the daemon's disk refuses it: {error.strerror}"
                if error.errno not in _FULL:
                    raise _GivenUp(why) from error
            await self._pause(why)

    async def _pause(self, problem: str) -> None:
        self._problem = problem
        self._check()
        await sleep(self._clock, _PAUSE_S)

    def _advanced(self) -> None:
        self._problem = None
        self._give_up_at = self._clock.seconds() + self._owner.grace_s

    def _check(self) -> None:
        """Raises _GivenUp when the time is over, or nobody waits for it."""
        if self._called_off():
            raise _called_off()
        now = self._clock.seconds()
        if now >= self._over_at or (self._problem is not None and now >= self._give_up_at):
            why = (
                self._problem or f"its worker sends less than {_SLOWEST_BYTES_PER_S} bytes a second"
            )
            raise _GivenUp(why, all_of_them=True)


def _called_off() -> _GivenUp:
    return _GivenUp("the job was cancelled while its outputs were stored", all_of_them=True)


def _note(missing: Sequence[tuple[str, str]]) -> str | None:
    """In words; files with the same cause together."""
    by_cause: dict[str, list[str]] = {}
    for name, why in missing:
        by_cause.setdefault(why, []).append(name)
    words = []
    for why, names in list(by_cause.items())[:_MAX_NAMED]:
        more = len(names) - _MAX_NAMED
        shown = ", ".join(repr(name[:100]) for name in names[:_MAX_NAMED])
        words.append(f"{shown}{f' and {more} more' if more > 0 else ''} not stored: {why}")
    if len(by_cause) > _MAX_NAMED:
        words.append(f"{len(by_cause) - _MAX_NAMED} more causes are in the daemon's log")
    return "; ".join(words) or None


def joined_notes(*notes: str | None) -> str | None:
    """What the runner left out, and what could not be stored."""
    return "; ".join(note for note in notes if note) or None
