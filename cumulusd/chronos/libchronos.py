"""Books beside the ledger in libchronos, so that its other users see what jobs hold.

The ledger decides and the ledger alone: what is wanted here follows from it. libchronos keeps its
state in one process, forgets it with that process, and may hang or crash; so it is asked in a
process of its own, which is restarted, and what it holds is compared again and again with what it
should.
"""

import math
from collections.abc import AsyncIterator, Awaitable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import attrs
from twisted.internet.defer import DeferredLock
from twisted.logger import Logger

from cumulusd.chronos.libchronos_process import ChildFailed, LibchronosProcess
from cumulusd.tasks import Signal, Tasks, sleep, wait_at_most, waiting_for

BUILTIN = "builtin"
LIBCHRONOS = "libchronos"
AUTO = "auto"
#: Found as the loader finds libraries: the system's folders, /usr/local/lib with ldconfig.
DEFAULT_LIBRARY = "libchronos.so"
DEFAULT_LOCKS = "/tmp/chronos_locks"

#: It expires on a clock that is set and jumps, and a partition that is draining still holds its
#: share: what it books lasts longer, and is booked again when it has expired all the same.
SLACK_S = 3600.0
_CALL_S = 5.0
_AUDIT_S = 30.0
_FIRST_PAUSE_S = 0.5
_MAX_PAUSE_S = 60.0
_LEAVE_S = 3.0


@attrs.frozen(kw_only=True)
class Booking:
    """What libchronos is to hold for a partition of the ledger."""

    partition_id: str
    device: int  #: as libchronos counts: the device's place in its OpenCL platform
    permille: int
    remaining_s: float = attrs.field(eq=False)


