"""Work for the event loop of another thread: one wake-up for all of it that waits."""

import asyncio
from collections import deque
from collections.abc import Callable


class Errands:
    """What threads give one event loop to do, in its order.

    A wake-up costs a system call, at which Python changes threads: many calls made at once are
    handed over together.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._waiting: deque[Callable[[], object]] = deque()
        self._woken = False

    def add(self, errand: Callable[[], object]) -> None:
        """Has it called on the loop. From any thread. Raises RuntimeError when the loop is closed;
        interrupted by Ctrl-C it may be called all the same."""
        self._waiting.append(errand)
        if self._woken:
            return
        self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._run)
        except RuntimeError:
            self._woken = False
            raise
        except BaseException:
            # Ctrl-C: it may not have been sent, and another thread may rely on it by now. One too
            # many does no harm.
            self._woken = False
            self._loop.call_soon_threadsafe(self._run)
            raise

    def _run(self) -> None:
        # In this order: what is added from here on wakes the loop again.
        self._woken = False
        for _ in range(len(self._waiting)):
            self._loop.call_soon(self._waiting.popleft())
