"""The dealer, without I/O: who offers a procedure, and which call waits for whom.

A message in, effects out. A call is known by (caller, the caller's request) and by (callee, the
callee's invocation); it is forgotten the moment its caller has its final answer, and whatever the
callee sends for it later is ignored.

============  ===========================================================================
CANCEL mode   what happens
============  ===========================================================================
skip          the caller has its ERROR at once; the callee isn't told, its answer is dropped
killnowait    (the default) the same, and the callee is interrupted
kill          the callee is interrupted, its answer is the caller's
============  ===========================================================================

A callee that did not announce `call_canceling` is never interrupted: kill is skip then.

A call's `timeout` is kept here, whatever its callee can do: when it is over the call ends like one
cancelled by killnowait, with `wamp.error.timeout`. Each progressive result begins it anew.
"""

import time
from collections.abc import Callable
from typing import Any

import attrs

from cumulusd.errors import CumulusError, TooMany, Unavailable
from cumulusd.protocol import messages
from cumulusd.protocol.deadlines import Deadlines
from cumulusd.protocol.messages import (
    Effect,
    Member,
    Message,
    MetaEvent,
    RegistrationChanged,
    Send,
    canceled,
    error_reply,
    wamp,
)
from cumulusd.protocol.patterns import EXACT, Patterns
from cumulusd.protocol.registration import Registration

_CALL = wamp.Call.MESSAGE_TYPE
_REGISTER = wamp.Register.MESSAGE_TYPE
_UNREGISTER = wamp.Unregister.MESSAGE_TYPE
_MAX_TIMEOUT_MS = 2**53  #: longer is as good as none, and may be more than a float holds


class ProtocolViolation(Exception):
    """The peer broke the protocol in a way that ends its session."""


@attrs.define(kw_only=True)
class _Call:
    caller_id: int
    request: int
    callee_id: int
    invocation: int
    uri: str
    job_id: str | None
    wants_progress: bool
    timeout_s: float | None
    killed: bool = False

    @property
    def key(self) -> tuple[int, int]:
        return self.caller_id, self.request


@attrs.define(kw_only=True)
class _Party:
    """A session as the dealer knows it."""

    member: Member
    last_invocation: int = 0
    calls: dict[int, _Call] = attrs.field(factory=dict)  #: as caller, by its request
    invocations: dict[int, _Call] = attrs.field(factory=dict)  #: as callee
    registrations: dict[int, Registration] = attrs.field(factory=dict)


