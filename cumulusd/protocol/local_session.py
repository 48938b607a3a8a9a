"""The daemon's own session on its router: it offers procedures, calls agents, publishes."""

import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

import attrs
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IReactorTime
from twisted.logger import Logger

from cumulus_wire import uris
from cumulusd.errors import BY_CODE, CumulusError, InternalError, Unavailable
from cumulusd.identity import Principal
from cumulusd.protocol import messages
from cumulusd.protocol.bounded_log import BoundedLog
from cumulusd.protocol.coroutines import start
from cumulusd.protocol.messages import Message, as_kwargs, canceled, error_reply, wamp

_INVOCATION = wamp.Invocation.MESSAGE_TYPE
_CLASS_BY_CODE = {code.value: cls for code, cls in BY_CODE.items()}


class Wire(Protocol):
    """What the session needs of its router."""

    def route(self, session_id: int, message: Message) -> None:
        """Takes a message of this session to dealer or broker."""

    def principal_of(self, session_id: int) -> Principal:
        """Who a session is."""

    def is_in_flight(self, callee_id: int, invocation: int) -> bool:
        """Does a caller still wait for that invocation?"""

    def is_heard(self, topic: str) -> bool:
        """Whether anybody listens to that topic."""

    def end_topic(self, uri: str) -> None:
        """Nobody listens to that topic any more."""

    @property
    def notices(self) -> BoundedLog:
        """The log of what peers cause."""

    async def drained(self, session_id: int) -> None:
        """Returns when the session's connection takes more; CancelledError when it is gone."""


Handler = Callable[["Call"], Awaitable[Mapping[str, Any] | None]]
RegistrationWatcher = Callable[[str, Principal, bool], None]


@attrs.frozen(kw_only=True, eq=False)
class Call:
    """A call that a handler answers. Its return value is the RESULT's keyword arguments.

    When the caller cancels or goes away, the handler is cancelled (CancelledError where it waits).
    """

    caller: Principal
    session_id: int  #: the caller's session
    procedure: str
    args: list[Any]
    kwargs: dict[str, Any]
    wants_progress: bool
    _progress: Callable[[Mapping[str, Any]], Awaitable[None]]

    async def progress(self, kwargs: Mapping[str, Any]) -> None:
        """Sends one progressive result; returns when the caller's connection takes more.

        Bounded: a caller that takes nothing for the slow-peer timeout is disconnected. Raises
        CancelledError when nobody waits for results any more, RuntimeError when the caller asked
        for none.
        """
        if not self.wants_progress:
            raise RuntimeError(f"the caller of {self.procedure} asked for no progressive results")
        await self._progress(kwargs)


@attrs.define(eq=False)
class _Invocation:
    """A handler at work."""

    handler: Deferred[None] | None = None  #: None while it runs for the first time
    on_stack: bool = True
    cancelled: bool = False


