"""The dealer alone: messages in, effects out."""

from typing import Any

import pytest

from cumulusd.errors import InvalidArgument
from cumulusd.protocol.dealer import Dealer, ProtocolViolation
from cumulusd.protocol.messages import (
    CalleeFeatures,
    Effect,
    Member,
    MetaEvent,
    RegistrationChanged,
    Send,
    wamp,
)

CALLER, CALLEE, PLAIN_CALLEE, DAEMON = 11, 12, 13, 1
URI = "cumulus.agent.n1.prepare"


ALL = CalleeFeatures(cancels_calls=True, yields_progress=True)


def member(session_id: int, **kwargs: Any) -> Member:
    return Member(session_id=session_id, authid=f"name{session_id}", authrole="client", **kwargs)


def make(now: list[float] | None = None) -> Dealer:
    clock = [0.0] if now is None else now
    dealer = Dealer(
        max_calls_in_flight=3,
        max_registrations=2,
        now=lambda: clock[0],
        wall_clock=lambda: 1e9,
    )
    dealer.join(member(DAEMON, callee=ALL, local=True))
    dealer.join(member(CALLER))
    dealer.join(member(CALLEE, callee=ALL))
    dealer.join(member(PLAIN_CALLEE))
    return dealer


def told(effects: list[Effect]) -> list[Effect]:
    """The effects but for WAMP's meta events."""
    return [effect for effect in effects if not isinstance(effect, MetaEvent)]


def register(dealer: Dealer, session_id: int, uri: str = URI) -> int:
    sent, changed = told(dealer.register(session_id, wamp.Register(1, uri)))
    assert changed == RegistrationChanged(session_id, uri, True)
    assert isinstance(sent, Send) and isinstance(sent.message, wamp.Registered)
    registration: int = sent.message.registration
    return registration


def only(effects: list[Effect]) -> tuple[int, Any]:
    (effect,) = told(effects)
    assert isinstance(effect, Send)
    return effect.session_id, effect.message


def called(dealer: Dealer, request: int = 7, **kwargs: Any) -> int:
    """A call in flight; its invocation id."""
    _, invocation = only(dealer.call(CALLER, wamp.Call(request, URI, **kwargs)))
    number: int = invocation.request
    return number


def test_a_call_and_its_result() -> None:
    dealer = make()
    registration = register(dealer, CALLEE)
    to, invocation = only(
        dealer.call(CALLER, wamp.Call(7, URI, args=[1], kwargs={"a": 2}, receive_progress=True))
    )
    assert to == CALLEE
    assert (invocation.registration, invocation.args, invocation.kwargs) == (
        registration,
        [1],
        {"a": 2},
    )
    assert invocation.receive_progress is True
    assert dealer.calls_in_flight == 1
    assert dealer.is_in_flight(CALLEE, invocation.request)

    to, partial = only(
        dealer.yield_(CALLEE, wamp.Yield(invocation.request, kwargs={"p": 1}, progress=True))
    )
    assert (to, partial.request, partial.kwargs, partial.progress) == (CALLER, 7, {"p": 1}, True)
    to, result = only(dealer.yield_(CALLEE, wamp.Yield(invocation.request, args=[3])))
    assert (to, result.request, result.args, result.progress) == (CALLER, 7, [3], None)
    assert dealer.calls_in_flight == 0
    assert dealer.yield_(CALLEE, wamp.Yield(invocation.request, args=[4])) == []
    assert dealer.error(CALLEE, wamp.Error(68, invocation.request, "x.y")) == []


def test_nothing_is_disclosed_to_a_remote_callee_but_the_daemon_knows_who_calls() -> None:
    dealer = make()
    register(dealer, CALLEE)
    register(dealer, DAEMON, "cumulus.job.get")
    _, remote = only(dealer.call(CALLER, wamp.Call(1, URI)))
    _, local = only(dealer.call(CALLER, wamp.Call(2, "cumulus.job.get")))
    assert remote.marshal() == [68, 1, 1, {}]
    assert local.caller == CALLER


