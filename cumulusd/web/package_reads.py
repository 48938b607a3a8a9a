"""Ranges of packages that one agent asks for: one after another, as fast as it reads."""

from collections import deque
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from cumulus_wire import link as wire
from cumulusd.errors import CumulusError, Unavailable
from cumulusd.tasks import Signal, wait_at_most


class PackageReads:
    """What is asked for waits in bounds; each is answered or refused, until the link is lost."""

    _log = Logger()

    def __init__(
        self,
        *,
        read: Callable[[str, int, int], Coroutine[Any, Any, tuple[bytes, int]]],
        tell: Callable[[Mapping[str, Any]], None],
        write: Callable[[bytes], None],
        start: Callable[[Coroutine[Any, Any, None]], object],
        clock: Any,
        max_gets: int,
        timeout_s: float,
    ) -> None:
        """`read(sha256, offset, length)`: (that range, size of the whole); raises CumulusError.
        `tell` sends a header alone, `write` an encoded message.
        `start` runs work in the background, until the link is lost."""
        self._read_range = read
        self._tell = tell
        self._write = write
        self._clock = clock
        self._start = start
        self._max_gets = max_gets
        self._timeout_s = timeout_s
        self._gets: deque[tuple[int, str, int, int]] = deque()
        self._serving = False
        self._paused = False
        self._writable = Signal()

    def asked(self, header: Mapping[str, Any]) -> None:
        """It asks for a range. Raises LinkError."""
        number, length = wire.number(header, "id"), wire.number(header, "length")
        wanted = (number, wire.text(header, "sha256"), wire.number(header, "offset"), length)
        if not 0 < length <= wire.MAX_BODY_BYTES:
            self._refuse(number, f"a range is 1 to {wire.MAX_BODY_BYTES} bytes")
        elif len(self._gets) >= self._max_gets:
            self._refuse(number, f"more than {self._max_gets} ranges asked for at a time")
        else:
            self._gets.append(wanted)
            if not self._serving:
                self._serving = True
                self._start(self._serve())

    def pause(self) -> None:
        """It doesn't read as fast as it is written to."""
        self._paused = True

    def go_on(self) -> None:
        """It reads again."""
        self._paused = False
        self._writable.fire()

    def lost(self) -> None:
        """The link is down: nobody waits for an answer."""
        self._gets.clear()

    async def _serve(self) -> None:
        try:
            while self._gets:
                while self._paused:
                    await self._writable.wait()
                number, sha256, offset, length = self._gets.popleft()
                try:
                    data, total = await self._read(sha256, offset, length)
                except CumulusError as error:
                    self._refuse(number, error.message)
                    continue
                self._write(wire.encode({"t": "part", "id": number, "total": total}, data))
        finally:
            self._serving = False

    async def _read(self, sha256: str, offset: int, length: int) -> tuple[bytes, int]:
        reading = Deferred.fromCoroutine(self._read_range(sha256, offset, length))
        try:
            answer = await wait_at_most(self._clock, self._timeout_s, reading)
        except (CancelledError, CumulusError):
            raise
        except Exception as error:
            self._log.failure("package {sha256} can't be read", sha256=sha256)
            raise Unavailable(f"package {sha256} can't be read") from error
        if answer is None:
            raise Unavailable(f"package {sha256} could not be read within {self._timeout_s:g} s")
        return answer

    def _refuse(self, number: int, message: str) -> None:
        self._tell({"t": "refused", "id": number, "message": message[:2000]})
