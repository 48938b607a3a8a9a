"""The outbox alone, on a test clock, with a transport that pauses like Twisted's."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.interfaces import IPushProducer
from twisted.internet.task import Clock
from zope.interface.verify import verifyObject

from cumulusd.protocol.flow import Outbox
from cumulusd.protocol.limits import Limits

LIMITS = Limits(
    low_watermark_bytes=100, high_watermark_bytes=200, hard_cap_bytes=1000, slow_peer_timeout_s=30
)


class Transport:
    """Pauses its producer above `room` bytes, resumes it when all is sent."""

    def __init__(self, room: int = 50) -> None:
        self.room = room
        self.buffered = 0
        self.paused = False
        self.written: list[bytes] = []
        self.overruns: list[str] = []
        self.clock = Clock()
        self.outbox = Outbox(
            clock=self.clock, limits=LIMITS, write=self.write, overrun=self.overruns.append
        )

    def write(self, payload: bytes) -> None:
        self.written.append(payload)
        self.buffered += len(payload)
        if self.buffered > self.room and not self.paused:
            self.paused = True
            self.outbox.pauseProducing()

    def sent(self) -> None:
        self.buffered = 0
        if self.paused:
            self.paused = False
            self.outbox.resumeProducing()


def waiting(outbox: Outbox) -> Deferred[Any]:
    return Deferred.fromCoroutine(outbox.drained())


def test_it_is_a_push_producer() -> None:
    verifyObject(IPushProducer, Transport().outbox)


def test_an_idle_connection_is_written_to_at_once() -> None:
    transport = Transport()
    transport.outbox.send(b"a" * 10)
    assert transport.written == [b"a" * 10]
    assert transport.outbox.queued_bytes == 0
    assert waiting(transport.outbox).called


def test_a_paused_transport_gets_no_more_and_then_all_in_order() -> None:
    transport = Transport()
    for number in range(10):
        transport.outbox.send(bytes([number]) * 30)
    assert len(transport.written) == 2
    assert transport.outbox.queued_bytes == 240
    for _ in range(5):
        transport.sent()
    assert [payload[0] for payload in transport.written] == list(range(10))
    assert transport.outbox.queued_bytes == 0
    assert not transport.clock.getDelayedCalls()


def test_watermarks() -> None:
    transport = Transport()
    for _ in range(12):
        transport.outbox.send(b"x" * 30)
    assert transport.outbox.queued_bytes == 300 and transport.outbox.above_high
    waiter = waiting(transport.outbox)
    transport.sent()
    transport.sent()
    assert transport.outbox.queued_bytes == 180
    assert transport.outbox.above_high and not waiter.called  # hysteresis
    transport.sent()
    transport.sent()
    assert transport.outbox.queued_bytes <= 100
    assert waiter.called and not transport.outbox.above_high


def test_the_hard_cap_is_an_overrun_and_frees_everything() -> None:
    transport = Transport()
    for _ in range(40):
        transport.outbox.send(b"x" * 30)
    assert len(transport.overruns) == 1
    assert transport.outbox.lost
    assert transport.outbox.queued_bytes == 0
    assert not transport.clock.getDelayedCalls()


def test_a_peer_that_takes_nothing_is_an_overrun_after_the_timeout() -> None:
    transport = Transport()
    for _ in range(12):
        transport.outbox.send(b"x" * 30)
    waiter = waiting(transport.outbox)
    transport.clock.advance(29.9)
    assert not transport.overruns
    transport.clock.advance(0.2)
    assert transport.overruns == ["it took nothing for 30 s"]
    failures: list[Any] = []
    waiter.addErrback(failures.append)
    assert failures[0].check(CancelledError)
    assert not transport.clock.getDelayedCalls()


def test_a_peer_that_takes_something_has_the_whole_timeout_again() -> None:
    transport = Transport()
    for _ in range(12):
        transport.outbox.send(b"x" * 30)
    for _ in range(4):
        transport.clock.advance(29)
        transport.sent()
    assert not transport.overruns


def test_when_empty() -> None:
    transport = Transport()
    done: list[int] = []
    transport.outbox.when_empty(lambda: done.append(1))
    assert done == [1]
    for _ in range(3):
        transport.outbox.send(b"x" * 60)
    transport.outbox.when_empty(lambda: done.append(2))
    transport.sent()
    assert done == [1]
    transport.sent()
    assert done == [1, 2]


def test_losing_it_ends_everybody_who_waits_and_is_final() -> None:
    transport = Transport()
    done: list[int] = []
    for _ in range(12):
        transport.outbox.send(b"x" * 30)
    failures: list[Any] = []
    waiting(transport.outbox).addErrback(failures.append)
    transport.outbox.when_empty(lambda: done.append(1))
    transport.outbox.stopProducing()
    transport.outbox.lose()
    assert failures[0].check(CancelledError)
    failures.clear()
    waiting(transport.outbox).addErrback(failures.append)
    assert failures[0].check(CancelledError)
    transport.outbox.send(b"more")
    transport.outbox.when_empty(lambda: done.append(2))
    transport.sent()
    assert transport.outbox.queued_bytes == 0
    assert done == [] and transport.overruns == []
    assert not transport.clock.getDelayedCalls()


def test_a_waiter_may_be_cancelled() -> None:
    transport = Transport()
    for _ in range(12):
        transport.outbox.send(b"x" * 30)
    first, second = waiting(transport.outbox), waiting(transport.outbox)
    first.cancel()
    first.addErrback(lambda failure: failure.trap(CancelledError))
    for _ in range(6):
        transport.sent()
    assert second.called


def test_the_watermarks_must_be_ordered() -> None:
    with pytest.raises(ValueError, match="ordered"):
        Limits(low_watermark_bytes=9, high_watermark_bytes=5)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.one_of(st.integers(1, 120), st.none()), max_size=60))
def test_nothing_is_lost_or_reordered_below_the_cap(steps: list[int | None]) -> None:
    transport = Transport()
    sent: list[bytes] = []
    for number, step in enumerate(steps):
        if step is None:
            transport.sent()
        elif transport.outbox.queued_bytes + step <= LIMITS.hard_cap_bytes:
            sent.append(bytes([number]) * step)
            transport.outbox.send(sent[-1])
        handed_over = sum(map(len, transport.written))
        assert transport.outbox.queued_bytes == sum(map(len, sent)) - handed_over
    while transport.outbox.queued_bytes:
        transport.sent()
    assert transport.written == sent
    transport.outbox.lose()
    assert not transport.clock.getDelayedCalls()
