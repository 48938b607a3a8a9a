"""The WAMP session of a caller, without I/O: Autobahn's transport above, coroutines below.

Autobahn's own ApplicationSession is built for components that register and subscribe, and hands
progressive results through an errback chain; a caller needs eleven message types.
"""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from autobahn.wamp import message as wamp_message
from autobahn.wamp import role as wamp_role
from autobahn.wamp.exception import ProtocolError

from cumulus_client._login import AUTH_ERRORS, Distrust, Login, UnknownLogin
from cumulus_client.exceptions import (
    ConnectionFailed,
    ConnectionLost,
    CumulusError,
    NotAuthenticated,
    error_from_wire,
)
from cumulus_wire import uris

# Autobahn's message classes are untyped.
message: Any = wamp_message
role: Any = wamp_role

_RESULT = message.Result.MESSAGE_TYPE
_LAST: dict[str, Any] = {}
_PROGRESS = {"progress": True}

Progress = Callable[[dict[str, Any]], None]


class _Call:
    __slots__ = ("future", "on_progress")

    def __init__(self, future: "asyncio.Future[dict[str, Any]]", on_progress: Progress | None):
        self.future = future
        self.on_progress = on_progress


class CallerSession:
    """One session. Registered as Autobahn's transport handler; used on one event loop."""

    # Autobahn's transport reads and sets these three.
    _authid: str | None = None
    _session_id: int | None = None
    _transport: Any = None

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        *,
        url: str,
        api_key: str | None,
        api_key_name: str | None = None,
        realm: str = uris.REALM,
    ) -> None:
        """With `api_key_name` the key isn't sent where others on the network could read it."""
        self._loop = loop
        self._url = url
        self._login = Login(url, api_key, api_key_name, realm)
        self._answering: asyncio.Task[None] | None = None
        self._realm = realm
        self._calls: dict[int, _Call] = {}
        self._cancelled: set[int] = set()  # cancelled here, the last answer still to come
        self._next_request = 0
        #: Fires when the session is open; its exception says why it is not.
        self.joined: asyncio.Future[None] = loop.create_future()
        #: Fires when the session is over, with the reason.
        self.closed: asyncio.Future[str] = loop.create_future()
        #: Fires when the transport is gone.
        self.disconnected: asyncio.Future[None] = loop.create_future()
        # Whoever connects may have given up: then nobody asks for the error.
        self.joined.add_done_callback(lambda future: future.cancelled() or future.exception())

    @property
    def open(self) -> bool:
        """Calls can be made."""
        return self._session_id is not None and not self.closed.done()

    @property
    def reached(self) -> bool:
        """The server opened the WebSocket."""
        return self._transport is not None

    # --- what Autobahn's transport calls -----------------------------------------------------

    def onOpen(self, transport: Any) -> None:
        """The WebSocket is open: say hello."""
        self._transport = transport
        try:
            offer = self._login.offer(transport)
        except Distrust as why:
            self._distrust(why)
            return
        transport.send(
            message.Hello(
                realm=self._realm,
                roles={
                    "caller": role.RoleCallerFeatures(
                        progressive_call_results=True, call_canceling=True
                    )
                },
                **offer,
            )
        )

    def take(self, raw: Any) -> bool:
        """A message's plain form, if it is a result, the last or a progressive one, of a call under
        way that has keyword arguments only; False: it is one for `onMessage`."""
        if type(raw) is not list or len(raw) != 5:
            return False
        kind, request, details, args, kwargs = raw
        if kind != _RESULT or args or type(kwargs) is not dict or type(request) is not int:
            return False
        call = self._calls.get(request)
        if call is None:
            return False
        if details == _LAST:
            self._conclude(request, call, kwargs)
        elif details == _PROGRESS and call.on_progress is not None:
            call.on_progress(kwargs)
        else:
            return False
        return True

    def onMessage(self, msg: Any) -> None:
        """One message of the router's. Raises ProtocolError, on which Autobahn closes."""
        if self._session_id is None:
            self._handshake(msg)
        elif isinstance(msg, message.Result):
            self._result(msg)
        elif isinstance(msg, message.Error):
            self._error(msg)
        elif isinstance(msg, message.Goodbye):
            said = msg.message or msg.reason
            # A token that was revoked or has expired: coming back with it is of no use.
            self.fail(f"the daemon said goodbye ({said})", refused=msg.reason in AUTH_ERRORS)
            self._send(message.Goodbye("wamp.close.goodbye_and_out"))
            self._transport.close()
        elif isinstance(msg, message.Abort):
            self.fail(f"the daemon ended the session ({msg.message or msg.reason})")
        else:
            raise ProtocolError(f"unexpected {type(msg).__name__} to a caller")

    def onClose(self, was_clean: bool) -> None:
        """The WebSocket is gone."""
        self.fail("the connection closed" if was_clean else "the connection broke")

    def not_a_router(self, reason: str | None) -> None:
        """The transport ended before its WebSocket was open."""
        self._refused(
            ConnectionFailed(
                f"{self._url} answers, but not as a Cumulus daemon: "
                f"{reason or 'no WebSocket at /ws'}",
                hint="check host and port of the server URL, and any proxy before the daemon",
            )
        )
        self.fail("the connection closed")

    def transport_closed(self) -> None:
        """The transport is gone, whatever was before."""
        self.fail("the connection closed")
        if not self.disconnected.done():
            self.disconnected.set_result(None)

    # --- inside ------------------------------------------------------------------------------

    def _handshake(self, msg: Any) -> None:
        if isinstance(msg, message.Welcome):
            try:
                self._login.check(msg.authextra)
            except Distrust as why:
                self._distrust(why)
                return
            self._session_id, self._authid = msg.session, msg.authid
            if not self.joined.done():
                self.joined.set_result(None)
        elif isinstance(msg, message.Challenge):
            self._challenged(msg)
        elif isinstance(msg, message.Abort):
            self._refused(self._login.refused(msg.reason, msg.message))
        else:
            raise ProtocolError(f"unexpected {type(msg).__name__} before the session is open")

    def _challenged(self, msg: Any) -> None:
        try:
            ticket = self._login.ticket(msg.method)
        except UnknownLogin:
            self._refused(
                ConnectionFailed(f"{self._url} asks for the unknown login {msg.method!r}")
            )
            self._transport.close()
            return
        if ticket is not None:
            self._send(message.Authenticate(ticket))
        elif self._answering is None:
            self._answering = self._loop.create_task(self._answer(msg.extra or {}))

    async def _answer(self, extra: Mapping[str, Any]) -> None:
        try:
            signature, extra = await self._login.answer(extra)
        except Distrust as why:
            self._distrust(why)
            return
        if not self.closed.done():
            self._send(message.Authenticate(signature, dict(extra)))

    def _distrust(self, why: Distrust) -> None:
        """No session with that one."""
        self._refused(self._login.distrusted(why))
        self._send(message.Abort("wamp.error.authentication_failed"))
        self._transport.close()

    def _refused(self, error: CumulusError) -> None:
        if not self.joined.done():
            self.joined.set_exception(error)

    def fail(self, reason: str, *, refused: bool = False) -> None:
        """Ends the session: every call under way raises ConnectionLost, or NotAuthenticated where
        the daemon `refused` to go on with this client. Idempotent."""
        if not self.closed.done():
            self.closed.set_result(reason)
        if self._answering is not None:
            self._answering.cancel()
        self._refused(ConnectionFailed(f"{self._url}: {reason} before the session was open"))
        calls, self._calls = self._calls, {}
        self._cancelled.clear()
        for call in calls.values():
            if not call.future.done():
                call.future.set_exception(self._end_error(reason, refused))

    def _end_error(self, reason: str, refused: bool) -> CumulusError:
        if not refused:
            return ConnectionLost(f"{self._url}: {reason}")
        return NotAuthenticated(
            f"{self._url}: {reason}",
            hint="jobs go on without this client: attach to them with another key (api_key=... or "
            "CUMULUS_API_KEY)",
        )

    def _result(self, msg: Any) -> None:
        kwargs = dict(msg.kwargs or {})
        call = self._calls.get(msg.request)
        if call is None:
            if msg.request not in self._cancelled:
                raise ProtocolError(f"result of the unknown call {msg.request}")
            if not msg.progress:
                self._cancelled.discard(msg.request)
        elif msg.progress:
            if call.on_progress is not None:
                call.on_progress(kwargs)
        else:
            self._conclude(msg.request, call, kwargs)

    def _conclude(self, request: int, call: _Call, kwargs: dict[str, Any]) -> None:
        del self._calls[request]
        if not call.future.done():
            call.future.set_result(kwargs)

    def _error(self, msg: Any) -> None:
        call = self._calls.pop(msg.request, None)
        self._cancelled.discard(msg.request)
        if call is not None and not call.future.done():
            call.future.set_exception(error_from_wire(msg.error, msg.args or (), msg.kwargs or {}))

    def _send(self, msg: Any) -> None:
        # Autobahn raises its own TransportLost, Disconnected, ... while a close is under way.
        try:
            self._transport.send(msg)
        except Exception as error:
            self.fail(f"sending failed ({type(error).__name__}: {error})")
            raise ConnectionLost(f"{self._url}: sending failed: {error}") from error

    # --- what a caller calls -----------------------------------------------------------------

    async def call(
        self, procedure: str, kwargs: Mapping[str, Any], on_progress: Progress | None = None
    ) -> dict[str, Any]:
        """The keyword arguments of the answer. `on_progress` gets those of each progressive one.

        Raises the daemon's error, or ConnectionLost. Cancelling this cancels the call.
        """
        if not self.open:
            raise ConnectionLost(f"{self._url}: the session is over")
        self._next_request += 1
        request = self._next_request
        future: asyncio.Future[dict[str, Any]] = self._loop.create_future()
        self._calls[request] = _Call(future, on_progress)
        try:
            self._send(
                message.Call(
                    request,
                    procedure,
                    kwargs=dict(kwargs),
                    receive_progress=True if on_progress is not None else None,
                )
            )
            return await future
        finally:
            if self._calls.pop(request, None) is not None and self.open:
                self._cancelled.add(request)
                try:
                    self._send(message.Cancel(request, mode="killnowait"))
                except ConnectionLost:
                    pass  # then there is nothing left to cancel

    def close(self) -> None:
        """Leaves in good order; the transport's owner bounds how long that may take."""
        if self.open:
            try:
                self._send(message.Goodbye("wamp.close.normal"))
                self._transport.close()
            except ConnectionLost:
                pass
        self.fail("closed by this client")
