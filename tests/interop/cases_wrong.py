"""Messages that are wrong: no message, wrong types, wrong URIs, wrong order; and limits."""

from typing import Any

from tests.interop import raw_client as wire
from tests.interop.black_box import VIOLATION, Outcome, World, case

GROUP = "wrong messages"

INVALID = "ERROR {} wamp.error.invalid_uri"


def sent(world: World, *message: Any) -> Outcome:
    """What a joined session gets for one message."""
    session = world.session()
    session.send(*message)
    return world.rest(session)


def bytes_sent(world: World, payload: bytes) -> Outcome:
    """The same for bytes."""
    session = world.session()
    session.socket.send_message(payload, session.serializer.is_binary)
    return world.rest(session)


@case(GROUP, "bytes that are no value", [VIOLATION, "over"])
def no_value(world: World) -> Outcome:
    garbage = {"json": b"[48, 1", "msgpack": b"\x95\x30", "cbor": b"\x9f\x18"}
    return bytes_sent(world, garbage[world.serializer])


@case(GROUP, "an empty message", [VIOLATION, "over"])
def no_bytes(world: World) -> Outcome:
    return bytes_sent(world, b"")


@case(GROUP, "a value that is no list", [VIOLATION, "over"])
def no_list(world: World) -> Outcome:
    return bytes_sent(world, world.session().serializer.dump({"type": 48}))


@case(GROUP, "an empty list", [VIOLATION, "over"])
def empty_list(world: World) -> Outcome:
    return sent(world)


@case(GROUP, "a type that is no number", [VIOLATION, "over"])
def no_type(world: World) -> Outcome:
    return sent(world, "CALL", 1, {}, world.uri("procedure"))


@case(GROUP, "a type nobody knows", [VIOLATION, "over"])
def unknown_type(world: World) -> Outcome:
    return sent(world, 999, 1, {})


@case(GROUP, "a message that is too short", [VIOLATION, "over"])
def too_short(world: World) -> Outcome:
    return sent(world, wire.CALL, 1, {})


@case(GROUP, "a message that is too long", [VIOLATION, "over"])
def too_long(world: World) -> Outcome:
    return sent(world, wire.SUBSCRIBE, 1, {}, world.uri("topic"), [], {}, "more")


@case(GROUP, "options that are no dictionary", [VIOLATION, "over"])
def bad_options(world: World) -> Outcome:
    return sent(world, wire.CALL, 1, [], world.uri("procedure"))


@case(GROUP, "arguments that are no list", [VIOLATION, "over"])
def bad_args(world: World) -> Outcome:
    return sent(world, wire.CALL, 1, {}, world.uri("procedure"), {"a": 1})


@case(GROUP, "keyword arguments that are no dictionary", [VIOLATION, "over"])
def bad_kwargs(world: World) -> Outcome:
    return sent(world, wire.CALL, 1, {}, world.uri("procedure"), [], [1])


@case(GROUP, "a request id that is text", [VIOLATION, "over"])
def text_request(world: World) -> Outcome:
    return sent(world, wire.CALL, "1", {}, world.uri("procedure"))


@case(GROUP, "a request id of 0", [VIOLATION, "over"])
def zero_request(world: World) -> Outcome:
    return sent(world, wire.CALL, 0, {}, world.uri("procedure"))


@case(GROUP, "a negative request id", [VIOLATION, "over"])
def negative_request(world: World) -> Outcome:
    return sent(world, wire.CALL, -1, {}, world.uri("procedure"))


@case(GROUP, "a request id above 2**53", [VIOLATION, "over"])
def huge_request(world: World) -> Outcome:
    return sent(world, wire.CALL, 2**53 + 1, {}, world.uri("procedure"))


@case(GROUP, "an option of a wrong type", [VIOLATION, "over"])
def bad_option(world: World) -> Outcome:
    return sent(world, wire.PUBLISH, 1, {"acknowledge": "yes"}, world.uri("topic"))


@case(GROUP, "a negative timeout", [VIOLATION, "over"])
def bad_timeout(world: World) -> Outcome:
    return sent(world, wire.CALL, 1, {"timeout": -1}, world.uri("procedure"))


@case(GROUP, "an option nobody knows", ["SUBSCRIBED"])
def unknown_option(world: World) -> Outcome:
    answer = world.session().ask(wire.SUBSCRIBE, {"x_colour": "blue"}, world.uri("topic"))
    return [world.say(answer)]


@case(GROUP, "a RESULT is not for a client to send", [VIOLATION, "over"])
def client_result(world: World) -> Outcome:
    return sent(world, wire.RESULT, 1, {})


@case(GROUP, "an EVENT is not for a client to send", [VIOLATION, "over"])
def client_event(world: World) -> Outcome:
    return sent(world, wire.EVENT, 1, 1, {})


@case(GROUP, "an INVOCATION is not for a client to send", [VIOLATION, "over"])
def client_invocation(world: World) -> Outcome:
    return sent(world, wire.INVOCATION, 1, 1, {})


@case(GROUP, "an ERROR of a CALL is not for a client to send", [VIOLATION, "over"])
def client_error(world: World) -> Outcome:
    return sent(world, wire.ERROR, wire.CALL, 1, {}, "wamp.error.canceled")


