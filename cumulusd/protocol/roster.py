"""The remote sessions that take part, as dealer, broker and meta API know them."""

from collections.abc import Mapping
from typing import Any

from cumulusd.protocol.disclosure import may_disclose, may_learn_callers
from cumulusd.protocol.messages import CalleeFeatures, Member
from cumulusd.protocol.remote_session import RemoteSession


class Roster:
    """Who is in the realm."""

    def __init__(self, joined: Mapping[int, RemoteSession]) -> None:
        """`joined`: the router's own table, by session id."""
        self._joined = joined
        self._members: dict[int, Member] = {}

    def add(self, session: RemoteSession, callee: CalleeFeatures) -> Member:
        """It has been welcomed."""
        principal = session.principal
        assert principal is not None, "it has joined"
        member = self._members[session.session_id] = Member(
            session_id=session.session_id,
            authid=principal.name,
            authrole=principal.role.value,
            callee=callee,
            may_disclose=may_disclose(principal),
            may_learn_callers=may_learn_callers(principal),
        )
        return member

    def remove(self, session: RemoteSession) -> Member:
        """It takes no more part."""
        return self._members.pop(session.session_id)

    def members(self) -> Mapping[int, Member]:
        """All of them, by session id."""
        return self._members

    def session_details(self, session_id: int) -> dict[str, Any]:
        """WAMP's details of one of them."""
        return self._joined[session_id].details

    def end_session(self, session_id: int, reason: str, text: str | None) -> None:
        """GOODBYE to one of them."""
        self._joined[session_id].leave(reason, text)
