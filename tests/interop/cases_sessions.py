"""Sessions: how they open, authenticate and end."""

from tests.interop import raw_client as wire
from tests.interop.black_box import TICKETS, VIOLATION, Outcome, World, case
from tests.interop.raw_client import Refused

GROUP = "sessions"


@case(GROUP, "HELLO", ["WELCOME", "broker, dealer"])
def hello(world: World) -> Outcome:
    session = world.session()
    assert 1 <= session.session_id <= 2**53
    return ["WELCOME", ", ".join(sorted(session.welcome["roles"]))]


@case(GROUP, "HELLO with details nobody knows", ["WELCOME"])
def unknown_details(world: World) -> Outcome:
    return [world.say(world.opening().hello(x_favourite_colour="blue"))]


@case(GROUP, "HELLO twice", [VIOLATION, "over"])
def hello_twice(world: World) -> Outcome:
    session = world.session()
    session.send(wire.HELLO, "cumulus", {"roles": wire.ROLES})
    return world.rest(session)


@case(GROUP, "HELLO without roles", [VIOLATION, "over"])
def no_roles(world: World) -> Outcome:
    session = world.opening()
    session.send(wire.HELLO, "cumulus", {})
    return world.rest(session)


@case(GROUP, "HELLO to a realm that isn't there", ["ABORT wamp.error.no_such_realm", "over"])
def wrong_realm(world: World) -> Outcome:
    session = world.opening()
    return world.rest(session, session.hello("elsewhere"))


@case(GROUP, "HELLO to something that is no URI", [VIOLATION, "over"])
def bad_realm(world: World) -> Outcome:
    session = world.opening()
    session.send(wire.HELLO, "a realm", {"roles": wire.ROLES})
    return world.rest(session)


@case(GROUP, "two sessions have two ids", ["differ"])
def ids(world: World) -> Outcome:
    return ["differ" if world.session().session_id != world.session().session_id else "same"]


@case(GROUP, "the right ticket", ["CHALLENGE ticket", "WELCOME", "ticket"])
def right_ticket(world: World) -> Outcome:
    session = world.opening(tickets=True)
    challenge = session.hello(authmethods=["ticket"], authid="alice")
    session.send(wire.AUTHENTICATE, TICKETS["alice"], {})
    welcome = session.receive()
    return [*world.all([challenge, welcome]), welcome[2]["authmethod"]]


@case(GROUP, "a wrong ticket", ["CHALLENGE ticket", "ABORT wamp.error.not_authenticated", "over"])
def wrong_ticket(world: World) -> Outcome:
    session = world.opening(tickets=True)
    challenge = session.hello(authmethods=["ticket"], authid="alice")
    session.send(wire.AUTHENTICATE, "guess", {})
    return world.rest(session, challenge)


@case(
    GROUP,
    "a ticket for nobody's name",
    ["CHALLENGE ticket", "ABORT wamp.error.not_authenticated", "over"],
)
def unknown_name(world: World) -> Outcome:
    session = world.opening(tickets=True)
    challenge = session.hello(authmethods=["ticket"], authid="mallory")
    if challenge[0] == wire.CHALLENGE:
        session.send(wire.AUTHENTICATE, "guess", {})
    return world.rest(session, challenge)


@case(GROUP, "an unknown authentication method", ["ABORT wamp.error.no_auth_method", "over"])
def unknown_method(world: World) -> Outcome:
    session = world.opening(tickets=True)
    return world.rest(session, session.hello(authmethods=["smoke-signals"], authid="alice"))


@case(GROUP, "anonymous where a ticket is asked", ["ABORT wamp.error.no_auth_method", "over"])
def anonymous(world: World) -> Outcome:
    session = world.opening(tickets=True)
    return world.rest(session, session.hello())


@case(GROUP, "HELLO again instead of AUTHENTICATE", ["CHALLENGE ticket", VIOLATION, "over"])
def hello_while_challenged(world: World) -> Outcome:
    session = world.opening(tickets=True)
    challenge = session.hello(authmethods=["ticket"], authid="alice")
    session.send(wire.HELLO, "cumulus", {"roles": wire.ROLES})
    return world.rest(session, challenge)


