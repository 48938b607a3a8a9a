"""What a slow subscriber is told of the events it missed."""

import json

from autobahn.wamp.message import Event

from cumulusd.protocol.codec import CBOR, CODECS, JSON, MSGPACK
from cumulusd.protocol.messages import MarkedEvent
from cumulusd.protocol.missed import Missed


def event(subscription: int, number: int) -> Event:
    return Event(subscription, 1000 + number, kwargs={"number": number})


def test_the_count_is_told_once_and_for_its_own_subscription() -> None:
    missed = Missed(max_bytes=0)
    assert not missed and missed.take(1) == 0
    for number in range(3):
        missed.drop(event(1, number), 10)
    missed.drop(event(2, 9), 10)
    assert missed and missed.take(1) == 3 and missed.take(1) == 0
    assert missed.take(2) == 1
    assert not missed


def test_the_newest_of_each_is_kept_with_the_count_of_those_before() -> None:
    missed = Missed(max_bytes=100)
    for number in range(3):
        missed.drop(event(1, number), 40)
    missed.drop(event(2, 9), 40)
    assert [(one.kwargs["number"], before) for one, before in missed.newest()] == [(2, 2), (9, 0)]
    assert not missed


def test_without_room_the_count_waits_for_the_next() -> None:
    missed = Missed(max_bytes=100)
    missed.drop(event(1, 0), 60)
    missed.drop(event(2, 0), 60)  # no room
    missed.drop(event(1, 1), 90)  # instead of its older one
    missed.drop(event(3, 0), None)  # no form
    assert [one.subscription for one, _ in missed.newest()] == [1]
    assert missed.take(2) == 1 and missed.take(3) == 1
    missed.drop(event(4, 0), 100)  # all room is back
    assert len(list(missed.newest())) == 1


def test_a_marked_event_is_the_event_with_its_count_in_every_serialisation() -> None:
    plain = Event(7, 8, args=[1], kwargs={"a": "b"}, topic="x.y")
    for codec in CODECS.values():
        marked = codec.encode(MarkedEvent(plain, 5))
        back = codec.decode(marked, codec.binary)
        assert (back.subscription, back.publication, back.topic) == (7, 8, "x.y")
        assert (list(back.args), back.kwargs) == ([1], {"a": "b"})
    raw = json.loads(JSON.encode(MarkedEvent(plain, 5)))
    assert raw == [36, 7, 8, {"topic": "x.y", "x_cumulus_dropped": 5}, [1], {"a": "b"}]
    assert "x_cumulus_dropped" not in json.loads(JSON.encode(plain))[3]
    assert CBOR.encode(MarkedEvent(Event(7, 8), 5)) != CBOR.encode(Event(7, 8))
    assert MSGPACK.encode(MarkedEvent(Event(7, 8), 5)) != MSGPACK.encode(Event(7, 8))
