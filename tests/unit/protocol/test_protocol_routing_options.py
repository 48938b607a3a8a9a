"""Options of dealer and broker: patterns, disclosure, black and white lists, meta events."""

import json
from typing import Any

import pytest
from test_protocol_broker import make as make_broker
from test_protocol_broker import publish, receivers, subscribe
from test_protocol_broker import told as told_events
from test_protocol_dealer import CALLEE, CALLER, DAEMON, PLAIN_CALLEE, make, member, only, told

from cumulusd.protocol.codec import JSON
from cumulusd.protocol.dealer import Dealer
from cumulusd.protocol.messages import MetaEvent, Send, asks_disclosure, keep_disclosure, wamp


def registered(dealer: Dealer, session_id: int, uri: str, match: str = "exact") -> int:
    effects = dealer.register(session_id, wamp.Register(1, uri, match=match))
    _, sent = only([effect for effect in effects if isinstance(effect, Send)])
    number: int = sent.registration
    return number


def asking(message: Any) -> Any:
    """The message as if its option for disclosure had been set."""
    keep_disclosure(message, {"disclose_me": True, "disclose_caller": True})
    return message


# Registrations by pattern


def test_a_pattern_is_told_which_procedure_was_called() -> None:
    dealer = make()
    number = registered(dealer, CALLEE, "com.app.", "prefix")
    to, invocation = only(dealer.call(CALLER, wamp.Call(1, "com.app.x.y", args=[1])))
    assert to == CALLEE
    assert invocation.marshal() == [68, 1, number, {"procedure": "com.app.x.y"}, [1]]
    _, error = only(dealer.call(CALLER, wamp.Call(2, "com.apple")))
    assert error.error == "wamp.error.no_such_procedure"


def test_an_exact_registration_comes_first_and_is_not_told() -> None:
    dealer = make()
    registered(dealer, CALLEE, "a.", "prefix")
    number = registered(dealer, PLAIN_CALLEE, "a.b")
    to, invocation = only(dealer.call(CALLER, wamp.Call(1, "a.b")))
    assert (to, invocation.marshal()) == (PLAIN_CALLEE, [68, 1, number, {}])


def test_one_uri_may_stand_under_each_policy_once() -> None:
    dealer = make()
    for match in ("exact", "prefix"):
        registered(dealer, CALLEE, "a.b", match)
    registered(dealer, PLAIN_CALLEE, "a.b", "wildcard")
    _, error = only(dealer.register(PLAIN_CALLEE, wamp.Register(1, "a.b", match="prefix")))
    assert error.error == "wamp.error.procedure_already_exists"


def test_watchers_of_procedures_are_not_told_of_patterns() -> None:
    dealer = make()
    (sent,) = told(dealer.register(CALLEE, wamp.Register(1, "a.", match="prefix")))
    assert isinstance(sent, Send)
    assert told(dealer.leave(CALLEE)) == []


def test_registrations_are_announced_in_order() -> None:
    dealer = make()
    effects = dealer.register(CALLEE, wamp.Register(1, "a.", match="prefix"))
    assert isinstance(effects[0], Send)
    details = {
        "id": 1,
        "created": "2001-09-09T01:46:40.000Z",
        "uri": "a.",
        "match": "prefix",
        "invoke": "single",
    }
    assert effects[1:] == [
        MetaEvent("wamp.registration.on_create", [CALLEE, details]),
        MetaEvent("wamp.registration.on_register", [CALLEE, 1]),
    ]
    gone = [
        MetaEvent("wamp.registration.on_unregister", [CALLEE, 1]),
        MetaEvent("wamp.registration.on_delete", [CALLEE, 1]),
    ]
    assert dealer.unregister(CALLEE, wamp.Unregister(1, 1))[1:] == gone
    assert dealer.registration(1) is None
    registered(dealer, CALLEE, "b")
    assert [e for e in dealer.leave(CALLEE) if isinstance(e, MetaEvent)] == [
        MetaEvent(event.topic, [CALLEE, 2]) for event in gone
    ]


# Progressive results


def test_only_a_callee_that_can_be_stopped_is_asked_for_progress() -> None:
    dealer = make()
    registered(dealer, PLAIN_CALLEE, "a.b")
    _, invocation = only(dealer.call(CALLER, wamp.Call(1, "a.b", receive_progress=True)))
    assert invocation.receive_progress is None
    assert dealer.yield_(PLAIN_CALLEE, wamp.Yield(1, progress=True)) == []


