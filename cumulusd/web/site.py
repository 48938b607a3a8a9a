"""The daemon's one HTTP site: the paths of `rest`, and the two WebSockets."""

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

import attrs
from twisted.internet.defer import CancelledError
from twisted.internet.error import ConnectionAborted
from twisted.internet.protocol import Protocol
from twisted.logger import Logger
from twisted.protocols.policies import ProtocolWrapper
from twisted.python.failure import Failure
from twisted.web import http
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request, Site
from zope.interface import implementer

from cumulusd.errors import NotAuthorized
from cumulusd.identity import Authenticator
from cumulusd.metrics import Metrics
from cumulusd.origins import PREFLIGHT, Origins
from cumulusd.tasks import Tasks
from cumulusd.web.answers import Answer, Send, error_answer
from cumulusd.web.asked import Head
from cumulusd.web.askers import Asker, Askers
from cumulusd.web.bodies import Body, Flow
from cumulusd.web.bounded_request import BoundedRequest
from cumulusd.web.event_stream import EventStream
from cumulusd.web.log_events import event
from cumulusd.web.provision import Provision
from cumulusd.web.rest import Relay, Rest
from cumulusd.web.streaming import StreamedBody

#: A connection that says nothing for so long is closed; WebSockets have their own pings.
IDLE_TIMEOUT_S = 60.0
_WEBSOCKETS = (b"ws", b"agent")
_BODILESS = (204, 304)


def make_site(
    *,
    relay: Relay,
    authenticator: Authenticator,
    metrics: Metrics,
    ws: IResource,
    agent: IResource,
    clock: Any,
    provision: Provision | None = None,
    worker_metrics: Callable[[], bytes] = lambda: b"",
    wall_clock: Callable[[], float] = time.time,
    allow_plain_tokens: bool = False,
    origins: Origins | None = None,
    has_room: Callable[[str], bool] = lambda peer: True,
) -> "CumulusSite":
    """The site to listen with. `ws` and `agent` are the resources at `/ws` and `/agent`; they
    authenticate for themselves. `provision`: what is under `/provision`; None: there is no pool
    to join. `clock`: the reactor. `allow_plain_tokens`: also over connections that others
    can read. `origins`: which browsers' pages may use it, by default its own."""
    rest = Rest(
        relay=relay,
        authenticator=authenticator,
        metrics=metrics,
        wall_clock=wall_clock,
        clock=clock,
        allow_plain_tokens=allow_plain_tokens,
        provision=provision,
        worker_metrics=worker_metrics,
    )
    origins = origins or Origins(is_open=lambda: authenticator.open)
    return CumulusSite(rest, {b"ws": ws, b"agent": agent}, clock, origins, has_room)


class CumulusSite(Site):
    """Site with our requests, without tracebacks in answers, and logging as events."""

    noisy = False
    displayTracebacks = False
    _log = Logger()

    def __init__(
        self,
        rest: Rest,
        websockets: dict[bytes, IResource],
        clock: Any,
        origins: Origins,
        has_room: Callable[[str], bool],
    ) -> None:
        self.clock = clock
        self._has_room = has_room
        self._rest = rest
        self._origins = origins
        self._answering = Tasks()
        self._askers = Askers()
        page = _RestResource(rest, self._answering, self._askers, clock, self.page_headers)
        root = _Root(page, websockets)
        super().__init__(  # type: ignore[no-untyped-call]
            root, requestFactory=BoundedRequest, timeout=IDLE_TIMEOUT_S
        )

    def buildProtocol(self, addr: Any) -> Any:
        """One connection, if there is room for it."""
        if not self._has_room(str(getattr(addr, "host", None) or "")):
            return _Cut()
        return super().buildProtocol(addr)  # type: ignore[no-untyped-call]

    async def stop(self) -> None:
        """Ends what is being answered; fires when all has ended."""
        await self._answering.stop()

    def end_requests(self, name: str, why: str) -> int:
        """Cuts what that principal is being answered; how many requests that were."""
        return self._askers.cut(name, why)

    def admit(self, head: Head) -> None:
        """As of `Doorkeeper`."""
        refused = self._origins.refuses(head.method, head.origin, head.hosts)
        if refused is not None:
            raise NotAuthorized(refused[0], hint=refused[1])

    def page_headers(self, head: Head) -> Mapping[str, str]:
        """As of `Doorkeeper`."""
        if head.origin is None or not self._origins.is_allowed(head.origin):
            return {}
        return {"Access-Control-Allow-Origin": head.origin, "Vary": "Origin"}

    def open_body(self, head: Head, length: int | None, flow: Flow) -> Body | None:
        """As of `Doorkeeper`."""
        return self._rest.open_body(head, length, flow)

    def forget_body(self, body: Body) -> None:
        """As of `Doorkeeper`."""
        self._rest.forget_body(body)

    def log(self, request: http.Request) -> None:
        """One event per answered request."""
        self._log.debug(
            "{method} {path} -> {status}",
            method=request.method.decode("ascii", "replace"),
            path=request.path.decode("ascii", "replace"),
            status=request.code,
            peer=str(request.getClientAddress()),  # type: ignore[no-untyped-call]
        )


