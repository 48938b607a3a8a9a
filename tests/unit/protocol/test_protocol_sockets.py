"""The router over real loopback sockets, with Autobahn's Twisted client."""

import gc
import json
import weakref
from typing import Any

import pytest
import pytest_twisted
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.types import CallOptions
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs
from wamp_peers import (
    AGENT,
    CLIENT,
    Client,
    Refused,
    Server,
    reactor,
    serving,
    until,
    with_tokens,
)

from cumulusd.errors import Conflict, InternalError, NotFound, Unavailable
from cumulusd.identity import ANONYMOUS, DAEMON, Authenticator, Principal, Role, hash_token
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call

SERIALIZERS = ("cbor", "msgpack", "json")
MIB = 1 << 20


async def ask(client: Client, procedure: str, **kwargs: Any) -> dict[str, Any]:
    """The keyword arguments of the answer."""
    result = await client.call(procedure, **kwargs).addTimeout(10, reactor)
    return dict(result.kwresults) if result is not None else {}


async def nothing(call: Call) -> None:
    return None


def never() -> Deferred[None]:
    return Deferred()


# Calls into the daemon


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest_twisted.ensureDeferred
async def test_a_call_reaches_the_daemon_and_its_answer_returns(serializer: str) -> None:
    seen: list[Call] = []

    async def check(call: Call) -> dict[str, Any]:
        seen.append(call)
        return {"echo": call.kwargs, "data": b"\0\xff" * 50, "text": "a\0b", "none": None}

    async with serving() as server:
        server.router.local().register("cumulus.package.check", check)
        client = await server.join(serializer=serializer)
        answer = await ask(client, "cumulus.package.check", blob=b"\x00\x01", number=3)
    assert answer == {
        "echo": {"blob": b"\x00\x01", "number": 3},
        "data": b"\0\xff" * 50,
        "text": "a\0b",
        "none": None,
    }
    assert seen[0].caller == ANONYMOUS
    assert seen[0].session_id == client.details.session
    assert not seen[0].wants_progress


@pytest.mark.parametrize("serializer", SERIALIZERS)
@pytest_twisted.ensureDeferred
async def test_text_that_begins_with_nul_is_never_taken_for_binary(serializer: str) -> None:
    async def get(call: Call) -> dict[str, Any]:
        return {"text": "\0QUJD"}

    async with serving() as server:
        server.router.local().register("cumulus.job.get", get)
        client = await server.join(serializer=serializer)
        if serializer == "json":
            with pytest.raises(ApplicationError) as caught:
                await ask(client, "cumulus.job.get", job_id="j1")
            assert caught.value.error == "cumulus.error.invalid_argument"
            assert "begins with NUL" in caught.value.args[0]
            assert "wamp.2.cbor" in caught.value.args[0]
        else:
            assert await ask(client, "cumulus.job.get", job_id="j1") == {"text": "\0QUJD"}


@pytest_twisted.ensureDeferred
async def test_a_handlers_error_arrives_with_all_it_carries() -> None:
    async def get(call: Call) -> None:
        raise NotFound("no job j1", job_id="j1", details={"near": ["j2"]}, hint="list them")

    async with serving() as server:
        server.router.local().register("cumulus.job.get", get)
        client = await server.join()
        with pytest.raises(ApplicationError) as caught:
            await ask(client, "cumulus.job.get", job_id="j1")
    assert caught.value.error == "cumulus.error.not_found"
    assert caught.value.args == ("no job j1",)
    # Without `error`, which Autobahn's clients can't take as a keyword argument.
    assert caught.value.kwargs == {
        "code": "not_found",
        "status": 404,
        "message": "no job j1",
        "job_id": "j1",
        "details": {"near": ["j2"]},
        "hint": "list them",
    }


@pytest_twisted.ensureDeferred
async def test_an_unexpected_error_leaves_as_a_log_id_only() -> None:
    async def get(call: Call) -> None:
        raise KeyError("secret")

    async with serving() as server:
        server.router.local().register("cumulus.job.get", get)
        client = await server.join()
        with capturedLogs() as events, pytest.raises(ApplicationError) as caught:
            await ask(client, "cumulus.job.get", job_id="j1")
        assert caught.value.error == "cumulus.error.internal"
        assert "secret" not in str(caught.value.args) + str(caught.value.kwargs)
        assert caught.value.kwargs["job_id"] == "j1"
        log_id = caught.value.kwargs["details"]["log_id"]
        logged = [event for event in events if event.get("log_id") == log_id]
        assert [event["job_id"] for event in logged] == ["j1"]
        assert logged[0]["log_failure"].type is KeyError


