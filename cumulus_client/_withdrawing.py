"""Takes back submissions whose caller gave up before the daemon had answered.

Such a job may have been accepted, and would run unwatched. For a few seconds its id is asked for,
under the same idempotency key, and it is cancelled.
"""

import asyncio
import atexit
import concurrent.futures
import os
from collections.abc import Awaitable, Callable

from cumulus_client._job_stream import JobStream
from cumulus_client.exceptions import CumulusError

#: How long the daemon's answer is waited for, also by close() and at the interpreter's exit.
WITHDRAW_S = 5.0

_under_way: set["concurrent.futures.Future[None]"] = set()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_under_way.clear)  # they are the parent's


@atexit.register
def _finish_at_exit() -> None:
    # The loops run on daemon threads, which end with the interpreter.
    concurrent.futures.wait(list(_under_way), WITHDRAW_S)


class Withdrawals:
    """Those of one client. Used on its event loop."""

    def __init__(self, cancel: Callable[[str], Awaitable[bool]]) -> None:
        self._cancel = cancel
        self._tasks: set[asyncio.Task[None]] = set()

    def of_stream(self, stream: JobStream, say: Callable[[str], None]) -> None:
        """Takes the stream over. `say` gets a line on what became of the job."""

        async def learn() -> str | None:
            try:
                while stream.job_id is None:
                    if await stream.next() is None:
                        return None
                return stream.job_id
            finally:
                await stream.close()

        self._start(learn(), say)

    def of_call(self, submitting: "asyncio.Future[str]", say: Callable[[str], None]) -> None:
        """Of a submit that still is under way and gives the job's id."""

        async def learn() -> str | None:
            return await submitting

        self._start(learn(), say)

    async def finish(self) -> None:
        """Returns when all have ended; each is bounded."""
        if self._tasks:
            await asyncio.wait(self._tasks)

    def _start(self, learn: Awaitable[str | None], say: Callable[[str], None]) -> None:
        done: concurrent.futures.Future[None] = concurrent.futures.Future()
        _under_way.add(done)
        task = asyncio.ensure_future(self._withdraw(learn, say))
        self._tasks.add(task)

        def ended(task: "asyncio.Task[None]") -> None:
            self._tasks.discard(task)
            _under_way.discard(done)
            done.set_result(None)
            if not task.cancelled():
                task.exception()  # `say` may raise: its terminal is gone

        task.add_done_callback(ended)

    async def _withdraw(self, learn: Awaitable[str | None], say: Callable[[str], None]) -> None:
        job_id = None
        try:
            async with asyncio.timeout(WITHDRAW_S):
                job_id = await learn
                if job_id is not None and await self._cancel(job_id):
                    say(f"job {job_id} had been accepted; it is cancelled")
        except CumulusError as error:
            if job_id is not None:
                say(f"job {job_id} had been accepted, and cancelling it failed: {error.message}")
            elif error.status is None:
                say(f"whether the job was accepted can't be learnt: {error.message}")
        except TimeoutError:
            who = "the job" if job_id is None else f"job {job_id}"
            say(f"no answer within {WITHDRAW_S:g} s; {who} may run")
