"""How many connections are taken, in all and from one address. Pure counting."""

import ipaddress
from collections import Counter

import attrs

from cumulusd.protocol.limits import Limits

#: An IPv6 customer has a whole network of this length, so it counts as one address.
_IPV6_NETWORK_BITS = 64
#: Connections beyond a limit that are told so by ABORT at a time.
TURNED_AWAY_AT_ONCE = 32


@attrs.frozen
class Denial:
    """A connection is one too many."""

    reason: str  #: one of `tallies.REFUSALS`
    text: str


def source_of(host: str | None) -> str | None:
    """What counts as one address; None for this machine (loopback, unix socket), where a proxy or
    every user of the machine is behind the same one."""
    if not host:
        return None
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return host
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is None:
            if address.is_loopback:
                return None
            return str(ipaddress.ip_network((address, _IPV6_NETWORK_BITS), strict=False))
        address = address.ipv4_mapped
    return None if address.is_loopback else str(address)


class Admission:
    """The connections that there are.

    One too many is taken nevertheless, to tell it so by ABORT, while those are few; any more are
    refused before they are WebSockets.
    """

    def __init__(self, limits: Limits) -> None:
        self._limits = limits
        self._sources: dict[int, str | None] = {}  #: of those that are taken, by session id
        self._by_source: Counter[str] = Counter()
        self._turned_away: set[int] = set()

    def refusal(self, source: str | None) -> Denial | None:
        """Why a connection of that source (as `source_of`) is refused; None when it may come."""
        return self._denial(source) if len(self._turned_away) >= TURNED_AWAY_AT_ONCE else None

    @property
    def fault(self) -> str | None:
        """Why nobody's connection is taken; None when somebody's is."""
        denial = self._denial(None)
        return None if denial is None else denial.text

    def enter(self, session_id: int, source: str | None) -> Denial | None:
        """A connection has come. Why it is one too many, which it is to be told; None when it is
        taken."""
        denial = self._denial(source)
        if denial is not None:
            self._turned_away.add(session_id)
            return denial
        self._sources[session_id] = source
        if source:
            self._by_source[source] += 1
        return None

    def leave(self, session_id: int) -> None:
        """A connection is gone; may be told twice."""
        self._turned_away.discard(session_id)
        source = self._sources.pop(session_id, None)
        if source:
            self._by_source[source] -= 1
            if not self._by_source[source]:
                del self._by_source[source]

    def _denial(self, source: str | None) -> Denial | None:
        limits = self._limits
        if len(self._sources) >= limits.max_connections:
            return Denial(
                "connections",
                f"the daemon has {limits.max_connections} connections, the most it takes "
                "(router.max_connections): close some, or try again later",
            )
        if source and self._by_source[source] >= limits.max_connections_per_address:
            return Denial(
                "connections_per_address",
                f"{source} has {limits.max_connections_per_address} connections, the most of one "
                "address (router.max_connections_per_address): close some, or ask the daemon's "
                "operator for more",
            )
        return None
