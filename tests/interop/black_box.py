"""What the black-box suite is written in: cases, what a case sees of a router, and how it tells it.

A case is a function that uses a router as clients do and returns its outcome as a list of short
texts. It is declared with the outcome that the WAMP specification asks for; where Crossbar does
otherwise, with that too, and with one sentence why ours is right.
"""

import itertools
from collections.abc import Callable, Iterable
from typing import Any

import attrs

from tests.interop import raw_client as wire
from tests.interop.crossbar_differences import DIFFERENCES
from tests.interop.raw_client import Closed, Session, WebSocket

Outcome = list[str]
_numbers = itertools.count(1)


@attrs.frozen(kw_only=True)
class Target:
    """A router that runs, with all that may be used at its URLs."""

    name: str
    url: str  #: anonymous is welcome
    tickets_url: str  #: only `TICKETS` are


TICKETS = {"alice": "alices-ticket"}
REALM = "cumulus"
CROSSBAR = "Crossbar"
#: In place of "over": the router said that it is over and leaves the connection to the client.
STILL_OPEN = "still open"
NOTHING = "nothing comes"
SHORT_S = 0.5


@attrs.define
class World:
    """One case's view of a router; owns its sessions."""

    target: Target
    serializer: str
    #: How long an end of the connection is waited for that may not come.
    closing_s: float = wire.PATIENCE_S
    _prefix: str = attrs.field(factory=lambda: f"test.n{next(_numbers)}")
    _open: list[Any] = attrs.field(factory=list)

    def uri(self, name: str) -> str:
        """A URI nobody else uses."""
        return f"{self._prefix}.{name}"

    def opening(
        self,
        *,
        tickets: bool = False,
        serializer: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> Session:
        """A session whose HELLO was not sent."""
        url = self.target.tickets_url if tickets else self.target.url
        session = Session(url, serializer or self.serializer, REALM, headers)
        self._open.append(session)
        return session

    def session(
        self,
        serializer: str | None = None,
        headers: dict[str, str] | None = None,
        **details: Any,
    ) -> Session:
        """A session that has joined."""
        return self.opening(serializer=serializer, headers=headers).join(**details)

    def websocket(self, *subprotocols: str, headers: dict[str, str] | None = None) -> WebSocket:
        """A connection of which the case does everything itself."""
        socket = WebSocket(self.target.url, *subprotocols, headers=headers)
        self._open.append(socket)
        return socket

    def callee(self, name: str = "procedure", **options: Any) -> Session:
        """A session that has registered `name`."""
        session = self.session()
        answer = session.ask(wire.REGISTER, options, self.uri(name))
        assert answer[0] == wire.REGISTERED, answer
        return session

    def subscriber(self, name: str = "topic", **options: Any) -> Session:
        """A session that has subscribed to `name`."""
        session = self.session()
        answer = session.ask(wire.SUBSCRIBE, options, self.uri(name))
        assert answer[0] == wire.SUBSCRIBED, answer
        return session

    def close(self) -> None:
        """Ends what is open."""
        for each in self._open:
            each.close()

    def say(self, message: list[Any], *details: str) -> str:
        """A message as text without numbers that differ from run to run; `details` names those
        of its details that count."""
        kind = wire.NAMES.get(message[0], str(message[0]))
        match message:
            case [wire.ABORT | wire.GOODBYE, _, uri, *_]:
                return f"{kind} {uri}"
            case [wire.ERROR, of, _, _, uri, *payload]:
                rest = payload if self._is_ours(uri) else []
                return _joined(f"{kind} {wire.NAMES[of]} {self._short(uri)}", {}, rest)
            case [wire.RESULT | wire.INTERRUPT | wire.CHALLENGE, *_]:
                if message[0] == wire.CHALLENGE:
                    return f"{kind} {message[1]}"
                shown = {"progress"} if message[0] == wire.RESULT else {"mode"}
                given = {key: message[2][key] for key in shown & message[2].keys()}
                return _joined(kind, given, message[3:])
            case [wire.EVENT | wire.INVOCATION, _, _, found, *payload]:
                given = {key: self._short(found.get(key)) for key in details}
                return _joined(kind, given, payload)
        return kind

    def all(self, messages: Iterable[list[Any]], *details: str) -> Outcome:
        """Each as text."""
        return [self.say(message, *details) for message in messages]

    def next(self, session: Session) -> str:
        """The next message, or that nothing comes."""
        try:
            return self.say(session.receive(self.closing_s))
        except TimeoutError:
            return NOTHING
        except Closed:
            return "over"

    def rest(self, session: Session, *before: list[Any]) -> Outcome:
        """All that comes until the session is over, and that it is; `before` has come already.

        Ours ends the connection too. Crossbar leaves that to the client, which one case tells, so
        that there ABORT and GOODBYE are enough.
        """
        told = self.all(before)
        while True:
            if told and self.target.name == CROSSBAR and told[-1].startswith(("ABORT", "GOODBYE")):
                return [*told, "over"]
            try:
                told.append(self.say(session.receive(self.closing_s)))
            except Closed:
                return [*told, "over"]
            except TimeoutError:
                return [*told, STILL_OPEN]

    def ending(self, session: Session) -> Outcome:
        """Does the router end the connection?"""
        try:
            while True:
                session.receive(self.closing_s)
        except Closed:
            return ["the connection is closed"]
        except TimeoutError:
            return [STILL_OPEN]

    def _is_ours(self, uri: str) -> bool:
        return uri.startswith(self._prefix)

    def _short(self, value: Any) -> Any:
        return value.replace(f"{self._prefix}.", "") if isinstance(value, str) else value


def _joined(kind: str, details: dict[str, Any], payload: list[Any]) -> str:
    """Empty payload is the same as none: `[]` and nothing say the same."""
    args = [payload[0]] if payload and payload[0] else []
    kwargs = [payload[1]] if len(payload) > 1 and payload[1] else []
    return " ".join([kind, *map(str, [details] if details else []), *map(str, args + kwargs)])


@attrs.frozen(kw_only=True)
class Case:
    """One question put to a router, and the answers expected."""

    group: str
    name: str
    run: Callable[[World], Outcome]
    expect: Outcome
    crossbar: Outcome | None = None  #: where it is another one
    why: str | None = None  #: why ours is right

    def expected(self, target: Target) -> Outcome:
        """What this router should answer."""
        return (self.crossbar if target.name == CROSSBAR else None) or self.expect

    def outcome(self, target: Target, serializer: str) -> Outcome:
        """Runs it."""
        waits = {STILL_OPEN, NOTHING} & set(self.expected(target))
        world = World(target, serializer, SHORT_S if waits else wire.PATIENCE_S)
        try:
            return self.run(world)
        finally:
            world.close()


CASES: list[Case] = []


def case(
    group: str, name: str, expect: Outcome
) -> Callable[[Callable[[World], Outcome]], Callable[[World], Outcome]]:
    """Declares the function a case; what Crossbar does otherwise stands in `DIFFERENCES`."""
    crossbar, why = DIFFERENCES.get((group, name), (None, None))
    assert crossbar != expect, f"{name}: no difference"

    def declare(run: Callable[[World], Outcome]) -> Callable[[World], Outcome]:
        assert all((each.group, each.name) != (group, name) for each in CASES), name
        CASES.append(
            Case(group=group, name=name, run=run, expect=expect, crossbar=crossbar, why=why)
        )
        return run

    return declare


VIOLATION = "ABORT wamp.error.protocol_violation"
