"""Blocking work of one owner, done in threads that its end waits for."""

from collections.abc import Callable

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger
from twisted.python.failure import Failure


class Threads:
    """Runs work by the function it is given, and knows what isn't done yet."""

    _log = Logger()

    def __init__(self, run_in_thread: Callable[[Callable[[], None]], Deferred[None]]) -> None:
        self._run_in_thread = run_in_thread
        self._working: dict[Deferred[None], None] = {}

    def run(self, work: Callable[[], None], what: str) -> Deferred[None]:
        """Fires when `work` has ended, whose failure is logged. Cancelling only ends the wait."""
        working = self._run_in_thread(work)
        waiting: Deferred[None] = Deferred()
        self._working[working] = None

        def ended(result: object) -> None:
            self._working.pop(working, None)
            if isinstance(result, Failure):
                self._log.failure("{what} failed", result, what=what)
            if not waiting.called:
                waiting.callback(None)

        working.addBoth(ended)
        return waiting

    async def ended(self) -> None:
        """Fires when all that was begun has ended."""
        await DeferredList(list(self._working), consumeErrors=True)
