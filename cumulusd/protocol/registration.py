"""A registration: one procedure, or one pattern of procedures, of one callee."""

from typing import Any

import attrs

from cumulusd.protocol import messages
from cumulusd.protocol.messages import wamp


@attrs.frozen(kw_only=True)
class Registration:
    """What one session offers, under one URI or pattern."""

    registration_id: int
    uri: str
    policy: str
    session_id: int
    discloses_callers: bool
    created_at: float

    def as_dict(self) -> dict[str, Any]:
        """WAMP's RegistrationDetails."""
        return {
            "id": self.registration_id,
            "created": messages.iso_time(self.created_at),
            "uri": self.uri,
            "match": self.policy,
            "invoke": wamp.Register.INVOKE_SINGLE,
        }