# Caller identification


def test_a_caller_discloses_itself() -> None:
    dealer = make()
    registered(dealer, CALLEE, "a.b")
    _, invocation = only(dealer.call(CALLER, asking(wamp.Call(1, "a.b"))))
    assert invocation.marshal()[3] == {
        "caller": CALLER,
        "caller_authid": f"name{CALLER}",
        "caller_authrole": "client",
    }
    _, silent = only(dealer.call(CALLER, wamp.Call(2, "a.b")))
    assert silent.marshal()[3] == {}


def test_one_that_may_not_disclose_itself_is_told() -> None:
    dealer = make()
    registered(dealer, CALLEE, "a.b")
    dealer.join(member(20, may_disclose=False))
    to, error = only(dealer.call(20, asking(wamp.Call(1, "a.b"))))
    assert (to, error.error) == (20, "wamp.error.option_disallowed.disclose_me")
    assert dealer.calls_in_flight == 0


def test_a_callee_that_may_learns_who_calls() -> None:
    dealer = make()
    dealer.join(member(20, may_learn_callers=True))
    dealer.register(20, asking(wamp.Register(1, "a.b")))
    _, invocation = only(dealer.call(CALLER, wamp.Call(1, "a.b")))
    assert invocation.caller == CALLER
    _, error = only(dealer.register(CALLEE, asking(wamp.Register(1, "a.c"))))
    assert error.error == "wamp.error.option_not_allowed"
    assert dealer.holder("a.c") is None


def test_the_daemon_is_told_the_session_alone() -> None:
    dealer = make()
    registered(dealer, DAEMON, "a.b")
    _, invocation = only(dealer.call(CALLER, wamp.Call(1, "a.b")))
    assert invocation.marshal()[3] == {"caller": CALLER}


@pytest.mark.parametrize(
    ("raw", "asks"),
    [
        ([48, 1, {"disclose_me": True}, "a.b"], True),
        ([48, 1, {"disclose_me": False}, "a.b"], False),
        ([48, 1, {"disclose_me": "yes"}, "a.b"], False),
        ([48, 1, {"disclose_caller": True}, "a.b"], False),
        ([48, 1, {"_router_internal": True}, "a.b"], False),
        ([64, 1, {"disclose_caller": True}, "a.b"], True),
        ([64, 1, {"disclose_me": True}, "a.b"], False),
        ([16, 1, {"disclose_me": True}, "a.b"], True),
        ([16, 1, {}, "a.b"], False),
    ],
)
def test_the_options_come_through_the_codec(raw: list[Any], asks: bool) -> None:
    assert asks_disclosure(JSON.decode(json.dumps(raw).encode(), False)) is asks


# Subscriptions by pattern


def events(effects: list[Any]) -> list[tuple[int, int, Any]]:
    return [(e.session_id, e.message.subscription, e.message.topic) for e in told_events(effects)]


def test_an_event_comes_once_under_each_subscription_that_matches() -> None:
    broker = make_broker()
    exact = subscribe(broker, 2, "job.42.status")
    prefix = subscribe(broker, 2, "job.42", match="prefix")
    wildcard = subscribe(broker, 2, "job..status", match="wildcard")
    other = subscribe(broker, 3, "job.", match="prefix")
    effects = publish(broker, 1, "job.42.status")
    assert sorted(events(effects)) == sorted(
        [
            (2, exact, None),
            (2, prefix, "job.42.status"),
            (2, wildcard, "job.42.status"),
            (3, other, "job.42.status"),
        ]
    )
    assert len({effect.message.publication for effect in told_events(effects)}) == 1  # type: ignore[union-attr]
    assert events(publish(broker, 1, "job.421.log")) == [
        (3, other, "job.421.log"),
        (2, prefix, "job.421.log"),
    ]
    assert events(publish(broker, 1, "jobs")) == []


def test_one_topic_under_each_policy_is_a_subscription_of_its_own() -> None:
    broker = make_broker()
    numbers = {subscribe(broker, 2, "a.b", match=match) for match in ("exact", "prefix")}
    assert len(numbers) == 2 == broker.topics
    for number in numbers:
        broker.unsubscribe(2, wamp.Unsubscribe(1, number))
    assert broker.topics == 0
    assert receivers(publish(broker, 1, "a.b")) == []