class LocalSession:
    """One callee, caller and publisher in the daemon's process; serialises nothing."""

    _log = Logger()

    def __init__(self, session_id: int, *, wire: Wire, clock: IReactorTime) -> None:
        self.session_id = session_id
        self._wire = wire
        self._clock = clock
        self._last_request = 0
        self._registering: tuple[str, Handler] | None = None
        self._handlers: dict[int, tuple[str, Handler]] = {}  #: by registration id
        self._invocations: dict[int, _Invocation] = {}
        self._calls: dict[int, Deferred[Message]] = {}  #: our own, by request
        self._watchers: list[RegistrationWatcher] = []

    def register(self, uri: str, handler: Handler) -> None:
        """Offers a procedure. Raises ValueError when somebody offers it already."""
        self._registering = (uri, handler)
        try:
            self._wire.route(self.session_id, wamp.Register(self._next_request(), uri))
            if self._registering is not None:
                raise ValueError(f"the procedure {uri} is already registered")
        finally:
            self._registering = None

    async def call(self, uri: str, kwargs: Mapping[str, Any], timeout_s: float) -> dict[str, Any]:
        """The keyword arguments of the procedure's answer.

        Raises the callee's own CumulusError; Unavailable when nobody offers the procedure, the
        callee is lost, or no answer came within `timeout_s` seconds (the callee is interrupted);
        InternalError when the callee failed in a way of its own. Cancelling interrupts too.
        """
        request = self._next_request()
        job_id = _text(kwargs.get("job_id"))
        timed_out = False

        def cancel(_: object) -> None:
            self._calls.pop(request, None)
            self._wire.route(self.session_id, wamp.Cancel(request, wamp.Cancel.KILLNOWAIT))

        def time_out() -> None:
            nonlocal timed_out
            timed_out = True
            answer.cancel()

        answer: Deferred[Message] = Deferred(cancel)
        self._calls[request] = answer
        timer = self._clock.callLater(timeout_s, time_out)
        self._wire.route(self.session_id, wamp.Call(request, uri, kwargs=as_kwargs(kwargs)))
        try:
            message = await answer
        except CancelledError:
            if not timed_out:
                raise
            raise Unavailable(
                f"{uri} did not answer within {timeout_s:g} s",
                job_id=job_id,
                hint="its agent may be overloaded or cut off; see the agent's log",
            ) from None
        finally:
            if timer.active():
                timer.cancel()
        if isinstance(message, wamp.Error):
            raise _rebuild(uri, message, job_id)
        return as_kwargs(message.kwargs)

    def publish(self, topic: str, kwargs: Mapping[str, Any]) -> None:
        """An event to all subscribers; those too slow to take it miss it (counted)."""
        self._wire.route(
            self.session_id, wamp.Publish(self._next_request(), topic, kwargs=as_kwargs(kwargs))
        )

    def is_heard(self, topic: str) -> bool:
        """Whether anybody listens to that topic: else its event need not be made."""
        return self._wire.is_heard(topic)

    def end_topic(self, topic: str) -> None:
        """What the topic was about is no more: its subscriptions end, without a word."""
        self._wire.end_topic(topic)

    def watch_registrations(self, changed: RegistrationWatcher) -> None:
        """`changed(uri, callee, registered)` is called whenever a remote callee comes or goes."""
        self._watchers.append(changed)

    def registration_changed(self, uri: str, principal: Principal, registered: bool) -> None:
        """The router tells that a remote callee came or went."""
        for changed in list(self._watchers):
            try:
                changed(uri, principal, registered)
            except Exception:
                # The watcher's fault must not keep the router from its work.
                self._log.failure("a watcher of registrations failed at {uri}", uri=uri)

    def receive(self, message: Message) -> None:
        """A message of the router for this session."""
        match message:
            case wamp.Invocation():
                self._invoke(message)
            case wamp.Interrupt():
                self._interrupt(message.request)
            case wamp.Result() | wamp.Error() if message.request in self._calls:
                if not getattr(message, "progress", False):
                    self._calls.pop(message.request).callback(message)
            case wamp.Registered() if self._registering is not None:
                self._handlers[message.registration] = self._registering
                self._registering = None
            case wamp.Error():
                self._log.debug("{error}: {reason}", error=message.error, reason=message.args)
            case _:
                self._log.error("unexpected {kind}", kind=type(message).__name__)

    def _next_request(self) -> int:
        self._last_request += 1
        return self._last_request

    def _invoke(self, message: Message) -> None:
        uri, handler = self._handlers[message.registration]
        number: int = message.request
        caller_id: int = message.caller  # not the message, which would be kept with its arguments
        invocation = self._invocations[number] = _Invocation()
        call = Call(
            caller=self._wire.principal_of(caller_id),
            session_id=caller_id,
            procedure=uri,
            args=list(message.args or ()),
            kwargs=as_kwargs(message.kwargs),
            wants_progress=bool(message.receive_progress),
            progress=lambda kwargs: self._progress(number, caller_id, kwargs),
        )
        running = start(self._run(number, handler, call))
        invocation.on_stack = False
        if running is None:
            return
        invocation.handler = running
        if invocation.cancelled:
            running.cancel()

    async def _run(self, number: int, handler: Handler, call: Call) -> None:
        """Runs a handler to its end and sends its answer. Raises nothing."""
        try:
            result = await handler(call)
            answer = wamp.Yield(number, kwargs=as_kwargs(result))
        except CumulusError as error:
            answer = error_reply(_INVOCATION, number, error)
        except CancelledError:
            answer = canceled(_INVOCATION, number, f"the call of {call.procedure} was cancelled")
        except Exception:
            log_id = secrets.token_hex(8)
            job_id = _text(call.kwargs.get("job_id"))
            self._wire.notices.failure(
                f"failed {call.procedure}",
                call.caller.name,
                "{procedure} failed ({log_id})",
                procedure=call.procedure,
                log_id=log_id,
                job_id=job_id,
                caller=call.caller.name,
            )
            answer = error_reply(
                _INVOCATION, number, internal_error(call.procedure, log_id, job_id)
            )
        del self._invocations[number]
        self._wire.route(self.session_id, answer)

    async def _progress(self, number: int, caller_id: int, kwargs: Mapping[str, Any]) -> None:
        invocation = self._invocations.get(number)
        if invocation is None or not self._wire.is_in_flight(self.session_id, number):
            raise CancelledError()
        was_on_stack, invocation.on_stack = invocation.on_stack, True
        try:
            self._wire.route(
                self.session_id, wamp.Yield(number, kwargs=as_kwargs(kwargs), progress=True)
            )
        finally:
            invocation.on_stack = was_on_stack
        if not self._wire.is_in_flight(self.session_id, number):
            raise CancelledError()  # it could not be sent; the caller has been told
        await self._wire.drained(caller_id)

    def _interrupt(self, number: int) -> None:
        invocation = self._invocations.get(number)
        if invocation is None:
            return
        invocation.cancelled = True
        # A coroutine can be cancelled only where it waits; on the stack, it finds out by itself.
        if invocation.handler is not None and not invocation.on_stack:
            invocation.handler.cancel()


def internal_error(what: str, log_id: str, job_id: str | None) -> InternalError:
    """The opaque error that stands for one written to the log under `log_id`."""
    return InternalError(
        f"{what} failed inside the daemon",
        job_id=job_id,
        details={"log_id": log_id},
        hint=f"its operator finds the cause in the daemon's log under {log_id}",
    )


def _rebuild(uri: str, message: Message, job_id: str | None) -> CumulusError:
    """The CumulusError that a callee's ERROR stands for. The callee is not trusted with types."""
    error_uri: str = message.error
    kwargs = as_kwargs(message.kwargs)
    first = message.args[0] if message.args else None
    text = _text(kwargs.get("message")) or _text(first) or error_uri
    if error_uri in (messages.NO_SUCH_PROCEDURE, messages.CANCELED):
        return Unavailable(
            f"{uri}: {text}", job_id=job_id, hint="its agent is away; it reconnects by itself"
        )
    cls: type[CumulusError] | None = None
    if error_uri.startswith(uris.ERROR_PREFIX):
        code = error_uri.removeprefix(uris.ERROR_PREFIX)
        cls = _CLASS_BY_CODE.get(code)
    if cls is None:
        return InternalError(f"{uri}: {text}", job_id=job_id, details={"error_uri": error_uri})
    details = kwargs.get("details")
    return cls(
        text,
        job_id=_text(kwargs.get("job_id")) or job_id,
        details=details if isinstance(details, dict) else None,
        hint=_text(kwargs.get("hint")),
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None
