"""The broker alone: messages in, effects out."""

import json
from typing import Any

from cumulusd.protocol.broker import Broker
from cumulusd.protocol.codec import CBOR, JSON
from cumulusd.protocol.messages import Effect, Member, MetaEvent, Send, wamp

TOPIC = "cumulus.jobs"


def make(max_subscriptions: int = 9) -> Broker:
    broker = Broker(max_subscriptions=max_subscriptions, now=lambda: 0.0)
    for number in range(1, 6):
        role = "admin" if number % 2 else "client"
        broker.join(Member(session_id=number, authid=f"name{number}", authrole=role))
    return broker


def told(effects: list[Effect]) -> list[Effect]:
    """The effects but for WAMP's meta events."""
    return [effect for effect in effects if not isinstance(effect, MetaEvent)]


def subscribe(broker: Broker, session_id: int, topic: str = TOPIC, **options: Any) -> int:
    (effect,) = told(broker.subscribe(session_id, wamp.Subscribe(1, topic, **options)))
    assert isinstance(effect, Send) and isinstance(effect.message, wamp.Subscribed)
    subscription: int = effect.message.subscription
    return subscription


def publish(broker: Broker, session_id: int, topic: str = TOPIC, **options: Any) -> list[Effect]:
    return broker.publish(session_id, wamp.Publish(5, topic, kwargs={"n": 1}, **options))


def receivers(effects: list[Effect]) -> list[int]:
    return [
        effect.session_id
        for effect in effects
        if isinstance(effect, Send) and isinstance(effect.message, wamp.Event)
    ]


def test_an_event_goes_to_every_subscriber_of_exactly_that_topic() -> None:
    broker = make()
    first, second = subscribe(broker, 2), subscribe(broker, 3)
    assert first == second
    assert subscribe(broker, 4, "cumulus.jobs2") != first
    assert receivers(publish(broker, 1)) == [2, 3]
    assert receivers(publish(broker, 1, "cumulus.job")) == []
    assert broker.topics == 2


def test_subscribing_twice_is_one_subscription() -> None:
    broker = make(1)
    assert subscribe(broker, 2) == subscribe(broker, 2)
    assert receivers(publish(broker, 1)) == [2]


def test_the_publisher_is_excluded_unless_it_asks() -> None:
    broker = make()
    subscribe(broker, 2)
    subscribe(broker, 3)
    assert receivers(publish(broker, 2)) == [3]
    assert receivers(publish(broker, 2, exclude_me=True)) == [3]
    assert receivers(publish(broker, 2, exclude_me=False)) == [2, 3]


def test_acknowledge() -> None:
    broker = make()
    assert publish(broker, 1) == []
    (effect,) = publish(broker, 1, acknowledge=True)
    assert isinstance(effect, Send)
    assert (effect.session_id, effect.message.request) == (1, 5)
    assert isinstance(effect.message, wamp.Published)


def test_the_publisher_is_not_disclosed() -> None:
    broker = make()
    subscription = subscribe(broker, 2)
    (effect,) = publish(broker, 1)
    assert isinstance(effect, Send)
    kind, subscribed, publication, *rest = json.loads(JSON.encode(effect.message))
    assert (kind, subscribed, rest) == (36, subscription, [{}, [], {"n": 1}])
    assert 1 <= publication <= 2**53


def test_one_event_is_serialised_once_per_codec() -> None:
    broker = make()
    for session_id in (2, 3, 4):
        subscribe(broker, session_id)
    sent = [effect.message for effect in publish(broker, 1) if isinstance(effect, Send)]
    assert len({id(message) for message in sent}) == 1
    assert CBOR.encode(sent[0]) is CBOR.encode(sent[1])
    assert JSON.encode(sent[0]) is JSON.encode(sent[2])


def test_unsubscribe() -> None:
    broker = make()
    subscription = subscribe(broker, 2)
    (refused,) = broker.unsubscribe(3, wamp.Unsubscribe(1, subscription))
    assert isinstance(refused, Send)
    assert refused.message.error == "wamp.error.no_such_subscription"
    (done,) = told(broker.unsubscribe(2, wamp.Unsubscribe(1, subscription)))
    assert isinstance(done, Send) and isinstance(done.message, wamp.Unsubscribed)
    assert broker.topics == 0
    assert receivers(publish(broker, 1)) == []


def test_leaving_drops_all_subscriptions() -> None:
    broker = make()
    subscribe(broker, 2)
    subscribe(broker, 2, "cumulus.workers")
    subscribe(broker, 3)
    broker.leave(2)
    broker.leave(2)
    assert broker.topics == 1
    assert receivers(publish(broker, 1)) == [3]


def test_subscriptions_are_bounded() -> None:
    broker = make(2)
    for number in range(2):
        subscribe(broker, 2, f"a.t{number}")
    (refused,) = broker.subscribe(2, wamp.Subscribe(1, "a.more"))
    assert isinstance(refused, Send)
    assert refused.message.error == "cumulus.error.too_many"
    assert broker.topics == 2


def test_nothing_retained_is_offered() -> None:
    broker = make()
    (refused,) = broker.subscribe(2, wamp.Subscribe(1, TOPIC, get_retained=True))
    assert isinstance(refused, Send)
    assert refused.message.error == "wamp.error.option_not_allowed"
    assert broker.topics == 0


def test_nothing_is_retained() -> None:
    broker = make()
    subscribe(broker, 2)
    assert publish(broker, 1, retain=True) == []
    (refused,) = publish(broker, 1, acknowledge=True, retain=True)
    assert isinstance(refused, Send)
    assert refused.message.error == "wamp.error.option_not_allowed"


def test_a_topic_that_is_over_has_no_listeners() -> None:
    """Who has a pattern goes on; who comes later has another subscription."""
    broker = make()
    exact = subscribe(broker, 2)
    assert subscribe(broker, 4) == exact
    subscribe(broker, 3, "cumulus.", match="prefix")
    (ended,), effects = broker.end_topic(TOPIC)
    assert (ended.subscription_id, list(ended.subscribers)) == (exact, [2, 4])
    names = [effect.topic for effect in effects if isinstance(effect, MetaEvent)]
    assert names[-1] == "wamp.subscription.on_delete" and len(names) == len(effects) == 3
    assert receivers(publish(broker, 1)) == [3]
    assert broker.topics == 1 and broker.subscription(exact) is None
    (refused,) = broker.unsubscribe(2, wamp.Unsubscribe(7, exact))
    assert isinstance(refused, Send)
    assert refused.message.error == "wamp.error.no_such_subscription"
    assert broker.end_topic(TOPIC) == ([], [])
    assert subscribe(broker, 2) != exact
    broker.leave(4)
    assert receivers(publish(broker, 1)) == [2, 3]


def test_a_topic_ends_for_a_wildcard_that_means_it_alone() -> None:
    """A client may say so of a job's topic, and must not hear of another's job of that name."""
    broker = make()
    topic = "cumulus.job.42.status"
    number = subscribe(broker, 2, topic, match="wildcard")
    gap = subscribe(broker, 3, "cumulus.job..status", match="wildcard")
    (ended,), _ = broker.end_topic(topic)
    assert (ended.subscription_id, list(ended.subscribers)) == (number, [2])
    assert receivers(publish(broker, 1, topic)) == [3]
    assert broker.subscription(gap) is not None
