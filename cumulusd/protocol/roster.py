"""The remote sessions that take part, as dealer, broker and meta API know them."""

from collections.abc import Mapping
from typing import Any

from twisted.logger import Logger

from cumulusd.identity import Role
from cumulusd.protocol import messages
from cumulusd.protocol.disclosure import may_disclose, may_learn_callers
from cumulusd.protocol.messages import CalleeFeatures, Member
from cumulusd.protocol.remote_session import RemoteSession


class Roster:
    """Who is in the realm."""

    _log = Logger()

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

    def supersede(self, holder_id: int, newcomer_id: int) -> None:
        """An agent that reconnects takes its procedures over from its own dead connection, which
        may look alive until a ping goes unanswered."""
        holder = self._joined.get(holder_id)
        newcomer = self._joined[newcomer_id].principal
        if holder is None or holder_id == newcomer_id or newcomer is None:
            return
        if newcomer.role is not Role.AGENT or holder.principal != newcomer:
            return
        self._log.warn(
            "agent {principal} of node {node_id} connected again; its older session ends",
            principal=newcomer.name,
            node_id=newcomer.node_id,
        )
        holder.leave(messages.SUPERSEDED, "the same agent connected again")

    def members(self) -> Mapping[int, Member]:
        """All of them, by session id."""
        return self._members

    def session_details(self, session_id: int) -> dict[str, Any]:
        """WAMP's details of one of them."""
        return self._joined[session_id].details

    def end_session(self, session_id: int, reason: str, text: str | None) -> None:
        """GOODBYE to one of them."""
        self._joined[session_id].leave(reason, text)
