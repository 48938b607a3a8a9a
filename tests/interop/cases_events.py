"""Publish and subscribe, to topics as they are named."""

from typing import Any

from tests.interop import raw_client as wire
from tests.interop.black_box import Outcome, World, case
from tests.interop.raw_client import Session

GROUP = "events"


def publish(world: World, publisher: Session, *payload: Any, **options: Any) -> list[Any]:
    """Publishes to the topic and waits until that is acknowledged."""
    options = {"acknowledge": True, **options}
    return publisher.ask(wire.PUBLISH, options, world.uri("topic"), *payload)


def receivers(world: World, named: dict[str, Session]) -> str:
    """Who of them had an event, once the router has nothing more for any."""
    return ", ".join(name for name, each in named.items() if world.all(each.settled()))


@case(GROUP, "an event as it was published", ["PUBLISHED", "EVENT [1, b'\\x00'] {'é': None}"])
def event(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    told = publish(world, publisher, [1, b"\0"], {"é": None})
    return [world.say(told), world.say(subscriber.receive())]


@case(GROUP, "an event without payload", ["EVENT"])
def empty(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    publish(world, publisher)
    return [world.say(subscriber.receive())]


@case(GROUP, "publisher and subscriber speak different serialisations", ["EVENT [b'\\x01', 'é']"])
def across(world: World) -> Outcome:
    other = {"json": "cbor", "cbor": "msgpack", "msgpack": "json"}[world.serializer]
    subscriber, publisher = world.subscriber(), world.session(serializer=other)
    publish(world, publisher, [b"\1", "é"])
    return [world.say(subscriber.receive())]


@case(GROUP, "nothing is acknowledged unasked", ["EVENT", ""])
def unacknowledged(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    publisher.request(wire.PUBLISH, {}, world.uri("topic"))
    return [world.say(subscriber.receive()), ", ".join(world.all(publisher.settled()))]


@case(GROUP, "an event that nobody listens to", ["PUBLISHED"])
def nobody(world: World) -> Outcome:
    return [world.say(publish(world, world.session()))]


@case(GROUP, "the publisher doesn't have its own event", ["another"])
def exclude_me(world: World) -> Outcome:
    publisher, another = world.subscriber(), world.subscriber()
    publish(world, publisher)
    return [receivers(world, {"the publisher": publisher, "another": another})]


@case(GROUP, "the publisher has its own event when it wants", ["the publisher, another"])
def include_me(world: World) -> Outcome:
    publisher, another = world.subscriber(), world.subscriber()
    publish(world, publisher, exclude_me=False)
    return [receivers(world, {"the publisher": publisher, "another": another})]


@case(GROUP, "all have the publication under one id", ["one id"])
def one_publication(world: World) -> Outcome:
    first, second, publisher = world.subscriber(), world.subscriber(), world.session()
    published = publish(world, publisher)[2]
    ids = {published, first.receive()[2], second.receive()[2]}
    return ["one id" if len(ids) == 1 else str(ids)]


@case(GROUP, "subscribing twice is one subscription", ["same id", "EVENT"])
def twice(world: World) -> Outcome:
    subscriber, publisher = world.session(), world.session()
    ids = {subscriber.ask(wire.SUBSCRIBE, {}, world.uri("topic"))[2] for _ in range(2)}
    publish(world, publisher)
    return ["same id" if len(ids) == 1 else "two ids", ", ".join(world.all(subscriber.settled()))]


@case(GROUP, "unsubscribe", ["UNSUBSCRIBED", "another"])
def unsubscribe(world: World) -> Outcome:
    subscriber, another, publisher = world.session(), world.subscriber(), world.session()
    subscription = subscriber.ask(wire.SUBSCRIBE, {}, world.uri("topic"))[2]
    told = world.say(subscriber.ask(wire.UNSUBSCRIBE, subscription))
    publish(world, publisher)
    return [told, receivers(world, {"it": subscriber, "another": another})]


@case(
    GROUP,
    "unsubscribe twice",
    ["UNSUBSCRIBED", "ERROR UNSUBSCRIBE wamp.error.no_such_subscription"],
)
def unsubscribe_twice(world: World) -> Outcome:
    subscriber = world.session()
    subscription = subscriber.ask(wire.SUBSCRIBE, {}, world.uri("topic"))[2]
    return world.all(subscriber.ask(wire.UNSUBSCRIBE, subscription) for _ in range(2))


@case(
    GROUP,
    "unsubscribe another session's subscription",
    ["ERROR UNSUBSCRIBE wamp.error.no_such_subscription", "EVENT"],
)
def unsubscribe_others(world: World) -> Outcome:
    subscriber, other = world.session(), world.session()
    subscription = subscriber.ask(wire.SUBSCRIBE, {}, world.uri("topic"))[2]
    told = world.say(other.ask(wire.UNSUBSCRIBE, subscription))
    publish(world, other)
    return [told, ", ".join(world.all(subscriber.settled()))]


@case(GROUP, "events keep their order", ["in order"])
def order(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    for number in range(50):
        publisher.request(wire.PUBLISH, {}, world.uri("topic"), [number])
    publisher.settled()
    found = [message[4][0] for message in subscriber.settled()]
    return ["in order" if found == list(range(50)) else str(found)]


@case(GROUP, "one that has gone has no more events", ["another"])
def gone(world: World) -> Outcome:
    leaving, another, publisher = world.subscriber(), world.subscriber(), world.session()
    leaving.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    leaving.receive()
    publish(world, publisher)
    return [receivers(world, {"another": another})]


@case(GROUP, "exclude: a list of session ids", ["second"])
def exclude(world: World) -> Outcome:
    first, second, publisher = world.subscriber(), world.subscriber(), world.session()
    publish(world, publisher, exclude=[first.session_id])
    return [receivers(world, {"first": first, "second": second})]


@case(GROUP, "eligible: a list of session ids", ["first"])
def eligible(world: World) -> Outcome:
    first, second, publisher = world.subscriber(), world.subscriber(), world.session()
    publish(world, publisher, eligible=[first.session_id])
    return [receivers(world, {"first": first, "second": second})]


@case(GROUP, "eligible: an empty list", ["PUBLISHED", ""])
def eligible_nobody(world: World) -> Outcome:
    first, publisher = world.subscriber(), world.session()
    told = world.say(publish(world, publisher, eligible=[]))
    return [told, receivers(world, {"first": first})]


@case(GROUP, "eligible and exclude: on both lists is out", ["first"])
def both(world: World) -> Outcome:
    first, second, publisher = world.subscriber(), world.subscriber(), world.session()
    ids = [first.session_id, second.session_id]
    publish(world, publisher, eligible=ids, exclude=ids[1:])
    return [receivers(world, {"first": first, "second": second})]


@case(GROUP, "exclude_authrole and eligible_authrole", ["", "it"])
def by_role(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    role = subscriber.welcome["authrole"]
    publish(world, publisher, exclude_authrole=[role])
    told = [receivers(world, {"it": subscriber})]
    publish(world, publisher, eligible_authrole=[role])
    return [*told, receivers(world, {"it": subscriber})]


@case(GROUP, "exclude_authid and eligible_authid", ["", "it"])
def by_authid(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    authid = subscriber.welcome["authid"]
    publish(world, publisher, exclude_authid=[authid])
    told = [receivers(world, {"it": subscriber})]
    publish(world, publisher, eligible_authid=[authid])
    return [*told, receivers(world, {"it": subscriber})]


@case(GROUP, "eligible doesn't bring the publisher its own event", [""])
def eligible_me(world: World) -> Outcome:
    publisher = world.subscriber()
    publish(world, publisher, eligible=[publisher.session_id])
    return [receivers(world, {"the publisher": publisher})]


@case(GROUP, "a publisher that wants to be known", ["the publisher"])
def disclose_me(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    publish(world, publisher, disclose_me=True)
    found = subscriber.receive()[3].get("publisher")
    return ["the publisher" if found == publisher.session_id else "nobody"]


@case(GROUP, "a publisher that doesn't say that it wants to be known", ["nobody"])
def not_disclosed(world: World) -> Outcome:
    subscriber, publisher = world.subscriber(), world.session()
    publish(world, publisher)
    found = subscriber.receive()[3].get("publisher")
    return ["nobody" if found is None else "the publisher"]


@case(
    GROUP,
    "retained events, which we don't announce",
    ["ERROR PUBLISH wamp.error.option_not_allowed"],
)
def retain(world: World) -> Outcome:
    return [world.say(publish(world, world.session(), retain=True))]
