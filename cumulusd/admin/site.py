"""The admin socket's HTTP: a few paths for whoever may run the daemon, and nobody else.

`GET /status`, `GET /tokens`, `POST /tokens`, `DELETE /tokens/<name>`. Root and the daemon's own
user may ask: the kernel says who connected, and no token is needed. Never to be served over TCP.
"""

import json
import os
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import CancelledError
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.resource import Resource
from twisted.web.server import NOT_DONE_YET, Site

from cumulusd.admin.token_record import NewToken, new_token
from cumulusd.admin.unix_socket import Peer, peer_of
from cumulusd.errors import (
    CumulusError,
    InvalidArgument,
    NotAuthorized,
    NotFound,
    TooLarge,
    TooMany,
)
from cumulusd.tasks import Tasks
from cumulusd.web.answers import Answer, error_answer, json_answer, unknown_error
from cumulusd.web.asked import Head
from cumulusd.web.bodies import Body, Flow
from cumulusd.web.bounded_request import BoundedRequest

MAX_BODY_BYTES = 16 * 1024
MAX_CONNECTIONS = 16
IDLE_TIMEOUT_S = 30.0
TOKENS_PATH = "/tokens"
STATUS_PATH = "/status"


class TokenDesk(Protocol):
    """Who answers: `admin.tokens.Tokens`. Errors are CumulusError subclasses."""

    def listing(self) -> list[dict[str, Any]]: ...

    async def create(self, wanted: NewToken, by: str) -> tuple[str, dict[str, Any]]: ...

    async def revoke(self, name: str, by: str) -> dict[str, Any]: ...


class AdminSite(Site):
    """Site with our requests, for a few connections at a time."""

    noisy = False
    displayTracebacks = False
    _log = Logger()

    def __init__(
        self,
        tokens: TokenDesk,
        wall_clock: Callable[[], float],
        clock: Any,
        status: Callable[[], Mapping[str, Any]],
    ) -> None:
        """`wall_clock` gives unix seconds; `clock`: the reactor; `status`: how the daemon is, as
        JSON has it."""
        self.clock = clock
        self._connections = 0
        self._answering = Tasks()
        super().__init__(  # type: ignore[no-untyped-call]
            _Admin(tokens, wall_clock, status, self._answering),
            requestFactory=BoundedRequest,
            timeout=IDLE_TIMEOUT_S,
        )

    def buildProtocol(self, addr: Any) -> Any:
        """None, which closes the connection, when there are too many."""
        if self._connections >= MAX_CONNECTIONS:
            self._log.warn("more than {most} connections to the admin socket", most=MAX_CONNECTIONS)
            return None
        protocol: Any = super().buildProtocol(addr)  # type: ignore[no-untyped-call]
        self._connections += 1
        lost = protocol.connectionLost

        def connection_lost(*reason: Any) -> None:
            self._connections -= 1
            lost(*reason)

        protocol.connectionLost = connection_lost
        return protocol

    async def stop(self) -> None:
        """Ends what is being answered; fires when all has ended."""
        await self._answering.stop()

    def admit(self, head: Head) -> None:
        """As of `Doorkeeper`: no page of a browser has business here."""
        if head.origin is not None:
            raise NotAuthorized("pages may not use the admin socket")

    def page_headers(self, head: Head) -> Mapping[str, str]:
        """As of `Doorkeeper`: nothing."""
        return {}

    def open_body(self, head: Head, length: int | None, flow: Flow) -> Body | None:
        """As of `Doorkeeper`: little, and of a known length."""
        if length is None or length > MAX_BODY_BYTES:
            raise TooLarge(f"{head.path[:200]} takes a body of up to {MAX_BODY_BYTES} bytes")
        return None

    def forget_body(self, body: Body) -> None:
        """As of `Doorkeeper`: there are none."""

    def log(self, request: Any) -> None:
        """Nothing: what changes something is logged where it does."""


