"""Autobahn's asyncio client as a process of its own: asyncio_peer.py URL TOKEN SERIALIZER.

Autobahn's asyncio and Twisted halves can't live in one process. Prints one JSON object.
"""

import asyncio
import json
import sys
from typing import Any

from autobahn.asyncio.wamp import ApplicationSession
from autobahn.asyncio.websocket import WampWebSocketClientFactory
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.serializer import CBORSerializer, JsonSerializer, MsgPackSerializer
from autobahn.wamp.types import CallOptions, ComponentConfig, SubscribeOptions

SERIALIZERS = {"cbor": CBORSerializer, "msgpack": MsgPackSerializer, "json": JsonSerializer}


class Peer(ApplicationSession):  # type: ignore[misc]
    def __init__(self, token: str, found: "asyncio.Future[dict[str, Any]]") -> None:
        super().__init__(ComponentConfig(realm="cumulus"))
        self._token = token
        self._found = found

    def onConnect(self) -> None:
        self.join("cumulus", ["ticket"], "anybody")

    def onChallenge(self, challenge: Any) -> str:
        assert challenge.method == "ticket"
        return self._token

    def onLeave(self, details: Any) -> None:
        if not self._found.done():
            self._found.set_result({"refused": details.reason})
        self.disconnect()

    async def onJoin(self, details: Any) -> None:
        try:
            self._found.set_result(await self._look(details))
        except Exception as error:
            self._found.set_exception(error)
        self.leave()

    async def _look(self, details: Any) -> dict[str, Any]:
        found: dict[str, Any] = {"role": details.authrole, "name": details.authid}
        answer = await self.call("cumulus.package.put", data=b"\0\1\2" * 1000, sha256="ab")
        found["answer"] = {**answer.kwresults, "data": answer.kwresults["data"].hex()}

        progress: list[Any] = []
        options = CallOptions(on_progress=lambda **kwargs: progress.append(kwargs["n"]))
        end = await self.call("cumulus.job.attach", count=50, options=options)
        found["progress"], found["end"] = progress, end.kwresults

        for name, procedure in (
            ("error", "cumulus.job.get"),
            ("unexpected", "cumulus.job.cancel"),
            ("denied", "cumulus.agent.n1.prepare"),
            ("missing", "cumulus.job.pause"),
        ):
            try:
                await self.call(procedure, job_id="j1")
            except ApplicationError as error:
                found[name] = {"uri": error.error, "args": error.args, "kwargs": error.kwargs}

        calling = self.call("cumulus.job.attach", count=-1, options=CallOptions())
        await asyncio.sleep(0.05)
        calling.cancel()

        events: list[Any] = []
        got = asyncio.Event()

        def take(**kwargs: Any) -> None:
            events.append(kwargs)
            got.set()

        await self.subscribe(take, "cumulus.jobs", options=SubscribeOptions())
        await self.call("cumulus.job.submit")
        await got.wait()
        found["events"] = events
        return found


async def main(url: str, token: str, serializer: str) -> dict[str, Any]:
    loop = asyncio.get_running_loop()
    found: asyncio.Future[dict[str, Any]] = loop.create_future()
    factory = WampWebSocketClientFactory(
        lambda: Peer(token, found), url, serializers=[SERIALIZERS[serializer]()]
    )
    transport, _ = await loop.create_connection(factory, factory.host, factory.port)
    try:
        return await found
    finally:
        await asyncio.sleep(0.1)  # the closing handshake
        transport.close()


if __name__ == "__main__":
    print(json.dumps(asyncio.run(asyncio.wait_for(main(*sys.argv[1:]), 20))))
