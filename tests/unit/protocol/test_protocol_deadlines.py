"""Deadlines of a remote session and of the daemon's own calls, on a test clock."""

from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from wamp_peers import with_tokens

from cumulusd.errors import Unavailable
from cumulusd.identity import Authenticator
from cumulusd.origins import Origins
from cumulusd.protocol.codec import JSON
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call
from cumulusd.protocol.messages import wamp
from cumulusd.protocol.remote_session import RemoteSession
from cumulusd.protocol.router import Router

LIMITS = Limits(hello_timeout_s=10, close_timeout_s=5, slow_peer_timeout_s=30)


class Wire:
    """A connection in memory. The peer answers a close frame only when told to."""

    peer_name = "memory"
    secure = True

    def __init__(self, source: str | None = None) -> None:
        self.source = source
        self.reading = True
        self.pongs: list[bytes] = []
        self.sent: list[Any] = []
        self.closing = False
        self.aborted = False
        self.session: RemoteSession

    def write_message(self, payload: bytes, is_binary: bool) -> None:
        self.sent.append(JSON.decode(payload, is_binary))

    def write_pong(self, payload: bytes) -> None:
        self.pongs.append(payload)

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        self.aborted = True
        self.session.connection_lost()

    def give(self, message: Any) -> None:
        self.session.message_received(JSON.encode(message), JSON.binary)


class Setup:
    def __init__(self, authenticator: Authenticator | None = None) -> None:
        self.clock = Clock()
        self.router = Router(
            clock=self.clock, authenticator=authenticator or Authenticator(()), limits=LIMITS
        )

    def connect(self) -> Wire:
        wire = Wire()
        wire.session = self.router.connected(wire, JSON)
        return wire

    def join(self) -> Wire:
        from autobahn.wamp.role import RoleCalleeFeatures

        wire = self.connect()
        wire.give(wamp.Hello("cumulus", {"callee": RoleCalleeFeatures(call_canceling=True)}))
        assert isinstance(wire.sent.pop(), wamp.Welcome)
        return wire


def test_hello_has_a_deadline() -> None:
    setup = Setup(with_tokens())
    silent, halfway = setup.connect(), setup.connect()
    from autobahn.wamp.role import RoleCallerFeatures

    halfway.give(wamp.Hello("cumulus", {"caller": RoleCallerFeatures()}, authmethods=["ticket"]))
    assert isinstance(halfway.sent.pop(), wamp.Challenge)
    setup.clock.advance(9.9)
    assert not silent.sent and not halfway.sent
    setup.clock.advance(0.2)
    for wire in (silent, halfway):
        assert isinstance(wire.sent[0], wamp.Abort) and wire.closing
        assert not wire.aborted
    setup.clock.advance(5)
    assert silent.aborted and halfway.aborted
    assert setup.router.stats().connections == 0
    assert not setup.clock.getDelayedCalls()


def test_a_joined_session_has_no_deadline_left() -> None:
    setup = Setup()
    wire = setup.join()
    assert not setup.clock.getDelayedCalls()
    setup.clock.advance(1000)
    assert not wire.closing
    wire.session.connection_lost()
    assert setup.router.stats().connections == 0


def test_a_peer_that_does_not_answer_goodbye_is_aborted() -> None:
    setup = Setup()
    wire = setup.join()
    wire.session.leave("wamp.close.normal", "bye")
    assert isinstance(wire.sent[-1], wamp.Goodbye)
    assert not wire.closing
    setup.clock.advance(5.1)
    assert wire.aborted
    assert not setup.clock.getDelayedCalls()


def test_the_last_words_wait_for_a_paused_transport_within_the_deadline() -> None:
    setup = Setup()
    wire = setup.join()
    wire.session.outbox.pauseProducing()
    wire.give(wamp.Goodbye())
    assert not wire.sent and not wire.closing
    wire.session.outbox.resumeProducing()
    assert isinstance(wire.sent[-1], wamp.Goodbye) and wire.closing
    setup.clock.advance(5.1)
    assert wire.aborted


def test_a_paused_transport_is_a_slow_peer_after_the_timeout() -> None:
    setup = Setup()
    wire = setup.join()
    wire.session.outbox.pauseProducing()
    setup.clock.advance(30)
    assert wire.aborted
    assert setup.router.stats().slow_peers_closed == 1
    assert not setup.clock.getDelayedCalls()


def test_stop_is_bounded() -> None:
    setup = Setup()
    wires = [setup.join(), setup.connect()]
    stopping = Deferred.fromCoroutine(setup.router.stop(2.0))
    assert isinstance(wires[0].sent[-1], wamp.Goodbye)
    assert isinstance(wires[1].sent[-1], wamp.Abort)
    refusal = setup.router.refusal(None)
    assert refusal is not None and refusal.reason == "stopping"
    assert not stopping.called
    setup.clock.advance(2.0)
    assert stopping.called and all(wire.aborted for wire in wires)
    assert not setup.clock.getDelayedCalls()


def call_agent(setup: Setup, kwargs: dict[str, Any]) -> Deferred[Any]:
    local = setup.router.local()
    return Deferred.fromCoroutine(local.call("cumulus.agent.n1.prepare", kwargs, 7.0))


def agent_of(setup: Setup) -> Wire:
    """A session that offers the procedure (put straight into the dealer)."""
    wire = setup.join()
    setup.router._dealer.register(
        wire.session.session_id, wamp.Register(1, "cumulus.agent.n1.prepare")
    )
    return wire


def failure_of(calling: Deferred[Any]) -> Any:
    failures: list[Any] = []
    calling.addErrback(failures.append)
    return failures[0].value