@case(GROUP, "CALL instead of AUTHENTICATE", ["CHALLENGE ticket", VIOLATION, "over"])
def call_while_challenged(world: World) -> Outcome:
    session = world.opening(tickets=True)
    challenge = session.hello(authmethods=["ticket"], authid="alice")
    session.send(wire.CALL, 1, {}, world.uri("procedure"))
    return world.rest(session, challenge)


@case(GROUP, "ABORT instead of AUTHENTICATE", ["CHALLENGE ticket", "over"])
def abort_while_challenged(world: World) -> Outcome:
    session = world.opening(tickets=True)
    challenge = session.hello(authmethods=["ticket"], authid="alice")
    session.send(wire.ABORT, {}, "wamp.error.system_shutdown")
    return world.rest(session, challenge)


@case(GROUP, "AUTHENTICATE nobody asked for", [VIOLATION, "over"])
def unasked_authenticate(world: World) -> Outcome:
    session = world.session()
    session.send(wire.AUTHENTICATE, "ticket", {})
    return world.rest(session)


@case(GROUP, "CALL before HELLO", [VIOLATION, "over"])
def call_first(world: World) -> Outcome:
    session = world.opening()
    session.send(wire.CALL, 1, {}, world.uri("procedure"))
    return world.rest(session)


@case(GROUP, "GOODBYE before HELLO", [VIOLATION, "over"])
def goodbye_first(world: World) -> Outcome:
    session = world.opening()
    session.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    return world.rest(session)


@case(GROUP, "AUTHENTICATE before HELLO", [VIOLATION, "over"])
def authenticate_first(world: World) -> Outcome:
    session = world.opening()
    session.send(wire.AUTHENTICATE, "ticket", {})
    return world.rest(session)


@case(GROUP, "GOODBYE is answered", ["GOODBYE wamp.close.goodbye_and_out", "over"])
def goodbye(world: World) -> Outcome:
    session = world.session()
    session.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    return world.rest(session)


@case(
    GROUP,
    "what comes after GOODBYE is ignored",
    ["GOODBYE wamp.close.goodbye_and_out", "over"],
)
def after_goodbye(world: World) -> Outcome:
    session = world.session()
    session.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    try:
        session.send(wire.YIELD, 17, {})
    except OSError:
        pass  # closed already
    return world.rest(session)


@case(GROUP, "ABORT ends a session without an answer", ["over"])
def abort(world: World) -> Outcome:
    session = world.session()
    session.send(wire.ABORT, {"message": "enough"}, "wamp.error.protocol_violation")
    return world.rest(session)


@case(GROUP, "WELCOME is not for a client to send", [VIOLATION, "over"])
def welcome(world: World) -> Outcome:
    session = world.session()
    session.send(wire.WELCOME, 1, {"roles": {"broker": {}}})
    return world.rest(session)


@case(GROUP, "the client's first sub-protocol that is spoken here", ["wamp.2.msgpack"])
def order_of_preference(world: World) -> Outcome:
    socket = world.websocket("wamp.2.smoke", "wamp.2.msgpack", "wamp.2.json")
    return [str(socket.subprotocol)]


@case(GROUP, "no sub-protocol that is spoken here", ["HTTP 400"])
def unknown_subprotocol(world: World) -> Outcome:
    try:
        world.websocket("wamp.2.smoke")
    except Refused as refused:
        return [str(refused)]
    return ["101"]


@case(GROUP, "no sub-protocol at all", ["HTTP 400"])
def no_subprotocol(world: World) -> Outcome:
    try:
        world.websocket()
    except Refused as refused:
        return [str(refused)]
    return ["101"]


@case(GROUP, "the connection after ABORT", ["the connection is closed"])
def after_abort(world: World) -> Outcome:
    session = world.opening()
    session.hello("elsewhere")
    return world.ending(session)


@case(GROUP, "the connection after GOODBYE", ["the connection is closed"])
def connection_after_goodbye(world: World) -> Outcome:
    session = world.session()
    session.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    session.receive()
    return world.ending(session)
