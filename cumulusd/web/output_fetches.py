"""Ranges of outputs that the daemon has asked an agent for, over the agent's link."""

from collections.abc import Callable, Mapping
from typing import Any

from twisted.internet.defer import Deferred

from cumulus_wire import link as wire
from cumulusd.errors import NotFound, Unavailable


class OutputFetches:
    """Those of one link. `tell` sends a message's header."""

    def __init__(self, tell: Callable[[Mapping[str, Any]], None]) -> None:
        self._tell = tell
        self._waiting: dict[int, Deferred[tuple[bytes, int]]] = {}
        self._last_id = 0
        self._lost = False

    def fetch(
        self, job_id: str, attempt: int, name: str, offset: int, length: int
    ) -> Deferred[tuple[bytes, int]]:
        """(bytes, the file's size now). NotFound: there is no such output any more; Unavailable:
        not now. Cancelling it forgets the answer; the caller bounds the wait."""
        self._last_id += 1
        number = self._last_id
        answer: Deferred[tuple[bytes, int]] = Deferred(lambda _: self._forget(number))
        if self._lost:
            answer.errback(Unavailable("the link to the agent is down"))
            return answer
        self._waiting[number] = answer
        header = {"t": "fetch", "id": number, "job": job_id, "attempt": attempt, "name": name}
        self._tell({**header, "offset": offset, "length": length})
        return answer

    def received(self, header: Mapping[str, Any], body: bytes) -> None:
        """An `output` or `no_output`. Raises LinkError."""
        number = wire.number(header, "id")
        if header["t"] == "output":
            total = wire.number(header, "total")
            answer = self._waiting.pop(number, None)
            if answer is not None:
                answer.callback((body, total))
            return
        message = wire.text(header, "message", wire.MAX_HEADER_BYTES)
        answer = self._waiting.pop(number, None)
        if answer is not None:
            error = NotFound(message) if header.get("gone") is True else Unavailable(message)
            answer.errback(error)

    def lost(self) -> None:
        """The link is down: nothing that was asked for comes."""
        self._lost = True
        while self._waiting:
            # One by one: who hears of the first may cancel the others.
            _, answer = self._waiting.popitem()
            answer.errback(Unavailable("the link to the agent went down"))

    def _forget(self, number: int) -> None:
        self._waiting.pop(number, None)
