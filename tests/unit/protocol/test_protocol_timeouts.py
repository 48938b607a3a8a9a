"""What is due when: the structure, the timer over it, and calls that have a timeout."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_protocol_dealer import CALLEE, CALLER, PLAIN_CALLEE, URI, make, only, register, told
from twisted.internet.task import Clock

from cumulusd.errors import InvalidArgument
from cumulusd.protocol.alarm import Alarm
from cumulusd.protocol.deadlines import Deadlines
from cumulusd.protocol.messages import Send, wamp

STEPS = st.lists(
    st.tuples(st.sampled_from(["set", "discard", "pop"]), st.integers(0, 5), st.integers(0, 9)),
    max_size=200,
)


@settings(max_examples=200, deadline=None)
@given(STEPS)
def test_deadlines_against_a_plain_dict(steps: list[tuple[str, int, int]]) -> None:
    deadlines: Deadlines[int] = Deadlines()
    model: dict[int, float] = {}
    for action, key, at in steps:
        if action == "set":
            deadlines.set(key, at)
            model[key] = at
        elif action == "discard":
            deadlines.discard(key)
            model.pop(key, None)
        else:
            due = {each for each, its in model.items() if its <= at}
            popped = deadlines.pop_due(at)
            assert [model[each] for each in popped] == sorted(model[each] for each in due)
            assert set(popped) == due
            for each in due:
                del model[each]
        assert deadlines.next_at() == min(model.values(), default=None)
        assert len(deadlines) == len(model)


def test_what_ends_before_its_time_leaves_nothing() -> None:
    deadlines: Deadlines[int] = Deadlines()
    for number in range(10_000):
        deadlines.set(number, 1e9)
        deadlines.discard(number)
    for _ in range(10_000):
        deadlines.set(1, 1e9)
    assert len(deadlines._heap) < 200


def test_an_alarm_keeps_one_timer() -> None:
    clock = Clock()
    due: list[float] = []
    rung: list[float] = []

    def ring() -> None:
        rung.append(clock.seconds())
        due[:] = [at for at in due if at > clock.seconds()]

    alarm = Alarm(clock, lambda: min(due, default=None), ring)
    alarm.arm()
    assert not clock.getDelayedCalls()
    due.append(5.0)
    alarm.arm()
    due.append(3.0)
    alarm.arm()
    alarm.arm()
    assert [call.getTime() for call in clock.getDelayedCalls()] == [3.0]
    clock.advance(3)
    assert rung == [3.0]
    assert [call.getTime() for call in clock.getDelayedCalls()] == [5.0]
    due.clear()
    alarm.arm()
    assert not clock.getDelayedCalls()
    due.append(clock.seconds() + 1e15)  # no reactor waits that long
    alarm.arm()
    assert clock.getDelayedCalls()[0].getTime() < 1e5
    clock.advance(4000)
    assert len(clock.getDelayedCalls()) == 1


def call(dealer: Any, timeout: int | None, request: int = 7, **kwargs: Any) -> int:
    _, invocation = only(dealer.call(CALLER, wamp.Call(request, URI, timeout=timeout, **kwargs)))
    number: int = invocation.request
    return number


def test_a_call_times_out_and_its_callee_is_interrupted() -> None:
    now = [100.0]
    dealer = make(now)
    register(dealer, CALLEE)
    number = call(dealer, 1500)
    assert dealer.next_timeout_at() == 101.5
    now[0] = 101.4
    assert dealer.time_out() == []
    now[0] = 101.5
    error, interrupt = dealer.time_out()
    assert isinstance(error, Send) and isinstance(interrupt, Send)
    assert (error.session_id, error.message.request) == (CALLER, 7)
    assert error.message.error == "wamp.error.timeout"
    assert "1.5 s" in error.message.args[0]
    assert (interrupt.session_id, interrupt.message.request) == (CALLEE, number)
    assert interrupt.message.marshal() == [
        69,
        number,
        {"mode": "killnowait", "reason": "wamp.error.timeout"},
    ]
    assert (dealer.calls_in_flight, dealer.next_timeout_at()) == (0, None)
    # What the callee says now comes too late.
    assert dealer.yield_(CALLEE, wamp.Yield(number)) == []
    assert dealer.error(CALLEE, wamp.Error(68, number, "wamp.error.canceled")) == []
    assert dealer.cancel(CALLER, wamp.Cancel(7)) == []


def test_a_callee_that_takes_no_interrupt_is_left_alone() -> None:
    now = [0.0]
    dealer = make(now)
    register(dealer, PLAIN_CALLEE)
    call(dealer, 1)
    now[0] = 1.0
    to, error = only(dealer.time_out())
    assert (to, error.error) == (CALLER, "wamp.error.timeout")


@pytest.mark.parametrize("timeout", [None, 0])
def test_no_timeout(timeout: int | None) -> None:
    dealer = make()
    register(dealer, CALLEE)
    call(dealer, timeout)
    assert dealer.next_timeout_at() is None


def test_a_timeout_beyond_all_measure_is_a_timeout() -> None:
    dealer = make()
    register(dealer, CALLEE)
    call(dealer, 10**400)
    due_at = dealer.next_timeout_at()
    assert due_at is not None and due_at > 1e12


def test_each_progressive_result_begins_it_anew() -> None:
    now = [0.0]
    dealer = make(now)
    register(dealer, CALLEE)
    number = call(dealer, 1000, receive_progress=True)
    now[0] = 0.9
    only(dealer.yield_(CALLEE, wamp.Yield(number, progress=True)))
    assert dealer.next_timeout_at() == 1.9
    now[0] = 1.5
    assert dealer.time_out() == []
    only(dealer.yield_(CALLEE, wamp.Yield(number)))
    assert dealer.next_timeout_at() is None


def test_progress_that_nobody_asked_for_is_no_sign_of_life() -> None:
    now = [0.0]
    dealer = make(now)
    register(dealer, CALLEE)
    number = call(dealer, 1000)
    now[0] = 0.9
    assert dealer.yield_(CALLEE, wamp.Yield(number, progress=True)) == []
    assert dealer.next_timeout_at() == 1.0


@pytest.mark.parametrize("how", ["answer", "error", "cancel", "caller", "callee", "refused"])
def test_a_call_that_has_ended_is_not_due(how: str) -> None:
    dealer = make()
    register(dealer, CALLEE)
    number = call(dealer, 1000)
    match how:
        case "answer":
            dealer.yield_(CALLEE, wamp.Yield(number))
        case "error":
            dealer.error(CALLEE, wamp.Error(68, number, "a.b"))
        case "cancel":
            dealer.cancel(CALLER, wamp.Cancel(7, "skip"))
        case "caller":
            dealer.leave(CALLER)
        case "callee":
            dealer.leave(CALLEE)
        case "refused":
            dealer.refuse_invocation(CALLEE, number, InvalidArgument("no"))
    assert dealer.next_timeout_at() is None


def test_a_killed_call_still_times_out_and_is_interrupted_once() -> None:
    now = [0.0]
    dealer = make(now)
    register(dealer, CALLEE)
    call(dealer, 1000)
    only(dealer.cancel(CALLER, wamp.Cancel(7, "kill")))
    now[0] = 1.0
    to, error = only(dealer.time_out())
    assert (to, error.error) == (CALLER, "wamp.error.timeout")


def test_a_killed_call_may_be_given_up() -> None:
    dealer = make()
    register(dealer, CALLEE)
    call(dealer, None)
    only(dealer.cancel(CALLER, wamp.Cancel(7, "kill")))
    to, error = only(told(dealer.cancel(CALLER, wamp.Cancel(7, "killnowait"))))
    assert (to, error.error) == (CALLER, "wamp.error.canceled")


def test_a_killed_call_is_not_interrupted_again_when_its_caller_goes() -> None:
    dealer = make()
    register(dealer, CALLEE)
    call(dealer, None)
    call(dealer, None, 8)
    only(dealer.cancel(CALLER, wamp.Cancel(7, "kill")))
    to, interrupt = only(dealer.leave(CALLER))
    assert (to, interrupt.request, interrupt.mode) == (CALLEE, 2, "killnowait")


def test_a_killed_call_whose_result_cannot_be_sent_is_not_interrupted_again() -> None:
    dealer = make()
    register(dealer, CALLEE)
    call(dealer, None)
    only(dealer.cancel(CALLER, wamp.Cancel(7, "kill")))
    to, error = only(dealer.refuse_result(CALLER, 7, InvalidArgument("no")))
    assert (to, error.error) == (CALLER, "cumulus.error.invalid_argument")