@pytest_twisted.ensureDeferred
async def test_an_answer_that_cannot_be_written_is_an_error_not_a_silence() -> None:
    async def get(call: Call) -> dict[str, Any]:
        return {"thing": object()}

    async with serving() as server:
        server.router.local().register("cumulus.job.get", get)
        client = await server.join(serializer="json")
        with pytest.raises(ApplicationError, match="no JSON form"):
            await ask(client, "cumulus.job.get", job_id="j1")
        assert server.router.stats().calls_in_flight == 0


@pytest_twisted.ensureDeferred
async def test_an_error_that_cannot_be_written_leaves_as_a_log_id() -> None:
    async def get(call: Call) -> None:
        raise Conflict("\0QUJD", job_id="j1")

    async with serving() as server:
        server.router.local().register("cumulus.job.get", get)
        client = await server.join(serializer="json")
        with pytest.raises(ApplicationError) as caught:
            await ask(client, "cumulus.job.get", job_id="j1")
        assert caught.value.error == "cumulus.error.internal"
        assert caught.value.kwargs["details"]["log_id"]


@pytest_twisted.ensureDeferred
async def test_an_answer_over_the_hard_cap_is_too_large() -> None:
    async def get(call: Call) -> dict[str, Any]:
        return {"data": b"x" * 200_000}

    limits = Limits(hard_cap_bytes=100_000, high_watermark_bytes=50_000, low_watermark_bytes=1)
    async with serving(limits=limits) as server:
        server.router.local().register("cumulus.job.result", get)
        client = await server.join()
        with pytest.raises(ApplicationError) as caught:
            await ask(client, "cumulus.job.result", job_id="j1")
        assert caught.value.error == "cumulus.error.too_large"


@pytest_twisted.ensureDeferred
async def test_progress_arrives_in_order_and_before_the_result() -> None:
    async def attach(call: Call) -> dict[str, Any]:
        assert call.wants_progress
        for number in range(200):
            await call.progress({"number": number})
        return {"event": "end"}

    got: list[int] = []
    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join()
        options = CallOptions(on_progress=lambda **kwargs: got.append(kwargs["number"]))
        result = await client.call("cumulus.job.attach", options=options).addTimeout(10, reactor)
        assert got == list(range(200))
        assert result.kwresults == {"event": "end"}


@pytest_twisted.ensureDeferred
async def test_progress_nobody_asked_for_is_the_handlers_fault() -> None:
    async def attach(call: Call) -> None:
        with pytest.raises(RuntimeError, match="no progressive results"):
            await call.progress({})

    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join()
        assert await ask(client, "cumulus.job.attach") == {}


@pytest.mark.parametrize("mode", ["skip", "kill", "killnowait"])
@pytest_twisted.ensureDeferred
async def test_cancelling_the_call_ends_it(mode: str) -> None:
    ended: list[str] = []
    waiting = Deferred(lambda _: ended.append("cancelled"))

    async def attach(call: Call) -> None:
        await waiting

    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        bare = await joined_bare(server)
        bare.sendMessage(b'[48,7,{},"cumulus.job.attach"]')
        await until(lambda: server.router.stats().calls_in_flight == 1)
        bare.sendMessage(json.dumps([49, 7, {"mode": mode}]).encode())
        await until(lambda: len(bare.received) == 2)
        assert json.loads(bare.received[1])[:5:2] == [8, 7, "wamp.error.canceled"]
        assert server.router.stats().calls_in_flight == 0
        assert ended == ([] if mode == "skip" else ["cancelled"])
        if mode == "skip":
            waiting.callback(None)  # its late answer is dropped
            await deferLater(reactor, 0.02, lambda: None)
            assert len(bare.received) == 2


@pytest_twisted.ensureDeferred
async def test_a_lost_caller_cancels_the_handler() -> None:
    ended: list[bool] = []

    async def attach(call: Call) -> None:
        try:
            await never()
        except CancelledError:
            ended.append(True)
            raise

    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        bare = await joined_bare(server)
        bare.sendMessage(b'[48,7,{},"cumulus.job.attach"]')
        await until(lambda: server.router.stats().calls_in_flight == 1)
        bare.drop()
        await until(lambda: ended == [True])
        assert server.router.stats().calls_in_flight == 0


