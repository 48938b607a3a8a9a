"""The certificates of the daemon's TLS listeners: renewed while it runs, watched to expire.

A renewed certificate counts from the next connection on; those that are open go on with theirs.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Any

from OpenSSL import SSL
from twisted.internet.endpoints import TCP4ServerEndpoint
from twisted.internet.interfaces import (
    IDelayedCall,
    IOpenSSLServerConnectionCreator,
    IStreamServerEndpoint,
)
from twisted.logger import Logger
from zope.interface import implementer

from cumulusd.activation import Inherited, inherited_endpoint
from cumulusd.tls import Certificate, TlsListener, TlsUnusable, load_certificate
from cumulusd.tls_connection import TlsFactory

DAY_S = 86_400.0
#: A certificate that expires sooner is warned of, once a day.
WARN_S = 14 * DAY_S


def expiry_told(listener: TlsListener, expires_at: float, now: float) -> str | None:
    """What to warn of about a certificate that has expired or soon will; times are unix seconds."""
    which, left_s = f"the certificate {listener.certificate} of {listener.name}", expires_at - now
    if left_s <= 0:
        return (
            f"{which} has expired {-left_s / DAY_S:.0f} days ago, and clients refuse it: renew it"
        )
    return f"{which} expires in {left_s / DAY_S:.1f} days: renew it" if left_s < WARN_S else None


class Certificates:
    """One certificate a listener. `start` begins to watch them, `stop` ends it."""

    _log = Logger()

    def __init__(
        self,
        listeners: Iterable[TlsListener],
        *,
        clock: Any,
        wall_clock: Callable[[], float],
        run_in_thread: Callable[[Callable[[], Any]], Awaitable[Any]],
    ) -> None:
        """Reads all files; raises TlsUnusable. `clock`: the reactor; `wall_clock`: unix seconds."""
        self._clock = clock
        self._wall_clock = wall_clock
        self._run_in_thread = run_in_thread
        self._held = {one: _Held(load_certificate(one)) for one in listeners}
        self._next_look: IDelayedCall | None = None

    def endpoint(self, listener: TlsListener) -> IStreamServerEndpoint:
        """What to listen with. Raises NotHandedOver."""
        plain: IStreamServerEndpoint
        if listener.inherited is not None:
            plain = inherited_endpoint(self._clock, Inherited(which=listener.inherited))
        else:
            plain = TCP4ServerEndpoint(  # type: ignore[no-untyped-call]
                self._clock, listener.port, backlog=listener.backlog, interface=listener.interface
            )
        return _TlsEndpoint(plain, self._held[listener], self._clock)

    def expires_at(self) -> Mapping[str, float]:
        """Where it listens -> when the certificate there expires, in unix seconds."""
        return {one.name: held.certificate.expires_at for one, held in self._held.items()}

    def fingerprint(self, port: int | None) -> str | None:
        """Of the public key of who listens on that port, or of the first that speaks TLS, where
        none does (a forwarded port); None: nobody speaks TLS."""
        held = {one.port: held.certificate.fingerprint for one, held in self._held.items()}
        return held.get(port or 0) or next(iter(held.values()), None)

    async def reload(self) -> None:
        """Reads all files again. Raises TlsUnusable for those that can't be used: what was there is
        used on; the others are renewed all the same."""
        faults: list[str] = []
        renewals: list[TlsListener] = []
        for listener, held in self._held.items():
            try:
                fresh: Certificate = await self._run_in_thread(partial(load_certificate, listener))
            except TlsUnusable as error:
                faults.append(f"{listener.name} keeps its certificate: {error}")
                continue
            renewed = fresh.expires_at != held.certificate.expires_at
            held.certificate = fresh
            if renewed:
                renewals.append(listener)
            self._log.info(
                "the certificate of {listener} was read again{note}, it is valid until {until}",
                listener=listener.name,
                note="" if renewed else ", its expiry is as before",
                until=datetime.fromtimestamp(fresh.expires_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            )
        self._look(renewals)  # of the others it was told, and is again within a day
        if faults:
            raise TlsUnusable("; ".join(faults))

    def start(self) -> None:
        """Looks at them now and once a day."""
        self._look(self._held)
        self._next_look = self._clock.callLater(DAY_S, self.start)

    def stop(self) -> None:
        """Looks no more."""
        if self._next_look is not None and self._next_look.active():
            self._next_look.cancel()

    def _look(self, listeners: Iterable[TlsListener]) -> None:
        now = self._wall_clock()
        for listener in listeners:
            expires_at = self._held[listener].certificate.expires_at
            told = expiry_told(listener, expires_at, now)
            if told is not None:
                tell = self._log.error if expires_at <= now else self._log.warn
                tell(
                    "{told}, then send the daemon SIGHUP",
                    told=told,
                    file=str(listener.certificate),
                    listener=listener.name,
                    days=(expires_at - now) / DAY_S,
                )


@implementer(IStreamServerEndpoint)
class _TlsEndpoint:
    """Listens for connections that speak TLS; `plain` listens."""

    def __init__(self, plain: IStreamServerEndpoint, held: "_Held", clock: Any) -> None:
        self._plain = plain
        self._held = held
        self._clock = clock

    def listen(self, protocolFactory: Any) -> Any:
        return self._plain.listen(TlsFactory(self._held, protocolFactory, self._clock))


@implementer(IOpenSSLServerConnectionCreator)
class _Held:
    """The certificate of one listener, as Twisted asks for it: once a connection."""

    def __init__(self, certificate: Certificate) -> None:
        self.certificate = certificate

    def serverConnectionForTLS(self, protocol: Any) -> SSL.Connection:
        return SSL.Connection(self.certificate.context, None)
