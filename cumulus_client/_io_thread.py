"""The thread on which a client's event loop runs, owned and ended by its client."""

import asyncio
import functools
import os
import threading
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from cumulus_client._errands import Errands
from cumulus_client._io_future import IoFuture
from cumulus_client.exceptions import ConnectionFailed

_T = TypeVar("_T")

#: How long `stop` waits for what still runs on the loop.
STOP_TIMEOUT_S = 5.0


class IoThread:
    """An event loop on a daemon thread of its own, started at first use.

    So the client works in scripts and where a loop already runs (notebooks), and the connection
    answers pings while user code computes.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._errands: Errands | None = None
        self._thread: threading.Thread | None = None
        self._process_id = 0
        self._stopped = False

    @property
    def started(self) -> bool:
        """There is a loop, and it may hold a connection."""
        return self._loop is not None and self._process_id == os.getpid()

    def is_current(self) -> bool:
        """Is the caller on this very thread, where nothing may wait for the loop?"""
        return self._thread is threading.current_thread()

    def run(
        self,
        coroutine: Coroutine[Any, Any, _T],
        then: Callable[[IoFuture[_T]], object] | None = None,
    ) -> IoFuture[_T]:
        """Runs `coroutine` on the loop, and calls `then` there with its future when that is done.

        Raises ConnectionFailed when stopped, or after a fork.
        """
        try:
            errands = self._started()
            future = IoFuture(then)
            errands.add(functools.partial(future.follow, coroutine))
        except BaseException:
            coroutine.close()
            raise
        return future

    def _started(self) -> Errands:
        if self._process_id not in (0, os.getpid()):
            # Before the lock, which a thread of the parent may have held at the fork.
            raise ConnectionFailed(
                "this Cumulus client was made before a fork and its connection is its parent's",
                hint="make a CumulusClient in the child process",
            )
        with self._lock:
            if self._stopped:
                raise ConnectionFailed("this Cumulus client is closed", hint="make a new one")
            if self._errands is None:
                loop = asyncio.new_event_loop()
                thread = threading.Thread(
                    target=_serve, args=(loop,), name="cumulus-client", daemon=True
                )
                try:
                    thread.start()
                except BaseException:  # Ctrl-C: it may have begun
                    loop.call_soon_threadsafe(loop.stop)
                    raise
                self._process_id, self._thread, self._loop = os.getpid(), thread, loop
                self._errands = Errands(loop)
            return self._errands

    def stop(self) -> None:
        """Ends loop and thread, bounded by STOP_TIMEOUT_S. Idempotent."""
        if self._process_id not in (0, os.getpid()):
            return  # they are the parent's
        with self._lock:
            self._stopped = True
            loop, thread = self._loop, self._thread
            self._loop = self._thread = self._errands = None
        if loop is None or thread is None:
            return
        loop.call_soon_threadsafe(loop.stop)
        if thread is not threading.current_thread():
            thread.join(STOP_TIMEOUT_S)


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    asyncio.set_event_loop(loop)
    try:
        loop.run_forever()
        for _ in range(2):
            # What was handed over just before begins, so that it is cancelled with the rest: else
            # nobody would ever tell who waits for it.
            loop.call_soon(loop.stop)
            loop.run_forever()
        tasks = asyncio.all_tasks(loop)
        for task in tasks:
            task.cancel()
        if tasks:
            loop.run_until_complete(asyncio.wait(tasks, timeout=STOP_TIMEOUT_S / 2))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        asyncio.set_event_loop(None)
        loop.close()
