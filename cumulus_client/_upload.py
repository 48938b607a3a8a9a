"""Uploading packages: one upload at a time per package within a client, together with others."""

import asyncio
from collections.abc import Mapping
from typing import Any, Protocol

from cumulus_client.connection import backoff_s
from cumulus_client.exceptions import Conflict, ServerError
from cumulus_client.packaging import Package
from cumulus_wire import uris

_MAX_CHUNK_BYTES = 512 << 10
#: Answers in a row that bring the upload no further, before it is given up.
MAX_STALLED = 20


class Caller(Protocol):
    """What an upload needs of a connection."""

    async def call(self, procedure: str, kwargs: Mapping[str, Any]) -> dict[str, Any]: ...


class Uploads:
    """The uploads of one client. Used on its event loop."""

    def __init__(self, connection: Caller) -> None:
        self._connection = connection
        self._under_way: dict[str, tuple[asyncio.Lock, int]] = {}  # sha256 -> lock, its users

    async def ensure(self, package: Package) -> None:
        """Returns when the daemon holds the package. Raises the daemon's refusals, ServerError
        when the upload makes no progress.

        Another process of the same owner may upload the same package at the same time: each goes
        on where the daemon says, so both get there.
        """
        key = package.sha256
        lock, users = self._under_way.get(key, (asyncio.Lock(), 0))
        self._under_way[key] = (lock, users + 1)
        try:
            async with lock:
                await self._upload(package)
        finally:
            lock, users = self._under_way.pop(key)
            if users > 1:
                self._under_way[key] = (lock, users - 1)

    async def _upload(self, package: Package) -> None:
        key = {"sha256": package.sha256, "size_bytes": package.size_bytes}
        furthest, stalled = -1, 0
        while True:
            state = await self._connection.call(uris.PACKAGE_CHECK, key)
            if state.get("present"):
                return
            chunk_bytes = max(1, min(int(state.get("chunk_bytes") or 0), _MAX_CHUNK_BYTES))
            offset = int(state["offset"])
            try:
                while offset < package.size_bytes:
                    data = package.data[offset : offset + chunk_bytes]
                    answer = await self._connection.call(
                        uris.PACKAGE_PUT, {"sha256": package.sha256, "offset": offset, "data": data}
                    )
                    held = int(answer["offset"])
                    # After a loss the daemon may hold less (it restarted) or more (the answer was
                    # lost, or somebody else's upload came first).
                    stalled = 0 if held > offset else stalled + 1
                    _check_progress(package, held, stalled)
                    furthest, offset = max(furthest, held), held
                await self._connection.call(uris.PACKAGE_COMMIT, key)
                return
            except Conflict as conflict:
                held = conflict.details.get("offset", -1)
                if not isinstance(held, int):
                    raise
                # Somebody else uploads the same bytes, or is having them checked.
                stalled = 0 if held > furthest else stalled + 1
                _check_progress(package, held, stalled)
                furthest = max(furthest, held)
            await asyncio.sleep(backoff_s(stalled, first_s=0.05, cap_s=1.0))


def _check_progress(package: Package, held: int, stalled: int) -> None:
    if stalled > MAX_STALLED or not 0 <= held <= package.size_bytes:
        raise ServerError(
            f"uploading the package of {package.name!r} makes no progress: the daemon holds "
            f"{held} of {package.size_bytes} B",
            hint="see the daemon's log; its disk may be full",
        )