@pytest_twisted.ensureDeferred
async def test_calls_in_flight_are_bounded_per_session() -> None:
    async def attach(call: Call) -> None:
        await never()

    async with serving(limits=Limits(max_calls_in_flight=2)) as server:
        server.router.local().register("cumulus.job.attach", attach)
        bare = await joined_bare(server)
        for request in (1, 2, 3):
            bare.sendMessage(b'[48,%d,{},"cumulus.job.attach",[],{"job_id":"j9"}]' % request)
        await until(lambda: len(bare.received) == 2)
        refused = json.loads(bare.received[1])
        assert refused[2] == 3
        assert refused[4] == "cumulus.error.too_many"
        assert refused[6]["job_id"] == "j9"


# Slow peers


@pytest_twisted.ensureDeferred
async def test_a_caller_that_does_not_read_costs_bounded_memory_and_is_closed() -> None:
    """80 MB of progress to a stalled peer: the handler waits, the peer is closed."""
    sent: list[int] = []
    queued: list[int] = []
    over: list[str] = []
    limits = Limits(
        high_watermark_bytes=MIB,
        low_watermark_bytes=MIB // 4,
        hard_cap_bytes=4 * MIB,
        slow_peer_timeout_s=0.5,
        ping_interval_s=60,
    )

    async with serving(limits=limits) as server:

        async def attach(call: Call) -> None:
            session = server.router._joined[call.session_id]
            try:
                for number in range(320):
                    await call.progress({"frames": b"x" * 262_144})
                    sent.append(number)
                    queued.append(session.outbox.queued_bytes)
            except CancelledError:
                over.append("cancelled")
                raise

        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join()
        calling = client.call(
            "cumulus.job.attach", options=CallOptions(on_progress=lambda **kwargs: None)
        )
        calling.addErrback(lambda failure: None)
        await until(lambda: len(sent) > 0)
        client.tcp.pauseProducing()
        await until(lambda: over == ["cancelled"])
        assert len(sent) < 100  # the kernel's buffers take some MB
        assert max(queued) <= MIB + 300_000
        await until(lambda: server.router.stats().connections == 0)
        stats = server.router.stats()
        assert (stats.slow_peers_closed, stats.calls_in_flight) == (1, 0)
        client.tcp.resumeProducing()
        await until(lambda: client.gone)


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_gets_everything() -> None:
    total = 64

    async def attach(call: Call) -> dict[str, Any]:
        for number in range(total):
            await call.progress({"number": number, "frames": b"x" * 262_144})
        return {"event": "end"}

    got: list[int] = []
    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join()

        def take(number: int, frames: bytes) -> None:
            got.append(number)
            if number % 8 == 0:
                client.tcp.pauseProducing()
                reactor.callLater(0.03, client.tcp.resumeProducing)

        options = CallOptions(on_progress=take)
        await client.call("cumulus.job.attach", options=options).addTimeout(20, reactor)
        assert got == list(range(total))
        assert server.router.stats().slow_peers_closed == 0


@pytest_twisted.ensureDeferred
async def test_a_stalled_subscriber_misses_events_and_the_others_get_them() -> None:
    limits = Limits(
        high_watermark_bytes=MIB, hard_cap_bytes=4 * MIB, slow_peer_timeout_s=60, ping_interval_s=60
    )
    got: list[int] = []
    async with serving(limits=limits) as server:
        stalled, good = await server.join(), await server.join()
        await stalled.subscribe(lambda **kwargs: None, "cumulus.jobs")
        await good.subscribe(lambda number, **kwargs: got.append(number), "cumulus.jobs")
        stalled.tcp.pauseProducing()
        for number in range(120):
            server.router.local().publish("cumulus.jobs", {"number": number, "x": b"x" * 262_144})
            await until(lambda: len(got) > number)  # noqa: B023  # awaited at once
        assert got == list(range(120))
        stats = server.router.stats()
        assert stats.events_dropped > 10
        queued = [s.outbox.queued_bytes for s in server.router._joined.values()]
        assert max(queued) < 2 * MIB
        assert stats.connections == 2


@pytest_twisted.ensureDeferred
async def test_the_hard_cap_ends_a_session_that_calls_and_does_not_read() -> None:
    async def result(call: Call) -> dict[str, Any]:
        return {"data": b"x" * 500_000}

    limits = Limits(hard_cap_bytes=2 * MIB, slow_peer_timeout_s=60, ping_interval_s=60)
    async with serving(limits=limits) as server:
        server.router.local().register("cumulus.job.result", result)
        bare = await joined_bare(server)
        bare.transport.pauseProducing()
        for request in range(1, 60):
            bare.sendMessage(b'[48,%d,{},"cumulus.job.result"]' % request)
        await until(lambda: server.router.stats().connections == 0)
        assert server.router.stats().slow_peers_closed == 1