def test_progress_nobody_asked_for_is_dropped() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer)
    assert dealer.yield_(CALLEE, wamp.Yield(number, progress=True)) == []
    assert dealer.calls_in_flight == 1


def test_an_error_is_passed_with_all_it_carries() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer)
    to, error = only(
        dealer.error(CALLEE, wamp.Error(68, number, "a.b", args=["t"], kwargs={"k": 1}))
    )
    assert (to, error.request_type, error.request) == (CALLER, 48, 7)
    assert (error.error, error.args, error.kwargs) == ("a.b", ["t"], {"k": 1})
    assert dealer.calls_in_flight == 0


def test_another_session_cannot_answer() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer)
    assert dealer.yield_(PLAIN_CALLEE, wamp.Yield(number)) == []
    assert dealer.yield_(CALLER, wamp.Yield(number)) == []
    assert dealer.calls_in_flight == 1


def test_a_procedure_nobody_offers() -> None:
    to, error = only(make().call(CALLER, wamp.Call(7, URI, kwargs={"job_id": "j1"})))
    assert (to, error.error, error.kwargs["job_id"]) == (
        CALLER,
        "wamp.error.no_such_procedure",
        "j1",
    )


def test_a_procedure_has_one_callee() -> None:
    dealer = make()
    register(dealer, CALLEE)
    to, error = only(dealer.register(PLAIN_CALLEE, wamp.Register(1, URI)))
    assert (to, error.error) == (PLAIN_CALLEE, "wamp.error.procedure_already_exists")
    assert dealer.holder(URI) == CALLEE


@pytest.mark.parametrize(
    "options",
    [
        {"invoke": "roundrobin"},
        {"concurrency": 3},
        {"force_reregister": True},
    ],
)
def test_options_that_are_not_offered_are_refused(options: dict[str, Any]) -> None:
    dealer = make()
    _, error = only(dealer.register(CALLEE, wamp.Register(1, URI, **options)))
    assert error.error == "wamp.error.option_not_allowed"
    assert dealer.holder(URI) is None


def test_registrations_are_bounded_for_remote_sessions() -> None:
    dealer = make()
    for number in range(2):
        register(dealer, CALLEE, f"a.b{number}")
    _, error = only(dealer.register(CALLEE, wamp.Register(9, "a.c")))
    assert error.error == "cumulus.error.too_many"
    for number in range(5):
        register(dealer, DAEMON, f"d.b{number}")


def test_unregister() -> None:
    dealer = make()
    registration = register(dealer, CALLEE)
    number = called(dealer)
    _, error = only(dealer.unregister(PLAIN_CALLEE, wamp.Unregister(2, registration)))
    assert error.error == "wamp.error.no_such_registration"
    sent, changed = told(dealer.unregister(CALLEE, wamp.Unregister(2, registration)))
    assert isinstance(sent, Send) and isinstance(sent.message, wamp.Unregistered)
    assert changed == RegistrationChanged(CALLEE, URI, False)
    # What is in flight goes on.
    assert only(dealer.yield_(CALLEE, wamp.Yield(number)))[0] == CALLER
    register(dealer, PLAIN_CALLEE)


def test_calls_in_flight_are_bounded() -> None:
    dealer = make()
    register(dealer, CALLEE)
    for request in range(1, 4):
        called(dealer, request)
    _, error = only(dealer.call(CALLER, wamp.Call(4, URI)))
    assert error.error == "cumulus.error.too_many"
    assert dealer.calls_in_flight == 3


def test_a_request_id_in_flight_is_not_used_twice() -> None:
    dealer = make()
    register(dealer, CALLEE)
    called(dealer)
    with pytest.raises(ProtocolViolation, match="request 7"):
        dealer.call(CALLER, wamp.Call(7, URI))


