"""What a session asks for is judged here before dealer or broker sees it."""

from cumulusd.errors import NotAuthorized
from cumulusd.identity import DAEMON, Principal
from cumulusd.protocol import messages
from cumulusd.protocol.authorize import (
    Action,
    OwnsJob,
    Table,
    is_allowed,
    is_pattern_allowed,
    roles_allowed,
)
from cumulusd.protocol.match import is_valid_uri
from cumulusd.protocol.messages import Message, error_reply, wamp
from cumulusd.protocol.patterns import EXACT

_NOTHING_TO_OFFER = (Action.REGISTER, Action.PUBLISH)


class Gate:
    """The table of permissions and the form of URIs, applied."""

    def __init__(self, *, table: Table, owns_job: OwnsJob, max_uri_chars: int) -> None:
        self._table = table
        self._owns_job = owns_job
        self._max_uri_chars = max_uri_chars

    def refusal(
        self,
        principal: Principal,
        action: Action,
        uri: str,
        message: Message,
        policy: str = EXACT,
    ) -> Message | None:
        """The ERROR for what is not allowed; None when it is. The daemon itself may do all."""
        if not is_valid_uri(uri, self._max_uri_chars, policy):
            return self._invalid(
                message, f"not a URI of at most {self._max_uri_chars} characters: {uri[:80]!r}"
            )
        if principal is DAEMON:
            return None
        if action in _NOTHING_TO_OFFER and uri.startswith(messages.RESERVED):
            return self._invalid(
                message, f"{uri[:80]} is WAMP's own: only the router may {action.value} it"
            )
        if policy == EXACT:
            allowed = is_allowed(principal, action, uri, self._owns_job, self._table)
        else:
            allowed = is_pattern_allowed(
                principal, action, uri, policy, self._owns_job, self._table
            )
        if allowed:
            return None
        what = uri if policy == EXACT else f"the {policy} pattern {uri!r}"
        if policy != EXACT:
            hint = "ask for no more than your role may: not everything it matches is allowed"
        else:
            roles = roles_allowed(principal, action, uri, self._owns_job, self._table)
            hint = f"use a token of role {' or '.join(roles)}" if roles else "no token may"
        refused = NotAuthorized(
            f"the token {principal.name!r} ({principal.role.value}) may not {action.value} {what}",
            job_id=messages.job_id_of(message),
            hint=hint,
        )
        return error_reply(
            message.MESSAGE_TYPE, message.request, refused, uri=messages.NOT_AUTHORIZED
        )

    @staticmethod
    def _invalid(message: Message, text: str) -> Message:
        return wamp.Error(message.MESSAGE_TYPE, message.request, messages.INVALID_URI, args=[text])
