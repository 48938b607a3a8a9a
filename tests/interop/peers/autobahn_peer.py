"""Autobahn's Python client as a process of its own: autobahn_peer.py asyncio|twisted ORDERS.

What the orders hold and what is printed: `tests/interop/clients.py`.
"""

import json
import sys
from pathlib import Path
from typing import Any

import txaio

framework = sys.argv[1]
if framework == "asyncio":
    from autobahn.asyncio.wamp import ApplicationSession
    from autobahn.asyncio.websocket import WampWebSocketClientFactory
else:
    from autobahn.twisted.wamp import ApplicationSession
    from autobahn.twisted.websocket import WampWebSocketClientFactory

# After the framework is chosen.
from autobahn.wamp.auth import create_authenticator  # noqa: E402
from autobahn.wamp.exception import ApplicationError  # noqa: E402
from autobahn.wamp.serializer import (  # noqa: E402
    CBORSerializer,
    JsonSerializer,
    MsgPackSerializer,
)
from autobahn.wamp.types import CallOptions, ComponentConfig  # noqa: E402

SERIALIZERS = {"cbor": CBORSerializer, "msgpack": MsgPackSerializer, "json": JsonSerializer}
TIMEOUT_S = 60


class Peer(ApplicationSession):  # type: ignore[misc]
    """Does all of it once it has joined."""

    def __init__(self, orders: dict[str, Any], found: Any) -> None:
        super().__init__(ComponentConfig(realm="cumulus"))
        self._orders = orders
        self._found = found
        secret = orders["secret"]
        self._authenticator: Any = None
        if orders["method"] == "cryptosign":
            self._authenticator = create_authenticator("cryptosign", privkey=secret)
        elif orders["method"] == "scram":
            self._authenticator = create_authenticator(
                "scram", authid=orders["authid"], password=secret
            )

    def onConnect(self) -> None:
        self.join(
            "cumulus",
            [self._orders["method"]],
            self._orders["authid"],
            authextra=self._authenticator and self._authenticator.authextra,
        )

    def onChallenge(self, challenge: Any) -> Any:
        if self._authenticator is None:
            return self._orders["secret"]
        return self._authenticator.on_challenge(self, challenge)

    def onWelcome(self, welcome: Any) -> Any:
        if self._authenticator is None:
            return None
        return self._authenticator.on_welcome(self, welcome.authextra)

    def onLeave(self, details: Any) -> None:
        if not txaio.is_called(self._found):
            txaio.reject(self._found, RuntimeError(f"refused: {details}"))
        self.disconnect()

    async def onJoin(self, details: Any) -> None:
        try:
            answer = await self._look(details)
        except Exception as error:
            txaio.reject(self._found, error)
        else:
            txaio.resolve(self._found, answer)
        self.leave()

    async def _ask(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
        answer = await self.call(procedure, **kwargs)
        return dict(answer.kwresults)

    async def _error(self, procedure: str, **kwargs: Any) -> dict[str, Any]:
        try:
            await self.call(procedure, **kwargs)
        except ApplicationError as error:
            return {"uri": error.error, "args": error.args, "kwargs": error.kwargs}
        raise AssertionError(f"{procedure} was answered")

    async def _look(self, details: Any) -> dict[str, Any]:
        error = await self._error("cumulus.job.get", job_id="nothing")
        for name in ("follow", "stop"):
            data = Path(self._orders[name]["path"]).read_bytes()
            package = self._orders[name]["spec"]["package"]
            await self._ask("cumulus.package.check", **package)
            await self._ask("cumulus.package.put", sha256=package["sha256"], offset=0, data=data)
            await self._ask("cumulus.package.commit", **package)
        return {
            "authid": details.authid,
            "authrole": details.authrole,
            "authmethod": details.authmethod,
            "error": error,
            "followed": await self._follow(),
            "stopped": await self._stop(),
        }

    async def _follow(self) -> dict[str, Any]:
        kinds: list[str] = []
        frames = b""

        def take(**progress: Any) -> None:
            nonlocal frames
            kinds.append(progress["event"])
            frames += progress.get("frames", b"")

        end = await self.call(
            "cumulus.job.submit",
            spec=self._orders["follow"]["spec"],
            options=CallOptions(on_progress=take),
        )
        return {
            "kinds": kinds,
            "frames": frames.hex(),
            "end": end.kwresults["event"],
            "status": end.kwresults["job"]["status"],
        }

    async def _stop(self) -> dict[str, Any]:
        accepted, told = txaio.create_future(), txaio.create_future()
        topic: list[str] = []

        def progressed(**progress: Any) -> None:
            if progress["event"] == "accepted":
                txaio.resolve(accepted, progress["job"]["job_id"])

        def happened(**event: Any) -> None:
            topic.append(event["job"]["status"])
            if topic[-1] == "cancelled" and not txaio.is_called(told):
                txaio.resolve(told, None)

        ending = self.call(
            "cumulus.job.submit",
            spec=self._orders["stop"]["spec"],
            options=CallOptions(on_progress=progressed),
        )
        job_id = await accepted
        await self.subscribe(happened, f"cumulus.job.{job_id}.status")
        # A second one that follows it, and stops following.
        following = self.call(
            "cumulus.job.attach",
            job_id=job_id,
            options=CallOptions(on_progress=lambda **_: None),
        )
        await self._ask("cumulus.job.get", job_id=job_id)
        following.cancel()
        answer = await self._ask("cumulus.job.cancel", job_id=job_id)
        end = await ending
        await told
        return {
            "cancelled": answer["cancelled"],
            "status": end.kwresults["job"]["status"],
            "topic": topic[-1],
        }


def factory(orders: dict[str, Any], found: Any) -> Any:
    """Of connections with that one serialisation."""
    serializers = [SERIALIZERS[orders["serializer"]]()]
    return WampWebSocketClientFactory(
        lambda: Peer(orders, found), orders["url"], serializers=serializers
    )


def run_asyncio(orders: dict[str, Any]) -> None:
    import asyncio

    async def main() -> None:
        loop = asyncio.get_running_loop()
        txaio.config.loop = loop
        found = loop.create_future()
        made = factory(orders, found)
        transport, _ = await loop.create_connection(made, made.host, made.port)
        try:
            print(json.dumps(await asyncio.wait_for(found, TIMEOUT_S)))
        finally:
            await asyncio.sleep(0.1)  # the closing handshake
            transport.close()

    asyncio.run(main())


def run_twisted(orders: dict[str, Any]) -> None:
    from twisted.internet import endpoints, task
    from twisted.internet.defer import Deferred

    async def main(reactor: Any) -> None:
        found: Deferred[Any] = Deferred()
        made = factory(orders, found)
        where = endpoints.TCP4ClientEndpoint(reactor, made.host, made.port)
        await where.connect(made)
        print(json.dumps(await found.addTimeout(TIMEOUT_S, reactor)))
        await task.deferLater(reactor, 0.1, lambda: None)  # the closing handshake

    task.react(lambda reactor: Deferred.fromCoroutine(main(reactor)))


if __name__ == "__main__":
    given = json.loads(sys.argv[2])
    (run_asyncio if framework == "asyncio" else run_twisted)(given)
