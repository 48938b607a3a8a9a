"""Pings read past Autobahn, and when a silent peer is pinged and given up."""

import os

import pytest
from twisted.internet.task import Clock

from cumulusd.pings import Silence, ping_of, pong


def ping(payload: bytes, mask: bytes) -> bytes:
    """As RFC 6455 has a client send it (5.3: octet i with octet i modulo 4 of the mask)."""
    masked = bytes(each ^ mask[at % 4] for at, each in enumerate(payload))
    return bytes((0x89, 0x80 | len(payload))) + mask + masked


@pytest.mark.parametrize("size", [0, 1, 3, 4, 5, 12, 124, 125])
def test_a_ping_is_read_and_answered_with_its_payload(size: int) -> None:
    payload = os.urandom(size)
    for mask in (bytes(4), b"\xff\x01\x80\x7f"):
        assert ping_of(ping(payload, mask)) == payload
    assert pong(payload) == bytes((0x8A, size)) + payload


def test_what_is_no_single_whole_ping_of_a_client_is_left_to_autobahn() -> None:
    whole = ping(b"abcdef", b"1234")
    for cut in range(len(whole)):
        assert ping_of(whole[:cut]) is None
    assert ping_of(whole + b"\x89") is None, "something follows"
    assert ping_of(b"\x09" + whole[1:]) is None, "a fragment"
    assert ping_of(b"\xc9" + whole[1:]) is None, "a reserved bit"
    assert ping_of(b"\x8a" + whole[1:]) is None, "a pong"
    assert ping_of(b"\x82" + whole[1:]) is None, "a message"
    assert ping_of(b"\x89\x06abcdef") is None, "not masked"
    assert ping_of(b"\x89\xfe\x00\x06" + whole[2:]) is None, "an extended length"


class Peer:
    def __init__(self) -> None:
        self.clock = Clock()
        self.pings: list[float] = []
        self.dead_at: float | None = None
        self.silence = Silence(self.clock, 15.0, ping=self._pinged, dead=self._died)
        self.silence.start()

    def _pinged(self) -> None:
        self.pings.append(self.clock.seconds())

    def _died(self) -> None:
        self.dead_at = self.clock.seconds()

    def pass_s(self, seconds: int, heard_every: int | None = None) -> None:
        for second in range(1, seconds + 1):
            self.clock.advance(1.0)
            if heard_every and second % heard_every == 0:
                self.silence.heard()


def test_who_says_nothing_is_pinged_and_given_up_after_twice_the_time() -> None:
    peer = Peer()
    peer.pass_s(100)
    assert (peer.pings, peer.dead_at) == ([15.0], 30.0)
    assert not peer.clock.getDelayedCalls()


def test_who_speaks_by_itself_is_not_pinged() -> None:
    peer = Peer()
    peer.pass_s(150, heard_every=14)
    assert peer.pings == [] and peer.dead_at is None
    peer.pass_s(100)
    assert len(peer.pings) == 1 and peer.dead_at is not None
    assert peer.dead_at == 140.0 + 30.0, "30 s after the last word"


def test_an_answer_is_enough_and_the_next_ping_counts_from_it() -> None:
    peer = Peer()
    peer.pass_s(16)
    peer.silence.heard()
    peer.pass_s(14)
    assert peer.pings == [15.0]
    peer.pass_s(2)
    assert peer.pings == [15.0, 31.0]
    peer.silence.stop()
    peer.silence.stop()
    assert not peer.clock.getDelayedCalls() and peer.dead_at is None


def test_it_comes_when_it_is_due_whatever_is_lost_in_rounding() -> None:
    clock = Clock()
    clock.advance(1.4)  # 16.4 - 1.4 is less than 15.0
    pings: list[float] = []
    silence = Silence(clock, 15.0, ping=lambda: pings.append(clock.seconds()), dead=lambda: None)
    silence.start()
    clock.advance(15.0)
    assert pings == [16.4]
    silence.stop()
