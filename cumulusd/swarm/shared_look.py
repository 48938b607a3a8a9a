"""One look at the platform serves all who ask at once, at a pace that the platform can bear."""

from collections.abc import Awaitable, Callable
from typing import Any, Generic, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from cumulusd.errors import Unavailable
from cumulusd.tasks import Tasks, sleep

_T = TypeVar("_T")
#: After a look that took t, this many times t pass before the next: at most a third of the time
#: is spent looking, however many jobs there are.
_REST = 2.0
MAX_REST_S = 1.0


class SharedLook(Generic[_T]):
    """Owns the looking; `close` it."""

    def __init__(self, clock: Any, look: Callable[[], Awaitable[_T]]) -> None:
        self._clock = clock
        self._look = look
        self._waiting: list[Deferred[_T]] = []
        self._tasks = Tasks()
        self._looking = False
        self._not_before_s = clock.seconds()

    async def get(self) -> _T:
        """What a look found that began after this call; errors are the look's."""
        waiting: Deferred[_T] = Deferred(self._forget)
        self._waiting.append(waiting)
        if not self._looking:
            self._looking = True
            self._tasks.start(self._work(), "looking at the platform")
        return await waiting

    @property
    def waiting(self) -> int:
        """How many wait for a look that has not begun."""
        return len(self._waiting)

    async def close(self) -> None:
        """Who still waits gets Unavailable."""
        await self._tasks.stop()

    # -- inside

    def _forget(self, waiting: Deferred[_T]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)

    async def _work(self) -> None:
        taken: list[Deferred[_T]] = []
        try:
            while self._waiting:
                rest_s = self._not_before_s - self._clock.seconds()
                if rest_s > 0:
                    await sleep(self._clock, rest_s)
                taken, self._waiting = self._waiting, []
                await self._look_for(taken)
        except CancelledError:
            left = [*taken, *self._waiting]
            self._waiting = []
            error = Unavailable("the daemon is stopping: the platform isn't asked any more")
            for waiting in left:
                if not waiting.called:
                    waiting.errback(Failure(error))  # type: ignore[no-untyped-call]
            raise
        finally:
            self._looking = False

    async def _look_for(self, taken: list[Deferred[_T]]) -> None:
        began_s = self._clock.seconds()
        try:
            found = await self._look()
        except CancelledError:
            raise
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            for waiting in taken:
                if not waiting.called:
                    waiting.errback(failure)
        else:
            for waiting in taken:
                if not waiting.called:
                    waiting.callback(found)
        finally:
            now_s = self._clock.seconds()
            self._not_before_s = now_s + min(_REST * (now_s - began_s), MAX_REST_S)
