"""Removes from S3 what jobs left there, when they were cancelled, deleted or pruned."""

import re
from collections.abc import Callable
from enum import Enum
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.errors import CumulusError
from cumulusd.s3.access import Access
from cumulusd.s3.client import S3Client
from cumulusd.tasks import Signal, Tasks, sleep

#: What events missed (a kill, an S3 that was away) is found by looking, so often.
SWEEP_INTERVAL_S = 3600.0
#: Removals that wait; what comes beyond is left to the next look.
MAX_WAITING = 10_000
_FIRST_PAUSE_S = 1.0
_MAX_PAUSE_S = 60.0
_TRIES = 5
#: Pages of a thousand keys that one look takes at most; and that are removed of one job before it
#: is the others' turn.
_MAX_PAGES = 1000
_PAGES_A_TURN = 3
_JOB_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")


class Fate(Enum):
    """What is to become of a job's objects; the values are places below the job's prefix."""

    KEEP = None
    CHECKPOINTS = "checkpoints/"
    ALL = ""


class Janitor:
    """Removes one job's objects after the other. A failure is tried again, then left to the next
    look, which compares what is there with the jobs there are."""

    _log = Logger()

    def __init__(
        self, client: S3Client, access: Access, clock: Any, fate: Callable[[str], Fate]
    ) -> None:
        """`fate(job id)`: what is to become of what that job has there."""
        self._client = client
        self._access = access
        self._clock = clock
        self._fate = fate
        self._tasks = Tasks()
        self._waiting: dict[str, int] = {}  #: job id -> failures so far
        self._news = Signal()

    def start(self) -> None:
        """Begins to remove, and to look."""
        self._tasks.start(self._work(), "removing from S3")
        self._tasks.start(self._look(), "looking through S3")

    async def stop(self) -> None:
        """Ends it, and closes the connections."""
        await self._tasks.stop()
        await self._client.close()

    def changed(self, job_id: str) -> None:
        """The job has ended, or is no more."""
        if self._fate(job_id) is not Fate.KEEP and len(self._waiting) < MAX_WAITING:
            self._waiting.setdefault(job_id, 0)
            self._news.fire()

    async def sweep(self) -> None:
        """One look: puts into the line what nobody keeps. Raises CumulusError."""
        page: str | None = None
        for _ in range(_MAX_PAGES):
            found = await self._client.listing(self._access.prefix, folders=True, page=page)
            for prefix in found.prefixes:
                job_id = prefix.removeprefix(self._access.prefix).removesuffix("/")
                # What isn't named as jobs are, somebody else put there.
                if _JOB_ID.fullmatch(job_id):
                    await self._look_at(job_id)
            page = found.next_page
            if page is None:
                return

    # -- inside

    async def _look_at(self, job_id: str) -> None:
        fate = self._fate(job_id)
        if fate is Fate.CHECKPOINTS:
            # It stays in history for long: only if there is something.
            place = self._access.job_prefix(job_id) + Fate.CHECKPOINTS.value
            if not (await self._client.listing(place)).keys:
                return
        if fate is not Fate.KEEP:
            self.changed(job_id)

    async def _look(self) -> None:
        while True:
            try:
                await self.sweep()
            except CumulusError as error:
                self._log.warn("S3 can't be looked through now: {why}", why=error.message)
            except CancelledError:
                raise
            except Exception:
                self._log.failure("looking through S3 failed, going on")
            await sleep(self._clock, SWEEP_INTERVAL_S)

    async def _work(self) -> None:
        pause_s = _FIRST_PAUSE_S
        while True:
            if not self._waiting:
                await self._news.wait()
            job_id = next(iter(self._waiting))
            failures = self._waiting.pop(job_id)
            try:
                if not await self._remove(job_id):
                    self._waiting.setdefault(job_id, 0)  # last in the line
                pause_s = _FIRST_PAUSE_S
                continue
            except CumulusError as error:
                self._failed(job_id, failures + 1, error.message)
            except CancelledError:
                raise
            except Exception:
                self._log.failure("removing from S3 failed, going on", job_id=job_id)
            await sleep(self._clock, pause_s)
            pause_s = min(_MAX_PAUSE_S, pause_s * 2)

    def _failed(self, job_id: str, failures: int, why: str) -> None:
        if failures < _TRIES:
            self._waiting[job_id] = failures
            level = self._log.info
        else:
            level = self._log.error
        level(
            "job {job_id}: what it left on S3 isn't removed yet: {why}; tried again {when}",
            job_id=job_id,
            why=why,
            when="soon" if failures < _TRIES else "at the next look, within the hour",
        )

    async def _remove(self, job_id: str) -> bool:
        """Some of it; true when nothing is left."""
        place = self._fate(job_id).value
        if place is None:
            return True  # it came back meanwhile
        prefix = self._access.job_prefix(job_id) + place
        removed = 0
        done = False
        for _ in range(_PAGES_A_TURN):
            uploads = await self._client.uploads(prefix)
            for key, upload_id in uploads:
                await self._client.abort(key, upload_id)
            keys = (await self._client.listing(prefix)).keys
            done = not keys and not uploads
            if done:
                break
            for key in keys:
                await self._client.delete(key)
            removed += len(keys)
        if removed:
            self._log.info(
                "job {job_id}: {count} object(s) removed from S3",
                job_id=job_id,
                count=removed,
                prefix=prefix,
            )
        return done
