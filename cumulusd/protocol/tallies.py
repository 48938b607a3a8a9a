"""What the router counts, for metrics: what it refused and why, and what went to and fro."""

from collections import Counter
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from cumulusd.identity import Role

#: Every reason that a request, session or connection is refused or ended for, in words. They are
#: the label values of a metric, so there are no others: what isn't here counts as `other`.
REFUSALS: Mapping[str, str] = MappingProxyType(
    {
        "agent_link": "no handshake of an agent's link (/agent) that is taken",
        "authentication": "no token, an unknown one, or no method of authentication that is taken",
        "authentication_timeout": "the challenge was not answered in time",
        "calls_in_flight": "a session's calls that wait for their answer",
        "close_timeout": "did not close in time; aborted",
        "connections": "all connections together",
        "connections_per_address": "connections of one address",
        "handshake": "no WebSocket handshake that is taken (origin, sub-protocol, form)",
        "handshake_timeout": "no WebSocket handshake in time",
        "hello_timeout": "no HELLO in time",
        "internal": "a fault of the router's own; the log has it",
        "message_form": "the answer has no form in the session's serialisation, or is too large",
        "message_fragments": "a message in too many pieces",
        "message_rate": "messages a second, for too long",
        "message_size": "the bytes of a message",
        "message_timeout": "a message did not become whole in time",
        "not_authorized": "the role may not do that",
        "open_files": "the files that the daemon may have open",
        "other": "what has no name of its own",
        "ping_timeout": "a ping was not answered in time",
        "realm": "a realm that isn't there",
        "registrations": "a session's registrations",
        "revoked": "the token was revoked or has expired",
        "slow_peer": "did not read what was sent; closed",
        "stopping": "the daemon is stopping",
        "subscriptions": "a session's subscriptions",
        "uri": "no valid URI, or one too long",
        "violation": "broke WAMP or WebSocket",
    }
)


@attrs.define
class Traffic:
    """What went over the router's connections since its start. WAMP messages and their bytes, not
    what WebSocket and TLS add. Shared by all connections, which count in place."""

    messages_in: int = 0
    bytes_in: int = 0
    messages_out: int = 0
    bytes_out: int = 0


class Tallies:
    """Counts since the router's start."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.events_dropped = 0  #: to sessions too slow, or without a form in their serialisation
        self.refused_sessions = 0  #: that never joined
        self._refusals: Counter[str] = Counter(dict.fromkeys(REFUSALS, 0))

    def refused(self, reason: str) -> None:
        """Something was refused or ended, for one of `REFUSALS`."""
        self._refusals[reason if reason in REFUSALS else "other"] += 1

    @property
    def refusals(self) -> Mapping[str, int]:
        """Reason -> how often; every reason is there."""
        return dict(self._refusals)


@attrs.frozen(kw_only=True)
class RouterStats:
    """What the router has and did, for metrics. Counts are since its start."""

    sessions: Mapping[Role, int]  #: remote sessions that have joined
    connections: int  #: open ones, joined or not
    queued_bytes: int  #: what waits for slow peers
    calls_in_flight: int
    topics: int  #: with at least one subscriber
    events_dropped: int
    refusals: Mapping[str, int]  #: by reason, all of `REFUSALS`
    refused_sessions: int  #: that never joined: not authenticated, wrong realm, no valid HELLO
    traffic: Traffic

    @property
    def slow_peers_closed(self) -> int:
        """Sessions ended for not reading."""
        return self.refusals["slow_peer"]

    @property
    def violations(self) -> int:
        """Sessions ended for breaking the protocol."""
        return self.refusals["violation"]
