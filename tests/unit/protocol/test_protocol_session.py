"""The session's state machine alone."""

from typing import Any

import pytest
from autobahn.wamp.role import RoleCalleeFeatures, RoleCallerFeatures
from wamp_peers import CLIENT, with_tokens, without_tokens

from cumulusd.identity import ANONYMOUS, Authenticator
from cumulusd.protocol.messages import CalleeFeatures, wamp
from cumulusd.protocol.session import Finish, Ignore, Join, Reply, Route, Session, State


def make(authenticator: Authenticator | None = None) -> Session:
    return Session(5, authenticator=authenticator or without_tokens(), realm="cumulus")


def hello(realm: str | None = "cumulus", methods: list[str] | None = None) -> Any:
    return wamp.Hello(realm, {"caller": RoleCallerFeatures()}, authmethods=methods)


def joined() -> Session:
    session = make()
    assert isinstance(session.receive(hello()), Join)
    return session


ROUTED = [
    wamp.Call(1, "a.b"),
    wamp.Cancel(1),
    wamp.Yield(1),
    wamp.Error(68, 1, "a.b"),
    wamp.Register(1, "a.b"),
    wamp.Unregister(1, 1),
    wamp.Subscribe(1, "a.b"),
    wamp.Unsubscribe(1, 1),
    wamp.Publish(1, "a.b"),
]
FOR_CLIENTS_ONLY = [
    hello(),
    wamp.Authenticate("x"),
    wamp.Challenge("ticket"),
    wamp.Error(48, 1, "a.b"),
    wamp.Result(1),
    wamp.Event(1, 1),
    wamp.Invocation(1, 1),
    wamp.Interrupt(1),
    wamp.Published(1, 1),
    wamp.Subscribed(1, 1),
    wamp.Unsubscribed(1),
    wamp.Registered(1, 1),
    wamp.Unregistered(1),
]


@pytest.mark.parametrize("methods", [None, [], ["anonymous"], ["ticket", "anonymous"]])
def test_an_open_daemon_welcomes_without_a_challenge(methods: list[str] | None) -> None:
    session = make()
    step = session.receive(hello(methods=methods))
    assert isinstance(step, Join)
    assert (session.principal, session.state) == (ANONYMOUS, State.JOINED)
    assert (step.message.session, step.message.authrole) == (5, "admin")
    assert step.message.authmethod == "anonymous"
    assert step.callee == CalleeFeatures()


def test_an_open_daemon_takes_any_ticket() -> None:
    session = make()
    step = session.receive(hello(methods=["ticket"]))
    assert isinstance(step, Reply) and step.message.method == "ticket"
    assert isinstance(session.receive(wamp.Authenticate("whatever")), Join)
    assert session.principal == ANONYMOUS


def test_the_right_ticket() -> None:
    session = make(with_tokens())
    session.receive(hello(methods=["anonymous", "ticket"]))
    assert session.state is State.CHALLENGED
    step = session.receive(wamp.Authenticate("client-token"))
    assert isinstance(step, Join)
    assert session.principal == CLIENT
    assert (step.message.authid, step.message.authmethod) == ("ann", "ticket")


@pytest.mark.parametrize("ticket", ["wrong", "", None])
def test_the_wrong_ticket(ticket: str | None) -> None:
    session = make(with_tokens())
    session.receive(hello(methods=["ticket"]))
    step = session.receive(wamp.Authenticate(ticket))
    assert isinstance(step, Finish) and step.fault
    assert step.message.reason == "wamp.error.not_authenticated"
    assert (session.principal, session.state) == (None, State.CLOSED)


def test_no_ticket_where_others_can_read_it() -> None:
    session = Session(5, authenticator=with_tokens(), realm="cumulus", secure=False)
    step = session.receive(hello(methods=["ticket"]))
    assert isinstance(step, Finish) and step.fault
    assert step.message.reason == "wamp.error.no_auth_method"
    assert "allow_plain_tokens" in step.message.message and "wss://" in step.message.message