def test_cancel_killnowait_is_the_default() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer)
    error, interrupt = dealer.cancel(CALLER, wamp.Cancel(7))
    assert isinstance(error, Send) and isinstance(interrupt, Send)
    assert (error.session_id, error.message.error) == (CALLER, "wamp.error.canceled")
    assert (interrupt.session_id, interrupt.message.request) == (CALLEE, number)
    assert interrupt.message.mode == "killnowait"
    assert dealer.calls_in_flight == 0
    assert dealer.error(CALLEE, wamp.Error(68, number, "wamp.error.canceled")) == []
    assert dealer.cancel(CALLER, wamp.Cancel(7)) == []


def test_cancel_skip_leaves_the_callee_alone() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer)
    to, error = only(dealer.cancel(CALLER, wamp.Cancel(7, "skip")))
    assert (to, error.error) == (CALLER, "wamp.error.canceled")
    assert dealer.yield_(CALLEE, wamp.Yield(number)) == []


def test_cancel_kill_waits_for_the_callee() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer)
    to, interrupt = only(dealer.cancel(CALLER, wamp.Cancel(7, "kill")))
    assert (to, interrupt.mode) == (CALLEE, "kill")
    assert dealer.cancel(CALLER, wamp.Cancel(7, "kill")) == []
    assert dealer.calls_in_flight == 1
    to, error = only(dealer.error(CALLEE, wamp.Error(68, number, "wamp.error.canceled")))
    assert (to, error.request) == (CALLER, 7)


@pytest.mark.parametrize("mode", ["skip", "kill", "killnowait"])
def test_a_callee_that_takes_no_interrupt_gets_none(mode: str) -> None:
    dealer = make()
    register(dealer, PLAIN_CALLEE)
    called(dealer)
    to, error = only(dealer.cancel(CALLER, wamp.Cancel(7, mode)))
    assert (to, error.error) == (CALLER, "wamp.error.canceled")


def test_a_caller_that_leaves_interrupts_its_calls() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer)
    to, interrupt = only(dealer.leave(CALLER))
    assert (to, interrupt.request) == (CALLEE, number)
    assert dealer.calls_in_flight == 0
    assert dealer.yield_(CALLEE, wamp.Yield(number)) == []
    assert dealer.leave(CALLER) == []


def test_a_callee_that_leaves_fails_its_calls() -> None:
    dealer = make()
    register(dealer, CALLEE)
    called(dealer)
    changed, error = told(dealer.leave(CALLEE))
    assert changed == RegistrationChanged(CALLEE, URI, False)
    assert isinstance(error, Send)
    assert (error.session_id, error.message.request) == (CALLER, 7)
    assert error.message.error == "wamp.error.canceled"
    assert dealer.calls_in_flight == 0
    assert dealer.holder(URI) is None


def test_a_session_may_call_itself_and_leave() -> None:
    dealer = make()
    register(dealer, CALLEE)
    dealer.call(CALLEE, wamp.Call(7, URI))
    dealer.leave(CALLEE)
    assert dealer.calls_in_flight == 0


def test_what_cannot_be_sent_ends_the_call() -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = called(dealer, kwargs={"job_id": "j1"})
    error, interrupt = dealer.refuse_result(CALLER, 7, InvalidArgument("no"))
    assert isinstance(error, Send) and isinstance(interrupt, Send)
    assert (error.message.request, error.message.kwargs["job_id"]) == (7, "j1")
    assert interrupt.message.request == number
    number = called(dealer, 8, kwargs={"job_id": "j1"})
    to, refused = only(dealer.refuse_invocation(CALLEE, number, InvalidArgument("no")))
    assert (to, refused.request, refused.kwargs["job_id"]) == (CALLER, 8, "j1")
    assert dealer.calls_in_flight == 0
    assert dealer.refuse_invocation(CALLEE, number, InvalidArgument("no")) == []
