"""The configuration's section `router`: what one peer may cost the daemon."""

from typing import Annotated

from pydantic import Field, model_validator

from cumulusd.config_platform import Section

_KIB = 1 << 10
_MIB = 1 << 20
_GIB = 1 << 30

Bytes = Annotated[int, Field(ge=_KIB, le=_GIB)]
Seconds = Annotated[float, Field(ge=0.1, le=86_400)]


class RouterSection(Section):
    """Bounds of the WAMP router, as `cumulusd.protocol.limits.Limits` takes them."""

    #: The largest message a peer may send: a chunk of a package must fit, as JSON has it.
    max_message_bytes: Annotated[int, Field(ge=_MIB, le=_GIB)] = 2 * _MIB
    #: From a message's first byte to its last.
    message_timeout_s: Seconds = 60.0
    #: What may wait for one peer: above the high watermark journals wait and events are dropped, at
    #: the low one they go on; above the cap the peer is closed.
    high_watermark_bytes: Bytes = _MIB
    low_watermark_bytes: Bytes = 256 * _KIB
    hard_cap_bytes: Annotated[int, Field(ge=_MIB, le=_GIB)] = 8 * _MIB
    #: How long a peer may take nothing of what waits for it.
    slow_peer_timeout_s: Seconds = 30.0
    #: From the connection to WELCOME, authentication included; from our close to its end.
    hello_timeout_s: Seconds = 10.0
    close_timeout_s: Annotated[float, Field(ge=0.1, le=60)] = 5.0
    #: How often a peer is pinged, and how long it may keep silent then.
    ping_interval_s: Seconds = 20.0
    ping_timeout_s: Seconds = 20.0
    #: Connections in all, and of one address (an IPv6 /64 network; never this machine's own).
    max_connections: Annotated[int, Field(ge=1, le=1_000_000)] = 10_000
    max_connections_per_address: Annotated[int, Field(ge=1, le=1_000_000)] = 1_000
    #: Of one session.
    max_calls_in_flight: Annotated[int, Field(ge=1, le=1_000_000)] = 256
    max_subscriptions: Annotated[int, Field(ge=1, le=1_000_000)] = 1_024
    max_registrations: Annotated[int, Field(ge=16, le=1_000_000)] = 64
    max_uri_chars: Annotated[int, Field(ge=128, le=4_096)] = 255
    #: Messages of one session: above this rate, after such a burst, it is read from more slowly;
    #: when that lasts as long it is closed. 0: no bound.
    max_messages_per_s: Annotated[float, Field(ge=0, le=10_000_000)] = 2_000.0
    message_burst: Annotated[int, Field(ge=1, le=10_000_000)] = 10_000
    message_rate_patience_s: Seconds = 60.0
    #: Lines of the log about one sort of fault of one address.
    log_lines_per_minute: Annotated[int, Field(ge=1, le=10_000)] = 10

    @model_validator(mode="after")
    def _watermarks_in_order(self) -> "RouterSection":
        if not self.low_watermark_bytes <= self.high_watermark_bytes <= self.hard_cap_bytes:
            raise ValueError(
                f"low_watermark_bytes ({self.low_watermark_bytes}), high_watermark_bytes "
                f"({self.high_watermark_bytes}) and hard_cap_bytes ({self.hard_cap_bytes}) must "
                "be in that order"
            )
        return self