class _Cut(Protocol):
    """A connection that isn't kept."""

    def connectionMade(self) -> None:
        """Ends it; nothing was read."""
        transport: Any = self.transport
        transport.abortConnection()
        while isinstance(transport, ProtocolWrapper):  # TLS
            transport = transport.transport
        # At once: Twisted takes a hundred and more connections in one turn, and would end them in
        # the next.
        reason = Failure(ConnectionAborted())  # type: ignore[no-untyped-call]
        transport.connectionLost(reason)


class _Root(Resource):
    """Everything that isn't a WebSocket goes to `rest`, which refuses what it doesn't know."""

    def __init__(self, page: IResource, websockets: dict[bytes, IResource]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._page = page
        for name in _WEBSOCKETS:
            self.putChild(name, websockets[name])

    def getChild(self, path: bytes, request: Request) -> IResource:
        return self._page


@implementer(IResource)
class _RestResource:
    """Asks `rest`, writes the answer."""

    isLeaf = True

    def __init__(
        self,
        rest: Rest,
        answering: Tasks,
        askers: Askers,
        clock: Any,
        page_headers: Callable[[Head], Mapping[str, str]],
    ) -> None:
        self._rest = rest
        self._page_headers = page_headers
        self._answering = answering
        self._askers = askers
        self._clock = clock

    def getChildWithDefault(self, name: bytes, request: Request) -> IResource:
        raise NotImplementedError("a leaf has no children")

    def putChild(self, path: bytes, child: IResource) -> None:
        raise NotImplementedError("a leaf takes no children")

    def render(self, request: BoundedRequest) -> int:
        """Answers later; when the asker leaves meanwhile, the work is cancelled."""
        head = request.head()
        asker = self._askers.add(self._rest.asks(head), request)
        gone = request.notifyFinish()
        working = self._answering.start(
            self._work(request, head, asker), f"answering {request.path!r}"
        )
        asker.working = working
        gone.addErrback(lambda _: working.cancel())
        return NOT_DONE_YET

    async def _work(self, request: BoundedRequest, head: Head, asker: Asker) -> None:
        told = self._page_headers(head)
        try:
            if told and head.method == "OPTIONS" and head.preflight:
                answer = Answer(status=204, headers=PREFLIGHT)
            else:
                answer = await self._rest.answer(head, request.body)
        except CancelledError:
            refused = asker.error()
            if refused is None:
                raise  # the asker went
            answer = error_answer(refused)
        finally:
            request.forget_body()
        answer = attrs.evolve(answer, headers={**answer.headers, **told})
        try:
            await self._write(request, head, answer, asker)
        except Exception:
            # Half an answer is no answer. What it was is logged with the task.
            request.hang_up()
            raise

    async def _write(
        self, request: BoundedRequest, head: Head, answer: Answer, asker: Asker
    ) -> None:
        _write_head(request, answer)
        if head.method == "HEAD":
            request.finish()
        elif answer.events is not None:
            await self._send_events(request, answer, asker)
        elif answer.pushed is not None:
            await self._push(request, answer.pushed)
        elif answer.stream is not None:
            StreamedBody(request, answer.stream).start()
        else:
            request.write(answer.body)  # type: ignore[no-untyped-call]
            request.finish()

    async def _push(
        self, request: BoundedRequest, pushed: Callable[[Send], Awaitable[None]]
    ) -> None:
        stream = EventStream(request, self._clock, keepalive=b"")
        stream.start()
        try:
            await pushed(stream.send)
        finally:
            stream.end()
        request.finish()

    async def _send_events(self, request: BoundedRequest, answer: Answer, asker: Asker) -> None:
        assert answer.events is not None
        stream = EventStream(request, self._clock)
        stream.start()
        try:
            await answer.events(stream.send)
        except CancelledError:
            refused = asker.error()
            if refused is None:
                raise  # the asker went
            request.write(event("error", refused.as_dict()))  # type: ignore[no-untyped-call]
        finally:
            stream.end()
        request.finish()


def _write_head(request: BoundedRequest, answer: Answer) -> None:
    request.setResponseCode(answer.status)
    if answer.status not in _BODILESS:
        request.setHeader("Content-Type", answer.content_type)
    if answer.stream_bytes is not None:
        request.setHeader("Content-Length", str(answer.stream_bytes))
    elif not (answer.stream or answer.events or answer.pushed) and answer.status not in _BODILESS:
        request.setHeader("Content-Length", str(len(answer.body)))
    request.setHeader("Cache-Control", "no-store")
    request.setHeader("X-Content-Type-Options", "nosniff")
    for name, text in answer.headers.items():
        request.setHeader(name, text)
