"""What a coroutine on the client's event loop comes to, for a thread that Ctrl-C may interrupt."""

import asyncio
import concurrent.futures
import threading
import time
from collections.abc import Callable, Coroutine, Iterable
from typing import Any, TypeVar

_T = TypeVar("_T")

#: A signal that comes between Python's last look and the kernel's wait is seen only when the wait
#: is over, so no wait of the main thread is longer.
SIGNAL_SLICE_S = 0.25


class IoFuture(concurrent.futures.Future[_T]):
    """A future whose `wait` holds no lock that the event loop's thread takes.

    `concurrent.futures.wait` does: interrupted at the wrong instruction it keeps the lock, and the
    loop stands still for ever.
    """

    def __init__(self, then: "Callable[[IoFuture[_T]], object] | None" = None) -> None:
        """`then`: is called with it when it is done, on the event loop's thread."""
        super().__init__()
        self.task: asyncio.Task[_T] | None = None  #: what it follows
        self._over = False
        self._ended = threading.Lock()
        self._ended.acquire()
        self.add_done_callback(self._is_over)
        if then is not None:
            self.add_done_callback(then)  # type: ignore[arg-type]

    def _is_over(self, _: object) -> None:
        self._over = True
        self._ended.release()

    def wait(self, deadline: float | None) -> bool:
        """Returns when it is done; False when it isn't by `deadline` (`time.monotonic()`)."""
        while not self._over:
            left_s = SIGNAL_SLICE_S if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                break
            self._ended.acquire(timeout=min(left_s, SIGNAL_SLICE_S))
        return self._over

    def follow(self, coroutine: Coroutine[Any, Any, _T]) -> None:
        """Runs `coroutine`, whose outcome it takes. On the event loop's thread."""
        loop = asyncio.get_running_loop()
        task = self.task = loop.create_task(coroutine)
        task.add_done_callback(self._take)

        def given_up(_: object) -> None:
            if self.cancelled():
                loop.call_soon_threadsafe(task.cancel)

        self.add_done_callback(given_up)

    def _take(self, task: "asyncio.Task[_T]") -> None:
        if task.cancelled():
            self.cancel()
        error = None if task.cancelled() else task.exception()
        if not self.set_running_or_notify_cancel():
            return
        if error is None:
            self.set_result(task.result())
        else:
            self.set_exception(error)


def wait_all(futures: Iterable[IoFuture[Any]], timeout_s: float) -> None:
    """Returns when all are done, after `timeout_s` at the latest."""
    deadline = time.monotonic() + timeout_s
    for future in futures:
        future.wait(deadline)
