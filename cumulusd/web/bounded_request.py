"""Requests whose bodies are judged by their headers, and taken as they come or refused at once."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import unquote

import attrs
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.server import Request

from cumulusd.errors import CumulusError
from cumulusd.peers import is_secure
from cumulusd.web.answers import Answer, error_answer, unknown_error
from cumulusd.web.asked import Head
from cumulusd.web.bodies import Body, Flow

#: Who was refused may still be sending, and would not see the answer if the connection were cut: so
#: what comes is dropped for as long as it keeps coming, at most so long.
LINGER_IDLE_S = 1.0
LINGER_S = 10.0


class Doorkeeper(Protocol):
    """Who judges bodies: the site."""

    clock: Any

    def admit(self, head: Head) -> None:
        """Judges a request before anything of its body. Raises CumulusError: it isn't answered."""

    def page_headers(self, head: Head) -> Mapping[str, str]:
        """What a browser is told of whose pages may read the answer."""

    def open_body(self, head: Head, length: int | None, flow: Flow) -> Body | None:
        """What takes the body; None: twisted's own machinery, which keeps it in memory. Raises
        CumulusError: it isn't read."""

    def forget_body(self, body: Body) -> None:
        """It has been answered, or lost."""


class BoundedRequest(Request):
    """A request whose body goes where its headers say, or is refused by them."""

    _log = Logger()
    refused = False
    body: Body | None = None
    _linger_until = 0.0

    def setHeader(self, name: Any, value: Any) -> None:
        """As ever, but the server's version is nobody's business."""
        if name.lower() in (b"server", "server"):
            name, value = b"server", b"cumulus"
        super().setHeader(name, value)  # type: ignore[no-untyped-call]

    def head(self) -> Head:
        """What is asked. The body needn't be here."""
        channel: Any = self.channel
        method = getattr(channel, "_command", None) or self.method
        uri = getattr(channel, "_path", None) or self.uri
        return Head(
            method=method.decode("ascii", "replace"),
            path=unquote(uri.partition(b"?")[0].decode("ascii", "replace"), errors="replace"),
            query={
                key.decode("utf-8", "replace"): [text.decode("utf-8", "replace") for text in texts]
                for key, texts in (getattr(self, "args", None) or {}).items()
            },
            authorization=self._header("authorization"),
            content_type=self._header("content-type"),
            accept=self._header("accept") or "",
            last_event_id=self._header("last-event-id"),
            if_none_match=self._header("if-none-match"),
            origin=self._header("origin"),
            hosts=self._headers("host"),
            preflight=self.requestHeaders.hasHeader("access-control-request-method"),
            secure=is_secure(getattr(channel, "transport", None)),
        )

    def _header(self, name: str) -> str | None:
        values = self._headers(name)
        return values[-1] if values else None

    def _headers(self, name: str) -> tuple[str, ...]:
        # As bytes: what is no UTF-8 can't be had as text.
        values = self.requestHeaders.getRawHeaders(name.encode()) or ()
        return tuple(value.decode("utf-8", "replace") for value in values)

    def gotLength(self, length: int | None) -> None:
        """All headers are here, the body is not. `length` None: chunked, so unknown."""
        try:
            head = self.head()
            self._keeper.admit(head)
            if length != 0:
                self.body = self._keeper.open_body(head, length, self)
                if self.body is not None:
                    length = 0  # twisted keeps nothing of it
        except CumulusError as error:
            self.fail(error)
            length = 0
        except Exception:
            self.fail(self._unknown("judging a request"))
            length = 0
        super().gotLength(length)  # type: ignore[no-untyped-call]

    def handleContentChunk(self, data: bytes) -> None:
        """Body bytes; those of a refused request that were under way are dropped."""
        if self.refused:
            if self._keeper.clock.seconds() > self._linger_until:
                self.hang_up()
        elif self.body is None:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]
        else:
            try:
                self.body.received(data)
            except CumulusError as error:
                self.fail(error)
            except Exception:
                self.fail(self._unknown("taking a body"))

    def process(self) -> None:
        """The request is whole."""
        if self.refused:
            self.hang_up()
        else:
            super().process()  # type: ignore[no-untyped-call]

    def finish(self) -> None:
        """The answer is whole. Twisted would wait for ever for who asked for the connection's end
        and doesn't read: it is waited for as for any other that says nothing."""
        channel: Any = self.channel
        super().finish()  # type: ignore[no-untyped-call]
        if channel is not None and not channel.persistent and channel.transport is not None:
            channel.setTimeout(channel.factory.timeOut)

    def connectionLost(self, reason: Failure) -> None:
        """The other end is gone."""
        self.forget_body()
        super().connectionLost(reason)  # type: ignore[no-untyped-call]

    def forget_body(self) -> None:
        """What is left of it, and of what it was to become, goes."""
        if self.body is not None:
            body, self.body = self.body, None
            self._keeper.forget_body(body)

    # -- the body's side: Flow

    def pause(self) -> None:
        """Nothing more is read for now."""
        channel: Any = self.channel
        if channel is not None:
            channel.transport.pauseProducing()

    def resume(self) -> None:
        """More is read. Our slowness isn't the sender's."""
        channel: Any = self.channel
        if channel is not None and channel.transport is not None:
            channel.resetTimeout()
            channel.transport.resumeProducing()

    def fail(self, error: CumulusError) -> None:
        """Refuses the request, once: an answer now, and nothing more is taken of it."""
        channel: Any = self.channel
        # Who waits for the answer to a whole request gets it from there.
        is_whole = getattr(channel, "_handlingRequest", True)
        if self.refused or channel is None or is_whole:
            return
        self.refused = True
        self.forget_body()
        answer = error_answer(error)
        headers = {**answer.headers, **self._keeper.page_headers(self.head())}
        channel.transport.write(_as_bytes(attrs.evolve(answer, headers=headers)))
        if self.requestHeaders.hasHeader("expect"):
            self.hang_up()  # it waits to be asked for the body
            return
        self._linger_until = self._keeper.clock.seconds() + LINGER_S
        channel.setTimeout(LINGER_IDLE_S)
        channel.transport.resumeProducing()

    @property
    def _keeper(self) -> Doorkeeper:
        keeper: Doorkeeper = self.channel.factory
        return keeper

    def hang_up(self) -> None:
        """Closes the connection, when what was written is sent."""
        if self.channel is not None:
            self.channel.loseConnection()  # type: ignore[no-untyped-call]

    def _unknown(self, what: str) -> CumulusError:
        failure = Failure()  # type: ignore[no-untyped-call]
        return unknown_error(self._log, failure, what, None)


def _as_bytes(answer: Answer) -> bytes:
    """Past the request's own machinery, which answers only when the body has been read."""
    extra = "".join(f"{name}: {text}\r\n" for name, text in answer.headers.items())
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\nServer: cumulus\r\n"
        f"Connection: close\r\nContent-Type: {answer.content_type}\r\n"
        f"Content-Length: {len(answer.body)}\r\n{extra}\r\n"
    )
    return head.encode() + answer.body
