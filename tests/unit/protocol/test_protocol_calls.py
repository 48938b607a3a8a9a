"""Calls over real loopback sockets, into the daemon and from it to agents."""

import json
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
    SERIALIZERS,
    ask,
    joined_bare,
    never,
    nothing,
    reactor,
    serving,
    until,
    with_tokens,
)

from cumulusd.errors import Conflict, InternalError, NotFound, Unavailable
from cumulusd.identity import ANONYMOUS, DAEMON, Principal
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call

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
    # Without `error` and `message`, which Autobahn's and xconn's clients can't take by keyword.
    assert caught.value.kwargs == {
        "code": "not_found",
        "status": 404,
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