@pytest_twisted.ensureDeferred
async def test_the_outbox_is_the_transports_producer_and_a_dead_connection_frees_it() -> None:
    async with serving() as server:
        client = await server.join()
        session = server.router._joined[client.details.session]
        transport = session._connection.transport
        assert transport.producer is session.outbox  # and no longer HTTPChannel
        gone = weakref.ref(session)
        session.outbox.pauseProducing()
        session.outbox.send(b"x" * 100_000)
        client.drop()
        await until(lambda: server.router.stats().connections == 0)
        assert session.outbox.queued_bytes == 0
        assert transport.dataBuffer == b"" and not transport._tempDataBuffer
        del session, transport
        gc.collect()
        assert gone() is None


# Agents and the daemon's calls to them


@pytest_twisted.ensureDeferred
async def test_the_daemon_calls_an_agent() -> None:
    changes: list[tuple[str, Principal, bool]] = []
    async with serving(with_tokens()) as server:
        local = server.router.local()
        local.watch_registrations(lambda *change: changes.append(change))
        agent = await server.join("agent-token")

        def prepare(**kwargs: Any) -> Any:
            if kwargs.get("units") == 0:
                raise ApplicationError(
                    "cumulus.error.insufficient_resources",
                    "no units",
                    message="no units",
                    job_id="j1",
                    details={"free": 3},
                    hint="wait",
                )
            if kwargs.get("units") == -1:
                raise RuntimeError("boom")
            return {"kwargs": kwargs}

        def answer(**kwargs: Any) -> Any:
            from autobahn.wamp.types import CallResult

            return CallResult(**prepare(**kwargs))

        registration = await agent.register(answer, "cumulus.agent.n1.prepare")
        assert changes == [("cumulus.agent.n1.prepare", AGENT, True)]
        got = await local.call("cumulus.agent.n1.prepare", {"units": 5, "job_id": "j1"}, 5.0)
        assert got == {"kwargs": {"units": 5, "job_id": "j1"}}

        with pytest.raises(Exception, match="no units") as caught:
            await local.call("cumulus.agent.n1.prepare", {"units": 0}, 5.0)
        error: Any = caught.value
        assert (error.code, error.job_id, error.details, error.hint) == (
            "insufficient_resources",
            "j1",
            {"free": 3},
            "wait",
        )
        with pytest.raises(InternalError, match="boom") as caught:
            await local.call("cumulus.agent.n1.prepare", {"units": -1, "job_id": "j7"}, 5.0)
        assert caught.value.job_id == "j7"

        await registration.unregister()
        assert changes[-1] == ("cumulus.agent.n1.prepare", AGENT, False)
        with pytest.raises(Unavailable, match="nobody offers") as away:
            await local.call("cumulus.agent.n1.prepare", {"job_id": "j8"}, 5.0)
        assert away.value.job_id == "j8"


@pytest_twisted.ensureDeferred
async def test_a_call_to_an_agent_times_out_and_interrupts_it() -> None:
    interrupted: list[bool] = []
    async with serving(with_tokens()) as server:
        agent = await server.join("agent-token")
        work: Deferred[None] = Deferred(lambda _: interrupted.append(True))
        await agent.register(lambda: work, "cumulus.agent.n1.journals")
        with pytest.raises(Unavailable, match="did not answer within 0"):
            await server.router.local().call("cumulus.agent.n1.journals", {}, 0.1)
        await until(lambda: interrupted == [True])
        assert server.router.stats().calls_in_flight == 0


@pytest_twisted.ensureDeferred
async def test_a_lost_agent_fails_its_calls_and_is_told() -> None:
    changes: list[bool] = []
    async with serving(with_tokens()) as server:
        local = server.router.local()
        agent = await server.join("agent-token")
        await agent.register(lambda: never(), "cumulus.agent.n1.journals")
        local.watch_registrations(lambda uri, who, registered: changes.append(registered))
        calling = Deferred.fromCoroutine(local.call("cumulus.agent.n1.journals", {}, 5.0))
        await until(lambda: server.router.stats().calls_in_flight == 1)
        agent.drop()
        with pytest.raises(Unavailable, match="left"):
            await calling
        assert changes == [False]


