"""The router's flow between sessions, on a test clock, with connections in memory."""

from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs, formatEvent

from cumulusd.identity import Authenticator, Role
from cumulusd.protocol.authorize import ANYTHING, Action
from cumulusd.protocol.codec import JSON
from cumulusd.protocol.limits import Limits
from cumulusd.protocol.remote_session import RemoteSession
from cumulusd.protocol.router import Router

OPEN = {(role, action): (ANYTHING,) for role in Role for action in Action}
LIMITS = Limits(
    low_watermark_bytes=1_000,
    high_watermark_bytes=4_000,
    hard_cap_bytes=20_000,
    max_connections=50,
    max_connections_per_address=2,
    log_lines_per_minute=3,
)
HELLO = (
    b'[1,"cumulus",{"roles":{"caller":{"features":{"progressive_call_results":true}},"callee":'
    b'{"features":{"progressive_call_results":true,"call_canceling":true}},"publisher":{},'
    b'"subscriber":{}}}]'
)


class Wire:
    """A connection in memory that takes all until `stall`."""

    peer_name = "memory"
    secure = True

    def __init__(self, router: Router, source: str | None = None) -> None:
        self.source = source
        self.sent: list[list[Any]] = []
        self.reading = True
        self.closing = False
        self.aborted = False
        self.session: RemoteSession | None = None
        self.session = router.connected(self, JSON)

    def write_message(self, payload: bytes, is_binary: bool) -> None:
        self.sent.append(JSON._loads(payload))

    def write_pong(self, payload: bytes) -> None:
        self.sent.append([10, payload])

    def pause_reading(self) -> None:
        self.reading = False

    def resume_reading(self) -> None:
        self.reading = True

    def close(self) -> None:
        self.closing = True

    def abort(self) -> None:
        if not self.aborted:
            self.aborted = True
            self.lose()

    def lose(self) -> None:
        assert self.session is not None
        self.session.connection_lost()

    def give(self, raw: bytes) -> list[list[Any]]:
        """What is sent to it at once for this message."""
        assert self.session is not None
        before = len(self.sent)
        self.session.message_received(raw, False)
        return self.sent[before:]

    def stall(self) -> None:
        assert self.session is not None
        self.session.outbox.pauseProducing()

    def go_on(self) -> None:
        assert self.session is not None
        self.session.outbox.resumeProducing()


class World:
    def __init__(self) -> None:
        self.clock = Clock()
        self.router = Router(
            clock=self.clock, authenticator=Authenticator(()), limits=LIMITS, allowed=OPEN
        )

    def join(self, source: str | None = None) -> Wire:
        wire = Wire(self.router, source)
        assert wire.give(HELLO)[0][0] == 2
        return wire

    @property
    def refusals(self) -> dict[str, int]:
        return {name: count for name, count in self.router.stats().refusals.items() if count}


# Events


def subscribed(world: World, topic: str = "a.topic") -> tuple[Wire, int]:
    wire = world.join()
    return wire, wire.give(b'[32,1,{},"%s"]' % topic.encode())[0][2]


def publish(world: World, number: int, size: int = 900, topic: str = "a.topic") -> None:
    world.router.local().publish(topic, {"number": number, "x": "x" * size})


def numbers(wire: Wire) -> list[tuple[int, int]]:
    """Of each event that it got: its number, and how many were dropped before it."""
    return [
        (event[5]["number"], event[3].get("x_cumulus_dropped", 0))
        for event in wire.sent
        if event[0] == 36
    ]


def test_a_slow_subscriber_gets_the_newest_and_the_count_when_it_has_caught_up() -> None:
    world = World()
    wire, _ = subscribed(world)
    publish(world, 0)
    wire.stall()
    for number in range(1, 11):
        publish(world, number)
    assert world.router.stats().events_dropped == 5
    wire.go_on()
    assert numbers(wire) == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (10, 4)]
    publish(world, 11)
    assert numbers(wire)[-1] == (11, 0)


def test_a_newest_that_is_too_large_to_keep_is_told_by_the_next() -> None:
    world = World()
    wire, _ = subscribed(world)
    wire.stall()
    for number in range(5):
        publish(world, number, size=1_500)
    wire.go_on()
    assert numbers(wire) == [(0, 0), (1, 0), (2, 0)]
    publish(world, 9)
    assert numbers(wire)[-1] == (9, 2)


def test_gaps_are_each_subscriptions_own_and_end_with_it() -> None:
    world = World()
    wire, first = subscribed(world)
    wire.give(b'[32,2,{},"another.topic"]')
    wire.stall()
    for number in range(8):
        publish(world, number, size=800)
    publish(world, 20, size=5, topic="another.topic")
    wire.give(b"[34,3,%d]" % first)
    wire.go_on()
    told = numbers(wire)
    assert told == [(0, 0), (1, 0), (2, 0), (3, 0), (4, 0), (20, 0)]
    # The same topic again begins without a past.
    wire.give(b'[32,4,{},"a.topic"]')
    publish(world, 30)
    assert numbers(wire)[-1] == (30, 0)


def test_others_get_their_events_unmarked() -> None:
    world = World()
    slow, _ = subscribed(world)
    good, _ = subscribed(world)
    slow.stall()
    for number in range(9):
        publish(world, number)
    slow.go_on()
    assert numbers(good) == [(number, 0) for number in range(9)]


# Who sends to a slow session


def called(world: World) -> tuple[Wire, Wire, int]:
    """A caller that waits, its callee, and the invocation."""
    callee, caller = world.join(), world.join()
    callee.give(b'[64,1,{},"a.procedure"]')
    caller.give(b'[48,1,{"receive_progress":true},"a.procedure"]')
    return caller, callee, callee.sent[-1][1]