@pytest.mark.parametrize("methods", [None, ["anonymous"], ["wampcra", "scram"]])
def test_no_method_that_fits(methods: list[str] | None) -> None:
    step = make(with_tokens()).receive(hello(methods=methods))
    assert isinstance(step, Finish) and step.message.reason == "wamp.error.no_auth_method"


@pytest.mark.parametrize("realm", ["elsewhere", "Cumulus", None])
def test_another_realm(realm: str | None) -> None:
    step = make().receive(hello(realm))
    assert isinstance(step, Finish) and step.message.reason == "wamp.error.no_such_realm"


def test_a_callee_that_takes_interrupts_says_so() -> None:
    roles = {"callee": RoleCalleeFeatures(call_canceling=True)}
    step = make().receive(wamp.Hello("cumulus", roles))
    assert isinstance(step, Join)
    assert step.callee == CalleeFeatures(cancels_calls=True)


def test_progress_without_interrupts_does_not_count() -> None:
    both = RoleCalleeFeatures(call_canceling=True, progressive_call_results=True)
    step = make().receive(wamp.Hello("cumulus", {"callee": both}))
    assert isinstance(step, Join)
    assert step.callee == CalleeFeatures(cancels_calls=True, yields_progress=True)
    alone = RoleCalleeFeatures(progressive_call_results=True)
    step = make().receive(wamp.Hello("cumulus", {"callee": alone}))
    assert isinstance(step, Join)
    assert step.callee == CalleeFeatures()


@pytest.mark.parametrize("message", ROUTED, ids=lambda message: type(message).__name__)
def test_what_is_routed_once_joined_and_a_violation_before(message: Any) -> None:
    assert joined().receive(message) == Route(message)
    for session in (make(), make(with_tokens())):
        if session._authenticator.open is False:
            session.receive(hello(methods=["ticket"]))
        step = session.receive(message)
        assert isinstance(step, Finish) and step.fault
        assert step.message.reason == "wamp.error.protocol_violation"
        assert session.receive(message) == Ignore()


@pytest.mark.parametrize("message", FOR_CLIENTS_ONLY, ids=lambda message: type(message).__name__)
def test_what_a_client_must_not_send(message: Any) -> None:
    session = joined()
    step = session.receive(message)
    assert isinstance(step, Finish) and step.fault
    assert step.message.reason == "wamp.error.protocol_violation"
    assert session.state is State.CLOSED


def test_goodbye_from_the_peer() -> None:
    session = joined()
    step = session.receive(wamp.Goodbye())
    assert isinstance(step, Finish) and not step.fault
    assert step.message.reason == "wamp.close.goodbye_and_out"
    assert session.receive(wamp.Call(1, "a.b")) == Ignore()


def test_goodbye_from_us() -> None:
    session = joined()
    step = session.leave("wamp.close.system_shutdown", "bye")
    assert isinstance(step, Reply) and step.message.reason == "wamp.close.system_shutdown"
    for late in (*ROUTED, *FOR_CLIENTS_ONLY):
        assert session.receive(late) == Ignore()
    assert session.leave("x.y", "again") == Ignore()
    step = session.receive(wamp.Goodbye())
    assert isinstance(step, Finish) and step.message is None
    assert session.state is State.CLOSED


@pytest.mark.parametrize("challenged", [False, True])
def test_leaving_before_it_has_joined_is_abort(challenged: bool) -> None:
    session = make(with_tokens())
    if challenged:
        session.receive(hello(methods=["ticket"]))
    step = session.leave("wamp.close.system_shutdown", "bye")
    assert isinstance(step, Finish) and isinstance(step.message, wamp.Abort)


@pytest.mark.parametrize("session", [make(), joined()])
def test_abort_from_the_peer_is_not_answered(session: Session) -> None:
    step = session.receive(wamp.Abort("a.b"))
    assert isinstance(step, Finish) and step.message is None and not step.fault


def test_a_lost_session_does_nothing_more() -> None:
    session = joined()
    session.lost()
    assert session.receive(wamp.Call(1, "a.b")) == Ignore()
    assert session.violation("x") == Ignore()
    assert session.leave("a.b", "x") == Ignore()
