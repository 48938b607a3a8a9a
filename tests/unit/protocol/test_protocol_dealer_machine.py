"""The dealer against a slow and obvious model that writes what should go over the wire."""

from typing import Any

import attrs
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from test_protocol_patterns import best, matches

from cumulusd.protocol.dealer import Dealer, ProtocolViolation
from cumulusd.protocol.messages import (
    CalleeFeatures,
    Effect,
    Member,
    MetaEvent,
    RegistrationChanged,
    Send,
    keep_disclosure,
    wamp,
)

NOTHING = CalleeFeatures()
STOPPABLE = CalleeFeatures(cancels_calls=True)
ALL = CalleeFeatures(cancels_calls=True, yields_progress=True)
MEMBERS = {
    number: Member(
        session_id=number,
        authid=f"name{number}",
        authrole="client",
        callee=callee,
        may_disclose=number != 23,
        may_learn_callers=number == 21,
        local=number == 1,
    )
    for number, callee in {1: ALL, 21: ALL, 22: STOPPABLE, 23: NOTHING}.items()
}
MAX_CALLS, MAX_REGISTRATIONS = 3, 3

SESSIONS = st.sampled_from(sorted(MEMBERS))
REQUESTS = st.integers(1, 5)
NUMBERS = st.integers(1, 6)
PICKS = st.integers(0, 4)
PATTERNS = st.sampled_from(
    [
        *(("p.a", "exact"), ("p.b", "exact"), ("p.a", "prefix"), ("p.", "prefix")),
        *(("p.", "wildcard"), (".a", "wildcard")),
    ]
)
URIS = st.sampled_from(["p.a", "p.b", "p.ab", "q.a", "q.b"])


@attrs.define
class Offer:
    number: int
    session: int
    uri: str
    policy: str
    names_callers: bool


@attrs.define
class Waiting:
    caller: int
    request: int
    callee: int
    invocation: int
    progress: bool
    timeout_s: float | None
    due_at: float | None
    killed: bool = False


class Model:
    """All that is, in two lists; every question is asked of each entry."""

    def __init__(self) -> None:
        self.offers: list[Offer] = []
        self.waiting: list[Waiting] = []
        self.invocations = dict.fromkeys(MEMBERS, 0)
        self.now = 0.0

    def end(self, call: Waiting, raw: list[Any]) -> list[Any]:
        self.waiting.remove(call)
        return [(call.caller, raw)]

    def interrupt(self, call: Waiting, mode: str, **reason: str) -> list[Any]:
        if not MEMBERS[call.callee].callee.cancels_calls or call.killed:
            return []
        return [(call.callee, [69, call.invocation, {"mode": mode, **reason}])]


def error(kind: int, request: int, uri: str) -> list[Any]:
    return [8, kind, request, {}, uri]


def raw(message: Any) -> list[Any]:
    """A message as it goes over the wire; of an ERROR not its text."""
    fields: list[Any] = message.marshal()
    return fields[:5] if fields[0] == 8 else fields


def sent(effects: list[Effect]) -> list[Any]:
    return sorted(
        ((e.session_id, raw(e.message)) for e in effects if isinstance(e, Send)), key=repr
    )


class DealerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.model = Model()
        self.dealer = Dealer(
            max_calls_in_flight=MAX_CALLS,
            max_registrations=MAX_REGISTRATIONS,
            now=lambda: self.model.now,
        )
        self.last_offer = 0
        for each in MEMBERS.values():
            self.dealer.join(each)
        # Enough to be called from the first step on.
        for session, pattern in ((21, ("p.a", "exact")), (22, ("p.", "prefix"))):
            self.register(session=session, pattern=pattern, names_callers=False)

    def check(self, effects: list[Effect], expected: list[Any]) -> None:
        assert sent(effects) == sorted(expected, key=repr)

    def check_changes(self, effects: list[Effect], offer: Offer, verbs: tuple[str, str]) -> None:
        topics = [e.topic for e in effects if isinstance(e, MetaEvent)]
        assert topics == [f"wamp.registration.on_{verb}" for verb in verbs]
        changes = [e for e in effects if isinstance(e, RegistrationChanged)]
        added = verbs[0] == "create"
        exact = offer.policy == "exact"
        assert changes == [RegistrationChanged(offer.session, offer.uri, added)] * exact

    @rule(session=SESSIONS, pattern=PATTERNS, names_callers=st.booleans())
    def register(self, session: int, pattern: tuple[str, str], names_callers: bool) -> None:
        message = wamp.Register(9, pattern[0], match=pattern[1])
        keep_disclosure(message, {"disclose_caller": names_callers})
        effects = self.dealer.register(session, message)
        mine = [each for each in self.model.offers if each.session == session]
        refusal = None
        if names_callers and not MEMBERS[session].may_learn_callers:
            refusal = "wamp.error.option_not_allowed"
        elif any((each.uri, each.policy) == pattern for each in self.model.offers):
            refusal = "wamp.error.procedure_already_exists"
        elif len(mine) >= MAX_REGISTRATIONS and not MEMBERS[session].local:
            refusal = "cumulus.error.too_many"
        if refusal is not None:
            self.check(effects, [(session, error(64, 9, refusal))])
            assert len(effects) == 1
            return
        self.last_offer += 1
        offer = Offer(self.last_offer, session, *pattern, names_callers)
        self.model.offers.append(offer)
        self.check(effects, [(session, [65, 9, offer.number])])
        self.check_changes(effects, offer, ("create", "register"))

    @rule(session=SESSIONS, number=NUMBERS)
    def unregister(self, session: int, number: int) -> None:
        effects = self.dealer.unregister(session, wamp.Unregister(9, number))
        for offer in self.model.offers:
            if (offer.session, offer.number) == (session, number):
                self.model.offers.remove(offer)
                self.check(effects, [(session, [67, 9])])
                self.check_changes(effects, offer, ("unregister", "delete"))
                return
        self.check(effects, [(session, error(66, 9, "wamp.error.no_such_registration"))])

    @rule(
        session=SESSIONS,
        request=REQUESTS,
        uri=URIS,
        progress=st.booleans(),
        discloses=st.booleans(),
        timeout=st.sampled_from([None, 0, 1000, 3000]),
    )
    def call(
        self,
        session: int,
        request: int,
        uri: str,
        progress: bool,
        discloses: bool,
        timeout: int | None,
    ) -> None:
        message = wamp.Call(
            request, uri, args=[request], timeout=timeout, receive_progress=progress
        )
        keep_disclosure(message, {"disclose_me": discloses})
        mine = [each for each in self.model.waiting if each.caller == session]
        if any(each.request == request for each in mine):
            try:
                self.dealer.call(session, message)
            except ProtocolViolation:
                return
            raise AssertionError("a request id was used twice")
        effects = self.dealer.call(session, message)
        offers = {(each.uri, each.policy): each for each in self.model.offers}
        found = best(set(offers), uri)
        if len(mine) >= MAX_CALLS and not MEMBERS[session].local:
            self.check(effects, [(session, error(48, request, "cumulus.error.too_many"))])
        elif found is None:
            self.check(effects, [(session, error(48, request, "wamp.error.no_such_procedure"))])
        elif discloses and not MEMBERS[session].may_disclose:
            denied = "wamp.error.option_disallowed.disclose_me"
            self.check(effects, [(session, error(48, request, denied))])
        else:
            self.forward(
                session, request, uri, progress, discloses, timeout, offers[found], effects
            )

    def forward(
        self,
        session: int,
        request: int,
        uri: str,
        progress: bool,
        discloses: bool,
        timeout: int | None,
        offer: Offer,
        effects: list[Effect],
    ) -> None:
        callee = MEMBERS[offer.session]
        self.model.invocations[offer.session] += 1
        timeout_s = timeout / 1000 if timeout else None
        call = Waiting(
            caller=session,
            request=request,
            callee=offer.session,
            invocation=self.model.invocations[offer.session],
            progress=progress and callee.callee.yields_progress,
            timeout_s=timeout_s,
            due_at=None if timeout_s is None else self.model.now + timeout_s,
        )
        self.model.waiting.append(call)
        details: dict[str, Any] = {}
        if call.progress:
            details["receive_progress"] = True
        if discloses or offer.names_callers or callee.local:
            details["caller"] = session
        if discloses or offer.names_callers:
            details["caller_authid"] = f"name{session}"
            details["caller_authrole"] = "client"
        if offer.policy != "exact":
            assert matches(offer.uri, offer.policy, uri)
            details["procedure"] = uri
        (effect,) = effects
        assert isinstance(effect, Send)
        assert effect.session_id == offer.session
        assert effect.message.marshal() == [68, call.invocation, offer.number, details, [request]]

    def one_waiting(self, pick: int) -> Waiting | None:
        """One of the calls in flight; now and then none."""
        return self.model.waiting[pick] if pick < len(self.model.waiting) else None

    @rule(
        pick=PICKS,
        session=SESSIONS,
        request=REQUESTS,
        mode=st.sampled_from(["skip", "kill", "killnowait", None]),
    )
    def cancel(self, pick: int, session: int, request: int, mode: str | None) -> None:
        call = self.one_waiting(pick)
        if call is not None:
            session, request = call.caller, call.request
        effects = self.dealer.cancel(session, wamp.Cancel(request, mode))
        expected: list[Any] = []
        for call in self.model.waiting:
            if (call.caller, call.request) == (session, request):
                if mode == "kill" and MEMBERS[call.callee].callee.cancels_calls:
                    expected = self.model.interrupt(call, "kill")
                    call.killed = True
                else:
                    ended = error(48, request, "wamp.error.canceled")
                    expected = self.model.end(call, ended)
                    if mode != "skip":
                        expected += self.model.interrupt(call, "killnowait")
                break
        self.check(effects, expected)

    @rule(pick=PICKS, session=SESSIONS, number=NUMBERS, progress=st.booleans())
    def answer(self, pick: int, session: int, number: int, progress: bool) -> None:
        call = self.one_waiting(pick)
        if call is not None:
            session, number = call.callee, call.invocation
        effects = self.dealer.yield_(session, wamp.Yield(number, args=["r"], progress=progress))
        expected: list[Any] = []
        for call in self.model.waiting:
            if (call.callee, call.invocation) == (session, number):
                if not progress:
                    expected = self.model.end(call, [50, call.request, {}, ["r"]])
                elif call.progress:
                    expected = [(call.caller, [50, call.request, {"progress": True}, ["r"]])]
                    if call.timeout_s is not None:
                        call.due_at = self.model.now + call.timeout_s
                break
        self.check(effects, expected)

    @rule(pick=PICKS, session=SESSIONS, number=NUMBERS)
    def fail(self, pick: int, session: int, number: int) -> None:
        call = self.one_waiting(pick)
        if call is not None:
            session, number = call.callee, call.invocation
        effects = self.dealer.error(session, wamp.Error(68, number, "x.y", args=["e"]))
        expected: list[Any] = []
        for call in self.model.waiting:
            if (call.callee, call.invocation) == (session, number):
                expected = self.model.end(call, error(48, call.request, "x.y"))
                break
        self.check(effects, expected)

    @rule(seconds=st.sampled_from([0.5, 1.0, 5.0]))
    def time_passes(self, seconds: float) -> None:
        self.model.now += seconds
        expected: list[Any] = []
        for call in list(self.model.waiting):
            if call.due_at is not None and call.due_at <= self.model.now:
                expected += self.model.end(call, error(48, call.request, "wamp.error.timeout"))
                expected += self.model.interrupt(call, "killnowait", reason="wamp.error.timeout")
        self.check(self.dealer.time_out(), expected)

    @rule(session=SESSIONS.filter(lambda number: number != 1))
    def leave_and_come_again(self, session: int) -> None:
        effects = self.dealer.leave(session)
        expected: list[Any] = []
        for call in list(self.model.waiting):
            if call.caller == session:
                self.model.waiting.remove(call)
                if call.callee != session:
                    expected += self.model.interrupt(call, "killnowait")
            elif call.callee == session:
                ended = error(48, call.request, "wamp.error.canceled")
                expected += self.model.end(call, ended)
        to_others = [each for each in sent(effects) if each[0] != session]
        assert to_others == sorted(expected, key=repr)
        self.model.offers = [each for each in self.model.offers if each.session != session]
        self.model.invocations[session] = 0
        assert self.dealer.leave(session) == []
        self.dealer.join(MEMBERS[session])

    @precondition(lambda self: self.model.offers)
    @rule(uri=URIS)
    def look(self, uri: str) -> None:
        offers = {(each.uri, each.policy): each for each in self.model.offers}
        exact = offers.get((uri, "exact"))
        assert self.dealer.holder(uri) == (exact.session if exact else None)
        for each in self.model.offers:
            registration = self.dealer.registration(each.number)
            assert registration is not None
            assert (registration.uri, registration.policy) == (each.uri, each.policy)

    @invariant()
    def the_counts_agree(self) -> None:
        assert self.dealer.calls_in_flight == len(self.model.waiting)
        assert len(self.dealer.registrations) == len(self.model.offers)
        due = [each.due_at for each in self.model.waiting if each.due_at is not None]
        assert self.dealer.next_timeout_at() == min(due, default=None)
        for call in self.model.waiting:
            assert self.dealer.is_in_flight(call.callee, call.invocation)


TestDealer = DealerMachine.TestCase
TestDealer.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
