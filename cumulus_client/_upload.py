"""Uploading packages: one upload at a time per package within a client, together with others."""

import asyncio
from collections import deque
from collections.abc import Mapping
from typing import Any, Protocol

from cumulus_client.connection import backoff_s
from cumulus_client.exceptions import Conflict, ServerError
from cumulus_client.packaging import Package
from cumulus_wire import uris

_MAX_CHUNK_BYTES = 512 << 10
#: Pieces on their way at a time, at most: what an upload holds in memory here and at the daemon.
_MAX_WINDOW = 4
#: Pieces read at a time from where the package lies.
_READ_AHEAD = 8
#: A piece that takes longer has a slow line before it.
_QUICK_S = 1.0
#: Answers in a row that bring the upload no further, before it is given up.
MAX_STALLED = 20
#: Packages that are remembered as the daemon's: the last ones.
MAX_KNOWN = 1_000
#: So long a submit waits for another one that carries its package; then it brings its own.
CARRY_WAIT_S = 15.0


class Caller(Protocol):
    """What an upload needs of a connection."""

    async def call(self, procedure: str, kwargs: Mapping[str, Any]) -> dict[str, Any]: ...


class Uploads:
    """The uploads of one client. Used on its event loop."""

    def __init__(self, connection: Caller) -> None:
        self._connection = connection
        self._under_way: dict[str, tuple[asyncio.Lock, int]] = {}  # sha256 -> lock, its users
        self._known: dict[str, None] = {}  # sha256 of what the daemon has held
        self._carried: dict[str, asyncio.Future[None]] = {}  # sha256 -> its submit is answered
        #: The daemon takes a small package beside its first job.
        self.takes_code = True

    async def ensure(self, package: Package, *, ask: bool = True) -> None:
        """Returns when the daemon holds the package. Raises the daemon's refusals, ServerError
        when the upload makes no progress. Without `ask` it is enough that it held it before, which
        it does for a while: who goes by that asks when it says otherwise.

        Another process of the same owner may upload the same package at the same time: each goes
        on where the daemon says, so both get there.
        """
        key = package.sha256
        if not ask and key in self._known:
            return
        lock, users = self._under_way.get(key, (asyncio.Lock(), 0))
        self._under_way[key] = (lock, users + 1)
        try:
            async with lock:
                if ask or key not in self._known:
                    self.forget(package)
                    await self._upload(package)
                    self._know(package)
        finally:
            lock, users = self._under_way.pop(key)
            if users > 1:
                self._under_way[key] = (lock, users - 1)

    async def carry(self, package: Package) -> bytes | None:
        """The package's bytes, to go with a submit, of whose outcome `carried` has to be told;
        None: the daemon has held it before. While a submit carries it, others wait for that, a
        while: it may never be answered, and their callers are told when theirs isn't."""
        key = package.sha256
        while key not in self._known and (carrying := self._carried.get(key)) is not None:
            answered, _ = await asyncio.wait([carrying], timeout=CARRY_WAIT_S)
            if not answered and self._carried.get(key) is carrying:
                self._go_on(key)
        if key in self._known:
            return None
        self._carried[key] = asyncio.get_running_loop().create_future()
        return package.whole()

    def carried(self, package: Package, *, taken: bool) -> None:
        """The submit with the package's bytes was answered, or given up. `taken`: the daemon holds
        them."""
        if taken:
            self._know(package)
        self._go_on(package.sha256)

    def forget(self, package: Package) -> None:
        """The daemon doesn't hold it any more."""
        self._known.pop(package.sha256, None)

    def _go_on(self, key: str) -> None:
        """Who waits for the submit that carries it looks again."""
        carrying = self._carried.pop(key, None)
        if carrying is not None:
            carrying.set_result(None)

    def _know(self, package: Package) -> None:
        self._known[package.sha256] = None
        if len(self._known) > MAX_KNOWN:
            del self._known[next(iter(self._known))]

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
                    pieces = _Pieces(self._connection, package, offset, chunk_bytes)
                    try:
                        while (answer := await pieces.answer()) is not None:
                            # After a loss the daemon may hold less (it restarted) or more (the
                            # answer was lost, or somebody else's upload came first).
                            expected, held = answer
                            stalled = 0 if held > offset else stalled + 1
                            _check_progress(package, held, stalled)
                            furthest, offset = max(furthest, held), held
                            if held != expected:
                                break
                    finally:
                        await pieces.end()
                await self._connection.call(uris.PACKAGE_COMMIT, key)
                return
            except Conflict as conflict:
                said = conflict.details.get("offset")
                if type(said) is not int:
                    raise  # it is about something else
                held = said
                # Somebody else uploads the same bytes, or is having them checked.
                stalled = 0 if held > furthest else stalled + 1
                _check_progress(package, held, stalled)
                furthest = max(furthest, held)
            await asyncio.sleep(backoff_s(stalled, first_s=0.05, cap_s=1.0))


class Window:
    """How many pieces are on their way at a time: more where they are answered quickly, one where
    the line is slow, so that each has the time for an answer to itself."""

    def __init__(self) -> None:
        self.size = 1

    def answered(self, took_s: float) -> None:
        """One piece was, so long after it was sent."""
        self.size = min(self.size + 1, _MAX_WINDOW) if took_s < _QUICK_S else 1


class _Pieces:
    """The pieces of a package from an offset on, sent ahead within a window."""

    def __init__(self, connection: Caller, package: Package, offset: int, chunk_bytes: int) -> None:
        self._connection = connection
        self._package = package
        self._next = offset
        self._chunk_bytes = chunk_bytes
        self._window = Window()
        self._ahead, self._ahead_from = b"", offset
        self._sent: deque[tuple[asyncio.Task[dict[str, Any]], int, float]] = deque()

    async def answer(self) -> tuple[int, int] | None:
        """(what the daemon should hold, what it says that it holds) after the next piece, in their
        order; None: there is none."""
        clock = asyncio.get_running_loop().time
        while self._next < self._package.size_bytes and len(self._sent) < self._window.size:
            data = await self._read()
            put = {"sha256": self._package.sha256, "offset": self._next, "data": data}
            self._next += len(data)
            call = asyncio.ensure_future(self._connection.call(uris.PACKAGE_PUT, put))
            self._sent.append((call, self._next, clock()))
        if not self._sent:
            return None
        call, expected, sent_at = self._sent[0]
        answer = await call
        self._sent.popleft()
        self._window.answered(clock() - sent_at)
        return expected, int(answer["offset"])

    async def end(self) -> None:
        """Nothing of it is under way any more."""
        calls = [call for call, *_ in self._sent]
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)

    async def _read(self) -> bytes:
        if self._package.in_memory:
            return self._package.read(self._next, self._chunk_bytes)
        at = self._next - self._ahead_from
        if at >= len(self._ahead):
            # Several pieces at a time: to go through a thread costs as much as to send one.
            self._ahead_from, at = self._next, 0
            self._ahead = await asyncio.to_thread(
                self._package.read, self._next, _READ_AHEAD * self._chunk_bytes
            )
        return self._ahead[at : at + self._chunk_bytes]


def _check_progress(package: Package, held: int, stalled: int) -> None:
    if stalled > MAX_STALLED or not 0 <= held <= package.size_bytes:
        raise ServerError(
            f"uploading the package of {package.name!r} makes no progress: the daemon holds "
            f"{held} of {package.size_bytes} B",
            hint="see the daemon's log; its disk may be full",
        )