@pytest_twisted.ensureDeferred
async def test_cancelling_the_daemons_own_call_interrupts_the_agent() -> None:
    interrupted: list[bool] = []
    async with serving(with_tokens()) as server:
        agent = await server.join("agent-token")
        work: Deferred[None] = Deferred(lambda _: interrupted.append(True))
        await agent.register(lambda: work, "cumulus.agent.n1.journals")
        local = server.router.local()
        calling = Deferred.fromCoroutine(local.call("cumulus.agent.n1.journals", {}, 5.0))
        await until(lambda: server.router.stats().calls_in_flight == 1)
        calling.cancel()
        with pytest.raises(CancelledError):
            await calling
        await until(lambda: interrupted == [True])


@pytest_twisted.ensureDeferred
async def test_an_agent_that_reconnects_takes_its_procedures_over() -> None:
    changes: list[bool] = []
    async with serving(with_tokens()) as server:
        local = server.router.local()
        local.watch_registrations(lambda uri, who, registered: changes.append(registered))
        old, new = await server.join("agent-token"), await server.join("agent-token")
        await old.register(lambda: None, "cumulus.agent.n1.devices")
        await new.register(lambda: None, "cumulus.agent.n1.devices")
        assert changes == [True, False, True]
        await until(lambda: old.left is not None)
        assert old.left.reason == "wamp.close.superseded"
        assert await local.call("cumulus.agent.n1.devices", {}, 5.0) == {}


@pytest_twisted.ensureDeferred
async def test_one_agent_cannot_take_anothers_procedures() -> None:
    async with serving(with_tokens()) as server:
        agent, other = await server.join("agent-token"), await server.join("agent2-token")
        await agent.register(lambda: None, "cumulus.agent.n1.devices")
        with pytest.raises(ApplicationError) as caught:
            await other.register(lambda: None, "cumulus.agent.n1.devices")
        assert caught.value.error == "wamp.error.not_authorized"
        assert await server.router.local().call("cumulus.agent.n1.devices", {}, 5.0) == {}


# Publish and subscribe


@pytest_twisted.ensureDeferred
async def test_events_reach_subscribers_until_they_unsubscribe() -> None:
    got: list[tuple[str, Any]] = []
    async with serving() as server:
        local = server.router.local()
        clients = [await server.join(serializer=name) for name in SERIALIZERS]
        subscriptions = [
            await client.subscribe(
                lambda name=name, **kwargs: got.append((name, kwargs)), "cumulus.workers"
            )
            for name, client in zip(SERIALIZERS, clients, strict=True)
        ]
        assert server.router.stats().topics == 1
        local.publish("cumulus.workers", {"workers": [{"data": b"\0\1"}]})
        await until(lambda: len(got) == 3)
        assert sorted(name for name, _ in got) == sorted(SERIALIZERS)
        assert all(kwargs == {"workers": [{"data": b"\0\1"}]} for _, kwargs in got)
        for subscription in subscriptions:
            await subscription.unsubscribe()
        assert server.router.stats().topics == 0
        local.publish("cumulus.workers", {"workers": []})
        await deferLater(reactor, 0.02, lambda: None)
        assert len(got) == 3


@pytest_twisted.ensureDeferred
async def test_an_event_json_cannot_carry_is_counted_and_reaches_the_others() -> None:
    got: list[str] = []
    async with serving() as server:
        json_client, cbor_client = await server.join(serializer="json"), await server.join()
        await json_client.subscribe(lambda **kwargs: got.append("json"), "cumulus.jobs")
        await cbor_client.subscribe(lambda **kwargs: got.append(kwargs["t"]), "cumulus.jobs")
        server.router.local().publish("cumulus.jobs", {"t": "\0QUJD"})
        await until(lambda: got == ["\0QUJD"])
        assert server.router.stats().events_dropped == 1


@pytest_twisted.ensureDeferred
async def test_a_jobs_topic_is_for_its_owner() -> None:
    def owns(principal: Principal, job_id: str) -> bool:
        return principal == CLIENT and job_id == "mine"

    async with serving(with_tokens(), owns_job=owns) as server:
        client = await server.join("client-token")
        await client.subscribe(lambda **kwargs: None, "cumulus.job.mine.status")
        for topic in ("cumulus.job.theirs.status", "cumulus.jobs", "cumulus.workers"):
            with pytest.raises(ApplicationError) as caught:
                await client.subscribe(lambda **kwargs: None, topic)
            assert caught.value.error == "wamp.error.not_authorized"
            assert caught.value.kwargs["code"] == "not_authorized"


# Coming in and going out


