"""Calls that end before their time: cancelling in its modes, and timeouts."""

from typing import Any

from tests.interop import raw_client as wire
from tests.interop.black_box import VIOLATION, Outcome, World, case
from tests.interop.cases_calls import CANCELED, GROUP, invoked
from tests.interop.raw_client import Session

#: A callee that can't be interrupted.
PLAIN_CALLEE = {"callee": {"features": {}}}


def cancelled(world: World, mode: str | None, **details: Any) -> tuple[Session, Session, int]:
    """A call in flight that was cancelled; caller, callee and invocation."""
    callee, caller = world.session(**details), world.session()
    callee.ask(wire.REGISTER, {}, world.uri("procedure"))
    request, invocation = invoked(world, caller, callee)
    caller.send(wire.CANCEL, request, {} if mode is None else {"mode": mode})
    return caller, callee, invocation


@case(
    GROUP,
    "cancel skip: the callee isn't told, its late result is dropped",
    [CANCELED, "to the callee: ", "to the caller: "],
)
def cancel_skip(world: World) -> Outcome:
    caller, callee, invocation = cancelled(world, "skip")
    told = [world.next(caller)]
    callee.send(wire.YIELD, invocation, {}, ["late"])
    told.append("to the callee: " + ", ".join(world.all(callee.settled())))
    return [*told, "to the caller: " + ", ".join(world.all(caller.settled()))]


@case(
    GROUP,
    "cancel kill: the caller has the callee's own error",
    ["INTERRUPT {'mode': 'kill'}", "", "ERROR CALL error.stopped"],
)
def cancel_kill(world: World) -> Outcome:
    caller, callee, invocation = cancelled(world, "kill")
    told = [world.say(callee.receive()), ", ".join(world.all(caller.settled()))]
    callee.send(wire.ERROR, wire.INVOCATION, invocation, {}, world.uri("error.stopped"))
    return [*told, world.say(caller.receive())]


@case(
    GROUP,
    "cancel kill: the callee had its result ready",
    ["INTERRUPT {'mode': 'kill'}", "RESULT ['done']"],
)
def cancel_kill_crossed(world: World) -> Outcome:
    caller, callee, invocation = cancelled(world, "kill")
    told = world.say(callee.receive())
    callee.send(wire.YIELD, invocation, {}, ["done"])
    return [told, world.say(caller.receive())]


@case(
    GROUP,
    "cancel killnowait: both are told at once",
    [CANCELED, "INTERRUPT {'mode': 'killnowait'}", "to the caller: "],
)
def cancel_killnowait(world: World) -> Outcome:
    caller, callee, invocation = cancelled(world, "killnowait")
    told = [world.say(caller.receive()), world.say(callee.receive())]
    callee.send(wire.ERROR, wire.INVOCATION, invocation, {}, "wamp.error.canceled")
    callee.settled()
    return [*told, "to the caller: " + ", ".join(world.all(caller.settled()))]


@case(GROUP, "cancel without a mode is killnowait", [CANCELED, "INTERRUPT {'mode': 'killnowait'}"])
def cancel_default(world: World) -> Outcome:
    caller, callee, _ = cancelled(world, None)
    return [world.say(caller.receive()), world.say(callee.receive())]


@case(
    GROUP,
    "cancel kill where the callee can't be interrupted is skip",
    [CANCELED, "to the callee: "],
)
def cancel_plain(world: World) -> Outcome:
    caller, callee, _ = cancelled(world, "kill", roles=PLAIN_CALLEE)
    told = [world.next(caller)]
    return [*told, "to the callee: " + ", ".join(world.all(callee.settled()))]


@case(GROUP, "cancel twice", [CANCELED, ""])
def cancel_twice(world: World) -> Outcome:
    caller, _, _ = cancelled(world, "killnowait")
    told = [world.say(caller.receive())]
    caller.send(wire.CANCEL, caller._last_request, {"mode": "killnowait"})
    return [*told, ", ".join(world.all(caller.settled()))]


@case(GROUP, "cancel of a call that isn't there", [""])
def cancel_nothing(world: World) -> Outcome:
    caller = world.session()
    caller.send(wire.CANCEL, 4711, {})
    return [", ".join(world.all(caller.settled()))]


@case(GROUP, "cancel in a mode nobody knows", [VIOLATION, "over"])
def cancel_unknown_mode(world: World) -> Outcome:
    caller, _, _ = cancelled(world, "gently")
    return world.rest(caller)


@case(
    GROUP,
    "a call that its callee doesn't answer in time",
    ["ERROR CALL wamp.error.timeout", "INTERRUPT {'mode': 'killnowait'}"],
)
def timeout(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    invoked(world, caller, callee, timeout=50)
    return [world.next(caller), world.next(callee)]


@case(GROUP, "a call that its callee answers in time", ["RESULT ['in time']"])
def timeout_kept(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    request, invocation = invoked(world, caller, callee, timeout=60_000)
    callee.send(wire.YIELD, invocation, {}, ["in time"])
    return [world.say(caller.answer(request))]


@case(GROUP, "a timeout of 0 is none", ["RESULT ['answer']"])
def timeout_none(world: World) -> Outcome:
    callee, caller = world.callee(), world.session()
    request, invocation = invoked(world, caller, callee, timeout=0)
    callee.send(wire.YIELD, invocation, {}, ["answer"])
    return [world.say(caller.answer(request))]
