"""WAMP's meta API: sessions, registrations and subscriptions, asked and listened to."""

from typing import Any

from tests.interop import raw_client as wire
from tests.interop.black_box import Outcome, World, case
from tests.interop.raw_client import Session

GROUP = "meta API"


def asked(session: Session, procedure: str, *args: Any, **kwargs: Any) -> Any:
    """The one result of a meta procedure."""
    answer = session.ask(wire.CALL, {}, f"wamp.{procedure}", list(args), kwargs)
    assert answer[0] == wire.RESULT, answer
    return answer[3][0]


def refused(world: World, procedure: str, *args: Any) -> Outcome:
    """What it is refused with."""
    return [world.say(world.session().ask(wire.CALL, {}, f"wamp.{procedure}", list(args)))]


@case(GROUP, "session.list and count", ["both are listed", "as many as counted"])
def sessions(world: World) -> Outcome:
    first, second = world.session(), world.session()
    listed = asked(first, "session.list")
    ours = {first.session_id, second.session_id}
    return [
        "both are listed" if ours <= set(listed) else str(listed),
        "as many as counted" if asked(first, "session.count") == len(listed) else "not as many",
    ]


@case(GROUP, "session.list of a role", ["none"])
def sessions_of_role(world: World) -> Outcome:
    found = asked(world.session(), "session.list", ["nobodys-role"])
    return [str(found) if found else "none"]


@case(GROUP, "session.get", ["authid, authmethod, authrole, session"])
def session_details(world: World) -> Outcome:
    first, second = world.session(), world.session()
    found = asked(first, "session.get", second.session_id)
    assert found["session"] == second.session_id
    return [", ".join(sorted({"session", "authid", "authrole", "authmethod"} & found.keys()))]


@case(GROUP, "session.get of nobody", ["ERROR CALL wamp.error.no_such_session"])
def no_session(world: World) -> Outcome:
    return refused(world, "session.get", 4711)


@case(GROUP, "session.kill", ["GOODBYE test.enough", "over"])
def kill(world: World) -> Outcome:
    first, second = world.session(), world.session()
    first.ask(wire.CALL, {}, "wamp.session.kill", [second.session_id], {"reason": "test.enough"})
    goodbye = second.receive()
    second.send(wire.GOODBYE, {}, "wamp.close.goodbye_and_out")
    return world.rest(second, goodbye)


@case(GROUP, "session.kill of nobody", ["ERROR CALL wamp.error.no_such_session"])
def kill_nobody(world: World) -> Outcome:
    return refused(world, "session.kill", 4711)


@case(GROUP, "session.kill of oneself", ["ERROR CALL wamp.error.no_such_session"])
def kill_oneself(world: World) -> Outcome:
    session = world.session()
    return [world.say(session.ask(wire.CALL, {}, "wamp.session.kill", [session.session_id]))]


@case(GROUP, "session.on_join and on_leave", ["on_join: session", "on_leave: it"])
def session_events(world: World) -> Outcome:
    watcher, told = world.session(), []
    joins = watcher.ask(wire.SUBSCRIBE, {}, "wamp.session.on_join")[2]
    leaves = watcher.ask(wire.SUBSCRIBE, {}, "wamp.session.on_leave")[2]
    other = world.session()
    while True:  # others come and go too
        event = watcher.receive()
        if event[1] == joins and event[4][0]["session"] == other.session_id:
            told.append("on_join: session")
            break
    other.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    while True:
        event = watcher.receive()
        if event[1] == leaves and event[4][0] == other.session_id:
            return [*told, "on_leave: it"]


@case(GROUP, "registration.lookup, match and get", ["lookup", "match", "id, invoke, match, uri"])
def registration(world: World) -> Outcome:
    session = world.session()
    number = session.ask(wire.REGISTER, {"match": "prefix"}, world.uri("a"))[2]
    found = [
        name
        for name, uri, options in (
            ("lookup", world.uri("a"), [{"match": "prefix"}]),
            ("match", world.uri("a.b"), []),
        )
        if asked(session, f"registration.{name}", uri, *options) == number
    ]
    details = asked(session, "registration.get", number)
    assert (details["uri"], details["match"]) == (world.uri("a"), "prefix")
    return [*found, ", ".join(sorted({"id", "uri", "match", "invoke"} & details.keys()))]


@case(GROUP, "registration.list", ["exact, prefix, wildcard", "listed"])
def registration_list(world: World) -> Outcome:
    session = world.session()
    number = session.ask(wire.REGISTER, {}, world.uri("a"))[2]
    found = asked(session, "registration.list")
    return [", ".join(sorted(found)), "listed" if number in found["exact"] else "not listed"]