class _Admin(Resource):
    """Decodes, asks, answers. What has begun goes on when the asker leaves: a token that is on disk
    must be known too."""

    isLeaf = True
    _log = Logger()

    def __init__(
        self,
        tokens: TokenDesk,
        wall_clock: Callable[[], float],
        status: Callable[[], Mapping[str, Any]],
        answering: Tasks,
    ) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._status = status
        self._tokens = tokens
        self._wall_clock = wall_clock
        self._answering = answering
        self._under_way = 0

    def render(self, request: BoundedRequest) -> int:
        """Answers later."""
        gone: list[object] = []
        request.notifyFinish().addErrback(gone.append)
        self._answering.start(self._work(request, gone), "answering on the admin socket")
        return NOT_DONE_YET

    async def _work(self, request: BoundedRequest, gone: list[object]) -> None:
        answer = await self._answer(request)
        if not gone:
            request.setResponseCode(answer.status)
            request.setHeader("Content-Type", answer.content_type)
            request.setHeader("Content-Length", str(len(answer.body)))
            request.setHeader("Cache-Control", "no-store")
            for name, text in answer.headers.items():
                request.setHeader(name, text)
            request.write(answer.body)  # type: ignore[no-untyped-call]
            request.finish()

    async def _answer(self, request: BoundedRequest) -> Answer:
        head = request.head()
        channel: Any = request.channel
        self._under_way += 1
        try:
            peer = peer_of(channel.transport.getHandle())
            _require_operator(peer)
            if self._under_way > MAX_CONNECTIONS:
                raise TooMany("too much is being asked at a time", hint="try again in a moment")
            body = b"" if request.content is None else request.content.read(MAX_BODY_BYTES + 1)
            return await self._dispatch(head, body, peer)
        except CancelledError:
            raise  # the daemon stops
        except CumulusError as error:
            return error_answer(error)
        except Exception:
            failure = Failure()  # type: ignore[no-untyped-call]
            what = f"{head.method} {head.path[:200]} on the admin socket"
            return error_answer(unknown_error(self._log, failure, what, None))
        finally:
            self._under_way -= 1

    async def _dispatch(self, head: Head, body: bytes, peer: Peer) -> Answer:
        below = head.path.removeprefix(TOKENS_PATH)
        name = below[1:] if below.startswith("/") else ""
        offered: dict[str, Callable[[], Awaitable[Answer]]] = {}
        if head.path == STATUS_PATH:
            offered = {"GET": self._tell_status}
        elif head.path == TOKENS_PATH:
            offered = {"GET": self._list, "POST": lambda: self._create(body, peer)}
        elif below != head.path and name:
            offered = {"DELETE": lambda: self._revoke(name, peer)}
        if not offered:
            raise NotFound(f"There is nothing at {head.path[:200]}")
        work = offered.get(head.method)
        if work is None:
            allow = ", ".join(offered)
            refused = error_answer(InvalidArgument(f"{head.path[:200]} takes {allow} only"))
            return Answer(status=405, body=refused.body, headers={"Allow": allow})
        return await work()

    async def _tell_status(self) -> Answer:
        return json_answer({"status": dict(self._status())})

    async def _list(self) -> Answer:
        return json_answer({"tokens": self._tokens.listing()})

    async def _create(self, body: bytes, peer: Peer) -> Answer:
        try:
            value = json.loads(body)
        except (ValueError, RecursionError):
            raise InvalidArgument("The body must be JSON") from None
        wanted = new_token(value, self._wall_clock())
        token, shown = await self._tokens.create(wanted, str(peer))
        return json_answer({"token": token, "shown": shown}, 201)

    async def _revoke(self, name: str, peer: Peer) -> Answer:
        return json_answer({"shown": await self._tokens.revoke(name, str(peer))})


def _require_operator(peer: Peer) -> None:
    """Raises NotAuthorized. The file's mode keeps others out; this holds when it was changed."""
    if peer.uid not in (0, os.geteuid()):
        raise NotAuthorized(
            f"uid {peer.uid} may not manage this daemon",
            hint=f"run it as root, or as the daemon's user (uid {os.geteuid()})",
        )
