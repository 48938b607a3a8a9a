"""Prefix and wildcard: subscriptions and registrations."""

from tests.interop import raw_client as wire
from tests.interop.black_box import Outcome, World, case

GROUP = "patterns"


def heard(world: World, pattern: str, match: str, *topics: str) -> Outcome:
    """Which of the topics' events come to a subscription of the pattern, and how they name them."""
    subscriber, publisher = world.subscriber(pattern, match=match), world.session()
    for topic in topics:
        publisher.ask(wire.PUBLISH, {"acknowledge": True}, world.uri(topic))
    return world.all(subscriber.settled(), "topic")


@case(
    GROUP,
    "prefix subscription",
    ["EVENT {'topic': 'a.b'}", "EVENT {'topic': 'a.b.c'}", "EVENT {'topic': 'a.bc'}"],
)
def prefix(world: World) -> Outcome:
    return heard(world, "a.b", "prefix", "a.b", "a.b.c", "a.bc", "a.c", "a")


@case(
    GROUP,
    "prefix subscription that ends in a dot",
    ["EVENT {'topic': 'a.b.c'}", "EVENT {'topic': 'a.b.c.d'}"],
)
def prefix_dot(world: World) -> Outcome:
    return heard(world, "a.b.", "prefix", "a.b", "a.b.c", "a.bc", "a.b.c.d")


@case(GROUP, "wildcard subscription", ["EVENT {'topic': 'a.x.c'}", "EVENT {'topic': 'a.y.c'}"])
def wildcard(world: World) -> Outcome:
    return heard(world, "a..c", "wildcard", "a.x.c", "a.y.c", "a.c", "a.x.y.c", "a.x.d")


@case(GROUP, "wildcard at the end", ["EVENT {'topic': 'a.b'}"])
def wildcard_end(world: World) -> Outcome:
    return heard(world, "a.", "wildcard", "a.b", "a", "a.b.c")


@case(GROUP, "exact subscriptions don't name the topic", ["EVENT {'topic': None}"])
def exact(world: World) -> Outcome:
    return heard(world, "a.b", "exact", "a.b", "a.b.c")


@case(
    GROUP,
    "a session has an event once under each subscription that matches",
    ["3 events", "3 subscriptions", "1 publication"],
)
def all_matching(world: World) -> Outcome:
    subscriber, publisher = world.session(), world.session()
    for pattern, match in (("a.b", "exact"), ("a", "prefix"), ("a.", "wildcard")):
        subscriber.ask(wire.SUBSCRIBE, {"match": match}, world.uri(pattern))
    publisher.ask(wire.PUBLISH, {"acknowledge": True}, world.uri("a.b"))
    events = subscriber.settled()
    return [
        f"{len(events)} events",
        f"{len({event[1] for event in events})} subscriptions",
        f"{len({event[2] for event in events})} publication",
    ]


@case(GROUP, "one URI, three ways to match: three subscriptions", ["3"])
def three_ways(world: World) -> Outcome:
    subscriber = world.session()
    ids = {
        subscriber.ask(wire.SUBSCRIBE, {"match": match}, world.uri("a"))[2]
        for match in ("exact", "prefix", "wildcard")
    }
    return [str(len(ids))]


@case(GROUP, "unsubscribe one of two that match", ["EVENT {'topic': 'a.b'}"])
def unsubscribe(world: World) -> Outcome:
    subscriber, publisher = world.session(), world.session()
    exact = subscriber.ask(wire.SUBSCRIBE, {}, world.uri("a.b"))[2]
    subscriber.ask(wire.SUBSCRIBE, {"match": "prefix"}, world.uri("a"))
    subscriber.ask(wire.UNSUBSCRIBE, exact)
    publisher.ask(wire.PUBLISH, {"acknowledge": True}, world.uri("a.b"))
    return world.all(subscriber.settled(), "topic")


@case(GROUP, "a way to match that nobody knows", ["ABORT wamp.error.protocol_violation", "over"])
def unknown_match(world: World) -> Outcome:
    session = world.session()
    session.request(wire.SUBSCRIBE, {"match": "roughly"}, world.uri("a"))
    return world.rest(session)


def called(world: World, procedure: str, *registered: tuple[str, str]) -> Outcome:
    """Which registration a call comes to, and how the invocation names the procedure."""
    callee, caller = world.session(), world.session()
    by_id = {}
    for pattern, match in registered:
        answer = callee.ask(wire.REGISTER, {"match": match}, world.uri(pattern))
        by_id[answer[2]] = f"{match} {pattern}"
    caller.request(wire.CALL, {}, world.uri(procedure))
    refused = caller.settled()
    messages = callee.settled()
    if not messages:
        return world.all(refused)
    return [by_id[messages[0][2]], *world.all(messages, "procedure")]


@case(GROUP, "prefix registration", ["prefix a.b", "INVOCATION {'procedure': 'a.b.c'}"])
def prefix_registration(world: World) -> Outcome:
    return called(world, "a.b.c", ("a.b", "prefix"))


@case(GROUP, "wildcard registration", ["wildcard a..c", "INVOCATION {'procedure': 'a.b.c'}"])
def wildcard_registration(world: World) -> Outcome:
    return called(world, "a.b.c", ("a..c", "wildcard"))


@case(
    GROUP,
    "exact is called before prefix and wildcard",
    ["exact a.b.c", "INVOCATION {'procedure': None}"],
)
def exact_first(world: World) -> Outcome:
    return called(world, "a.b.c", ("a.b", "prefix"), ("a..c", "wildcard"), ("a.b.c", "exact"))


@case(GROUP, "the longest prefix is called", ["prefix a.b", "INVOCATION {'procedure': 'a.b.c'}"])
def longest_prefix(world: World) -> Outcome:
    return called(world, "a.b.c", ("a", "prefix"), ("a.b", "prefix"))


@case(
    GROUP, "prefix is called before wildcard", ["prefix a.b", "INVOCATION {'procedure': 'a.b.c'}"]
)
def prefix_first(world: World) -> Outcome:
    return called(world, "a.b.c", ("a..c", "wildcard"), ("a.b", "prefix"))


@case(
    GROUP,
    "of wildcards, the one with the longest exact beginning is called",
    ["wildcard a.b.", "INVOCATION {'procedure': 'a.b.c'}"],
)
def best_wildcard(world: World) -> Outcome:
    return called(world, "a.b.c", ("a..c", "wildcard"), ("a.b.", "wildcard"))


@case(GROUP, "no pattern matches", ["ERROR CALL wamp.error.no_such_procedure"])
def none_matches(world: World) -> Outcome:
    return called(world, "x.y", ("a", "prefix"), ("x..z", "wildcard"))


@case(GROUP, "the same pattern twice", ["ERROR REGISTER wamp.error.procedure_already_exists"])
def twice(world: World) -> Outcome:
    world.callee("a", match="prefix")
    return [world.say(world.session().ask(wire.REGISTER, {"match": "prefix"}, world.uri("a")))]