@case(GROUP, "registration.list_callees and count_callees", ["it", "1"])
def callees(world: World) -> Outcome:
    session = world.session()
    number = session.ask(wire.REGISTER, {}, world.uri("a"))[2]
    listed = asked(session, "registration.list_callees", number)
    count = asked(session, "registration.count_callees", number)
    return ["it" if listed == [session.session_id] else str(listed), str(count)]


@case(GROUP, "registration.lookup of nothing", ["None"])
def no_registration(world: World) -> Outcome:
    return [str(asked(world.session(), "registration.lookup", world.uri("nothing")))]


@case(GROUP, "registration.get of nothing", ["ERROR CALL wamp.error.no_such_registration"])
def unknown_registration(world: World) -> Outcome:
    return refused(world, "registration.get", 4711)


@case(GROUP, "registration events", ["on_create", "on_register", "on_unregister", "on_delete"])
def registration_events(world: World) -> Outcome:
    watcher, session = world.session(), world.session()
    names = ("on_create", "on_register", "on_unregister", "on_delete")
    topics = {
        watcher.ask(wire.SUBSCRIBE, {}, f"wamp.registration.{name}")[2]: name for name in names
    }
    number = session.ask(wire.REGISTER, {}, world.uri("a"))[2]
    session.ask(wire.UNREGISTER, number)
    found: Outcome = []
    while len(found) < len(names):
        event = watcher.receive()
        about = event[4][1]["id"] if isinstance(event[4][1], dict) else event[4][1]
        if event[4][0] == session.session_id and about == number:
            found.append(topics[event[1]])
    return found


@case(GROUP, "subscription.lookup, match and get", ["lookup", "match", "id, match, uri"])
def subscription(world: World) -> Outcome:
    session = world.session()
    number = session.ask(wire.SUBSCRIBE, {"match": "wildcard"}, world.uri("a..c"))[2]
    found = []
    if asked(session, "subscription.lookup", world.uri("a..c"), {"match": "wildcard"}) == number:
        found.append("lookup")
    if asked(session, "subscription.match", world.uri("a.b.c")) == [number]:
        found.append("match")
    details = asked(session, "subscription.get", number)
    assert (details["uri"], details["match"]) == (world.uri("a..c"), "wildcard")
    return [*found, ", ".join(sorted({"id", "uri", "match"} & details.keys()))]


@case(GROUP, "subscription.list_subscribers and count_subscribers", ["both", "2"])
def subscribers(world: World) -> Outcome:
    first, second = world.session(), world.session()
    first.ask(wire.SUBSCRIBE, {}, world.uri("a"))
    number = second.ask(wire.SUBSCRIBE, {}, world.uri("a"))[2]
    listed = asked(first, "subscription.list_subscribers", number)
    both = sorted(listed) == sorted((first.session_id, second.session_id))
    return [
        "both" if both else str(listed),
        str(asked(first, "subscription.count_subscribers", number)),
    ]


@case(GROUP, "subscription.get of nothing", ["ERROR CALL wamp.error.no_such_subscription"])
def unknown_subscription(world: World) -> Outcome:
    return refused(world, "subscription.get", 4711)


@case(GROUP, "subscription events", ["on_create", "on_subscribe", "on_unsubscribe", "on_delete"])
def subscription_events(world: World) -> Outcome:
    watcher, session = world.session(), world.session()
    names = ("on_create", "on_subscribe", "on_unsubscribe", "on_delete")
    topics = {
        watcher.ask(wire.SUBSCRIBE, {}, f"wamp.subscription.{name}")[2]: name for name in names
    }
    number = session.ask(wire.SUBSCRIBE, {}, world.uri("a"))[2]
    session.ask(wire.UNSUBSCRIBE, number)
    found: Outcome = []
    while len(found) < len(names):
        event = watcher.receive()
        about = event[4][1]["id"] if isinstance(event[4][1], dict) else event[4][1]
        if event[4][0] == session.session_id and about == number:
            found.append(topics[event[1]])
    return found


@case(GROUP, "a meta procedure that isn't there", ["ERROR CALL wamp.error.no_such_procedure"])
def no_procedure(world: World) -> Outcome:
    return refused(world, "session.weigh")


@case(GROUP, "a meta procedure without its argument", ["ERROR CALL wamp.error.invalid_argument"])
def no_argument(world: World) -> Outcome:
    return refused(world, "session.get")
