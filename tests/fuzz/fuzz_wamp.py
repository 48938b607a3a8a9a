"""WAMP: the three serialisations, sessions in odd orders on a router that is open to all, and the
daemon itself by each role."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cumulusd.identity import Authenticator, Role
from cumulusd.protocol.authorize import ANYTHING, Action
from cumulusd.protocol.codec import CODECS, Codec, CodecError
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call
from cumulusd.protocol.router import Router
from tests.fuzz.fuzz_agreement import Agreement, check_meaning
from tests.fuzz.fuzz_bounds import Bounds
from tests.fuzz.fuzz_engine import Finding, Kind, Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_logins import Logins
from tests.fuzz.fuzz_messages import (
    ANY_MESSAGE,
    MESSAGE,
    PROCEDURES,
    TOPICS,
    URIS,
    as_json,
    valid_messages,
)
from tests.fuzz.fuzz_parts import Wire, left_behind, no_failures
from tests.fuzz.fuzz_serialised import HELLO, encoded, framed, joining, messages_in
from tests.fuzz.fuzz_stage import ROLES, Stage
from tests.fuzz.fuzz_wire import (
    CLOSING,
    exchange,
    upgrade,
)

_OPEN = {(role, action): (ANYTHING,) for role in Role for action in Action}
#: The request that must be answered behind all others of a session.
_LAST = 9_007_199_254_740_000
_LAST_CALL = b'[48,%d,{},"cumulus.server.info"]' % _LAST
#: So many sessions on one router, and their serialisations.
_SESSIONS = ("wamp.2.json", "wamp.2.cbor", "wamp.2.msgpack", "wamp.2.json")


class Codecs(Target):
    """Bytes to a message and back: CodecError is all that may be raised."""

    batch = 600

    def __init__(self, codec: Codec) -> None:
        super().__init__(codec.NAME)
        self._codec = codec

    def make(self, source: Source, count: int) -> list[bytes]:
        strategy = ANY_MESSAGE.map(lambda message: encoded(message, self._codec) or b"")
        recorded = [encoded(json.loads(each), self._codec) for each in source.seeds("wamp") if each]
        pool = [each for each in recorded if each] + source.seeds(f"wamp-{self.name}")
        made = source.mixed(strategy, (f"drawn-{self.name}",), count - count // 3)
        return made + source.mutations(pool, count // 3)

    def run(self, data: bytes) -> Tally:
        try:
            message = self._codec.decode(data, self._codec.binary)
        except CodecError:
            return Tally(1, 1)
        check_meaning(message, self._codec._loads(data))
        for codec in CODECS.values():
            try:
                again = codec.encode(message)
                codec.decode(again, codec.binary)
            except CodecError:
                continue  # a value without a form there
            if codec is self._codec and type(codec.decode(again, codec.binary)) is not type(
                message
            ):
                raise Finding("another type of message comes back")
        return Tally(1)


class Sessions(Target):
    """Four sessions on one router in memory. An input is lines: a digit, which session, and a
    message as JSON, or bytes that are none. Every message that a session took counts."""

    batch = 60
    weight = 2.0

    def __init__(self, name: str, valid: bool) -> None:
        """`valid`: every message is one, only the order is odd."""
        super().__init__(name)
        self._valid = valid

    def make(self, source: Source, count: int) -> list[bytes]:
        if self._valid:
            return source.scripts(_VALID_LINE, self.name, count)
        line = st.builds(
            lambda who, message: b"%d%s" % (who, as_json(message)), st.integers(0, 3), MESSAGE
        )
        script = st.lists(line, min_size=1, max_size=14).map(b"\n".join)
        return source.mixed(script, ("sessions", "wamp"), count)

    def run(self, data: bytes) -> Tally:
        clock: Any = Clock()
        router = _router(clock)
        factory: Any = router.websocket_resource()
        peers = [_joined(factory, name) for name in _SESSIONS]
        tally = Tally()
        with no_failures():
            for line in data.split(b"\n"):
                who = line[0] % len(peers) if line else 0
                if not peers[who].open:
                    continue
                peers[who].give(framed(line[1:], CODECS[_SESSIONS[who]]))
                tally.inputs += 1
                clock.advance(0.01)
                for peer in peers:
                    peer.turn()
            tally.refusals = sum(not peer.open for peer in peers)
            for peer in peers:
                peer.end()
        left = router.stats()
        if left.connections or left.calls_in_flight or left.topics:
            raise Finding(f"all sessions are gone, and there are still: {left}")
        left_behind(clock)
        return tally


class Wired(Target):
    """The daemon itself: a session of each role in each serialisation, many messages at once. They
    count when a call behind them was answered; else the one at which the session ended."""

    on_wire = True
    batch = 48
    weight = 6.0

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self._stage = stage

    def make(self, source: Source, count: int) -> list[bytes]:
        likely = valid_messages(PROCEDURES + TOPICS).map(as_json)
        single = MESSAGE.map(as_json)
        made = source.scripts(likely, "wired", count // 2)
        return made + source.mixed(single, ("wamp",), count - len(made))

    def run_batch(self, batch: Sequence[bytes]) -> Tally:
        sendings, sizes, codecs = [], [], []
        roles = (*ROLES, "agent", "")
        for data in batch:
            # Which role and serialisation follows from the bytes, so that it can be run again.
            dice = sum(data)
            role, codec = roles[dice % len(roles)], list(CODECS.values())[dice % 3]
            token = self._stage.token("client").encode()
            lines = [line.replace(b"{TOKEN}", token) for line in data.split(b"\n") if line]
            sizes.append(len(lines))
            codecs.append(codec)
            frames = [framed(line, codec) for line in self._opening(role, codec)]
            frames += [framed(line, codec) for line in lines]
            last = framed(_LAST_CALL, codec)
            opening = upgrade("/ws", codec.subprotocol)
            sendings.append((opening, b"".join(frames) + last + CLOSING))
        tally = Tally()
        for size, codec, each in zip(
            sizes, codecs, exchange(self._stage.port, sendings), strict=True
        ):
            if not each.arrived:
                continue
            answered = any(
                _LAST in message[:3] for message in messages_in(bytes(each.received), codec)
            )
            tally.inputs += size if answered else min(1, size)
            tally.refusals += not answered
        return tally

    def run(self, data: bytes) -> Tally:
        return self.run_batch([data])

    def _opening(self, role: str, codec: Codec) -> list[bytes]:
        """HELLO and AUTHENTICATE; without a role neither."""
        return joining(self._stage.token(role).encode()) if role else []


def kind(share: float, stage: Stage | None) -> Kind:
    """All of it; without a stage what runs in this process."""
    targets: list[Target] = [Codecs(codec) for codec in CODECS.values()]
    targets += [
        Agreement("agreement"),
        Logins("logins"),
        Sessions("sessions", False),
        Sessions("odd-orders", True),
    ]
    if stage is not None:
        targets += [Wired("wired", stage), Bounds("bounds", stage)]
    return Kind(name="wamp_messages", share=share, targets=targets)


_VALID_LINE = st.builds(
    lambda who, message: b"%d%s" % (who, as_json(message)),
    st.integers(0, 3),
    valid_messages(URIS) | valid_messages(URIS) | st.just([6, {}, "wamp.close.normal"]),
)
_LIMITS = Limits(max_calls_in_flight=3, max_subscriptions=3, max_registrations=3)


def _router(clock: Any) -> Router:
    router = Router(clock=clock, authenticator=Authenticator(()), limits=_LIMITS, allowed=_OPEN)
    local = router.local()
    local.register("fuzz.echo", _echo)
    local.register("fuzz.stream", _stream)
    local.register("fuzz.never", _never)
    return router


async def _echo(call: Call) -> dict[str, Any]:
    return call.kwargs


async def _stream(call: Call) -> dict[str, Any]:
    if call.wants_progress:
        for _ in range(3):
            await call.progress({"data": "x" * 100})
    return {}


async def _never(call: Call) -> None:
    await Deferred()


def _joined(factory: Any, subprotocol: str) -> Wire:
    wire = Wire(factory._factory.buildProtocol(None))
    wire.give(upgrade("/ws", subprotocol))
    if not wire.give(framed(HELLO % b"", CODECS[subprotocol])) or b" 101 " not in wire.value():
        raise Finding(f"no session: {wire.value()[:300]!r}")
    return wire
