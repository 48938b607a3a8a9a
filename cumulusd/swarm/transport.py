"""HTTP to one engine: connections, deadlines, bounds, retries. Knows nothing of what is said."""

import json
import re
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any, TypeVar

import attrs
from treq.client import HTTPClient
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.error import ConnectError, ConnectionClosed
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web._newclient import RequestNotSent
from twisted.web.client import (
    Agent,
    HTTPConnectionPool,
    RequestTransmissionFailed,
    ResponseDone,
    ResponseFailed,
    ResponseNeverReceived,
)
from twisted.web.http import PotentialDataLoss
from twisted.web.iweb import IAgentEndpointFactory

from cumulusd.errors import TooLarge, Unavailable
from cumulusd.swarm.paced_body import STALLED_S, PacedBody
from cumulusd.tasks import cancellable, sleep, wait_at_most

DEADLINE_S = 15.0
#: Answers are listings at most: 20,000 tasks of 2 KB.
MAX_BODY_BYTES = 64 << 20
_ATTEMPTS = 3
_FIRST_PAUSE_S = 0.1
_IDLE_CONNECTION_S = 30
_REFUSAL_BYTES = 64 << 10
_T = TypeVar("_T")

#: Told of each call: the kind of object, the class of its status ("2xx"; "none": no answer), and
#: how long it took, in seconds.
Asked = Callable[[str, str, float], None]
_VERSION = re.compile(r"v\d+\.\d+")
_KINDS = frozenset(
    {"_ping", "version", "info", "swarm", "nodes", "services", "tasks", "secrets", "images"}
)

#: What Twisted raises when the engine can't be reached or leaves in the middle.
_LOST = (
    ConnectError,
    ConnectionClosed,
    ResponseFailed,
    ResponseNeverReceived,
    RequestTransmissionFailed,
    RequestNotSent,
    OSError,
)


@attrs.frozen(kw_only=True)
class Reply:
    """An answer, whole. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class _Body(Protocol):
    """Hands on a body as it comes; `ended` fires when it is over, however that came."""

    def __init__(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        self._aborted = False
        self.ended: Deferred[None] = Deferred(lambda _: self.abort())

    def dataReceived(self, data: bytes) -> None:
        """Twisted's. An error of the taker ends the body with that error."""
        if self.ended.called or self._aborted:
            return
        try:
            self._take(data)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            self.abort()
            self.ended.errback(failure)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """Twisted's: the body is whole, or the connection was lost."""
        if self.ended.called or self._aborted:
            return  # our own doing
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self.ended.callback(None)
        else:
            self.ended.errback(reason)

    def abort(self) -> None:
        """Closes the connection; `ended` is then the caller's to fire, or nobody waits."""
        self._aborted = True
        if self.transport is not None:
            # Of all that a response's transport offers, this closes the connection at once.
            self.transport.stopProducing()  # type: ignore[attr-defined]