def permille_of(units: int) -> int:
    """Its share in libchronos' own grain, rounded down so that shares together fit."""
    return max(1, units // 10)


@attrs.frozen(kw_only=True)
class BackendState:
    """What books, and what is wrong with it."""

    backend: str  #: BUILTIN or LIBCHRONOS
    fault: str | None


class BookingFailed(Exception):
    """libchronos doesn't hold that share; the message says why."""


class Libchronos:
    """Keeps libchronos' books as the ledger's. `start` it, say what is wanted, `stop` it."""

    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        *,
        required: bool,
        python: str,
        library: str | None = None,
        locks: str = DEFAULT_LOCKS,
        call_s: float = _CALL_S,
        start_s: float = 30.0,
        audit_s: float = _AUDIT_S,
    ) -> None:
        """`required`: no job is taken without it. `library`: its path; None: the one that is
        installed, if there is one. `call_s`, `start_s`: how long one request, and loading the
        library, may take. `audit_s`: how often books are compared."""
        self._reactor = reactor
        self.required = required
        self._may_be_absent = library is None and not required
        self._python = python
        self._library = library or DEFAULT_LIBRARY
        self._locks = locks
        self._call_s = call_s
        self._start_s = start_s
        self._audit_s = audit_s
        self._tasks = Tasks()
        self._changed = Signal()
        self._stale = False  #: something has changed since the books were last compared
        self._one_at_a_time = DeferredLock()
        self._wanted: dict[str, Booking] = {}
        self._child: LibchronosProcess | None = None
        #: partition id -> (what was booked, its id there), in this process alone
        self._held: dict[str, tuple[Booking, str]] = {}
        self._refused: dict[str, str] = {}  #: partition id -> why
        self._deadly: dict[str, str] = {}  #: those of which the process died, never tried again
        self._fault: str | None = "it has not been started yet"
        self._absent = False
        self._stopping = False

    @property
    def state(self) -> BackendState:
        """As it is now."""
        if self._absent:
            return BackendState(backend=BUILTIN, fault=None)
        if self._fault is not None:
            return BackendState(backend=BUILTIN, fault=self._fault)
        failed = {**self._refused, **self._deadly}
        fault = None
        if failed:
            partition_id, why = next(iter(failed.items()))
            fault = f"{len(failed)} partition(s) are not booked, {partition_id} for one: {why}"
        return BackendState(backend=LIBCHRONOS, fault=fault)

    @property
    def blocking_fault(self) -> str | None:
        """Why no job can be taken, where it is required and can't be used at all."""
        if self.required and self._fault is not None:
            return f"libchronos is required here and can't be used: {self._fault}"
        return None

    def start(self) -> None:
        """Begins; `state` tells how it goes."""
        self._tasks.start(self._run(), "keeping libchronos' books")

    async def stop(self) -> None:
        """What is booked is given back, within a bound: jobs go on, and so does the ledger."""
        # Who is called back out of `_run` cancels in vain a coroutine that doesn't wait just now.
        self._stopping = True
        if self._fault is None:
            # A request that is given up costs the process, and leaves locks of what it holds.
            await wait_at_most(self._reactor, _LEAVE_S, self._one_at_a_time.acquire())
        await self._tasks.stop()
        child, self._child = self._child, None
        self._fault = "it was stopped"
        if child is not None:
            child.leave()
            await self._see_end(child)

    def want(self, bookings: Mapping[str, Booking]) -> None:
        """From now on it is to hold these, by partition id, and nothing else."""
        self._wanted = dict(bookings)
        for known in (self._refused, self._deadly):
            for partition_id in [one for one in known if one not in bookings]:
                del known[partition_id]
        self._look_again()

    async def book(self, partition_id: str) -> None:
        """Fires when that wanted partition is booked. Raises BookingFailed. Cancelling it ends the
        wait only: to give up a request would cost the process."""
        work = self._tasks.start(self._book(partition_id), "booking in libchronos")
        await waiting_for(work)
        if partition_id not in self._held:
            failed = {**self._refused, **self._deadly}
            raise BookingFailed(failed.get(partition_id) or self._fault or "it isn't wanted")

    # -- inside

    async def _book(self, partition_id: str) -> None:
        async with self._alone():
            child, booking = self._child, self._wanted.get(partition_id)
            if child is None or self._fault is not None or booking is None:
                return
            try:
                await self._create(child, booking)
            except ChildFailed:
                self._look_again()  # `_run` finds the process gone, and says so

    def _look_again(self) -> None:
        self._stale = True
        self._changed.fire()

    async def _run(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while not (self._absent or self._stopping):
            self._stale = False
            try:
                async with self._alone():
                    await self._settle(self._child or await self._begin())
            except ChildFailed as error:
                await self._lose(str(error))
                await sleep(self._reactor, pause_s)
                pause_s = min(_MAX_PAUSE_S, pause_s * 2)
                continue
            pause_s = _FIRST_PAUSE_S
            if not (self._stale or self._stopping):
                await wait_at_most(self._reactor, self._audit_s, self._changed.wait())

    async def _begin(self) -> LibchronosProcess:
        """A process that has the library and sees devices. Raises ChildFailed."""
        self._held.clear()  # what the process before held went with it
        child = LibchronosProcess(
            self._reactor, python=self._python, library=self._library, locks=self._locks
        )
        self._child = child
        hello = await child.hello(self._start_s)
        if not hello["ok"]:
            if hello.get("missing") and self._may_be_absent:
                self._log.info("libchronos isn't used: {why}", why=hello["why"])
                self._absent = True
            raise ChildFailed(str(hello["why"]))
        if hello["devices"] == 0:
            raise ChildFailed("it sees no OpenCL device")
        self._log.info(
            "libchronos books too: {library}, {count} device(s)",
            library=self._library,
            count=hello["devices"],
        )
        self._fault = None
        return child

    async def _lose(self, why: str) -> None:
        """The process is of no use: it ends, and its bookings are made anew by the next one."""
        self._held.clear()
        if not self._absent and why != self._fault:
            self._log.error("libchronos can't be used now: {why}", why=why)
        self._fault = why
        if self._child is not None:
            self._child.kill(why)
            await waiting_for(self._child.ended)
            self._child = None

    async def _see_end(self, child: LibchronosProcess) -> None:
        timer = self._reactor.callLater(_LEAVE_S, child.kill, "it did not end by itself")
        try:
            await waiting_for(child.ended)
        finally:
            if timer.active():
                timer.cancel()

    async def _settle(self, child: LibchronosProcess) -> None:
        """Makes its books as they should be. Raises ChildFailed."""
        there = await self._ask(child, {"do": "held"})
        ids = set(there.get("held", ()))
        for partition_id, (booking, name) in list(self._held.items()):
            if name not in ids:
                del self._held[partition_id]  # it has expired there, which is made good below
            elif self._wanted.get(partition_id) != booking:
                answer = await self._ask(child, {"do": "release", "id": name})
                if answer["ok"]:
                    del self._held[partition_id]
                else:
                    self._log.warn(
                        "libchronos does not release {partition_id}: {why}",
                        partition_id=partition_id,
                        why=answer["why"],
                    )
        for booking in list(self._wanted.values()):
            if self._stopping:
                return
            await self._create(child, booking)

    async def _create(self, child: LibchronosProcess, booking: Booking) -> None:
        """Books it if it isn't; why it could not be stands in `_refused`. Raises ChildFailed."""
        partition_id = booking.partition_id
        if partition_id in self._held or partition_id in self._deadly:
            return
        request = {
            "do": "create",
            "device": booking.device,
            "permille": booking.permille,
            "seconds": math.ceil(booking.remaining_s + SLACK_S),
        }
        try:
            answer = await self._ask(child, request)
        except ChildFailed as error:
            self._deadly[partition_id] = str(error)
            raise
        if answer["ok"]:
            self._held[partition_id] = booking, str(answer["id"])
            self._refused.pop(partition_id, None)
            return
        why = str(answer["why"])
        if self._refused.get(partition_id) != why:
            self._log.warn(
                "libchronos does not book {partition_id}: {why}", partition_id=partition_id, why=why
            )
        self._refused[partition_id] = why

    def _ask(self, child: LibchronosProcess, request: dict[str, Any]) -> Awaitable[dict[str, Any]]:
        return child.ask(request, self._call_s)

    @asynccontextmanager
    async def _alone(self) -> AsyncIterator[None]:
        """Nobody else asks the library meanwhile."""
        await self._one_at_a_time.acquire()
        try:
            yield
        finally:
            self._one_at_a_time.release()
