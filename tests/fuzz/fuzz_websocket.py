"""WebSocket: opening handshakes, and the bytes behind one, in this process and over loopback."""

from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from twisted.internet.task import Clock

from cumulusd.identity import Authenticator
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.router import Router
from tests.fuzz.fuzz_engine import Finding, Kind, Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_parts import Wire, left_behind, no_failures
from tests.fuzz.fuzz_stage import Stage
from tests.fuzz.fuzz_wire import CLOSING, exchange, frames_of, upgrade

_SUBPROTOCOLS = ("wamp.2.json", "wamp.2.cbor", "wamp.2.msgpack")
_HELLO = b'[1,"cumulus",{"roles":{"caller":{},"subscriber":{}}}]'
_CALL = b'[48,1,{},"cumulus.server.info"]'
_LIMITS = Limits(max_message_bytes=20_000)


def _frame(
    fin: int, reserved: int, opcode: int, masked: bool, mask: bytes, payload: bytes, lie: int
) -> bytes:
    """A frame; `lie`: by how much its length differs from what follows, or how it is written."""
    size = max(0, len(payload) + (lie if abs(lie) < 100 else 0))
    head = bytes([(fin << 7) | (reserved << 4) | opcode])
    bit = 0x80 if masked else 0
    if lie == 126 or 126 <= size < 1 << 16:
        head += bytes([bit | 126]) + min(size, 0xFFFF).to_bytes(2, "big")
    elif lie == 127 or size >= 1 << 16:
        head += bytes([bit | 127]) + size.to_bytes(8, "big")
    elif lie == 128:
        head += bytes([bit | 127]) + b"\xff" * 8
    elif lie == 129:
        head += bytes([bit | 127]) + (20_001).to_bytes(8, "big")
    else:
        head += bytes([bit | size])
    if not masked:
        return head + payload
    return head + mask + bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))


_PAYLOADS = st.one_of(
    st.binary(max_size=30),
    st.sampled_from((b"", _HELLO, _CALL, b"\x03\xe8", b"\x00", b"\x03\xe8\xff", b"\x13\x88bye")),
    st.sampled_from(
        (b"x" * 125, b"x" * 126, b"x" * 127, b"\xce\xba\xe1", b"\xed\xa0\x80", b"y" * 20_001)
    ),
)
_FRAMES = st.builds(
    _frame,
    st.sampled_from((1, 1, 1, 0)),
    st.sampled_from((0, 0, 0, 0, 0, 1, 2, 4, 7)),
    st.sampled_from((1, 1, 2, 0, 8, 9, 10, 3, 7, 11, 15)),
    st.sampled_from((True, True, True, True, False)),
    st.binary(min_size=4, max_size=4),
    _PAYLOADS,
    st.sampled_from((0, 0, 0, 0, 0, 1, -1, 50, 126, 127, 128, 129)),
)
_STREAMS = st.lists(_FRAMES, min_size=1, max_size=6).map(b"".join)
_FIELDS = st.sampled_from(
    (
        *("Upgrade: websocket", "Upgrade: h2c", "Connection: Upgrade", "Connection: close"),
        *("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==", "Sec-WebSocket-Key: short"),
        *("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 99", "Sec-WebSocket-Version: x"),
        *("Sec-WebSocket-Protocol: wamp.2.json", "Sec-WebSocket-Protocol: x, wamp.2.cbor"),
        *("Sec-WebSocket-Protocol: ,,", "Origin: http://evil.example", "Origin: null"),
        *("Origin: http://[::1", "Origin: http://localhost:99999999", "Host: localhost"),
        *("Host: [::1", "Host: localhost:x", "Host: ", "X" * 4000, "Cookie: a=b", "novalue"),
        *("Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits=99", ": x"),
        *("Content-Length: 5", "Transfer-Encoding: chunked", "Expect: 100-continue"),
    )
)
_LINES = st.sampled_from(
    (
        *("GET /ws HTTP/1.1", "GET /ws HTTP/1.0", "POST /ws HTTP/1.1", "GET /ws?a=%ff#x HTTP/1.1"),
        *("GET http://localhost/ws HTTP/1.1", "GET /agent HTTP/1.1", "GET /ws HTTP/9.9", "GET /ws"),
    )
)
_HANDSHAKES = st.builds(
    lambda line, fields: "\r\n".join((line, *fields, "", "")).encode(),
    _LINES,
    st.lists(_FIELDS, max_size=9),
)