# Black and white lists, and who published


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [2, 3, 4]),
        ({"exclude": [3, 99]}, [2, 4]),
        ({"exclude": []}, [2, 3, 4]),
        ({"exclude_authid": ["name2", "name4"]}, [3]),
        ({"exclude_authrole": ["client"]}, [3]),
        ({"eligible": [2, 3, 99]}, [2, 3]),
        ({"eligible": []}, []),
        ({"eligible_authid": ["name3"]}, [3]),
        ({"eligible_authid": []}, []),
        ({"eligible_authrole": ["client"]}, [2, 4]),
        ({"eligible_authrole": ["nobody"]}, []),
        ({"eligible": [2, 3], "exclude": [2]}, [3]),
        ({"eligible_authrole": ["client"], "exclude_authid": ["name2"]}, [4]),
        ({"eligible": [1, 2], "exclude_me": False}, [2, 1]),
        ({"exclude": [1], "exclude_me": False}, [2, 3, 4]),
    ],
)
def test_the_lists(options: dict[str, Any], expected: list[int]) -> None:
    broker = make_broker()
    for session_id in (2, 3, 4, 1):
        subscribe(broker, session_id)
    assert receivers(publish(broker, 1, **options)) == expected
    acknowledged = publish(broker, 1, acknowledge=True, **options)
    assert receivers(acknowledged) == expected
    assert isinstance(acknowledged[-1], Send)
    assert isinstance(acknowledged[-1].message, wamp.Published)


def test_a_publisher_discloses_itself() -> None:
    broker = make_broker()
    subscribe(broker, 2)
    message = asking(wamp.Publish(5, "cumulus.jobs", acknowledge=True))
    event, published = broker.publish(1, message)
    assert isinstance(event, Send) and isinstance(published, Send)
    assert event.message.marshal()[3] == {
        "publisher": 1,
        "publisher_authid": "name1",
        "publisher_authrole": "admin",
    }
    assert published.message.publication == event.message.publication


def test_a_publisher_that_may_not_disclose_itself_is_told_if_it_asked() -> None:
    broker = make_broker()
    broker.join(member(20, may_disclose=False))
    subscribe(broker, 2)
    (refused,) = broker.publish(20, asking(wamp.Publish(5, "cumulus.jobs", acknowledge=True)))
    assert isinstance(refused, Send)
    assert refused.message.error == "wamp.error.option_disallowed.disclose_me"
    assert broker.publish(20, asking(wamp.Publish(5, "cumulus.jobs"))) == []


# Meta events of the broker


def test_subscriptions_are_announced_in_order() -> None:
    broker = make_broker()
    first = broker.subscribe(2, wamp.Subscribe(1, "a.", match="prefix"))
    details = {"id": 1, "created": "1970-01-01T00:00:00.000Z", "uri": "a.", "match": "prefix"}
    assert first[1:] == [
        MetaEvent("wamp.subscription.on_create", [2, details]),
        MetaEvent("wamp.subscription.on_subscribe", [2, 1]),
    ]
    second = broker.subscribe(3, wamp.Subscribe(1, "a.", match="prefix"))
    assert second[1:] == [MetaEvent("wamp.subscription.on_subscribe", [3, 1])]
    assert broker.subscribe(3, wamp.Subscribe(2, "a.", match="prefix"))[1:] == []
    assert broker.leave(2) == [MetaEvent("wamp.subscription.on_unsubscribe", [2, 1])]
    assert broker.unsubscribe(3, wamp.Unsubscribe(1, 1))[1:] == [
        MetaEvent("wamp.subscription.on_unsubscribe", [3, 1]),
        MetaEvent("wamp.subscription.on_delete", [3, 1]),
    ]


def test_an_announcement_is_for_all_who_listen() -> None:
    broker = make_broker()
    assert broker.announce("wamp.session.on_join", [{}]) == []
    subscribe(broker, 2, "wamp.session.on_join")
    subscribe(broker, 3, "wamp.session.", match="prefix")
    effects = broker.announce("wamp.session.on_join", [{"session": 9}])
    assert [(e.session_id, e.message.args) for e in told_events(effects)] == [  # type: ignore[union-attr]
        (2, [{"session": 9}]),
        (3, [{"session": 9}]),
    ]