def test_a_callee_is_read_from_no_faster_than_its_caller_reads() -> None:
    world = World()
    caller, callee, invocation = called(world)
    caller.stall()
    piece = b'[70,%d,{"progress":true},["%s"]]' % (invocation, b"x" * 900)
    count = 0
    while callee.reading:
        callee.give(piece)
        count += 1
        assert count < 10
    assert caller.session is not None and caller.session.outbox.queued_bytes < 6_000
    caller.go_on()
    assert callee.reading
    assert sum(message[0] == 50 for message in caller.sent) == count
    assert not world.refusals


@pytest.mark.parametrize("ends", ["lose", "too slow"])
def test_a_callee_is_read_from_again_when_its_caller_is_gone(ends: str) -> None:
    world = World()
    caller, callee, invocation = called(world)
    caller.stall()
    while callee.reading:
        callee.give(b'[70,%d,{"progress":true},["%s"]]' % (invocation, b"x" * 900))
    if ends == "lose":
        caller.lose()
    else:
        world.clock.advance(LIMITS.slow_peer_timeout_s + 0.1)
        assert caller.aborted and world.refusals == {"slow_peer": 1}
    assert callee.reading
    assert callee.sent[-1][0] == 69  # INTERRUPT


def test_a_caller_is_read_from_no_faster_than_its_callee_reads() -> None:
    world = World()
    callee, caller, other = world.join(), world.join(), world.join()
    callee.give(b'[64,1,{},"a.procedure"]')
    callee.stall()
    request = 0
    while caller.reading:
        request += 1
        caller.give(b'[48,%d,{},"a.procedure",["%s"]]' % (request, b"x" * 900))
        assert request < 10
    assert other.reading
    callee.go_on()
    assert caller.reading


def test_a_publisher_is_never_held() -> None:
    world = World()
    slow, _ = subscribed(world)
    slow.stall()
    publisher = world.join()
    for request in range(1, 20):
        publisher.give(b'[16,%d,{},"a.topic",[],{"number":1,"x":"%s"}]' % (request, b"x" * 900))
    assert publisher.reading


# Connections and deadlines


def test_one_address_has_so_many_connections() -> None:
    world = World()
    first, _ = world.join("192.0.2.1"), world.join("192.0.2.1")
    third = Wire(world.router, "192.0.2.1")
    abort = third.sent[0]
    assert (abort[0], abort[2]) == (3, "cumulus.error.too_many")
    assert "192.0.2.1 has 2 connections" in abort[1]["message"]
    assert "router.max_connections_per_address" in abort[1]["message"]
    assert third.closing and not third.give(HELLO)
    for _ in range(5):
        world.join()  # this machine's own
    world.join("192.0.2.2")
    first.lose()
    third.lose()
    assert world.join("192.0.2.1").sent
    assert world.refusals == {"connections_per_address": 1}


def test_who_is_turned_away_and_does_not_go_is_cut() -> None:
    world = World()
    world.join("192.0.2.1"), world.join("192.0.2.1")
    third = Wire(world.router, "192.0.2.1")
    world.clock.advance(LIMITS.close_timeout_s + 0.1)
    assert third.aborted
    assert world.refusals == {"connections_per_address": 1, "close_timeout": 1}
    assert world.router.stats().connections == 2


def test_a_peer_can_not_flood_the_log_and_all_is_counted() -> None:
    world = World()
    with capturedLogs() as events:
        for _ in range(40):
            wire = world.join("192.0.2.9")
            wire.give(b"garbage")
            wire.lose()
        written = [formatEvent(event) for event in events]
        assert sum("violation" in line for line in written) == 3
        assert sum("joined" in line for line in written) == 3
        world.clock.advance(61)
    told = {event["sort"]: event["count"] for event in events if "sort" in event}
    assert told == {"violation": 37, "joined": 37}
    assert world.refusals == {"violation": 40}
    assert not world.clock.getDelayedCalls()


def test_pongs_wait_for_a_slow_peer_and_only_the_newest_is_sent() -> None:
    world = World()
    wire = world.join()
    assert wire.session is not None
    wire.session.ping_received(b"1")
    wire.stall()
    for number in b"23456":
        wire.session.ping_received(bytes([number]))
    assert [message[1] for message in wire.sent if message[0] == 10] == [b"1"]
    wire.go_on()
    assert [message[1] for message in wire.sent if message[0] == 10] == [b"1", b"6"]


# What it tells


def test_times_are_dates_whatever_the_clock_of_its_timers_says() -> None:
    """The daemon's timers go by a clock that began with the machine."""
    clock = Clock()
    clock.advance(50_000)
    router = Router(
        clock=clock,
        authenticator=Authenticator(()),
        allowed=OPEN,
        wall_clock=lambda: 1_795_000_000.0,
    )
    wire = Wire(router)
    wire.give(HELLO)
    wire.give(b'[32,1,{},"a.topic"]')
    wire.give(b'[64,2,{},"a.procedure"]')
    for kind in (b"subscription", b"registration"):
        ((_, _, _, (found,)),) = wire.give(b'[48,3,{},"wamp.%s.get",[%d]]' % (kind, 1))
        assert found["created"].startswith("2026-11-18T")


def test_a_long_list_of_roles_is_looked_through_once() -> None:
    """A viewer could hold the daemon up by it: it was searched for each session."""
    world = World()
    asker, *_ = [world.join() for _ in range(3)]
    asked = b'[48,1,{},"wamp.session.count",[["admin",7,["viewer"],{}]]]'
    assert asker.give(asked) == [[50, 1, {}, [3]]]
