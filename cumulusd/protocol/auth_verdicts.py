"""What the authentication methods have in common."""

from collections.abc import Mapping
from typing import Any, Protocol

import attrs

from cumulusd.identity import Principal
from cumulusd.protocol.messages import Message


@attrs.frozen
class Accept:
    """It is this principal; `authextra` goes into WELCOME."""

    principal: Principal
    method: str
    authextra: Mapping[str, Any] | None = None


@attrs.frozen
class Refuse:
    """ABORT with this error URI and text."""

    uri: str
    text: str


class Proof(Protocol):
    """What was asked of a peer by a CHALLENGE."""

    def judge(self, answer: Message) -> Accept | Refuse:
        """What its AUTHENTICATE proves."""


class NotBegun(Exception):
    """The method can't be begun by such a HELLO; the message says why, to its sender."""


def authextra_of(hello: Message, method: str) -> Mapping[str, Any]:
    """HELLO's own data. Raises NotBegun when it wants a channel binding."""
    authextra: Mapping[str, Any] = hello.authextra or {}
    if authextra.get("channel_binding") is not None:
        # TLS 1.3 has no tls-unique, and a proxy before the daemon would break any.
        raise NotBegun(f"{method}: no channel binding is offered; leave channel_binding out")
    return authextra
