"""The agent's WAMP session: joins with its token and registers its verbs."""

import uuid
from collections.abc import Mapping
from typing import Any

from autobahn.twisted.wamp import ApplicationSession
from autobahn.twisted.websocket import WampWebSocketClientFactory, WampWebSocketClientProtocol
from autobahn.wamp.exception import ApplicationError
from autobahn.wamp.serializer import CBORSerializer, JsonSerializer
from autobahn.wamp.types import CallResult, Challenge, CloseDetails, ComponentConfig, SessionDetails
from twisted.internet.defer import CancelledError, Deferred, DeferredList
from twisted.internet.protocol import connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulus_wire import uris
from cumulusd.agent.agent import Verb
from cumulusd.agent.connection import Life
from cumulusd.agent.loss import why_lost
from cumulusd.errors import CumulusError, InternalError, InvalidArgument, TooMany

MAX_MESSAGE_BYTES = 4 << 20
MAX_CALLS = 256  #: under way at a time
PING_S = 15.0


class Calls:
    """The verbs as procedures. A call that outlives its session is carried through."""

    _log = Logger()

    def __init__(self, verbs: Mapping[str, Verb]) -> None:
        self.verbs = verbs
        self._running: dict[Deferred[dict[str, Any]], None] = {}  #: in the order of their starts

    async def stop(self) -> None:
        """Cancels what is under way; fires when it has ended."""
        running = list(self._running)
        for one in running:
            one.cancel()
        await DeferredList(running, consumeErrors=True)

    def start(
        self, verb: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> Deferred[dict[str, Any]]:
        """Fires with the answer, or with an ApplicationError."""
        work = Deferred.fromCoroutine(self._run(verb, args, kwargs))
        self._running[work] = None

        def ended(result: Any) -> Any:
            self._running.pop(work, None)
            return result

        return work.addBoth(ended)

    async def _run(
        self, verb: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> dict[str, Any]:
        try:
            if args:
                raise InvalidArgument(f"{verb} takes keyword arguments only")
            if len(self._running) > MAX_CALLS:
                raise TooMany(f"{MAX_CALLS} calls are under way", hint="try again in a moment")
            return await self.verbs[verb](kwargs)
        except CancelledError:
            raise
        except CumulusError as error:
            raise _application_error(error) from error
        except Exception:
            log_id = uuid.uuid4().hex
            job_id = kwargs.get("job_id")
            job_id = job_id if isinstance(job_id, str) else None
            self._log.failure(
                "{verb} of job {job_id} failed, log id {log_id}",
                verb=verb,
                job_id=job_id,
                log_id=log_id,
            )
            raise _application_error(
                InternalError(
                    f"the agent failed at {verb}; its log has the cause under {log_id}",
                    job_id=job_id,
                    details={"log_id": log_id},
                    hint="report it with that part of the agent's log",
                )
            ) from None


def session_factory(
    clock: Any, calls: Calls, node_id: str, token: str, host: str
) -> WampWebSocketClientFactory:
    """Builds the session's connections. `clock`: the reactor. `host`: for the Host header."""
    serializers = [
        CBORSerializer(),  # type: ignore[no-untyped-call]
        JsonSerializer(),  # type: ignore[no-untyped-call]
    ]
    factory = WampWebSocketClientFactory(  # type: ignore[no-untyped-call]
        lambda: AgentSession(calls, node_id, token),
        url=f"ws://{host}/ws",
        serializers=serializers,
        useragent="cumulus-agent",
        reactor=clock,
    )
    factory.setProtocolOptions(  # type: ignore[no-untyped-call]
        maxFramePayloadSize=MAX_MESSAGE_BYTES,
        maxMessagePayloadSize=MAX_MESSAGE_BYTES,
        openHandshakeTimeout=10,
        autoPingInterval=PING_S,
        autoPingTimeout=PING_S,
    )
    factory.noisy = False
    factory.protocol = _SessionProtocol
    return factory


class _SessionProtocol(WampWebSocketClientProtocol):
    """One connection, as `Connector` keeps it."""

    tcpNoDelay = True  #: of the class, as that of the link

    def __init__(self) -> None:
        super().__init__()
        self.life = Life()

    def drop(self) -> None:
        """Ends it at once."""
        self.dropConnection(abort=True)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        super().connectionLost(reason)
        self.life.gone(why_lost(reason, self.wasNotCleanReason))


class AgentSession(ApplicationSession):
    """One session; it is ready when every verb is registered."""

    _log = Logger()

    def __init__(self, calls: Calls, node_id: str, token: str) -> None:
        config = ComponentConfig(uris.REALM, {})  # type: ignore[no-untyped-call]
        super().__init__(config)
        self._calls = calls
        self._node_id = node_id
        self._token = token

    def onConnect(self) -> None:
        self.join(uris.REALM, ["ticket"], authid=self._node_id)

    def onChallenge(self, challenge: Challenge) -> str:
        return self._token

    async def onJoin(self, details: SessionDetails) -> None:
        connection: Any = self._transport
        try:
            for verb in self._calls.verbs:
                await self._offer(verb)
        except CancelledError:
            raise
        except Exception as error:
            # A session of ours that the router hasn't missed yet may hold the names.
            connection.life.gone(f"the verbs can't be registered: {error}")
            connection.drop()
            return
        connection.life.ready()

    async def _offer(self, verb: str) -> None:
        try:
            await self.register(self._endpoint(verb), uris.agent_procedure(self._node_id, verb))
        except ApplicationError as error:
            if verb in uris.AGENT_VERBS or error.error != ApplicationError.NOT_AUTHORIZED:
                raise
            self._log.info("the daemon is of an earlier version: it takes no {verb}", verb=verb)

    def onLeave(self, details: CloseDetails) -> None:
        connection: Any = self._transport
        if connection is not None:
            connection.life.gone(f"the daemon ended the session: {details.message}")
            connection.drop()

    def onUserError(self, fail: Failure, msg: str) -> None:
        # What fails in a verb is logged by `Calls`; the caller gets the rest.
        self._log.debug("a call failed: {msg}", msg=msg)

    def _endpoint(self, verb: str) -> Any:
        return lambda *args, **kwargs: self._answer(verb, args, kwargs)

    def _answer(self, verb: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Deferred[Any]:
        """Fires with the call's outcome, unless there is nobody left to tell."""
        work = self._calls.start(verb, args, kwargs)
        reply: Deferred[Any] = Deferred(lambda _: work.cancel())

        def ended(result: Any) -> None:
            transport: Any = self._transport
            listening = transport is not None and transport.state == transport.STATE_OPEN
            if listening and not reply.called:
                # The answer goes as keyword arguments; a Failure makes it an error.
                answer: Any = result
                if isinstance(result, dict):
                    answer = CallResult(**result)  # type: ignore[no-untyped-call]
                reply.callback(answer)
            else:
                self._log.debug("nobody is left to hear how {verb} ended", verb=verb)

        work.addBoth(ended)
        return reply


def _application_error(error: CumulusError) -> ApplicationError:
    outgoing = ApplicationError(error.uri, error.message)  # type: ignore[no-untyped-call]
    # Not by its constructor: there the key `error` is taken.
    outgoing.kwargs = error.as_dict()
    return outgoing