class InProcess(Target):
    """A connection in memory: whatever comes, nothing escapes and nothing of it stays."""

    batch = 300

    def __init__(self, name: str, opened: bool) -> None:
        super().__init__(name)
        self._opened = opened

    def make(self, source: Source, count: int) -> list[bytes]:
        if self._opened:
            return source.mixed(_STREAMS, ("frames",), count)
        return source.mixed(_HANDSHAKES, ("handshakes",), count)

    def run(self, data: bytes) -> Tally:
        clock: Any = Clock()
        router = Router(clock=clock, authenticator=Authenticator(()), limits=_LIMITS)
        factory: Any = router.websocket_resource()
        with no_failures():
            wire = Wire(factory._factory.buildProtocol(None))
            pieces = [data[:7], data[7:]] if len(data) % 2 else [data]
            if self._opened:
                pieces.insert(0, upgrade("/ws", _SUBPROTOCOLS[len(data) % 3]))
            for piece in pieces:
                wire.give(piece)
            refused = not wire.open or b"HTTP/1.1 4" in wire.value()[:12]
            # The deadlines pass: a peer that says no more is not kept.
            for _ in range(8):
                clock.advance(10)
                wire.turn()
            wire.end()
        if router.stats().connections:
            raise Finding(f"the connection is gone, and there is still: {router.stats()}")
        left_behind(clock)
        return Tally(1, int(refused))


class Wired(Target):
    """The daemon itself. In front of the fuzzed bytes stand a handshake and a session's opening, or
    neither; behind them a close frame."""

    on_wire = True
    batch = 96
    weight = 4.0

    def __init__(self, name: str, stage: Stage, opened: bool) -> None:
        super().__init__(name)
        self._stage = stage
        self._opened = opened

    def make(self, source: Source, count: int) -> list[bytes]:
        if self._opened:
            return source.mixed(_STREAMS, ("frames",), count)
        return source.mixed(_HANDSHAKES, ("handshakes",), count)

    def run_batch(self, batch: Sequence[bytes]) -> Tally:
        sendings = []
        client = self._stage.token("client").encode()
        for data in batch:
            if not self._opened:
                sendings.append((data.replace(b"{TOKEN}", client), CLOSING))
                continue
            path = "/agent" if len(data) % 5 == 4 else "/ws"
            token = self._stage.token("agent") if path == "/agent" else None
            subprotocol = "cumulus.agent.1" if token else _SUBPROTOCOLS[len(data) % 3]
            sendings.append((upgrade(path, subprotocol, token), data + CLOSING))
        tally = Tally()
        for each in exchange(self._stage.port, sendings):
            if not each.arrived:
                continue
            tally.inputs += 1
            normal = any(
                opcode == 8 and payload[:2] in (b"", b"\x03\xe8")
                for opcode, payload in frames_of(each.received)
            )
            tally.refusals += not normal
        return tally

    def run(self, data: bytes) -> Tally:
        return self.run_batch([data])


def kind(share: float, stage: Stage | None) -> Kind:
    """All of it; without a stage what runs in this process."""
    targets: list[Target] = [InProcess("frames", True), InProcess("handshakes", False)]
    if stage is not None:
        targets += [Wired("frames-wired", stage, True), Wired("handshakes-wired", stage, False)]
    return Kind(name="websocket_frames", share=share, targets=targets)
