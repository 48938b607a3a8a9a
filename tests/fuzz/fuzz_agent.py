"""Frames of `/agent`: both ends in this process, and the daemon's own with and without a token."""

import json
from collections.abc import Sequence
from typing import Any

from hypothesis import strategies as st
from twisted.internet.defer import succeed
from twisted.internet.task import Clock

from cumulus_wire import link as wire
from cumulusd.agent.link import SUBPROTOCOL, AgentLink
from cumulusd.identity import Principal, Role
from cumulusd.web.agent_link import AgentLinkFactory
from tests.fuzz.fuzz_engine import Finding, Kind, Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_parts import Wire, no_failures
from tests.fuzz.fuzz_stage import Stage
from tests.fuzz.fuzz_values import values
from tests.fuzz.fuzz_wire import BINARY, CLOSING, exchange, frame, frames_of, upgrade

_TYPES = (
    *("offer", "data", "get", "lock_free", "output", "no_output", "from", "ack", "drop", "wait"),
    *("part", "refused", "fetch", "x"),
)
_KEYS = (
    *("job", "attempt", "start", "end", "offset", "id", "sha256", "length", "total", "message"),
    *("gone", "name", "t"),
)
_LIKELY: dict[str, Any] = {
    "job": st.sampled_from(("j1", "j2", "", "x" * 257)),
    "attempt": st.sampled_from((0, 1, 2, -1)),
    "id": st.integers(0, 3),
    "offset": st.sampled_from((0, 1, 60, 1 << 62, 1 << 70)),
    "length": st.sampled_from((0, 1, 1000, 1 << 20, (1 << 20) + 1)),
    "start": st.sampled_from((0, 5, 1 << 62)),
    "end": st.sampled_from((0, 5, 1 << 62)),
    "total": st.sampled_from((0, 5, 1 << 62)),
    "sha256": st.sampled_from(("a" * 64, "", "../x")),
    "name": st.sampled_from(("a.txt", "../a", "x" * 600)),
    "message": st.text(max_size=20),
    "gone": st.booleans(),
}
_HEADERS = st.one_of(
    st.fixed_dictionaries({"t": st.sampled_from(_TYPES), **_LIKELY}),
    st.fixed_dictionaries({"t": st.sampled_from(_TYPES)}, optional=_LIKELY),
    st.dictionaries(st.sampled_from(_KEYS), values(_KEYS + _TYPES), max_size=5),
    values(_KEYS),
).map(lambda value: json.dumps(value).encode())
_DEEP = st.integers(100, 2000).map(lambda depth: b'{"t":' + b"[" * depth + b"]" * depth + b"}")


def _message(header: bytes, body: bytes) -> bytes:
    return min(len(header), 0xFFFF).to_bytes(2, "big") + header + body


_MESSAGES = st.builds(_message, _HEADERS | _DEEP, st.binary(max_size=80))


class Messages(Target):
    """Messages of the link."""

    batch = 300

    def make(self, source: Source, count: int) -> list[bytes]:
        return source.mixed(_MESSAGES, ("agent", "journal"), count)


class Decode(Messages):
    """Taking a message apart: LinkError is all that it may raise."""

    def run(self, data: bytes) -> Tally:
        try:
            header, body = wire.decode(data)
            for key in _KEYS:
                for read in (wire.text, wire.number):
                    try:
                        read(header, key)  # type: ignore[operator]
                    except wire.LinkError:
                        pass
        except wire.LinkError:
            return Tally(1, 1)
        if len(data) != 2 + int.from_bytes(data[:2], "big") + len(body):
            raise Finding("header and body are not all of the message")
        return Tally(1)


class AgentsEnd(Messages):
    """What the agent makes of a message of the daemon: LinkError is all that it may raise."""

    def run(self, data: bytes) -> Tally:
        link = AgentLink()
        link.up(_Silent())  # type: ignore[arg-type]
        answer = link.get("a" * 64, 0, 1000)
        answer.addErrback(lambda _: None)
        try:
            header, body = wire.decode(data)
            link.received(header, body)
            while link.next_message() is not None:
                pass
        except wire.LinkError:
            return Tally(1, 1)
        finally:
            link.down(link._connection, "over")  # type: ignore[arg-type]
        return Tally(1)


