"""Remote procedure calls: registering, calling, progressive results, who leaves meanwhile."""

from typing import Any

from tests.interop import raw_client as wire
from tests.interop.black_box import VIOLATION, Outcome, World, case
from tests.interop.raw_client import Closed, Session

GROUP = "calls"
CANCELED = "ERROR CALL wamp.error.canceled"


def invoked(world: World, caller: Session, callee: Session, **options: Any) -> tuple[int, int]:
    """A call that its callee has: the caller's request and the invocation."""
    request = caller.request(wire.CALL, options, world.uri("procedure"))
    message = callee.receive()
    assert message[0] == wire.INVOCATION, message
    return request, message[1]


@case(
    GROUP,
    "arguments and results pass as they are",
    ["INVOCATION [1, 'zwei', None, [3.5]] {'é': {'a': True}}", "RESULT [{'x': []}] {'y': -7}"],
)
def payload(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    request = caller.request(
        wire.CALL, {}, world.uri("procedure"), [1, "zwei", None, [3.5]], {"é": {"a": True}}
    )
    invocation = callee.receive()
    callee.send(wire.YIELD, invocation[1], {}, [{"x": []}], {"y": -7})
    return [world.say(invocation), world.say(caller.answer(request))]


@case(
    GROUP,
    "binary and large numbers pass as they are",
    ["INVOCATION [b'\\x00\\xff', 9007199254740992]", "RESULT [-9007199254740992, b'']"],
)
def binary(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    request = caller.request(wire.CALL, {}, world.uri("procedure"), [b"\0\xff", 2**53])
    invocation = callee.receive()
    callee.send(wire.YIELD, invocation[1], {}, [-(2**53), b""])
    return [world.say(invocation), world.say(caller.answer(request))]


@case(
    GROUP,
    "caller and callee speak different serialisations",
    ["INVOCATION [b'\\x01', 'é']", "RESULT [b'\\x02']"],
)
def across(world: World) -> Outcome:
    callee = world.callee()
    caller = world.session(
        serializer={"json": "cbor", "cbor": "msgpack", "msgpack": "json"}[world.serializer]
    )
    request = caller.request(wire.CALL, {}, world.uri("procedure"), [b"\1", "é"])
    invocation = callee.receive()
    callee.send(wire.YIELD, invocation[1], {}, [b"\2"])
    return [world.say(invocation), world.say(caller.answer(request))]


@case(GROUP, "no payload at all", ["INVOCATION", "RESULT"])
def empty(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    request = caller.request(wire.CALL, {}, world.uri("procedure"))
    invocation = callee.receive()
    callee.send(wire.YIELD, invocation[1], {})
    return [world.say(invocation), world.say(caller.answer(request))]


@case(GROUP, "a callee's error passes as it is", ["ERROR CALL error.mine ['why'] {'code': 7}"])
def error(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    request, invocation = invoked(world, caller, callee)
    callee.send(
        wire.ERROR, wire.INVOCATION, invocation, {}, world.uri("error.mine"), ["why"], {"code": 7}
    )
    return [world.say(caller.answer(request))]


@case(GROUP, "a callee may call its own procedure", ["INVOCATION ['me']", "RESULT ['me']"])
def itself(world: World) -> Outcome:
    session = world.callee()
    request = session.request(wire.CALL, {}, world.uri("procedure"), ["me"])
    invocation = session.receive()
    session.send(wire.YIELD, invocation[1], {}, ["me"])
    return [world.say(invocation), world.say(session.answer(request))]


@case(
    GROUP,
    "calls reach a callee in their order, answers may have another",
    [
        "INVOCATION [1]",
        "INVOCATION [2]",
        "INVOCATION [3]",
        "RESULT ['3']",
        "RESULT ['1']",
        "RESULT ['2']",
    ],
)
def order(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    for number in (1, 2, 3):
        caller.request(wire.CALL, {}, world.uri("procedure"), [number])
    invocations = [callee.receive() for _ in range(3)]
    for index in (2, 0, 1):
        callee.send(wire.YIELD, invocations[index][1], {}, [str(index + 1)])
    return world.all(invocations + [caller.receive() for _ in range(3)])


@case(GROUP, "no such procedure", ["ERROR CALL wamp.error.no_such_procedure"])
def missing(world: World) -> Outcome:
    return [world.say(world.session().ask(wire.CALL, {}, world.uri("procedure")))]


@case(
    GROUP,
    "a procedure that another session has",
    ["ERROR REGISTER wamp.error.procedure_already_exists"],
)
def taken(world: World) -> Outcome:
    world.callee()
    return [world.say(world.session().ask(wire.REGISTER, {}, world.uri("procedure")))]


@case(
    GROUP,
    "a procedure that the session has already",
    ["ERROR REGISTER wamp.error.procedure_already_exists"],
)
def taken_by_itself(world: World) -> Outcome:
    return [world.say(world.callee().ask(wire.REGISTER, {}, world.uri("procedure")))]


@case(GROUP, "a procedure is free when its callee has gone", ["REGISTERED"])
def free_again(world: World) -> Outcome:
    first, second = world.callee(), world.session()
    first.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    first.receive()
    return [world.say(second.ask(wire.REGISTER, {}, world.uri("procedure")))]


@case(GROUP, "unregister", ["UNREGISTERED", "ERROR CALL wamp.error.no_such_procedure"])
def unregister(world: World) -> Outcome:
    callee, caller = world.session(), world.session()
    registration = callee.ask(wire.REGISTER, {}, world.uri("procedure"))[2]
    told = callee.ask(wire.UNREGISTER, registration)
    return world.all([told, caller.ask(wire.CALL, {}, world.uri("procedure"))])


@case(GROUP, "unregister what isn't there", ["ERROR UNREGISTER wamp.error.no_such_registration"])
def unregister_nothing(world: World) -> Outcome:
    return [world.say(world.session().ask(wire.UNREGISTER, 4711_0815))]


@case(
    GROUP,
    "unregister another session's procedure",
    ["ERROR UNREGISTER wamp.error.no_such_registration", "INVOCATION"],
)
def unregister_others(world: World) -> Outcome:
    callee, caller = world.session(), world.session()
    registration = callee.ask(wire.REGISTER, {}, world.uri("procedure"))[2]
    told = world.say(caller.ask(wire.UNREGISTER, registration))
    caller.request(wire.CALL, {}, world.uri("procedure"))
    return [told, world.say(callee.receive())]


@case(GROUP, "a call in flight outlives its registration", ["UNREGISTERED", "RESULT ['late']"])
def unregister_in_flight(world: World) -> Outcome:
    callee, caller = world.session(), world.session()
    registration = callee.ask(wire.REGISTER, {}, world.uri("procedure"))[2]
    request, invocation = invoked(world, caller, callee)
    told = world.say(callee.ask(wire.UNREGISTER, registration))
    callee.send(wire.YIELD, invocation, {}, ["late"])
    return [told, world.say(caller.answer(request))]


@case(
    GROUP,
    "progressive results",
    [
        "RESULT {'progress': True} [0]",
        "RESULT {'progress': True} [1]",
        "RESULT {'progress': True} [2]",
        "RESULT ['end']",
    ],
)
def progressive(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    _, invocation = invoked(world, caller, callee, receive_progress=True)
    for number in range(3):
        callee.send(wire.YIELD, invocation, {"progress": True}, [number])
    callee.send(wire.YIELD, invocation, {}, ["end"])
    return world.all(caller.receive() for _ in range(4))


@case(
    GROUP,
    "progressive results, then an error",
    ["RESULT {'progress': True} [0]", "ERROR CALL error.mine"],
)
def progressive_error(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    _, invocation = invoked(world, caller, callee, receive_progress=True)
    callee.send(wire.YIELD, invocation, {"progress": True}, [0])
    callee.send(wire.ERROR, wire.INVOCATION, invocation, {}, world.uri("error.mine"))
    return world.all(caller.receive() for _ in range(2))


@case(GROUP, "the callee is told whether progressive results are wanted", ["True", "False"])
def wants_progress(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    told = []
    for options in ({"receive_progress": True}, {}):
        caller.request(wire.CALL, options, world.uri("procedure"))
        told.append(str(callee.receive()[3].get("receive_progress", False)))
    return told


@case(GROUP, "progressive results that nobody asked for", ["RESULT ['end']"])
def unwanted_progress(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    _, invocation = invoked(world, caller, callee)
    callee.send(wire.YIELD, invocation, {"progress": True}, [0])
    callee.send(wire.YIELD, invocation, {}, ["end"])
    return [world.say(caller.receive())]


@case(GROUP, "the caller has gone", ["INTERRUPT {'mode': 'killnowait'}", "late answer: "])
def caller_gone(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    _, invocation = invoked(world, caller, callee)
    caller.close()
    told = world.say(callee.receive())
    callee.send(wire.YIELD, invocation, {}, ["late"])
    return [told, "late answer: " + ", ".join(world.all(callee.settled()))]


@case(GROUP, "the callee has gone", [CANCELED])
def callee_gone(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    invoked(world, caller, callee)
    callee.close()
    return [world.say(caller.receive())]


@case(GROUP, "the callee says GOODBYE with a call in flight", [CANCELED])
def callee_goodbye(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    invoked(world, caller, callee)
    callee.send(wire.GOODBYE, {}, "wamp.close.close_realm")
    return [world.say(caller.receive())]


@case(GROUP, "an answer to no invocation", [""])
def unknown_yield(world: World) -> Outcome:
    callee = world.callee()
    callee.send(wire.YIELD, 4711, {}, ["what?"])
    return [", ".join(world.all(callee.settled()))]


@case(GROUP, "two answers to one invocation", ["RESULT [1]", ""])
def two_answers(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    _, invocation = invoked(world, caller, callee)
    callee.send(wire.YIELD, invocation, {}, [1])
    callee.send(wire.YIELD, invocation, {}, [2])
    callee.settled()
    return [world.say(caller.receive()), ", ".join(world.all(caller.settled()))]


@case(GROUP, "another session's answer to an invocation", ["to the forger: ", "RESULT ['mine']"])
def others_answer(world: World) -> Outcome:
    callee, caller, other = world.callee(), world.session(), world.session()
    other.ask(wire.REGISTER, {}, world.uri("other"))
    _, invocation = invoked(world, caller, callee)
    other.send(wire.YIELD, invocation, {}, ["forged"])
    try:
        told = ", ".join(world.all(other.settled()))
    except Closed:
        told = "over"
    callee.send(wire.YIELD, invocation, {}, ["mine"])
    return [f"to the forger: {told}", world.say(caller.receive())]


@case(GROUP, "a request id that is still in flight", [VIOLATION, "over"])
def same_request(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    request, _ = invoked(world, caller, callee)
    caller.send(wire.CALL, request, {}, world.uri("procedure"))
    return world.rest(caller)


@case(GROUP, "a caller that wants to be known", ["the caller"])
def disclose_me(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    caller.request(wire.CALL, {"disclose_me": True}, world.uri("procedure"))
    return ["the caller" if callee.receive()[3].get("caller") == caller.session_id else "nobody"]


@case(GROUP, "a caller that doesn't say that it wants to be known", ["nobody"])
def not_disclosed(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    caller.request(wire.CALL, {}, world.uri("procedure"))
    return ["nobody" if callee.receive()[3].get("caller") is None else "the caller"]


@case(
    GROUP,
    "shared registration, which we don't announce",
    ["ERROR REGISTER wamp.error.option_not_allowed"],
)
def shared_registration(world: World) -> Outcome:
    answer = world.session().ask(wire.REGISTER, {"invoke": "roundrobin"}, world.uri("procedure"))
    return [world.say(answer)]
