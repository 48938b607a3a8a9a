"""Which outputs the daemon has asked for, and what is ready to be sent of them."""

from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from twisted.internet.defer import CancelledError
from twisted.logger import Logger

from cumulus_wire import link as wire
from cumulus_wire.outputs import MAX_NAME_BYTES
from cumulusd.errors import CumulusError, NotFound
from cumulusd.tasks import Tasks

#: Ranges asked for and not yet answered. More are refused: the daemon asks for fewer.
MAX_FETCHES = 256
#: Ranges that are read ahead of what the link takes.
_READ_AHEAD = 2

#: (job id, attempt, name, offset, length) -> (bytes, the file's size). Raises CumulusError;
#: NotFound: asking again is no use.
ReadOutput = Callable[[str, int, str, int, int], Awaitable[tuple[bytes, int]]]


class OutputSender:
    """Answers `fetch`, in order, and reads no further than the link takes. `wake` is called when
    there is something to send."""

    _log = Logger()

    def __init__(self, *, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._read: ReadOutput | None = None
        self._asked: deque[tuple[int, str, int, str, int, int]] = deque()
        self._ready: deque[bytes] = deque()
        self._reading = False
        self._connections = 0  #: how many there have been: an answer is for the one that asked
        self._tasks = Tasks()

    def serve(self, read: ReadOutput) -> None:
        """From now on outputs are read by `read`."""
        self._read = read

    async def stop(self) -> None:
        """Reads nothing more."""
        self._read = None
        self.disconnected()
        await self._tasks.stop()

    def disconnected(self) -> None:
        """Who asked is gone, and asks again."""
        self._connections += 1
        self._asked.clear()
        self._ready.clear()

    def fetch(self, header: Mapping[str, Any]) -> None:
        """The daemon asks for a range. Raises LinkError."""
        number = wire.number(header, "id")
        asked = (
            number,
            wire.text(header, "job"),
            wire.number(header, "attempt"),
            wire.text(header, "name", MAX_NAME_BYTES),
            wire.number(header, "offset"),
            wire.number(header, "length"),
        )
        if not 0 < asked[5] <= wire.MAX_BODY_BYTES:
            raise wire.LinkError(f"a range is 1 to {wire.MAX_BODY_BYTES} bytes")
        if len(self._asked) >= MAX_FETCHES:
            raise wire.LinkError(f"more than {MAX_FETCHES} ranges of outputs at a time")
        self._asked.append(asked)
        self._go_on()

    def next_message(self) -> bytes | None:
        """What is ready; None: nothing now."""
        message = self._ready.popleft() if self._ready else None
        self._go_on()
        return message

    def _go_on(self) -> None:
        if not self._reading and self._asked and len(self._ready) < _READ_AHEAD:
            self._reading = True
            self._tasks.start(self._work(), "reading outputs")

    async def _work(self) -> None:
        try:
            while self._asked and len(self._ready) < _READ_AHEAD:
                asked, connection = self._asked.popleft(), self._connections
                message = await self._answer(*asked)
                if connection == self._connections:
                    self._ready.append(message)
                    self._wake()
        finally:
            self._reading = False

    async def _answer(
        self, number: int, job_id: str, attempt: int, name: str, offset: int, length: int
    ) -> bytes:
        try:
            if self._read is None:
                return _refusal(number, "the agent is stopping", gone=False)
            data, total = await self._read(job_id, attempt, name, offset, length)
        except CancelledError:
            raise
        except CumulusError as error:
            return _refusal(number, error.message, gone=isinstance(error, NotFound))
        except Exception as error:
            # The daemon must not wait for an answer that doesn't come.
            self._log.failure(
                "output {name} of job {job_id} can't be read", name=name, job_id=job_id
            )
            return _refusal(number, f"it can't be read: {error}", gone=False)
        return wire.encode({"t": "output", "id": number, "total": total}, data)


def _refusal(number: int, message: str, *, gone: bool) -> bytes:
    return wire.encode({"t": "no_output", "id": number, "message": message[:250], "gone": gone})
