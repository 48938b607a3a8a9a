"""WAMP: the three serialisations, sessions in odd orders on a router that is open to all, and the
daemon itself by each role."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import cbor2
import msgpack  # type: ignore[import-untyped]
from autobahn.wamp import message as _messages_of_autobahn
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cumulusd.identity import Authenticator, Role
from cumulusd.protocol import wamp_json
from cumulusd.protocol.authorize import ANYTHING, Action
from cumulusd.protocol.codec import CODECS, JSON, Codec, CodecError
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.local_session import Call
from cumulusd.protocol.router import Router
from tests.fuzz.fuzz_engine import Finding, Kind, Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_messages import (
    ANY_MESSAGE,
    MESSAGE,
    PROCEDURES,
    TOPICS,
    as_json,
    valid_messages,
)
from tests.fuzz.fuzz_parts import Wire, left_behind, no_failures
from tests.fuzz.fuzz_stage import ROLES, Stage
from tests.fuzz.fuzz_wire import (
    BINARY,
    CLOSE,
    CLOSING,
    PING,
    TEXT,
    exchange,
    frame,
    frames_of,
    upgrade,
)

_OPEN = {(role, action): (ANYTHING,) for role in Role for action in Action}
_HELLO = (
    b'[1,"cumulus",{"roles":{"caller":{"features":{"call_canceling":true}},"callee":{"features":'
    b'{"call_canceling":true,"progressive_call_results":true}},"publisher":{},"subscriber":{}}%s}]'
)
#: The request that must be answered behind all others of a session.
_LAST = 9_007_199_254_740_000
_LAST_CALL = b'[48,%d,{},"cumulus.server.info"]' % _LAST
#: So many sessions on one router, and their serialisations.
_SESSIONS = ("wamp.2.json", "wamp.2.cbor", "wamp.2.msgpack", "wamp.2.json")


#: A daemon that is flooded by many takes its time.
_FLOODED_IDLE_S = 3.0
#: `{N}` counts up.
_FLOODS = (
    '[48,{N},{},"cumulus.server.info"]',
    '[48,{N},{},"cumulus.job.list",[],{"limit":1000}]',
    '[48,{N},{"receive_progress":true},"cumulus.job.attach",[],{"job_id":"none"}]',
    '[48,{N},{},"cumulus.package.check",[],{"sha256":"' + "a" * 64 + '","size_bytes":{N}}]',
    '[48,{N},{},"cumulus.package.put",[],{"sha256":"'
    + "b" * 64
    + '","offset":0,"data":"\\u0000QQ=="}]',
    '[48,{N},{},"nobody.has.it",["' + "x" * 20_000 + '"]]',
    '[32,{N},{},"cumulus.job.j{N}.status"]',
    '[32,{N},{"match":"prefix"},"cumulus.job.{N}"]',
    '[64,{N},{},"a.b{N}"]',
    "[49,{N},{}]",
    '[48,1,{},"cumulus.server.info"]',
    "ping",
)


def joining(token: bytes) -> list[bytes]:
    """HELLO and AUTHENTICATE."""
    return [_HELLO % b',"authmethods":["ticket"]', b'[5,"%s",{}]' % token]


def encoded(message: Any, codec: Codec) -> bytes | None:
    """As that serialisation writes it; None when it has no form there."""
    with contextlib.suppress(Exception):  # whatever the libraries raise for what they can't write
        if codec.NAME == "cbor":
            return bytes(cbor2.dumps(message))
        if codec.NAME == "msgpack":
            return bytes(msgpack.packb(message, use_bin_type=True, unicode_errors="surrogatepass"))
        return as_json(message)
    return None


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


class Agreement(Target):
    """JSON as the daemon reads and writes it, beside the standard library and Autobahn: what it
    takes they take too, and it means the same."""

    batch = 600

    def make(self, source: Source, count: int) -> list[bytes]:
        valid = valid_messages(_URIS).map(as_json)
        names = ("agreement", "wamp", "wamp-json")
        return source.mixed(ANY_MESSAGE.map(as_json) | valid, names, count)

    def run(self, data: bytes) -> Tally:
        value, refusal = _outcome(wamp_json.loads, data)
        plain, plain_refusal = _outcome(_plain_json, data)
        if repr(value) != repr(plain) or (refusal is None) != (plain_refusal is None):
            raise Finding(
                f"read as {value!r:.300} ({refusal!r:.200}), by the standard library as "
                f"{plain!r:.300} ({plain_refusal!r:.200})"
            )
        if refusal is not None:
            return Tally(1, 1)
        written, refusal = _outcome(wamp_json.dumps, value)
        if refusal is None and repr(_plain_json(written)) != repr(value):
            raise Finding(f"{value!r:.300} is written as {written!r:.300}")
        try:
            message = JSON.decode(data, False)
        except CodecError:
            return Tally(1, 1)
        heavy = _AUTOBAHN[message.MESSAGE_TYPE].parse(plain)
        said, meant = _fields(message.marshal()), _fields(heavy.marshal())
        if repr(said) != repr(meant):
            raise Finding(f"taken for {said!r:.300}, by Autobahn for {meant!r:.300}")
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
                peers[who].give(_framed(line[1:], CODECS[_SESSIONS[who]]))
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
            frames = [_framed(line, codec) for line in self._opening(role, codec)]
            frames += [_framed(line, codec) for line in lines]
            last = _framed(_LAST_CALL, codec)
            opening = upgrade("/ws", codec.subprotocol)
            sendings.append((opening, b"".join(frames) + last + CLOSING))
        tally = Tally()
        for size, codec, each in zip(
            sizes, codecs, exchange(self._stage.port, sendings), strict=True
        ):
            if not each.arrived:
                continue
            answered = any(
                _LAST in message[:3] for message in _messages(bytes(each.received), codec)
            )
            tally.inputs += size if answered else min(1, size)
            tally.refusals += not answered
        return tally

    def run(self, data: bytes) -> Tally:
        return self.run_batch([data])

    def _opening(self, role: str, codec: Codec) -> list[bytes]:
        """HELLO and AUTHENTICATE; without a role neither."""
        return joining(self._stage.token(role).encode()) if role else []


class Bounds(Target):
    """The router's bounds, which the daemon under test has low: the same message many times, in
    pieces or whole, by a peer that reads or one that doesn't until it has sent all."""

    on_wire = True
    batch = 8
    weight = 3.0

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self._stage = stage

    def make(self, source: Source, count: int) -> list[bytes]:
        script = st.builds(
            lambda message, times, pieces, stalls: as_json([message, times, pieces, stalls]),
            st.sampled_from(_FLOODS),
            st.sampled_from((10, 100, 100, 1500)),
            st.sampled_from((1, 1, 1, 3, 50)),
            st.booleans(),
        )
        return source.draw(script, count)

    def run_batch(self, batch: Sequence[bytes]) -> Tally:
        token = self._stage.token("admin").encode()
        sendings, stalls = [], []
        for data in batch:
            message, times, pieces, stalled = json.loads(data)
            sent = [_framed(line, JSON) for line in joining(token)]
            for number in range(times):
                text = message.replace("{N}", str(number + 1)).encode()
                sent += _pieces(text, pieces)
            sendings.append((upgrade("/ws", JSON.subprotocol), b"".join(sent) + CLOSING))
            stalls.append(stalled)
        tally = Tally()
        for each in exchange(self._stage.port, sendings, stalls, _FLOODED_IDLE_S):
            tally.inputs += each.arrived
            said_goodbye = frames_of(each.received)[-1:] == [(CLOSE, b"\x03\xe8")]
            tally.refusals += each.arrived and not said_goodbye
        return tally

    def run(self, data: bytes) -> Tally:
        return self.run_batch([data])


