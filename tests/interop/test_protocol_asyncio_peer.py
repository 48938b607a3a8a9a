"""The router and Autobahn's asyncio client, which is what the client library stands on."""

import json
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor as _reactor
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import deferLater
from twisted.internet.utils import getProcessOutputAndValue
from twisted.web.resource import Resource
from twisted.web.server import Site

from cumulusd.errors import NotFound
from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.protocol.local_session import Call
from cumulusd.protocol.router import Router

reactor: Any = _reactor
PEER = Path(__file__).with_name("asyncio_peer.py")
ADMIN = Principal(name="root", owner="root", role=Role.ADMIN)


@asynccontextmanager
async def daemon() -> AsyncIterator[tuple[str, list[str]]]:
    """Its URL, and what happened in it."""
    router = Router(clock=reactor, authenticator=Authenticator([(hash_token("secret"), ADMIN)]))
    local = router.local()
    seen: list[str] = []

    async def put(call: Call) -> dict[str, Any]:
        return dict(call.kwargs)

    async def attach(call: Call) -> dict[str, Any]:
        if call.kwargs["count"] < 0:
            try:
                await Deferred()
            except CancelledError:
                seen.append("cancelled")
                raise
        for number in range(call.kwargs["count"]):
            await call.progress({"n": number})
        return {"event": "end"}

    async def get(call: Call) -> None:
        raise NotFound("no such job", job_id=call.kwargs["job_id"], hint="list them")

    async def cancel(call: Call) -> None:
        raise KeyError("a secret")

    async def submit(call: Call) -> None:
        local.publish("cumulus.jobs", {"job": {"job_id": "j2", "status": "pending"}})

    for uri, handler in {
        "cumulus.package.put": put,
        "cumulus.job.attach": attach,
        "cumulus.job.get": get,
        "cumulus.job.cancel": cancel,
        "cumulus.job.submit": submit,
    }.items():
        local.register(uri, handler)
    root = Resource()
    root.putChild(b"ws", router.websocket_resource())
    site = Site(root)
    site.noisy = False
    port = reactor.listenTCP(0, site, interface="127.0.0.1")
    try:
        yield f"ws://127.0.0.1:{port.getHost().port}/ws", seen
    finally:
        await router.stop(1.0)
        await port.stopListening()


async def run_peer(*arguments: str) -> dict[str, Any]:
    out, err, code = await getProcessOutputAndValue(
        sys.executable, [str(PEER), *arguments], env={"PYTHONDONTWRITEBYTECODE": "1"}
    )
    assert code == 0, err.decode()
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.mark.parametrize("serializer", ["cbor", "msgpack", "json"])
@pytest_twisted.ensureDeferred
async def test_everything_a_client_does(serializer: str) -> None:
    async with daemon() as (url, seen):
        found = await run_peer(url, "secret", serializer)
        await deferLater(reactor, 0.05, lambda: None)
    assert (found["name"], found["role"]) == ("root", "admin")
    assert found["answer"] == {"sha256": "ab", "data": "000102" * 1000}
    assert found["progress"] == list(range(50))
    assert found["end"] == {"event": "end"}
    assert found["error"] == {
        "uri": "cumulus.error.not_found",
        "args": ["no such job"],
        "kwargs": {
            "code": "not_found",
            "status": 404,
            "job_id": "j1",
            "details": {},
            "hint": "list them",
        },
    }
    assert found["unexpected"]["uri"] == "cumulus.error.internal"
    assert "secret" not in json.dumps(found["unexpected"])
    assert found["denied"]["uri"] == "wamp.error.not_authorized"
    assert found["missing"]["uri"] == "wamp.error.no_such_procedure"
    assert seen == ["cancelled"]
    assert found["events"] == [{"job": {"job_id": "j2", "status": "pending"}}]


@pytest_twisted.ensureDeferred
async def test_a_wrong_token_is_refused() -> None:
    async with daemon() as (url, _):
        found = await run_peer(url, "guess", "cbor")
    assert found == {"refused": "wamp.error.not_authenticated"}