@pytest_twisted.ensureDeferred
async def test_a_ticket_alone_identifies() -> None:
    async with serving(with_tokens()) as server:
        client = await server.join("client-token")
        assert (client.details.authid, client.details.authrole) == ("ann", "client")
        assert client.details.authmethod == "ticket"
        assert server.router.stats().sessions[Role.CLIENT] == 1


@pytest_twisted.ensureDeferred
async def test_a_wrong_token_is_refused_and_no_method_too() -> None:
    async with serving(with_tokens()) as server:
        with pytest.raises(Refused, match=r"wamp\.error\.not_authenticated"):
            await server.join("guessed")
        with pytest.raises(Refused, match=r"wamp\.error\.no_auth_method"):
            await server.join(authmethods=["anonymous"])
        with pytest.raises(Refused, match=r"wamp\.error\.no_such_realm"):
            await server.join("client-token", realm="elsewhere")
        await until(lambda: server.router.stats().connections == 0)
        assert server.router.stats().refused_sessions == 3


@pytest_twisted.ensureDeferred
async def test_an_open_daemon_takes_anybody_and_still_knows_its_agent() -> None:
    authenticator = Authenticator(())
    authenticator.add(hash_token("agent-token"), AGENT)
    async with serving(authenticator) as server:
        both = await server.join("whatever", authmethods=["ticket", "anonymous"])
        assert both.details.authmethod == "anonymous"
        ticket_only = await server.join("whatever")
        assert (ticket_only.details.authmethod, ticket_only.details.authrole) == ("ticket", "admin")
        agent = await server.join("agent-token")
        assert agent.details.authrole == "agent"


@pytest_twisted.ensureDeferred
async def test_only_what_is_there_is_announced() -> None:
    async with serving() as server:
        bare = await server.bare()
        bare.sendMessage(b'[1,"cumulus",{"roles":{"caller":{}}}]')
        await until(lambda: len(bare.received) == 1)
    kind, session_id, details = json.loads(bare.received[0])
    assert kind == 2 and 1 < session_id <= 2**53
    assert details["roles"] == {
        "broker": {"features": {"publisher_exclusion": True}},
        "dealer": {"features": {"call_canceling": True, "progressive_call_results": True}},
    }
    assert not {"server", "agent", "x_cb_node"} & set(details)


@pytest_twisted.ensureDeferred
async def test_goodbye_is_answered_and_the_connection_closed() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        bare.sendMessage(b'[6,{},"wamp.close.close_realm"]')
        await until(lambda: bare.gone)
        assert json.loads(bare.received[-1])[2] == "wamp.close.goodbye_and_out"
        assert bare.close_code == 1000
        await until(lambda: server.router.stats().connections == 0)


@pytest_twisted.ensureDeferred
async def test_stop_says_goodbye_and_takes_nobody_new() -> None:
    async with serving() as server:
        client = await server.join()
        await server.router.stop(2.0)
        await until(lambda: client.gone)
        assert client.left.reason == "wamp.close.system_shutdown"
        with pytest.raises(Refused, match=r"stopping|503"):
            await server.bare()


@pytest_twisted.ensureDeferred
async def test_stop_aborts_who_does_not_answer() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        began = reactor.seconds()
        await server.router.stop(0.2)
        assert reactor.seconds() - began < 2.0
        assert server.router.stats().connections == 0
        await until(lambda: bare.gone)
        # Late messages after GOODBYE did no harm on the way.
        assert json.loads(bare.received[1])[0] == 6


@pytest_twisted.ensureDeferred
async def test_late_messages_after_goodbye_are_tolerated() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        server.router._joined[max(server.router._joined)].leave("wamp.close.normal", "bye")
        await until(lambda: len(bare.received) == 2)
        bare.sendMessage(b'[70,1,{},[],{"late":1}]')
        bare.sendMessage(b'[8,68,1,{},"some.error"]')
        bare.sendMessage(b'[6,{},"wamp.close.goodbye_and_out"]')
        await until(lambda: bare.gone)
        assert bare.close_code == 1000
        assert server.router.stats().violations == 0


@pytest_twisted.ensureDeferred
async def test_a_silent_connection_is_closed() -> None:
    async with serving(limits=Limits(hello_timeout_s=0.1)) as server:
        bare = await server.bare()
        await until(lambda: bare.gone)
        assert json.loads(bare.received[0])[0] == 3
        assert "not opened within" in json.loads(bare.received[0])[1]["message"]