class Transport:
    """Connections to one engine. `close` it."""

    def __init__(
        self,
        reactor: Any,
        factory: IAgentEndpointFactory,
        name: str,
        asked: Asked = lambda kind, status, seconds: None,
    ) -> None:
        """`reactor`: IReactorTime and what the endpoints need. `name`: the engine in words.
        `asked` is told of each call."""
        self._reactor = reactor
        self._asked = asked
        self.name = name
        self._pool = HTTPConnectionPool(  # type: ignore[no-untyped-call]
            reactor, persistent=True
        )
        self._pool.maxPersistentPerHost = 8
        self._pool.cachedConnectionTimeout = _IDLE_CONNECTION_S
        agent = Agent.usingEndpointFactory(  # type: ignore[no-untyped-call]
            reactor, factory, pool=self._pool
        )
        self._http = HTTPClient(agent)

    async def close(self) -> None:
        """Fires when idle connections are closed; those in use close with their calls."""
        await self._pool.closeCachedConnections()  # type: ignore[no-untyped-call]

    async def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Any = None,
        deadline_s: float = DEADLINE_S,
        max_bytes: int = MAX_BODY_BYTES,
        keep_end: bool = False,
    ) -> Reply:
        """One exchange, tried again when the connection failed: what is asked must be idempotent.

        `deadline_s` is for all attempts together. `keep_end`: of a longer body only the last
        `max_bytes` are kept; otherwise it is TooLarge. Raises Unavailable when there is no answer.
        """
        began_s, status = self._reactor.seconds(), "none"
        try:
            reply = await self._call(method, path, params, body, deadline_s, max_bytes, keep_end)
            status = f"{reply.status // 100}xx"
            return reply
        except CancelledError:
            status = ""  # nobody waited for the answer
            raise
        finally:
            if status:
                self._asked(kind_of(path), status, self._reactor.seconds() - began_s)

    async def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Any,
        deadline_s: float,
        max_bytes: int,
        keep_end: bool,
    ) -> Reply:
        what = f"{method} {path}"
        ends_s = self._reactor.seconds() + deadline_s
        pause_s = _FIRST_PAUSE_S
        attempt = 1
        while True:
            left_s = ends_s - self._reactor.seconds()
            try:
                return await self._within(
                    left_s,
                    self._exchange(method, path, params, body, max_bytes, keep_end),
                    f"{what}: no answer within {deadline_s:g} s",
                )
            except _LOST as error:
                if attempt == _ATTEMPTS or left_s <= pause_s:
                    raise self.unreachable(what, _words(error)) from error
            await sleep(self._reactor, pause_s)
            attempt += 1
            pause_s *= 3

    async def stream(
        self,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        opened: Callable[[int, Mapping[str, str]], Callable[[bytes], None]],
        opened_within_s: float = DEADLINE_S,
    ) -> None:
        """A GET whose body has no end. `opened(status, headers)` gives who takes the bytes, or
        raises. Fires when the engine ends it; cancelling ends it too. Raises Unavailable.
        """
        what = f"GET {path}"
        try:
            response = await self._within(
                opened_within_s,
                self._request("GET", path, params, None),
                f"{what}: no answer within {opened_within_s:g} s",
            )
            try:
                take = opened(response.code, _headers(response))
            except BaseException:
                ignored = _Body(lambda data: None)
                response.deliverBody(ignored)
                ignored.abort()
                raise
            taker = _Body(take)
            response.deliverBody(taker)
            await taker.ended
        except _LOST as error:
            raise self.unreachable(what, _words(error)) from error

    async def download(self, path: str, send: Callable[[bytes], Awaitable[None]]) -> Reply | None:
        """A GET of any size: its body goes to `send`, at that one's pace. None when all is sent;
        the answer, when that was no success. Cancelling ends it. Raises Unavailable."""
        what = f"GET {path}"
        try:
            response = await self._within(
                STALLED_S,
                self._request("GET", path, None, None),
                f"{what}: no answer within {STALLED_S:g} s",
            )
            body = PacedBody()
            response.deliverBody(body)
            refusal = bytearray()
            try:
                while (data := await body.read(self._reactor)) is not None:
                    if response.code == 200:
                        await send(data)
                    elif len(refusal) < _REFUSAL_BYTES:
                        refusal += data
            finally:
                body.abort()
        except _LOST as error:
            raise self.unreachable(what, _words(error)) from error
        if response.code == 200:
            return None
        return Reply(status=response.code, headers=_headers(response), body=bytes(refusal))

    def unreachable(self, what: str, why: str) -> Unavailable:
        """The error for an engine that doesn't answer."""
        return Unavailable(
            f"the Docker Engine at {self.name} can't be reached",
            details={"platform": f"{what}: {why}"},
            hint="is dockerd running there, and may the daemon's user connect?",
        )

    # -- inside

    async def _within(self, delay_s: float, work: Coroutine[Any, Any, _T], late: str) -> _T:
        async def boxed() -> tuple[_T]:
            return (await work,)

        got = await wait_at_most(self._reactor, max(delay_s, 0.0), Deferred.fromCoroutine(boxed()))
        if got is None:
            raise self.unreachable(late, "the deadline has passed")
        return got[0]

    async def _request(
        self, method: str, path: str, params: Mapping[str, str] | None, body: Any
    ) -> Any:
        data = None if body is None else json.dumps(body).encode()
        headers: dict[bytes | str, bytes | str] = {}
        if data is not None:
            headers["Content-Type"] = "application/json"
        asking = self._http.request(
            method,
            f"http://docker{path}",
            params=dict(params or {}),
            data=data,
            headers=headers,
            allow_redirects=False,
            unbuffered=True,
            reactor=self._reactor,
        )
        return await cancellable(asking)

    async def _exchange(
        self,
        method: str,
        path: str,
        params: Mapping[str, str] | None,
        body: Any,
        max_bytes: int,
        keep_end: bool,
    ) -> Reply:
        response = await self._request(method, path, params, body)
        received = bytearray()

        def take(data: bytes) -> None:
            received.extend(data)
            if len(received) <= max_bytes:
                return
            if not keep_end:
                raise TooLarge(
                    f"the Docker Engine at {self.name} answers {method} {path} with more than "
                    f"{max_bytes} bytes"
                )
            if len(received) > 2 * max_bytes:
                del received[:-max_bytes]

        taker = _Body(take)
        response.deliverBody(taker)
        await taker.ended
        if keep_end:
            del received[: max(0, len(received) - max_bytes)]
        return Reply(status=response.code, headers=_headers(response), body=bytes(received))


def kind_of(path: str) -> str:
    """What a path of the engine's is about; "other" beside those that are asked for. Pure."""
    parts = [part for part in path.split("/") if part]
    if parts and _VERSION.fullmatch(parts[0]):
        del parts[0]
    return parts[0] if parts and parts[0] in _KINDS else "other"


def _headers(response: Any) -> dict[str, str]:
    return {
        name.decode("latin-1").lower(): values[-1].decode("latin-1")
        for name, values in response.headers.getAllRawHeaders()
        if values
    }


def _words(error: BaseException) -> str:
    """What Twisted wraps, unwrapped: the reasons in a response's failure are Failures."""
    reasons = getattr(error, "reasons", None)
    if reasons:
        return "; ".join(_words(reason.value) for reason in reasons)
    return str(error) or type(error).__name__
