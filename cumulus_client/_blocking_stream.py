"""A job's events for a thread that waits for them: handed over as they come, one wake-up for many.

A task on the event loop runs ahead of the reader, bounded, so that the two work side by side and an
idle reader is woken at once.
"""

import asyncio
import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable

from cumulus_client._blocking import begin, client_timeout
from cumulus_client._core import ClientCore
from cumulus_client._io_future import SIGNAL_SLICE_S, IoFuture
from cumulus_client._io_thread import IoThread
from cumulus_client._job_stream import Event, JobStream
from cumulus_client.exceptions import CumulusError

#: How many events may be handed over and not done with. What comes meanwhile is one event more.
AHEAD = 4


class BlockingStream:
    """A JobStream for a blocking reader. An interrupted `next` loses no event."""

    def __init__(self, io: IoThread, stream: JobStream, url: str) -> None:
        self._io = io
        self._url = url
        self.stream = stream
        #: handed over; the first one stays until the reader comes back for the next
        self._events: deque[Event | Exception | None] = deque()
        self._given = False  # the first one was returned
        self._pump: IoFuture[None] | None = None
        self._pumping = False
        # Released when something was handed over. Only the reader takes it, and it guards nothing:
        # Ctrl-C may leave it either way.
        self._news = threading.Lock()
        self._news.acquire()
        #: while the pump waits for the reader
        self._room: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None

    def next(self, deadline: float | None) -> Event | None:
        """The next event, None after the last. `deadline`: `time.monotonic()` after which
        ClientTimeout is raised."""
        # Python looks for signals after calls of C code, so there is none between noting that an
        # event is given and giving it; and what is noted as done with goes without a look between.
        if self._given:
            self._given = False
            self._events.popleft()
        while not self._events:
            self._make_room()
            if self._pump is None or self._pump.done():
                self._pump = self._io.run(self._hand_over(), lambda _: self._tell())
            left_s = SIGNAL_SLICE_S if deadline is None else deadline - time.monotonic()
            if left_s <= 0:
                raise client_timeout(self._url, self.stream.job_id)
            self._news.acquire(timeout=min(left_s, SIGNAL_SLICE_S))
        self._make_room()
        event = self._events[0]
        if isinstance(event, Exception):  # a call of C code: before it is noted as given
            self._given = True
            raise event
        self._given = True
        return event

    def _make_room(self) -> None:
        room = self._room
        if room is not None and len(self._events) < AHEAD:
            loop, wake = room
            try:
                loop.call_soon_threadsafe(wake.set)
            except RuntimeError:
                pass  # the client is closed

    async def _hand_over(self) -> None:
        """The events, up to the last one or an error."""
        if self._pumping:
            # Ctrl-C, before the one that is under way was noted. The reader asks again and again.
            await asyncio.sleep(SIGNAL_SLICE_S)
            return
        self._pumping = True
        try:
            while await self._hand_over_one():
                if len(self._events) >= AHEAD:
                    await self._wait_for_room()
        finally:
            self._pumping = False

    async def _hand_over_one(self) -> bool:
        event: Event | Exception | None
        try:
            event = await self.stream.next()
        except Exception as error:
            event = error
        self._events.append(event)
        self._tell()
        return event is not None and not isinstance(event, Exception)

    async def _wait_for_room(self) -> None:
        wake = asyncio.Event()
        self._room = asyncio.get_running_loop(), wake
        try:
            if len(self._events) >= AHEAD:  # the reader may not have seen that it is waited for
                await wake.wait()
        finally:
            self._room = None

    def _tell(self) -> None:
        # Reader and event loop may tell at the same time: then the other one has released it.
        with contextlib.suppress(RuntimeError):
            self._news.release()

    def close(self) -> None:
        """Ends the following; the job goes on. Doesn't wait: a generator's finalisation may run
        on any thread."""
        self._let_go()
        try:
            self._io.run(self.stream.close())
        except CumulusError:
            pass  # the client is closed, and its streams with it

    def withdraw(self, core: ClientCore, say: Callable[[str], None]) -> None:
        """Instead of `close`, before the job was accepted: takes it back if it is."""
        self._let_go()
        begin(self._io, core.withdraw(self.stream, say))

    def _let_go(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
            self._pump = None
