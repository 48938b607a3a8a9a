"""Background work with an owner: coroutines that somebody ends, waits that a clock drives."""

from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure

_T = TypeVar("_T")


class _Timer(Protocol):
    def cancel(self) -> None: ...
    def active(self) -> bool: ...


class _Clock(Protocol):
    def callLater(self, delay: float, call: Callable[..., Any], *args: Any) -> _Timer: ...


class Tasks:
    """The coroutines of one owner. A failure is logged, never lost; `stop` ends them all."""

    _log = Logger()

    def __init__(self) -> None:
        #: in the order of their starts, so that they end in it: a set's order is another each time
        self._running: dict[Deferred[Any], None] = {}

    def start(self, work: Coroutine[Any, Any, Any], what: str, **fields: Any) -> Deferred[Any]:
        """Runs `work` until it ends or `stop`. `what` and `fields` name it in the log.

        The Deferred fires with None when it has ended, however; cancel it to end it.
        """
        task: Deferred[Any] = Deferred.fromCoroutine(work)
        self._running[task] = None

        def ended(result: object) -> None:
            self._running.pop(task, None)
            if isinstance(result, Failure) and not isinstance(result.value, CancelledError):
                self._log.failure("{what} failed", result, what=what, **fields)

        task.addBoth(ended)
        return task

    async def stop(self) -> None:
        """Cancels all of them; fires when they have ended."""
        running = list(self._running)
        for task in running:
            task.cancel()
        await DeferredList(running, consumeErrors=True)


class Merged:
    """Work that many may ask for at a time: one run of it serves all who asked before it began. A
    failure is logged, and who asked meanwhile is served still."""

    _log = Logger()

    def __init__(
        self,
        work: Callable[[], Coroutine[Any, Any, None]],
        what: str,
        *,
        tasks: Tasks,
        clock: _Clock,
        pause_s: float,
    ) -> None:
        """`what` names it in the log. The first run begins at once, one that is asked for meanwhile
        `pause_s` after its end."""
        self._work = work
        self._what = what
        self._tasks = tasks
        self._clock = clock
        self._pause_s = pause_s
        self._running = self._again = False

    def ask(self) -> None:
        """It will begin after this."""
        if self._running:
            self._again = True
            return
        self._running = True
        self._tasks.start(self._run(), self._what)

    async def _run(self) -> None:
        try:
            await self._run_once()
            while self._again:
                await sleep(self._clock, self._pause_s)
                self._again = False
                await self._run_once()
        finally:
            self._running = self._again = False

    async def _run_once(self) -> None:
        try:
            await self._work()
        except CancelledError:
            raise
        except Exception:
            self._log.failure("{what} failed", what=self._what)


class Signal:
    """Wakes those who wait for the next change. There is no memory: look first, then wait."""

    def __init__(self) -> None:
        self._waiting: dict[Deferred[None], None] = {}  #: in the order of coming

    def wait(self) -> Deferred[None]:
        """Fires at the next `fire`; may be cancelled."""
        waiting: Deferred[None] = Deferred(lambda gone: self._waiting.pop(gone, None))
        self._waiting[waiting] = None
        return waiting

    def fire(self) -> None:
        """Wakes all who wait now."""
        waiting, self._waiting = self._waiting, {}
        for each in waiting:
            each.callback(None)


def sleep(clock: _Clock, delay_s: float) -> Deferred[None]:
    """Fires after `delay_s` on that clock; cancelling it frees the timer."""
    sleeping: Deferred[None] = Deferred(lambda _: timer.cancel())
    timer = clock.callLater(delay_s, sleeping.callback, None)
    return sleeping


def waiting_for(work: Deferred[_T]) -> Deferred[_T]:
    """Fires as `work` does; cancelling it ends the waiting, not the work."""
    waiting: Deferred[_T] = Deferred()

    def done(result: Any) -> None:
        if not waiting.called:
            waiting.callback(result)  # a Failure makes it fail

    work.addBoth(done)
    return waiting


async def cancellable(work: Deferred[_T]) -> _T:
    """What `work` gives, or raises; it is cancelled where this is, and this raises CancelledError.

    For endpoints and HTTP clients, which make errors of their own out of having been cancelled.
    """
    try:
        return await waiting_for(work)
    finally:
        work.cancel()


async def wait_at_most(clock: _Clock, delay_s: float, waiting: Deferred[_T]) -> _T | None:
    """What `waiting` gives, or None when `delay_s` pass first; it is cancelled then."""
    timed_out = False

    def give_up() -> None:
        nonlocal timed_out
        timed_out = True
        waiting.cancel()

    timer = clock.callLater(delay_s, give_up)
    try:
        return await waiting
    except CancelledError:
        if timed_out:
            return None
        raise
    finally:
        if timer.active():
            timer.cancel()
