"""Holds back what a connection's socket brings, for a moment, so that a busy reader catches up.

The connection is shared: a reader that stays behind must not keep others' answers waiting, and is
hung up on instead (`_job_stream`).
"""

import asyncio
from collections.abc import Callable
from typing import Any

#: How long one reader may hold the socket back at a stretch.
PAUSE_S = 0.1


class ReadPause:
    """The pauses of one connection. Used on its event loop."""

    def __init__(self, transport: Callable[[], Any]) -> None:
        """`transport`: asyncio's, that of now; None where there is none."""
        self._transport = transport
        #: who wants it -> what ends it; None when its time is over
        self._wanted: dict[object, asyncio.TimerHandle | None] = {}

    def begin(self, reader: object) -> None:
        """Until its `end`, PAUSE_S at most. Idempotent: there is no second time before `end`."""
        if reader in self._wanted:
            return
        loop = asyncio.get_running_loop()
        self._wanted[reader] = loop.call_later(PAUSE_S, self._expire, reader)
        transport = self._transport()
        if transport is not None:
            transport.pause_reading()

    def end(self, reader: object) -> None:
        """It has caught up, or gone. Idempotent."""
        timer = self._wanted.pop(reader, None)
        if timer is not None:
            timer.cancel()
            self._resume()

    def _expire(self, reader: object) -> None:
        self._wanted[reader] = None
        self._resume()

    def _resume(self) -> None:
        transport = self._transport()
        if transport is not None and not any(self._wanted.values()):
            transport.resume_reading()