def _pieces(payload: bytes, count: int) -> list[bytes]:
    """The message in so many frames; none of them a message when it is a ping."""
    if payload == b"ping":
        return [frame(payload, PING)]
    size = max(1, len(payload) // count)
    parts = [payload[at : at + size] for at in range(0, len(payload), size)]
    last = len(parts) - 1
    return [
        frame(part, 0 if number else TEXT, fin=number == last) for number, part in enumerate(parts)
    ]


def kind(share: float, stage: Stage | None) -> Kind:
    """All of it; without a stage what runs in this process."""
    targets: list[Target] = [Codecs(codec) for codec in CODECS.values()]
    targets += [Agreement("agreement"), Sessions("sessions", False), Sessions("odd-orders", True)]
    if stage is not None:
        targets += [Wired("wired", stage), Bounds("bounds", stage)]
    return Kind(name="wamp_messages", share=share, targets=targets)


_URIS = ("a", "a.b", "a.b.c", "a.c", "fuzz.echo", "fuzz.stream", "fuzz.never", "x.y")
_VALID_LINE = st.builds(
    lambda who, message: b"%d%s" % (who, as_json(message)),
    st.integers(0, 3),
    valid_messages(_URIS) | valid_messages(_URIS) | st.just([6, {}, "wamp.close.normal"]),
)
_AUTOBAHN: dict[int, Any] = {
    cls.MESSAGE_TYPE: cls
    for cls in vars(_messages_of_autobahn).values()
    if isinstance(cls, type) and getattr(cls, "MESSAGE_TYPE", None)
}


def _outcome(function: Any, value: Any) -> tuple[Any, BaseException | None]:
    try:
        return function(value), None
    except (ValueError, TypeError, RecursionError) as error:
        return None, error


def _plain_json(payload: bytes) -> Any:
    value = json.loads(payload.decode("utf-8"), parse_constant=wamp_json._refuse_constant)
    return wamp_json._restore_binary(value)


def _fields(raw: list[Any]) -> list[Any]:
    """Left-out positional arguments are an empty list, whoever writes it; empty ones at the end
    are none."""
    fields = [[] if field is None else field for field in raw]
    while len(fields) > 3 and fields[-1] in ([], {}) and len(fields) > _LEAST.get(raw[0], 99):
        fields.pop()
    return fields


#: How many fields a message with arguments has beside them.
_LEAST = {48: 4, 16: 4, 70: 3, 8: 5, 36: 4, 50: 3, 68: 4}
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
    if not wire.give(_framed(_HELLO % b"", CODECS[subprotocol])) or b" 101 " not in wire.value():
        raise Finding(f"no session: {wire.value()[:300]!r}")
    return wire


def _framed(line: bytes, codec: Codec) -> bytes:
    """A message given as JSON, in that serialisation; what is no JSON, as it is."""
    payload: bytes | None = line
    if codec.NAME != "json":
        with contextlib.suppress(ValueError, RecursionError):
            payload = encoded(json.loads(line), codec)
    return frame(payload or b"", BINARY if codec.binary else TEXT)


def _messages(received: bytes, codec: Codec) -> list[Any]:
    found = []
    for opcode, payload in frames_of(received):
        if opcode in (TEXT, BINARY):
            message = {
                "cbor": cbor2.loads,
                "json": json.loads,
                "msgpack": msgpack.unpackb,
            }[codec.NAME](payload)
            found.append(message)
    return found