@pytest_twisted.ensureDeferred
async def test_a_peer_that_answers_no_ping_is_dropped() -> None:
    limits = Limits(ping_interval_s=0.1, ping_timeout_s=0.1)
    async with serving(limits=limits) as server:
        good = await server.join()
        bare = await joined_bare(server)
        bare.onPing = lambda payload: None
        await until(lambda: bare.gone)
        await deferLater(reactor, 0.3, lambda: None)
        assert not good.gone  # Autobahn answers pings by itself


# Garbage


async def joined_bare(server: Server) -> Any:
    """A bare WebSocket with a session, in JSON."""
    bare = await server.bare()
    bare.sendMessage(
        b'[1,"cumulus",{"roles":{"caller":{},"callee":{},"publisher":{},"subscriber":{}}}]'
    )
    await until(lambda: len(bare.received) == 1)
    assert json.loads(bare.received[0])[0] == 2
    return bare


GARBAGE = [
    b"",
    b"{}",
    b"[]",
    b"nonsense",
    b"[" * 100_000,
    b'[48,1,{},"a.b","str"]',  # an AssertionError in Autobahn
    b'[48,1,{},"a.b",[],{"x":NaN}]',
    b'[48,"one",{},"a.b"]',
    b'[48,1,{"ppt_scheme":"x","enc_algo":"cryptobox"},"a.b","\\u0000QUJD"]',
    b'[48,1,{},"a.b",["\\u0000not base64!"]]',
    b'[32,1,{"match":"wild"},"cumulus.jobs"]',
    b"[999]",
    b"[true]",
    b"[2,1,{}]",
    b'[1,"cumulus",{"roles":{"caller":{}}}]',
    b'[8,48,1,{},"some.error"]',
    b'[5,"ticket",{}]',
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
@pytest_twisted.ensureDeferred
async def test_garbage_ends_its_own_session_only(garbage: bytes) -> None:
    async with serving() as server:
        server.router.local().register("cumulus.job.list", nothing)
        good = await server.join()
        bare = await joined_bare(server)
        bare.sendMessage(garbage)
        await until(lambda: bare.gone)
        kind, details, uri = json.loads(bare.received[-1])
        assert (kind, uri) == (3, "wamp.error.protocol_violation")
        assert details["message"]
        assert server.router.stats().violations == 1
        assert await ask(good, "cumulus.job.list") == {}


@pytest_twisted.ensureDeferred
async def test_garbage_before_hello_ends_the_connection() -> None:
    async with serving() as server:
        for garbage in (b"nonsense", b'[48,1,{},"a.b"]', b'[1,"cumulus",{}]'):
            bare = await server.bare()
            bare.sendMessage(garbage)
            await until(lambda bare=bare: bare.gone)
            assert json.loads(bare.received[0])[0] == 3


@pytest.mark.parametrize(
    "request_text",
    [
        '[48,9,{},"a..b"]',
        "[48,9,{},17]",
        '[48,9,{},"a b"]',
        '[32,9,{},"%s"]' % ("x" * 300),
        '[64,9,{},""]',
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_invalid_uri_is_answered(request_text: str) -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        bare.sendMessage(request_text.encode())
        await until(lambda: len(bare.received) == 2)
        error = json.loads(bare.received[1])
        assert error[0] == 8 and error[2] == 9
        assert error[4] == "wamp.error.invalid_uri"
        assert not bare.gone


@pytest_twisted.ensureDeferred
async def test_cbor_tags_and_wrong_frame_kinds_are_refused() -> None:
    async with serving() as server:
        for subprotocol, payload, binary in (
            ("wamp.2.cbor", bytes.fromhex("d81c80"), True),
            ("wamp.2.msgpack", b"\xd4\x05\x00", True),
            ("wamp.2.json", b"[]", True),
            ("wamp.2.cbor", b"[]", False),
        ):
            bare = await server.bare(subprotocol)
            bare.sendMessage(payload, binary)
            await until(lambda bare=bare: bare.gone)
        assert server.router.stats().refused_sessions == 4


@pytest_twisted.ensureDeferred
async def test_a_message_over_the_limit_is_refused_with_its_reason() -> None:
    async with serving(limits=Limits(max_message_bytes=10_000)) as server:
        bare = await joined_bare(server)
        bare.sendMessage(b'[48,1,{},"a.b",["%s"]]' % (b"x" * 20_000))
        await until(lambda: bare.gone)
        assert bare.close_code == 1009
        assert "10000" in bare.close_reason
        await until(lambda: server.router.stats().connections == 0)


@pytest_twisted.ensureDeferred
async def test_a_message_in_endless_empty_pieces_is_refused() -> None:
    async with serving() as server:
        bare = await joined_bare(server)
        bare.beginMessage()
        for _ in range(4200):
            bare.sendMessageFrame(b"")
        await until(lambda: bare.gone)
        assert bare.close_code == 1009
        assert "frames" in bare.close_reason


@pytest_twisted.ensureDeferred
async def test_over_tls_a_stalled_reader_is_held_back_too() -> None:
    """TLS has a transport and a producer of its own kind."""
    from twisted.internet import ssl

    got: list[int] = []
    queued: list[int] = []
    async with serving(tls=True) as server:

        async def attach(call: Call) -> dict[str, Any]:
            session = server.router._joined[call.session_id]
            for number in range(80):
                await call.progress({"number": number, "frames": b"x" * 262_144})
                queued.append(session.outbox.queued_bytes)
            return {"event": "end"}

        server.router.local().register("cumulus.job.attach", attach)
        client = await server.join(tls=ssl.CertificateOptions())
        options = CallOptions(on_progress=lambda number, frames: got.append(number))
        calling = client.call("cumulus.job.attach", options=options).addTimeout(20, reactor)
        client.tcp.pauseProducing()
        await deferLater(reactor, 0.3, lambda: None)
        assert len(queued) < 80
        client.tcp.resumeProducing()
        await calling
        assert got == list(range(80))
        assert 0 < max(queued) <= MIB + 300_000
        client.drop()
        await until(lambda: server.router.stats().connections == 0)


@pytest_twisted.ensureDeferred
async def test_a_package_chunk_fits_in_every_serialisation() -> None:
    sizes: list[int] = []

    async def put(call: Call) -> None:
        sizes.append(len(call.kwargs["data"]))

    async with serving() as server:
        server.router.local().register("cumulus.package.put", put)
        for serializer in SERIALIZERS:
            client = await server.join(serializer=serializer)
            await ask(client, "cumulus.package.put", sha256="0" * 64, data=b"\xff" * 524_288)
    assert sizes == [524_288] * 3


@pytest_twisted.ensureDeferred
async def test_reusing_a_request_in_flight_ends_the_session() -> None:
    async def attach(call: Call) -> None:
        await never()

    async with serving() as server:
        server.router.local().register("cumulus.job.attach", attach)
        bare = await joined_bare(server)
        bare.sendMessage(b'[48,1,{},"cumulus.job.attach"]')
        bare.sendMessage(b'[48,1,{},"cumulus.job.attach"]')
        await until(lambda: bare.gone)
        assert json.loads(bare.received[-1])[2] == "wamp.error.protocol_violation"
        assert server.router.stats().calls_in_flight == 0


# The WebSocket handshake


@pytest_twisted.ensureDeferred
async def test_origins() -> None:
    async with serving() as server:
        here = f"127.0.0.1:{server.port_number}"
        for origin in (
            "http://evil.example",
            "null",
            "file:///x",
            f"http://{here}1",
            "http://[",
            "x",
        ):
            with pytest.raises(Refused):
                await server.bare(headers={"Origin": origin})
        page = await server.bare(headers={"Origin": f"http://{here}"})
        assert not page.gone
        assert not (await server.bare()).gone  # no page at all


@pytest_twisted.ensureDeferred
async def test_the_subprotocol_must_be_one_of_ours() -> None:
    async with serving() as server:
        with pytest.raises(Refused):
            await server.bare("wamp.2.ubjson")
        with pytest.raises(Refused):
            await server.bare("chat")


@pytest_twisted.ensureDeferred
async def test_connections_are_bounded() -> None:
    async with serving(limits=Limits(max_connections=1)) as server:
        first = await server.bare()
        with pytest.raises(Refused):
            await server.bare()
        first.drop()
        await until(lambda: server.router.stats().connections == 0)
        assert not (await server.bare()).gone


@pytest_twisted.ensureDeferred
async def test_the_daemon_is_its_own_caller() -> None:
    callers: list[Principal] = []

    async def info(call: Call) -> dict[str, Any]:
        callers.append(call.caller)
        return {"ok": True}

    async with serving() as server:
        local = server.router.local()
        local.register("cumulus.server.info", info)
        assert await local.call("cumulus.server.info", {}, 1.0) == {"ok": True}
        assert callers == [DAEMON]
        with pytest.raises(ValueError, match="already registered"):
            local.register("cumulus.server.info", nothing)