def test_a_call_to_an_agent_times_out_with_an_interrupt() -> None:
    setup = Setup()
    agent = agent_of(setup)
    calling = call_agent(setup, {"job_id": "j1"})
    invocation = agent.sent[-1]
    assert isinstance(invocation, wamp.Invocation)
    setup.clock.advance(7.1)
    assert isinstance(agent.sent[-1], wamp.Interrupt)
    assert agent.sent[-1].request == invocation.request
    error = failure_of(calling)
    assert isinstance(error, Unavailable) and error.job_id == "j1"
    agent.give(wamp.Yield(invocation.request, kwargs={"late": 1}))
    assert not setup.clock.getDelayedCalls()
    assert setup.router.stats().calls_in_flight == 0


def test_an_answer_in_time_frees_the_timer() -> None:
    setup = Setup()
    agent = agent_of(setup)
    calling = call_agent(setup, {})
    agent.give(wamp.Yield(agent.sent[-1].request, kwargs={"ok": 1}))
    got: list[Any] = []
    calling.addCallback(got.append)
    assert got == [{"ok": 1}]
    assert not setup.clock.getDelayedCalls()


@pytest.mark.parametrize("kwargs", [None, {"message": 7, "job_id": [], "details": 3, "hint": {}}])
def test_an_agents_error_is_not_trusted_with_types(kwargs: dict[str, Any] | None) -> None:
    setup = Setup()
    agent = agent_of(setup)
    for uri, code in (
        ("cumulus.error.not_found", "not_found"),
        ("cumulus.error.never_heard_of", "internal"),
        ("cumulus.error.job_failed", "job_failed"),
        ("wamp.error.runtime_error", "internal"),
        ("wamp.error.canceled", "unavailable"),
    ):
        calling = call_agent(setup, {"job_id": "j1"})
        agent.give(wamp.Error(68, agent.sent[-1].request, uri, args=[3], kwargs=kwargs))
        error = failure_of(calling)
        assert (error.code, error.job_id) == (code, "j1")
        assert isinstance(error.message, str) and isinstance(error.details, dict)
        assert error.hint is None or isinstance(error.hint, str)


def test_a_handler_cancelled_while_it_first_runs() -> None:
    """Its caller is lost before the handler has waited for anything."""
    setup = Setup()
    wire = setup.join()
    seen: list[str] = []

    async def attach(call: Call) -> None:
        wire.session.connection_lost()
        with pytest.raises(CancelledError):
            await call.progress({"n": 1})
        seen.append("told")
        try:
            await Deferred()
        except CancelledError:
            seen.append("cancelled")
            raise

    setup.router.local().register("cumulus.job.attach", attach)
    wire.give(wamp.Call(1, "cumulus.job.attach", receive_progress=True))
    assert seen == ["told", "cancelled"]
    assert setup.router.stats().calls_in_flight == 0


def test_progress_that_cannot_be_written_ends_the_call_for_both() -> None:
    setup = Setup()
    wire = setup.join()
    seen: list[str] = []

    async def attach(call: Call) -> None:
        try:
            await call.progress({"text": "\0QUJD"})
        except CancelledError:
            seen.append("cancelled")
            raise

    setup.router.local().register("cumulus.job.attach", attach)
    wire.give(wamp.Call(1, "cumulus.job.attach", kwargs={"job_id": "j1"}, receive_progress=True))
    assert seen == ["cancelled"]
    (error,) = wire.sent
    assert (error.error, error.request) == ("cumulus.error.invalid_argument", 1)
    assert error.kwargs["job_id"] == "j1"


def test_a_watcher_that_fails_harms_nobody() -> None:
    setup = Setup(with_tokens())
    told: list[bool] = []

    def broken(*_: object) -> None:
        raise RuntimeError("a watcher's own fault")

    local = setup.router.local()
    local.watch_registrations(broken)
    local.watch_registrations(lambda uri, who, registered: told.append(registered))
    wire = setup.connect()
    from autobahn.wamp.role import RoleCalleeFeatures

    wire.give(wamp.Hello("cumulus", {"callee": RoleCalleeFeatures()}, authmethods=["ticket"]))
    wire.give(wamp.Authenticate("agent-token"))
    wire.give(wamp.Register(1, "cumulus.agent.n1.prepare"))
    assert isinstance(wire.sent[-1], wamp.Registered)
    wire.session.connection_lost()
    assert told == [True, False]


@pytest.mark.parametrize(
    ("origin", "host", "loopback_only", "allowed"),
    [
        ("http://relay.example:50051", "relay.example:50051", False, True),
        ("https://relay.example", "relay.example", False, True),
        ("https://relay.example", "relay.example:443", False, True),
        ("http://RELAY.example", "relay.example", False, True),
        ("http://relay.example:50051", "relay.example:50051", True, False),  # DNS rebinding
        ("http://localhost:50051", "localhost:50051", True, True),
        ("http://[::1]:50051", "[::1]:50051", True, True),
        ("http://127.0.0.1:50051", "localhost:50051", True, False),
        ("http://localhost:8888", "localhost:50051", True, False),
        ("http://evil.example", "relay.example", False, False),
        ("http://relay.example.evil", "relay.example", False, False),
        ("null", "relay.example", False, False),
        ("file://", "", False, False),
        ("http://", "", False, False),
        ("http://relay.example:x", "relay.example:x", False, False),
        ("http://relay.example", None, False, False),
        ("chrome-extension://abc", "abc", False, False),
    ],
)
def test_origins_by_the_rule(
    origin: str, host: str | None, loopback_only: bool, allowed: bool
) -> None:
    assert Origins(is_open=lambda: loopback_only).may_use(origin, host) is allowed
