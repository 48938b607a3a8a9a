"""What one connection may send, on a test clock."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock

from cumulusd.protocol.inbox import Inbox
from cumulusd.protocol.limits import Limits

LIMITS = Limits(max_messages_per_s=10, message_burst=20, message_rate_patience_s=60)


class Peer:
    """An inbox whose connection is read from while `reading`."""

    def __init__(self, limits: Limits = LIMITS) -> None:
        self.clock = Clock()
        self.reading = True
        self.ended: list[str] = []
        self.inbox = Inbox(
            clock=self.clock,
            limits=limits,
            pause=lambda: self._read(False),
            resume=lambda: self._read(True),
            flooded=self._end,
        )

    def _read(self, on: bool) -> None:
        assert self.reading is not on, "told twice"
        self.reading = on

    def _end(self, why: str) -> None:
        self.ended.append(why)
        self.inbox.lose()

    def send(self, count: int) -> None:
        for _ in range(count):
            self.inbox.take()


def test_a_burst_is_free_and_what_comes_on_top_costs_time() -> None:
    peer = Peer()
    peer.send(20)
    assert peer.reading
    peer.send(6)  # one read of the transport may bring more
    assert not peer.reading
    peer.clock.advance(0.5)
    assert not peer.reading
    peer.clock.advance(0.11)
    assert peer.reading
    assert not peer.clock.getDelayedCalls()
    peer.send(1)
    assert not peer.reading


def test_the_allowance_comes_back_up_to_the_burst() -> None:
    peer = Peer()
    peer.send(20)
    peer.clock.advance(1.0)
    peer.send(10)
    assert peer.reading
    peer.clock.advance(1000.0)
    peer.send(20)
    assert peer.reading
    peer.send(1)
    assert not peer.reading


def test_zero_is_no_bound() -> None:
    peer = Peer(Limits(max_messages_per_s=0, message_burst=1))
    peer.send(10_000)
    assert peer.reading and not peer.clock.getDelayedCalls()


def test_who_floods_for_long_is_ended_and_told_what_the_limit_is() -> None:
    peer = Peer()
    for _ in range(200):
        if peer.reading and not peer.ended:
            peer.send(30)
        peer.clock.advance(0.5)
    assert len(peer.ended) == 1
    assert "over 10 messages a second for 60 s" in peer.ended[0]
    assert "router.max_messages_per_s" in peer.ended[0]
    assert not peer.clock.getDelayedCalls()


def test_bursts_with_rests_between_go_on_for_ever() -> None:
    peer = Peer()
    for _ in range(100):
        peer.send(25)
        peer.clock.advance(2.5)  # the debt, and more than half a burst
        assert peer.reading
    assert not peer.ended


def test_every_hold_must_be_released() -> None:
    peer = Peer()
    peer.inbox.hold(7)
    peer.inbox.hold(7)
    peer.send(25)
    assert not peer.reading and peer.inbox.is_held_for(7)
    peer.clock.advance(10)
    assert not peer.reading
    peer.inbox.release(8)
    peer.inbox.release(7)
    peer.inbox.release(7)
    assert peer.reading


def test_silence_counts_only_while_the_peer_is_read_from() -> None:
    peer = Peer()
    assert peer.inbox.silent_since(0.0) == 0.0
    peer.inbox.hold(7)
    assert peer.inbox.silent_since(0.0) is None
    peer.clock.advance(100)
    peer.inbox.release(7)
    assert peer.inbox.silent_since(0.0) == 100.0
    assert peer.inbox.silent_since(200.0) == 200.0


def test_a_lost_connection_leaves_no_timer_and_is_not_read_from_again() -> None:
    peer = Peer()
    peer.inbox.hold(7)
    peer.send(40)
    peer.inbox.lose()
    assert not peer.clock.getDelayedCalls()
    peer.inbox.release(7)
    peer.inbox.hold(8)
    peer.send(40)
    assert not peer.reading and not peer.clock.getDelayedCalls()


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 40), st.floats(0.0, 3.0)), max_size=40))
def test_over_any_time_no_more_is_read_than_allowed(steps: list[tuple[int, float]]) -> None:
    """What is read is bounded by burst, rate and one read of the transport beyond."""
    peer = Peer()
    taken, biggest = 0, 0
    for count, rest_s in steps:
        if peer.reading:
            peer.send(count)
            taken += count
            biggest = max(biggest, count)
        peer.clock.advance(rest_s)
        assert taken <= 20 + 10 * peer.clock.seconds() + biggest + 1
    peer.clock.advance(100)
    assert peer.reading
    peer.inbox.lose()


@pytest.mark.parametrize("rate", [0.5, 3.0, 1e6])
def test_a_hold_for_the_rate_always_ends(rate: float) -> None:
    peer = Peer(Limits(max_messages_per_s=rate, message_burst=1))
    peer.send(50)
    assert not peer.reading
    peer.clock.advance(50 / rate + 0.001)
    assert peer.reading and not peer.clock.getDelayedCalls()
