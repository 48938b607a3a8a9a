"""What is measured: each case makes its sessions once per router and serialisation, and then does
a number of operations as often as it is asked to."""

from collections.abc import Callable
from typing import Any

import attrs

from bench.parts.errors import BenchError
from bench.routing.peers import (
    CALL,
    ERROR,
    EVENT,
    INVOCATION,
    PUBLISH,
    REGISTER,
    RESULT,
    SUBSCRIBE,
    YIELD,
    Codec,
    Loop,
    Peer,
)

#: What calls and events carry, about 120 bytes.
_KWARGS = {"job_id": "0123456789abcdef", "text": "x" * 64, "number": 7}
_TOPIC = "bench.topic"


class Run:
    """A case made ready at one router: `operate(count)` does that many operations."""

    def __init__(self, port: int, codec: Codec) -> None:
        self.loop = Loop()
        self.port = port
        self.codec = codec
        self.peers: list[Peer] = []

    def peer(self, **options: Any) -> Peer:
        peer = Peer(self.loop, self.port, self.codec, **options)
        self.peers.append(peer)
        return peer

    def operate(self, count: int) -> None:
        raise NotImplementedError

    def close(self) -> None:
        for peer in self.peers:
            peer.close()


class Calls(Run):
    """Calls of one procedure, `in_flight` at a time, each sent by itself."""

    procedure = "bench.echo"

    def __init__(self, port: int, codec: Codec, in_flight: int) -> None:
        super().__init__(port, codec)
        self._in_flight = in_flight
        self._caller = self.peer()
        self._frames: list[bytes] = []
        self._missing = 0
        self._caller.on_message = self._answered

    def operate(self, count: int) -> None:
        frames = [
            self.codec.frame([CALL, self._caller.next_request(), {}, self.procedure, [], _KWARGS])
            for _ in range(count)
        ]
        self._frames = frames[::-1]
        self._missing = count
        for _ in range(min(self._in_flight, count)):
            self._caller.send_frame(self._frames.pop())
        self.loop.run_until(lambda: self._missing == 0)

    def _answered(self, payload: bytes) -> None:
        if self.codec.kind(payload) != RESULT:
            raise BenchError(f"no RESULT: {payload!r:.300}")
        self._missing -= 1
        if self._frames:
            self._caller.send_frame(self._frames.pop())


class RemoteCalls(Calls):
    """The same to a procedure of another session of this client."""

    procedure = "bench.remote"

    def __init__(self, port: int, codec: Codec, in_flight: int) -> None:
        super().__init__(port, codec, in_flight)
        self._callee = self.peer()
        self._callee.ask(REGISTER, {}, self.procedure)
        self._callee.on_message = self._called

    def _called(self, payload: bytes) -> None:
        kind, request, *_, args, kwargs = self.codec.loads(payload)
        if kind != INVOCATION or kwargs != _KWARGS:
            raise BenchError(f"no INVOCATION as sent: {payload!r:.300}")
        self._callee.send([YIELD, request, {}, args, kwargs])


class Stream(Run):
    """Progressive results of one call into the router."""

    def __init__(self, port: int, codec: Codec, size_bytes: int) -> None:
        super().__init__(port, codec)
        self._size_bytes = size_bytes
        self._caller = self.peer()

    def operate(self, count: int) -> None:
        self._caller.received = 0
        last = b""

        def keep(payload: bytes) -> None:
            nonlocal last
            last = payload

        self._caller.on_message = keep
        self._caller.send(
            [
                CALL,
                self._caller.next_request(),
                {"receive_progress": True},
                "bench.stream",
                [],
                {"count": count, "size_bytes": self._size_bytes},
            ]
        )
        self.loop.run_until(
            lambda: self._caller.received > count or (bool(last) and self.codec.kind(last) == ERROR)
        )
        if self._caller.received != count + 1 or self.codec.kind(last) != RESULT:
            raise BenchError(f"{self._caller.received} results, the last {last!r:.300}")


class FanOut(Run):
    """Events of one publisher to many subscribers; an operation is one event to one of them."""

    def __init__(self, port: int, codec: Codec, subscribers: int) -> None:
        super().__init__(port, codec)
        self._publisher = self.peer()
        self._subscribers = [self.peer() for _ in range(subscribers)]
        for peer in self._subscribers:
            peer.ask(SUBSCRIBE, {}, _TOPIC)

    def operate(self, count: int) -> None:
        publications = count // len(self._subscribers)
        for _ in range(publications):
            missing = len(self._subscribers)

            def took(payload: bytes) -> None:
                nonlocal missing
                if self.codec.kind(payload) != EVENT:
                    raise BenchError(f"no EVENT: {payload!r:.300}")
                missing -= 1

            for peer in self._subscribers:
                peer.on_message = took
            request = self._publisher.next_request()
            self._publisher.send([PUBLISH, request, {}, _TOPIC, [], _KWARGS])
            self.loop.run_until(lambda: missing == 0)  # noqa: B023  # of this turn


class SetUp(Run):
    """A connection from its first byte to WELCOME, GOODBYE both ways, and its end."""

    def operate(self, count: int) -> None:
        for _ in range(count):
            Peer(self.loop, self.port, self.codec).leave()


@attrs.frozen
class Case:
    """One row of the table."""

    name: str
    make: Callable[[int, Codec], Run]
    operations: int  #: per round
    goal: float | None = None  #: at most this part of Crossbar's CPU time per operation


CASES = (
    Case("RPC into the router, 1 in flight", lambda p, c: Calls(p, c, 1), 600),
    Case("RPC into the router, 64 in flight", lambda p, c: Calls(p, c, 64), 3000, 0.25),
    Case("RPC to a remote callee, 1 in flight", lambda p, c: RemoteCalls(p, c, 1), 400),
    Case("RPC to a remote callee, 64 in flight", lambda p, c: RemoteCalls(p, c, 64), 2000, 0.35),
    Case("progressive results of 200 B", lambda p, c: Stream(p, c, 200), 10_000, 0.3),
    Case("progressive results of 16 KiB", lambda p, c: Stream(p, c, 16 << 10), 2000),
    Case("fan-out to 100, per event", lambda p, c: FanOut(p, c, 100), 15_000, 0.4),
    Case("fan-out to 1,000, per event", lambda p, c: FanOut(p, c, 1000), 15_000, 0.4),
    Case("connection set-up", SetUp, 200, 0.65),
)


class Idle(Run):
    """Sessions that are open and do nothing."""

    def operate(self, count: int) -> None:
        for _ in range(count):
            self.peer()


class Stalled(Run):
    """A publisher of `size_bytes` events to one subscriber that stops reading at some point."""

    size_bytes = 16 << 10

    def __init__(self, port: int, codec: Codec) -> None:
        super().__init__(port, codec)
        self._publisher = self.peer()
        self._subscriber = self.peer(receive_bytes=64 << 10)
        self._subscriber.ask(SUBSCRIBE, {}, _TOPIC)

    def stall(self) -> None:
        self._subscriber.stop_reading()

    def operate(self, count: int, window: int = 16) -> None:
        """Publishes, and waits for the router's PUBLISHED; at most `window` without it."""
        publisher = self._publisher
        publisher.received = 0
        kwargs = {"data": "x" * self.size_bytes}
        sent = 0
        while publisher.received < count:
            while sent < count and sent - publisher.received < window:
                request = publisher.next_request()
                publisher.send([PUBLISH, request, {"acknowledge": True}, _TOPIC, [], kwargs])
                sent += 1
            had = publisher.received
            self.loop.run_until(lambda: publisher.received > had)  # noqa: B023  # of this turn
