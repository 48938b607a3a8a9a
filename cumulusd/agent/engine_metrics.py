"""The metrics of this worker's Docker Engine, asked for when the daemon asks."""

from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import Protocol, connectionDone
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web.client import Agent, ResponseDone
from twisted.web.http import PotentialDataLoss
from twisted.web.http_headers import Headers

from cumulus_wire import engine_metrics
from cumulusd.agent.orders import refuse_arguments
from cumulusd.tasks import cancellable, wait_at_most

DEADLINE_S = 5.0
#: A manager of a large Swarm tells some hundred KB.
MAX_BYTES = 4 << 20


class _Body(Protocol):
    """Takes an answer up to its bound; `done` fires with it, or with None for a longer one."""

    def __init__(self) -> None:
        self._received = bytearray()
        self.done: Deferred[bytes | None] = Deferred(lambda _: self._abort())

    def dataReceived(self, data: bytes) -> None:
        self._received += data
        if len(self._received) > MAX_BYTES and not self.done.called:
            self.done.callback(None)
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        if self.done.called:
            return
        if reason.check(ResponseDone, PotentialDataLoss):  # type: ignore[no-untyped-call]
            self.done.callback(bytes(self._received))
        else:
            self.done.errback(reason)

    def _abort(self) -> None:
        if self.transport is not None:
            # Of all that a response's transport offers, this closes the connection at once.
            self.transport.stopProducing()  # type: ignore[attr-defined]


class EngineMetrics:
    """The agent's verb `metrics`. `reactor`: IReactorTime and IReactorTCP."""

    _log = Logger()

    def __init__(self, reactor: Any, address: str | None) -> None:
        """`address`: host:port of the engine's `metrics-addr`; None: there is none."""
        self._reactor = reactor
        self._address = address
        self._http = Agent(reactor, connectTimeout=DEADLINE_S)  # type: ignore[no-untyped-call]

    async def tell(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """`{text, why}`: lines of known families, or None and why there are none."""
        refuse_arguments(arguments)
        if self._address is None:
            return _none("no address of an engine's metrics is set for this worker")
        try:
            fetching = Deferred.fromCoroutine(self._fetch(f"http://{self._address}/metrics"))
            told = await wait_at_most(self._reactor, DEADLINE_S, fetching)
        except CancelledError:
            raise
        except Exception as error:
            # Whatever the engine's side did: it gives none, and the agent goes on.
            self._log.debug("no metrics of the engine at {address}", address=self._address)
            return _none(
                f"nothing answers at {self._address} ({type(error).__name__}): set metrics-addr "
                "in the engine's daemon.json"
            )
        if told is None:
            return _none(f"{self._address} did not answer within {DEADLINE_S:g} s")
        status, body = told
        if status != 200:
            return _none(f"{self._address} answers with status {status}")
        if body is None:
            return _none(f"{self._address} tells more than {MAX_BYTES} bytes")
        lines = body.decode(errors="replace").split("\n")
        found = [sample.line() for sample in engine_metrics.samples(lines)]
        if not found:
            return _none(f"{self._address} tells nothing of a Docker Engine")
        return {"text": "\n".join(found), "why": None}

    async def _fetch(self, url: str) -> tuple[int, bytes | None]:
        headers = Headers({"User-Agent": ["cumulus-agent"]})
        response = await cancellable(self._http.request(b"GET", url.encode(), headers))
        body = _Body()
        response.deliverBody(body)  # type: ignore[no-untyped-call]
        return response.code, await body.done


def _none(why: str) -> dict[str, Any]:
    return {"text": None, "why": why}
