"""One peer's session, without I/O: HELLO -> (CHALLENGE ->) WELCOME or ABORT ... GOODBYE."""

from enum import Enum
from typing import TypeAlias

import attrs

from cumulusd.identity import Authenticator, Principal
from cumulusd.protocol import auth, messages
from cumulusd.protocol.auth import Secrets
from cumulusd.protocol.auth_verdicts import Proof
from cumulusd.protocol.messages import CalleeFeatures, Message, wamp


class State(Enum):
    """Where a session is in its life."""

    OPENING = "opening"  #: HELLO is awaited
    CHALLENGED = "challenged"  #: AUTHENTICATE is awaited
    JOINED = "joined"
    CLOSING = "closing"  #: we said GOODBYE; theirs is awaited
    CLOSED = "closed"


@attrs.frozen
class Reply:
    """Send this; the session goes on."""

    message: Message


@attrs.frozen
class Join:
    """Send this WELCOME; from now on the session takes part."""

    message: Message
    callee: CalleeFeatures


@attrs.frozen
class Route:
    """The message is for dealer or broker."""

    message: Message


@attrs.frozen
class Finish:
    """Send this (if any), then close the connection."""

    message: Message | None
    why: str
    fault: bool = False  #: the peer's: it broke the protocol or could not identify itself


@attrs.frozen
class Ignore:
    """Nothing to do: the message came too late to matter."""


Step: TypeAlias = Reply | Join | Route | Finish | Ignore

_ROUTED = frozenset(
    (
        wamp.Call,
        wamp.Cancel,
        wamp.Yield,
        wamp.Error,
        wamp.Register,
        wamp.Unregister,
        wamp.Subscribe,
        wamp.Unsubscribe,
        wamp.Publish,
    )
)


class Session:
    """The state machine of one session: a message in, one step out."""

    def __init__(
        self,
        session_id: int,
        *,
        authenticator: Authenticator,
        realm: str,
        secure: bool = True,
        secret: Secrets | None = None,
    ) -> None:
        """`secure`: a token may be sent over this connection."""
        self.session_id = session_id
        self.state = State.OPENING
        self.principal: Principal | None = None
        self._authenticator = authenticator
        self._realm = realm
        self._secure = secure
        self._secret = secret or Secrets()
        self._proof: Proof | None = None  #: while CHALLENGED
        self._callee = CalleeFeatures()

    def receive(self, message: Message) -> Step:
        """What to do about a message of the peer."""
        match self.state:
            case State.OPENING:
                return self._opening(message)
            case State.CHALLENGED:
                return self._challenged(message)
            case State.JOINED:
                return self._joined(message)
            case State.CLOSING:
                # A late YIELD or ERROR is no fault: it crossed our GOODBYE.
                if isinstance(message, wamp.Goodbye | wamp.Abort):
                    return self._finish(None, "it said goodbye")
                return Ignore()
            case State.CLOSED:
                return Ignore()

    def violation(self, text: str) -> Finish | Ignore:
        """The peer broke the protocol: ABORT, saying how."""
        if self.state is State.CLOSED:
            return Ignore()
        return self._abort(messages.PROTOCOL_VIOLATION, text)

    def fail(self, uri: str, text: str) -> Finish | Ignore:
        """The session ends, however far it was, for a reason that isn't WAMP's: ABORT."""
        if self.state is State.CLOSED:
            return Ignore()
        return self._finish(wamp.Abort(uri, messages.sendable(text)), text)

    def leave(self, reason: str, text: str | None) -> Reply | Finish | Ignore:
        """We end the session: GOODBYE, or ABORT before it has joined."""
        if self.state is State.JOINED:
            self.state = State.CLOSING
            return Reply(wamp.Goodbye(reason=reason, message=text))
        if self.state in (State.OPENING, State.CHALLENGED):
            return self._finish(wamp.Abort(reason, text), text or reason)
        return Ignore()

    def lost(self) -> None:
        """The connection is gone."""
        self.state = State.CLOSED

    def _opening(self, message: Message) -> Step:
        if isinstance(message, wamp.Abort):
            return self._finish(None, "it aborted")
        if not isinstance(message, wamp.Hello):
            return self.violation(f"HELLO must come first, not {_name(message)}")
        self._callee = messages.callee_features(message)
        verdict = auth.judge_hello(
            message, self._authenticator, self._realm, secure=self._secure, secret=self._secret
        )
        if isinstance(verdict, auth.Challenge):
            self.state, self._proof = State.CHALLENGED, verdict.proof
            return Reply(verdict.message)
        return self._conclude(verdict)

    def _challenged(self, message: Message) -> Step:
        if isinstance(message, wamp.Abort):
            return self._finish(None, "it aborted")
        if not isinstance(message, wamp.Authenticate):
            return self.violation(f"AUTHENTICATE is awaited, not {_name(message)}")
        proof, self._proof = self._proof, None
        assert proof is not None, "it was challenged"
        return self._conclude(proof.judge(message))

    def _conclude(self, verdict: auth.Accept | auth.Refuse) -> Step:
        if isinstance(verdict, auth.Refuse):
            return self._abort(verdict.uri, verdict.text)
        self.state = State.JOINED
        self.principal = verdict.principal
        welcome = messages.welcome(
            self.session_id,
            realm=self._realm,
            authid=verdict.principal.name,
            authrole=verdict.principal.role.value,
            authmethod=verdict.method,
            authextra=verdict.authextra,
        )
        return Join(welcome, self._callee)

    def _joined(self, message: Message) -> Step:
        if type(message) in _ROUTED:
            if isinstance(message, wamp.Error) and (
                message.request_type != wamp.Invocation.MESSAGE_TYPE
            ):
                return self.violation("a client's ERROR answers an INVOCATION, nothing else")
            return Route(message)
        if isinstance(message, wamp.Goodbye):
            return self._finish(wamp.Goodbye(reason=messages.GOODBYE_AND_OUT), "it said goodbye")
        if isinstance(message, wamp.Abort):
            return self._finish(None, "it aborted")
        return self.violation(f"{_name(message)} is not for a client to send now")

    def _abort(self, uri: str, text: str) -> Finish:
        return self._finish(wamp.Abort(uri, messages.sendable(text)), text, fault=True)

    def _finish(self, message: Message | None, why: str, *, fault: bool = False) -> Finish:
        self.state = State.CLOSED
        return Finish(message, why, fault)


def _name(message: Message) -> str:
    return type(message).__name__.upper()
