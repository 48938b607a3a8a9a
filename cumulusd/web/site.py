"""The daemon's one HTTP site: bounded requests, the paths of `rest`, and the two WebSockets.

Requests are judged by their headers before a byte of their body is read: this version takes none,
and small ones are only tolerated so that the refusal can be told.
"""

import time
from collections.abc import Callable
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

from twisted.logger import Logger
from twisted.web import http
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from cumulusd.errors import CumulusError, TooLarge
from cumulusd.identity import Authenticator
from cumulusd.metrics import Metrics
from cumulusd.web.enroll import MAX_ENROLL_BYTES, PATH, Enroll, EnrollResource
from cumulusd.web.rest import Answer, Relay, Rest, error_answer
from cumulusd.web.streaming import StreamedBody

#: Above this, a body is refused from its header.
MAX_BODY_BYTES = 16 * 1024
#: A connection that says nothing for so long is closed; WebSockets have their own pings.
IDLE_TIMEOUT_S = 60.0
_WEBSOCKETS = (b"ws", b"agent")


def make_site(
    *,
    relay: Relay,
    authenticator: Authenticator,
    metrics: Metrics,
    ws: IResource,
    agent: IResource,
    enroll: Enroll | None = None,
    wall_clock: Callable[[], float] = time.time,
) -> Site:
    """The site to listen with. `ws` and `agent` are the resources at `/ws` and `/agent`; they
    authenticate for themselves. `enroll`: what `POST /provision/enroll` does; None: there is no
    pool to enrol in."""
    rest = Rest(relay=relay, authenticator=authenticator, metrics=metrics, wall_clock=wall_clock)
    return CumulusSite(rest, {b"ws": ws, b"agent": agent}, enroll)


class BoundedRequest(Request):
    """A request whose body is refused by its header when it is too large, or nobody's."""

    refused = False

    def setHeader(self, name: Any, value: Any) -> None:
        """As ever, but the server's version is nobody's business."""
        if name.lower() in (b"server", "server"):
            name, value = b"server", b"cumulus"
        super().setHeader(name, value)  # type: ignore[no-untyped-call]

    def gotLength(self, length: int | None) -> None:
        """All headers are here, the body is not. `length` None: chunked, so unknown."""
        if length != 0:
            site: CumulusSite = self.channel.factory
            answer = site.refusal(length, self.authorization(), self._asked_path())
            if answer is not None:
                self._refuse(answer)
                length = 0
        super().gotLength(length)  # type: ignore[no-untyped-call]

    def _asked_path(self) -> bytes:
        """The path, before the request is whole: the channel has read it by now."""
        path = getattr(self.channel, "_path", None)
        return path.partition(b"?")[0] if isinstance(path, bytes) else b""

    def authorization(self) -> str | None:
        """The Authorization header."""
        values = self.requestHeaders.getRawHeaders("authorization")
        return values[-1] if values else None

    def handleContentChunk(self, data: bytes) -> None:
        """Body bytes; those of a refused request that were under way are dropped."""
        if not self.refused:
            super().handleContentChunk(data)  # type: ignore[no-untyped-call]

    def process(self) -> None:
        """The request is whole."""
        if not self.refused:
            super().process()  # type: ignore[no-untyped-call]

    def _refuse(self, answer: Answer) -> None:
        self.refused = True
        phrase = HTTPStatus(answer.status).phrase
        extra = "".join(f"{name}: {text}\r\n" for name, text in answer.headers.items())
        head = (
            f"HTTP/1.1 {answer.status} {phrase}\r\nServer: cumulus\r\nConnection: close\r\n"
            f"Content-Type: {answer.content_type}\r\nContent-Length: {len(answer.body)}\r\n"
            f"{extra}\r\n"
        )
        # Past the request's own machinery, which answers only when the body has been read.
        channel: Any = self.channel
        channel.transport.write(head.encode() + answer.body)
        channel.loseConnection()


class CumulusSite(Site):
    """Site with our requests, without tracebacks in answers, and logging as events."""

    noisy = False
    displayTracebacks = False
    _log = Logger()

    def __init__(
        self, rest: Rest, websockets: dict[bytes, IResource], enroll: Enroll | None
    ) -> None:
        self._rest = rest
        self._enrolls = enroll is not None
        root = _Root(rest, websockets)
        if enroll is not None:
            provision = Resource()  # type: ignore[no-untyped-call]
            provision.putChild(b"enroll", EnrollResource(enroll))
            root.putChild(b"provision", provision)
        super().__init__(  # type: ignore[no-untyped-call]
            root, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT_S
        )

    def refusal(
        self, length: int | None, authorization: str | None, path: bytes = b""
    ) -> Answer | None:
        """Why a body of that length isn't read; None when it may be."""
        try:
            if self._enrolls and path == PATH:
                # The token is in the body: nobody is known yet, so little is taken.
                if length is None or length > MAX_ENROLL_BYTES:
                    raise TooLarge(
                        f"{path.decode()} takes a body of up to {MAX_ENROLL_BYTES} bytes"
                    )
                return None
            self._rest.authenticate(authorization)
            if length is None:
                raise TooLarge("Bodies of unknown length are not taken", hint="send Content-Length")
            if length > MAX_BODY_BYTES:
                raise TooLarge(
                    f"The body of {length} bytes is over {MAX_BODY_BYTES} bytes",
                    hint="code is submitted over the client (cumulus_client)",
                )
        except CumulusError as error:
            return error_answer(error)
        return None

    def log(self, request: http.Request) -> None:
        """One event per answered request."""
        self._log.debug(
            "{method} {path} -> {status}",
            method=request.method.decode("ascii", "replace"),
            path=request.path.decode("ascii", "replace"),
            status=request.code,
            peer=str(request.getClientAddress()),  # type: ignore[no-untyped-call]
        )


class _Root(Resource):
    """Everything that isn't a WebSocket goes to `rest`, which refuses what it doesn't know."""

    def __init__(self, rest: Rest, websockets: dict[bytes, IResource]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._page = _RestResource(rest)
        for name in _WEBSOCKETS:
            self.putChild(name, websockets[name])

    def getChild(self, path: bytes, request: Request) -> IResource:
        return self._page


@implementer(IResource)
class _RestResource:
    """Decodes a request, asks `rest`, writes the answer."""

    isLeaf = True

    def __init__(self, rest: Rest) -> None:
        self._rest = rest

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        raise NotImplementedError("a leaf has no children")

    def putChild(self, path: bytes, child: IResource) -> None:
        raise NotImplementedError("a leaf takes no children")

    def render(self, request: BoundedRequest) -> int:
        answer = self._rest.answer(
            request.method.decode("ascii", "replace"),
            unquote(request.path.decode("ascii", "replace"), errors="replace"),
            {
                key.decode("utf-8", "replace"): [text.decode("utf-8", "replace") for text in texts]
                for key, texts in request.args.items()
            },
            request.authorization(),
        )
        request.setResponseCode(answer.status)
        request.setHeader("Content-Type", answer.content_type)
        if answer.stream is None:
            request.setHeader("Content-Length", str(len(answer.body)))
        request.setHeader("Cache-Control", "no-store")
        request.setHeader("X-Content-Type-Options", "nosniff")
        for name, text in answer.headers.items():
            request.setHeader(name, text)
        if request.method != b"HEAD":
            if answer.stream is not None:
                StreamedBody(request, answer.stream).start()
                return NOT_DONE_YET
            request.write(answer.body)  # type: ignore[no-untyped-call]
        request.finish()  # type: ignore[no-untyped-call]
        return NOT_DONE_YET
