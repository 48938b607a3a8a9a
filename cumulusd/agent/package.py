"""Fetches a job's package over the link, by ranges, and checks its hash."""

import hashlib
from collections import deque
from collections.abc import Callable
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cumulus_wire.link import SLOWEST_PACKAGE_BYTES_PER_S
from cumulusd.agent.job_folder import JobFolder
from cumulusd.agent.link import AgentLink
from cumulusd.errors import CumulusError, Unavailable
from cumulusd.tasks import sleep, wait_at_most

RANGE_BYTES = 512 << 10
WINDOW = 4  #: ranges asked for at a time
#: A package up to this size is asked for before there is a file for it: it waits in memory.
AHEAD_BYTES = 64 << 10
RANGE_TIMEOUT_S = 30.0
_RETRY_S = 0.2

_log = Logger()


async def fetch_package(
    link: AgentLink,
    clock: Any,
    *,
    job_id: str,
    sha256: str,
    size_bytes: int,
    sink: Callable[[bytes], object],
    timeout_s: float,
    asked: "Ranges | None" = None,
) -> None:
    """Gives the package to `sink`, in order. A lost link is waited for, within `timeout_s` and
    what its size allows it. `asked`: its first ranges, the caller's, which may be on their way.

    Raises Unavailable when it doesn't come, or isn't what was asked for.
    """
    digest = hashlib.sha256()
    held = 0
    why = "the link to the daemon is down"
    timeout_s += size_bytes / SLOWEST_PACKAGE_BYTES_PER_S
    ends_s = clock.seconds() + timeout_s
    while held < size_bytes:
        left_s = ends_s - clock.seconds()
        if left_s <= 0:
            raise Unavailable(
                f"the package of job {job_id} did not arrive within {timeout_s:.1f} s: "
                f"{held} of {size_bytes} B, {why}",
                job_id=job_id,
                hint="see whether the worker reaches the daemon",
            )
        if not link.is_up:
            asked = None
            await wait_at_most(clock, left_s, link.came_up.wait())
            continue
        ranges, asked = asked or Ranges(link, sha256, held, size_bytes), None
        try:
            while held < size_bytes:
                wait_s = min(RANGE_TIMEOUT_S, max(0.0, ends_s - clock.seconds()))
                answer = await wait_at_most(clock, wait_s, ranges.take())
                if answer is None:
                    raise Unavailable(f"no answer within {wait_s:g} s")
                data, total = answer
                wanted = min(RANGE_BYTES, size_bytes - held)
                if total != size_bytes or len(data) != wanted:
                    raise Unavailable(
                        f"the daemon's package {sha256} has {total} B, job {job_id} says "
                        f"{size_bytes} B",
                        job_id=job_id,
                    )
                digest.update(data)
                sink(data)
                held += len(data)
        except CumulusError as error:
            why = error.message
            if error.job_id is not None:
                raise
            _log.warn("package of job {job_id}: {why}", job_id=job_id, why=why)
            await sleep(clock, _RETRY_S)
        finally:
            ranges.cancel()
    if digest.hexdigest() != sha256:
        raise Unavailable(
            f"the package of job {job_id} arrived damaged: its SHA-256 is {digest.hexdigest()} "
            f"instead of {sha256}",
            job_id=job_id,
            hint="submit the job again; if it repeats, look at the daemon's disk",
        )


class Ranges:
    """A window of ranges asked for ahead. As a context: what is under way is forgotten then."""

    def __init__(self, link: AgentLink, sha256: str, offset: int, size_bytes: int) -> None:
        self._link = link
        self._sha256 = sha256
        self._next = offset
        self._size_bytes = size_bytes
        self._asked: deque[Deferred[tuple[bytes, int]]] = deque()

    def __enter__(self) -> "Ranges":
        return self

    def __exit__(self, *_: object) -> None:
        self.cancel()

    def ask_if_small(self) -> None:
        """Begins with a small package now; with others when they are taken."""
        if self._size_bytes <= AHEAD_BYTES and self._link.is_up:
            self._ask()

    def take(self) -> Deferred[tuple[bytes, int]]:
        """The next range's answer; the caller owns it."""
        self._ask()
        return self._asked.popleft()

    def _ask(self) -> None:
        while len(self._asked) < WINDOW and self._next < self._size_bytes:
            length = min(RANGE_BYTES, self._size_bytes - self._next)
            self._asked.append(self._link.get(self._sha256, self._next, length))
            self._next += length

    def cancel(self) -> None:
        """Forgets what is still under way."""
        for each in self._asked:
            each.addErrback(_expected)
            each.cancel()
        self._asked.clear()


def _expected(failure: Any) -> None:
    failure.trap(CancelledError, CumulusError)


async def store_package(
    link: AgentLink,
    clock: Any,
    folder: JobFolder,
    *,
    sha256: str,
    size_bytes: int,
    timeout_s: float,
    asked: Ranges,
) -> None:
    """Fetches a job's package into its folder. Raises as above."""
    with folder.create_package() as file:
        await fetch_package(
            link,
            clock,
            job_id=folder.job_id,
            sha256=sha256,
            size_bytes=size_bytes,
            sink=file.write,
            timeout_s=timeout_s,
            asked=asked,
        )