class DaemonsEnd(Messages):
    """The daemon's end of an open link, which it may drop; nothing of it stays."""

    def run(self, data: bytes) -> Tally:
        clock: Any = Clock()
        factory = AgentLinkFactory(lambda _: _AGENT, _Desk(), clock)
        with no_failures():
            transport = Wire(factory._factory.buildProtocol(None))
            transport.give(upgrade("/agent", SUBPROTOCOL, "any"))
            if b" 101 " not in transport.value()[:20]:
                raise Finding(f"the handshake failed: {transport.value()[:200]!r}")
            offer = wire.encode({"t": "offer", "job": "j1", "attempt": 1, "start": 0, "end": 9})
            refused = not transport.give(frame(offer, BINARY) + frame(data, BINARY))
            transport.end()
        if factory._links or factory._by_job or factory._made:
            raise Finding("a link that is gone is still known")
        return Tally(1, int(refused))


class Wired(Messages):
    """The daemon itself, by an agent of a node that Swarm hasn't, or by others, who get no link."""

    on_wire = True
    batch = 48
    weight = 6.0

    def __init__(self, name: str, stage: Stage) -> None:
        super().__init__(name)
        self._stage = stage
        self._others = ("wrong", None, "client", "admin", "viewer")

    def run_batch(self, batch: Sequence[bytes]) -> Tally:
        tally = Tally()
        sendings, agents = [], []
        for number, data in enumerate(batch):
            other = number % 8 == 7
            role = self._others[number // 8 % len(self._others)] if other else "agent"
            token = "no such token" if role == "wrong" else role and self._stage.token(role, number)
            agents.append(not other)
            opening = upgrade("/agent", SUBPROTOCOL, token)
            sendings.append((opening, frame(data, BINARY) + CLOSING))
        for is_agent, each in zip(agents, exchange(self._stage.port, sendings), strict=True):
            opened = each.received.startswith(b"HTTP/1.1 101")
            if opened and not is_agent:
                raise Finding(f"somebody who is no agent got a link: {bytes(each.received)!r}")
            tally.inputs += each.arrived
            # Whoever is dropped gets no close frame.
            closes = any(opcode == 8 for opcode, _ in frames_of(each.received))
            tally.refusals += each.arrived and not closes
        return tally

    def run(self, data: bytes) -> Tally:
        return self.run_batch([data])


def kind(share: float, stage: Stage | None) -> Kind:
    """All of it; without a stage what runs in this process."""
    targets: list[Target] = [
        Decode("decode"),
        AgentsEnd("agents-end"),
        DaemonsEnd("daemons-end"),
    ]
    if stage is not None:
        targets.append(Wired("wired", stage))
    return Kind(name="agent_frames", share=share, targets=targets)


_AGENT = Principal(name="agent", owner="cumulusd", role=Role.AGENT, node_id="n1")


class _Silent:
    """An agent's connection that sends nothing."""

    def pump(self) -> None:
        """Nothing."""


class _Desk:
    """Wants every journal, and has one package."""

    def offered(self, node_id: str, job_id: str, attempt: int, start: int, end: int) -> int | None:
        """From its beginning, when it is whole."""
        return start if start <= end else None

    def received(self, node_id: str, job_id: str, attempt: int, offset: int, data: bytes) -> bool:
        """While there is something in it."""
        return bool(data)

    def lock_free(self, node_id: str, job_id: str, attempt: int) -> None:
        """Good."""

    async def read_package(
        self, node_id: str, sha256: str, offset: int, length: int
    ) -> tuple[bytes, int]:
        """Of zeros."""
        return await succeed((bytes(min(length, max(0, 5000 - offset))), 5000))
