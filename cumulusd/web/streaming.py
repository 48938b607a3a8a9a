"""An answer that is read while it is sent: as fast as its reader takes it, never ahead."""

from collections.abc import Iterator
from typing import Any

from twisted.internet.interfaces import IPullProducer
from twisted.logger import Logger
from twisted.web.server import Request
from zope.interface import implementer

from cumulusd.errors import CumulusError

#: A reader that takes nothing for so long is hung up on.
STALLED_S = 60.0


@implementer(IPullProducer)
class StreamedBody:
    """Writes the pieces of a body to a request whose head is set; ends it after the last one."""

    _log = Logger()

    def __init__(self, request: Request, pieces: Iterator[bytes]) -> None:
        self._request = request
        self._channel: Any = request.channel
        self._pieces: Iterator[bytes] | None = pieces

    def start(self) -> None:
        """Begins; the transport asks for each piece when it has sent the one before."""
        self._request.notifyFinish().addErrback(self._gone)
        # The channel's own deadline is for requests that don't come.
        self._channel.setTimeout(STALLED_S)
        self._request.registerProducer(self, False)  # type: ignore[no-untyped-call]

    def resumeProducing(self) -> None:
        """One piece more."""
        if self._pieces is None:
            return
        try:
            data = next(self._pieces, None)
        except CumulusError as error:
            # The head is sent: only a broken end can tell that this is not all.
            self._log.warn("an answer could not be read to its end: {why}", why=error.message)
            self._end()
            self._channel.forceAbortClient()
            return
        except Exception:
            self._log.failure("an answer could not be read to its end")
            self._end()
            self._channel.forceAbortClient()
            return
        self._channel.resetTimeout()
        if data is None:
            self._end()
            self._request.finish()  # type: ignore[no-untyped-call]
        elif data:
            self._request.write(data)  # type: ignore[no-untyped-call]

    def stopProducing(self) -> None:
        """The connection is gone."""
        self._pieces = None

    def _end(self) -> None:
        self._pieces = None
        self._request.unregisterProducer()  # type: ignore[no-untyped-call]

    def _gone(self, failure: object) -> None:
        self._pieces = None
