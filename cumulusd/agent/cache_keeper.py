"""Bounds the environments of a worker's jobs, from time to time and in threads."""

from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulusd.agent.disk_room import DiskRoom
from cumulusd.agent.environments import CacheBounds, Found, Rank
from cumulusd.agent.job_folder import JobFolders
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.threads import Threads
from cumulusd.tasks import sleep

#: They are measured when something was built or used since, and at the latest after so many looks:
#: jobs may write into their environments.
LOOKS_PER_MEASURING = 60
#: How often they are measured again since something went that others shared files with.
MAX_PASSES = 20


class CacheKeeper:
    """Looks after what `folders` holds of environments."""

    _log = Logger()

    def __init__(
        self,
        clock: Any,
        folders: JobFolders,
        room: DiskRoom,
        threads: Threads,
        options: AgentOptions,
    ) -> None:
        self._clock = clock
        self._folders = folders
        self._room = room
        self._threads = threads
        self._interval_s = options.requirements_cache_interval_s
        self._bounds = CacheBounds(
            max_bytes=options.requirements_cache_max_bytes,
            owner_max_bytes=options.requirements_cache_owner_max_bytes,
        )
        self._state: tuple[object, ...] | None = None
        self._looks = 0

    async def run(self) -> None:
        """Never ends by itself."""
        while True:
            try:
                await self._look()
            except CancelledError:
                raise
            except Exception:
                # One bad look must not be the last.
                self._log.failure("bounding the environments failed, going on")
            await sleep(self._clock, self._interval_s)

    async def _look(self) -> None:
        gone: list[Found] = []
        await self._threads.run(lambda: gone.extend(self._bound()), "bounding the environments")
        for one in gone:
            if one.rank > Rank.REST:
                self._log.info(
                    "the environments' room was over its bound: {name} of {owner} is deleted,"
                    " {size_bytes} bytes",
                    name=one.name,
                    owner=one.owner,
                    size_bytes=one.size_bytes,
                )

    def _bound(self) -> list[Found]:
        """Blocking, for a thread."""
        lacking_bytes = self._room.lacking_bytes()
        state = self._folders.caches.state()
        self._looks += 1
        idle = state == self._state and self._looks % LOOKS_PER_MEASURING != 0
        if idle and not lacking_bytes:
            return []
        gone: list[Found] = []
        for _ in range(MAX_PASSES):
            passed = self._folders.caches.bound(self._bounds, lacking_bytes)
            if not passed:
                break
            gone += passed
            self._folders.empty_trash()
            lacking_bytes = self._room.lacking_bytes()
        self._state = self._folders.caches.state() if gone else state
        return gone
