"""The router's bounds: every buffer, count and wait of a connection."""

import attrs

_KIB = 1024
_MIB = 1024 * _KIB


@attrs.frozen(kw_only=True)
class Limits:
    """Bounds of one connection; the daemon's memory for a peer is `hard_cap_bytes` plus what the
    transport holds (64 KiB and one message) plus one incoming message.

    Each is a key of the configuration's section `router` (`cumulusd.config_router`).
    """

    max_message_bytes: int = 2 * _MIB  #: incoming; a package chunk takes 700 KiB in base64
    message_timeout_s: float = 60.0  #: from a message's first byte to its last
    high_watermark_bytes: int = _MIB  #: above it progressive results wait and events are dropped
    low_watermark_bytes: int = 256 * _KIB  #: at or below it they go on
    hard_cap_bytes: int = 8 * _MIB  #: above it the connection is closed
    slow_peer_timeout_s: float = 30.0  #: without taking a byte of what waits for it
    hello_timeout_s: float = 10.0  #: from the TCP connection's upgrade to WELCOME
    close_timeout_s: float = 5.0  #: from our close to the connection's end
    ping_interval_s: float = 20.0
    ping_timeout_s: float = 20.0  #: from a ping to any byte of the peer
    max_connections: int = 10_000
    max_connections_per_address: int = 1_000  #: not of this machine's own
    max_calls_in_flight: int = 256  #: per session
    max_subscriptions: int = 1024  #: per session
    max_registrations: int = 64  #: per session
    max_uri_chars: int = 255
    max_messages_per_s: float = 2_000.0  #: per session; 0: no bound
    message_burst: int = 10_000  #: messages at once, before that rate holds
    message_rate_patience_s: float = 60.0  #: of being held to that rate, before it is closed
    log_lines_per_minute: int = 10  #: of one kind and one address; the rest is counted

    def __attrs_post_init__(self) -> None:
        if not 0 <= self.low_watermark_bytes <= self.high_watermark_bytes <= self.hard_cap_bytes:
            raise ValueError("the watermarks must be ordered: 0 <= low <= high <= hard cap")
