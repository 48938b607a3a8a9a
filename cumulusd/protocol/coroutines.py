"""Starts coroutines that mostly end without ever waiting: those need no Deferred."""

import types
from collections.abc import Coroutine, Generator
from contextvars import copy_context
from typing import Any

from twisted.internet.defer import Deferred


def start(coroutine: Coroutine[Deferred[Any], Any, None]) -> Deferred[None] | None:
    """Runs it until it ends or first waits, in a context of its own as Deferred.fromCoroutine
    does. Returns None when it has ended, else a Deferred of its end. Raises what it raises before
    it first waits."""
    context = copy_context()
    try:
        awaited = context.run(coroutine.send, None)
    except StopIteration:
        return None
    rest: Any = _rest(coroutine, awaited)
    running: Deferred[None] = context.run(Deferred.fromCoroutine, rest)
    return running


@types.coroutine
def _rest(
    coroutine: Coroutine[Deferred[Any], Any, None], awaited: Deferred[Any]
) -> Generator[Deferred[Any], Any, None]:
    """What is left of a coroutine that waits for `awaited`."""
    while True:
        try:
            value = yield awaited
        except GeneratorExit:
            coroutine.close()  # thrown away, and perhaps the coroutine before this
            raise
        except BaseException as error:
            fault: BaseException | None = error
        else:
            fault = None
        try:
            awaited = coroutine.send(value) if fault is None else coroutine.throw(fault)
        except StopIteration:
            return
        fault = None  # it holds this frame