class Dealer:
    """Procedures and calls of one realm."""

    def __init__(
        self,
        *,
        max_calls_in_flight: int,
        max_registrations: int,
        now: Callable[[], float],
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Both bounds are per session; the daemon's own has none. `now`: seconds of any clock that
        isn't set, for timeouts; `wall_clock`: unix seconds."""
        self._max_calls_in_flight = max_calls_in_flight
        self._max_registrations = max_registrations
        self._now = now
        self._wall_clock = wall_clock
        self._parties: dict[int, _Party] = {}
        self._by_id: dict[int, Registration] = {}
        self._registrations: Patterns[Registration] = Patterns()
        self._last_registration = 0
        self._calls_in_flight = 0
        self._deadlines: Deadlines[tuple[int, int]] = Deadlines()

    @property
    def calls_in_flight(self) -> int:
        """Calls whose caller waits for the final answer."""
        return self._calls_in_flight

    @property
    def registrations(self) -> Patterns[Registration]:
        """All there are, to look at."""
        return self._registrations

    def registration(self, registration_id: int) -> Registration | None:
        """The one of that id."""
        return self._by_id.get(registration_id)

    def holder(self, uri: str) -> int | None:
        """The session that offers just this procedure."""
        registration = self._registrations.exact.get(uri)
        return registration.session_id if registration else None

    def is_in_flight(self, callee_id: int, invocation: int) -> bool:
        """Does anybody still wait for this invocation's answer?"""
        party = self._parties.get(callee_id)
        return party is not None and invocation in party.invocations

    def next_timeout_at(self) -> float | None:
        """When `time_out` is to be called next; None while no call has a timeout."""
        return self._deadlines.next_at() if self._deadlines else None

    def time_out(self) -> list[Effect]:
        """Ends the calls whose time is over."""
        effects: list[Effect] = []
        for caller_id, request in self._deadlines.pop_due(self._now()):
            call = self._parties[caller_id].calls[request]
            assert call.timeout_s is not None, "it had a deadline"
            error = wamp.Error(
                _CALL,
                request,
                messages.TIMEOUT,
                args=[f"{call.uri} did not answer within {call.timeout_s:g} s"],
            )
            effects += self._end(call, error)
            if not call.killed:
                effects += self._interrupt(call, wamp.Interrupt.KILLNOWAIT, messages.TIMEOUT)
        return effects

    def join(self, member: Member) -> None:
        """A session takes part."""
        self._parties[member.session_id] = _Party(member=member)

    def leave(self, session_id: int) -> list[Effect]:
        """A session is gone: its calls are interrupted, those it owed an answer get an ERROR."""
        party = self._parties.get(session_id)
        if party is None:
            return []
        effects: list[Effect] = []
        for registration in list(party.registrations.values()):
            effects += self._drop_registration(party, registration)
        for call in list(party.calls.values()):
            self._forget(call)
            if not call.killed:
                effects += self._interrupt(call, wamp.Interrupt.KILLNOWAIT)
        for call in list(party.invocations.values()):
            effects += self._end(
                call, canceled(_CALL, call.request, f"the callee of {call.uri} left")
            )
        del self._parties[session_id]
        return effects

    def register(self, session_id: int, message: Message) -> list[Effect]:
        """REGISTER: exact, prefix or wildcard; a single callee is all there is."""
        party = self._parties[session_id]
        uri: str = message.procedure
        policy: str = message.match or EXACT

        def refuse(error_uri: str, text: str) -> list[Effect]:
            error = wamp.Error(_REGISTER, message.request, error_uri, args=[text])
            return [Send(session_id, error)]

        if (
            message.invoke not in (None, wamp.Register.INVOKE_SINGLE)
            or message.concurrency is not None
            or message.force_reregister
        ):
            return refuse(
                messages.OPTION_NOT_ALLOWED,
                "a procedure has one callee: no invoke, concurrency or force_reregister",
            )
        discloses_callers = messages.asks_disclosure(message)
        if discloses_callers and not party.member.may_learn_callers:
            return refuse(
                messages.OPTION_NOT_ALLOWED,
                f"disclose_caller is not for the role {party.member.authrole}: callers may "
                "disclose themselves",
            )
        if self._registrations.get(uri, policy) is not None:
            return refuse(messages.PROCEDURE_ALREADY_EXISTS, f"{uri} is already registered")
        if not party.member.local and len(party.registrations) >= self._max_registrations:
            error = TooMany(
                f"{uri} not registered: at most {self._max_registrations} a session "
                "(router.max_registrations)",
                hint="unregister what isn't offered any more, or use a pattern or another session",
            )
            return [Send(session_id, error_reply(_REGISTER, message.request, error))]
        self._last_registration += 1
        registration = Registration(
            registration_id=self._last_registration,
            uri=uri,
            policy=policy,
            session_id=session_id,
            discloses_callers=discloses_callers,
            created_at=self._wall_clock(),
        )
        number = registration.registration_id
        self._by_id[number] = party.registrations[number] = registration
        self._registrations.put(uri, policy, registration)
        return [
            Send(session_id, wamp.Registered(message.request, number)),
            *([RegistrationChanged(session_id, uri, True)] if policy == EXACT else ()),
            MetaEvent("wamp.registration.on_create", [session_id, registration.as_dict()]),
            MetaEvent("wamp.registration.on_register", [session_id, number]),
        ]

    def unregister(self, session_id: int, message: Message) -> list[Effect]:
        """UNREGISTER. Calls in flight go on."""
        party = self._parties[session_id]
        registration = party.registrations.get(message.registration)
        if registration is None:
            text = f"this session has no registration {message.registration}"
            error = wamp.Error(
                _UNREGISTER, message.request, messages.NO_SUCH_REGISTRATION, args=[text]
            )
            return [Send(session_id, error)]
        changes = self._drop_registration(party, registration)
        return [Send(session_id, wamp.Unregistered(message.request)), *changes]

    def call(self, session_id: int, message: Message) -> list[Effect]:
        """CALL. Raises ProtocolViolation when the request id is still in use."""
        caller = self._parties[session_id]
        request: int = message.request
        uri: str = message.procedure
        job_id = messages.job_id_of(message)
        if request in caller.calls:
            raise ProtocolViolation(f"request {request} is still in flight")
        if not caller.member.local and len(caller.calls) >= self._max_calls_in_flight:
            error = TooMany(
                f"{uri} not called: this session has {self._max_calls_in_flight} calls in flight, "
                "the most there may be (router.max_calls_in_flight)",
                job_id=job_id,
                hint="wait for one of them to end",
            )
            return [Send(session_id, error_reply(_CALL, request, error))]
        registration = self._registrations.best(uri)
        if registration is None:
            missing = Unavailable(f"nobody offers the procedure {uri}", job_id=job_id)
            reply = error_reply(_CALL, request, missing, uri=messages.NO_SUCH_PROCEDURE)
            return [Send(session_id, reply)]
        told = registration.discloses_callers
        if messages.asks_disclosure(message):
            if not caller.member.may_disclose:
                text = f"the role {caller.member.authrole} may not disclose itself"
                uri_of_error = messages.OPTION_DISALLOWED_DISCLOSE_ME
                return [Send(session_id, wamp.Error(_CALL, request, uri_of_error, args=[text]))]
            told = True
        callee = self._parties[registration.session_id]
        callee.last_invocation += 1
        features = callee.member.callee
        call = _Call(
            caller_id=session_id,
            request=request,
            callee_id=registration.session_id,
            invocation=callee.last_invocation,
            uri=uri,
            job_id=job_id,
            wants_progress=bool(message.receive_progress) and features.yields_progress,
            timeout_s=min(message.timeout, _MAX_TIMEOUT_MS) / 1000 if message.timeout else None,
        )
        caller.calls[request] = callee.invocations[call.invocation] = call
        self._calls_in_flight += 1
        self._begin_timeout(call)
        invocation = wamp.Invocation(
            call.invocation,
            registration.registration_id,
            args=message.args,
            kwargs=message.kwargs,
            receive_progress=True if call.wants_progress else None,
            procedure=None if registration.policy == EXACT else uri,
            caller=session_id if told or callee.member.local else None,
            caller_authid=caller.member.authid if told else None,
            caller_authrole=caller.member.authrole if told else None,
        )
        return [Send(call.callee_id, invocation)]

    def cancel(self, session_id: int, message: Message) -> list[Effect]:
        """CANCEL. Of a call that has its answer: nothing, they crossed."""
        call = self._parties[session_id].calls.get(message.request)
        if call is None:
            return []
        callee = self._parties[call.callee_id].member.callee
        mode = message.mode or wamp.Cancel.KILLNOWAIT
        if mode == wamp.Cancel.KILL and callee.cancels_calls:
            if call.killed:
                return []
            call.killed = True
            return self._interrupt(call, wamp.Interrupt.KILL)
        effects = self._end(
            call, canceled(_CALL, call.request, f"the call of {call.uri} was cancelled")
        )
        if mode != wamp.Cancel.SKIP and not call.killed:
            effects += self._interrupt(call, wamp.Interrupt.KILLNOWAIT)
        return effects

    def yield_(self, session_id: int, message: Message) -> list[Effect]:
        """YIELD: a RESULT, progressive or final. Late ones are ignored."""
        call = self._parties[session_id].invocations.get(message.request)
        if call is None or (message.progress and not call.wants_progress):
            return []
        result = wamp.Result(
            call.request,
            args=message.args,
            kwargs=message.kwargs,
            progress=True if message.progress else None,
        )
        if message.progress:
            self._begin_timeout(call)
            return [Send(call.caller_id, result)]
        return self._end(call, result)

    def error(self, session_id: int, message: Message) -> list[Effect]:
        """ERROR of an INVOCATION, passed to the caller. Late ones are ignored."""
        call = self._parties[session_id].invocations.get(message.request)
        if call is None:
            return []
        error = wamp.Error(
            _CALL, call.request, message.error, args=message.args, kwargs=message.kwargs
        )
        return self._end(call, error)

    def refuse_result(self, caller_id: int, request: int, error: CumulusError) -> list[Effect]:
        """A RESULT could not be sent: the call ends with this error, its callee is interrupted."""
        party = self._parties.get(caller_id)
        call = party.calls.get(request) if party else None
        if call is None:
            # It was the final one: the call is forgotten, its caller still waits.
            return [Send(caller_id, error_reply(_CALL, request, error))]
        error.job_id = error.job_id or call.job_id
        effects = self._end(call, error_reply(_CALL, request, error))
        if not call.killed:
            effects += self._interrupt(call, wamp.Interrupt.KILLNOWAIT)
        return effects

    def refuse_invocation(
        self, callee_id: int, invocation: int, error: CumulusError
    ) -> list[Effect]:
        """An INVOCATION could not be sent: its caller gets this error."""
        party = self._parties.get(callee_id)
        call = party.invocations.get(invocation) if party else None
        if call is None:
            return []
        error.job_id = error.job_id or call.job_id
        return self._end(call, error_reply(_CALL, call.request, error))

    def _end(self, call: _Call, answer: Message) -> list[Effect]:
        self._forget(call)
        return [Send(call.caller_id, answer)]

    def _begin_timeout(self, call: _Call) -> None:
        if call.timeout_s is not None:
            self._deadlines.set(call.key, self._now() + call.timeout_s)

    def _forget(self, call: _Call) -> None:
        caller, callee = self._parties[call.caller_id], self._parties[call.callee_id]
        del caller.calls[call.request]
        del callee.invocations[call.invocation]
        self._calls_in_flight -= 1
        if call.timeout_s is not None:
            self._deadlines.discard(call.key)

    def _interrupt(self, call: _Call, mode: Any, reason: str | None = None) -> list[Effect]:
        if not self._parties[call.callee_id].member.callee.cancels_calls:
            return []
        return [Send(call.callee_id, wamp.Interrupt(call.invocation, mode=mode, reason=reason))]

    def _drop_registration(self, party: _Party, registration: Registration) -> list[Effect]:
        number, session_id = registration.registration_id, registration.session_id
        del party.registrations[number], self._by_id[number]
        self._registrations.remove(registration.uri, registration.policy)
        exact = registration.policy == EXACT
        return [
            *([RegistrationChanged(session_id, registration.uri, False)] if exact else ()),
            MetaEvent("wamp.registration.on_unregister", [session_id, number]),
            MetaEvent("wamp.registration.on_delete", [session_id, number]),
        ]
