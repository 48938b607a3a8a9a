"""What released jobs left is deleted in the background: no share waits for that."""

from collections.abc import Callable

from cumulusd.agent.threads import Threads
from cumulusd.tasks import Signal


class Trash:
    """One pass at a time, however many ask for one. `stop` it before its threads are waited for."""

    def __init__(self, threads: Threads, empty: Callable[[], None]) -> None:
        """`empty()`: deletes what there is; blocking."""
        self._threads = threads
        self._empty = empty
        self._busy = False
        self._again = False  #: there is more since the pass began
        self._stopped = False
        self._over = Signal()

    def clear(self) -> None:
        """What is in it now is deleted soon."""
        if self._stopped:
            return  # the next agent begins with it
        if self._busy:
            self._again = True
            return
        self._busy = True
        passed = self._threads.run(self._empty, "deleting what released jobs left")
        passed.addCallback(lambda _: self._passed())

    async def cleared(self) -> None:
        """Fires when what is in it now is deleted, or couldn't be."""
        for _ in range(2):  # the pass that goes on began before; the next one has seen it all
            if self._busy:
                await self._over.wait()

    def stop(self) -> None:
        """Begins no pass any more."""
        self._stopped = True

    def _passed(self) -> None:
        self._busy = False
        if self._again:
            self._again = False
            self.clear()
        self._over.fire()