@case(GROUP, "a request's id that isn't the next one", ["SUBSCRIBED", "SUBSCRIBED"])
def request_gap(world: World) -> Outcome:
    session = world.session()
    told = []
    for request in (1, 7):
        session.send(wire.SUBSCRIBE, request, {}, world.uri("topic"))
        told.append(world.say(session.answer(request)))
    return told


def named(world: World, uri: Any) -> Outcome:
    """What each request answers that names such a URI."""
    told = []
    for kind, options in (
        (wire.CALL, {}),
        (wire.REGISTER, {}),
        (wire.SUBSCRIBE, {}),
        (wire.PUBLISH, {"acknowledge": True}),
    ):
        session = world.session()
        session.send(kind, 1, options, uri)
        told.append(world.next(session))
        session.close()
    return told


REFUSED = [INVALID.format(kind) for kind in ("CALL", "REGISTER", "SUBSCRIBE", "PUBLISH")]


@case(GROUP, "a URI with an empty component", REFUSED)
def empty_component(world: World) -> Outcome:
    return named(world, world.uri("a..b"))


@case(GROUP, "a URI with a space", REFUSED)
def space(world: World) -> Outcome:
    return named(world, world.uri("a b"))


@case(GROUP, "a URI with a #", REFUSED)
def hash_sign(world: World) -> Outcome:
    return named(world, world.uri("a#b"))


@case(GROUP, "a URI that ends in a dot", REFUSED)
def dot_at_end(world: World) -> Outcome:
    return named(world, world.uri("a."))


@case(GROUP, "an empty URI", REFUSED)
def empty_uri(world: World) -> Outcome:
    return named(world, "")


@case(GROUP, "a URI that is a number", REFUSED)
def number_uri(world: World) -> Outcome:
    return named(world, 7)


@case(GROUP, "a URI of loose rules: any letters", ["SUBSCRIBED"])
def loose(world: World) -> Outcome:
    answer = world.session().ask(wire.SUBSCRIBE, {}, world.uri("Größe-№1.日本"))
    return [world.say(answer)]


@case(GROUP, "registering in WAMP's own name space", [INVALID.format("REGISTER")])
def reserved_procedure(world: World) -> Outcome:
    return [world.say(world.session().ask(wire.REGISTER, {}, "wamp.session.mine"))]


@case(GROUP, "publishing in WAMP's own name space", [INVALID.format("PUBLISH")])
def reserved_topic(world: World) -> Outcome:
    answer = world.session().ask(wire.PUBLISH, {"acknowledge": True}, "wamp.session.on_join")
    return [world.say(answer)]


@case(GROUP, "an error URI that is none", [VIOLATION, "over"])
def bad_error_uri(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    caller.request(wire.CALL, {}, world.uri("procedure"))
    invocation = callee.receive()
    callee.send(wire.ERROR, wire.INVOCATION, invocation[1], {}, "no uri")
    return world.rest(callee)


LIMITS = "limits"


@case(LIMITS, "a URI of 300 characters", REFUSED)
def long_uri(world: World) -> Outcome:
    return named(world, world.uri("x" * 300))


@case(LIMITS, "a message of 3 MiB", ["closed with 1009"])
def large_message(world: World) -> Outcome:
    session = world.session()
    try:
        session.send(wire.CALL, 1, {}, world.uri("procedure"), ["x" * 3 * 2**20])
    except ConnectionError:
        pass  # it has been told before it had sent all
    return [f"closed with {session.socket.closing_code()}"]


@case(LIMITS, "a message of 1 MiB", ["RESULT, all of it"])
def permitted_message(world: World) -> Outcome:
    callee, caller, text = world.callee(), world.session(), "x" * 2**20
    request = caller.request(wire.CALL, {}, world.uri("procedure"), [text])
    invocation = callee.receive()
    callee.send(wire.YIELD, invocation[1], {}, invocation[4])
    answer = caller.answer(request)
    return ["RESULT, all of it" if answer[3] == [text] else "RESULT, changed"]


@case(LIMITS, "lists in lists, 30,000 deep", [VIOLATION, "over"])
def deep(world: World) -> Outcome:
    count = 30_000
    head = world.session().serializer.dump([wire.CALL, 1, {}, world.uri("p")])
    nested = {
        "json": head[:-1] + b"," + b"[" * count + b"]" * count + b"]",
        "msgpack": b"\x95" + head[1:] + b"\x91" * count + b"\x90",
        "cbor": b"\x85" + head[1:] + b"\x81" * count + b"\x80",
    }
    return bytes_sent(world, nested[world.serializer])


@case(LIMITS, "300 calls in flight", ["256 INVOCATION", "44 ERROR CALL cumulus.error.too_many"])
def in_flight(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    for _ in range(300):
        caller.request(wire.CALL, {}, world.uri("procedure"))
    refused = world.all(caller.settled())
    taken = world.all(callee.settled())
    return [f"{len(found)} {found[0]}" for found in (taken, refused) if found]


@case(
    LIMITS,
    "70 registrations of one session",
    ["64 REGISTERED", "6 ERROR REGISTER cumulus.error.too_many"],
)
def registrations(world: World) -> Outcome:
    session = world.session()
    told = [
        world.say(session.ask(wire.REGISTER, {}, world.uri(f"p{number}"))) for number in range(70)
    ]
    return [f"{told.count(text)} {text}" for text in dict.fromkeys(told)]
