"""Coroutines go as under Deferred.fromCoroutine, whether they wait or not."""

from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from cumulusd.protocol.coroutines import start

place: ContextVar[str] = ContextVar("place", default="outside")


def test_one_that_never_waits_needs_no_deferred() -> None:
    seen = []

    async def work() -> None:
        place.set("inside")
        seen.append(place.get())

    assert start(work()) is None
    assert seen == ["inside"] and place.get() == "outside"


def test_what_it_raises_before_it_waits_is_raised() -> None:
    async def work() -> None:
        raise KeyError("now")

    with pytest.raises(KeyError):
        start(work())


@pytest.mark.parametrize("begin", [start, Deferred.fromCoroutine])
def test_waiting_again_and_again(begin: Callable[..., Any]) -> None:
    gates: list[Deferred[int]] = [Deferred() for _ in range(3)]
    seen: list[Any] = []

    async def work() -> None:
        place.set("inside")
        for gate in gates:
            try:
                seen.append(await gate)
            except ValueError as error:
                seen.append(repr(error))
        seen.append(place.get())

    running = begin(work())
    assert running is not None and not running.called
    gates[0].callback(1)
    gates[1].errback(ValueError("two"))
    assert not running.called
    gates[2].callback(3)
    assert running.called
    assert seen == [1, "ValueError('two')", 3, "inside"] and place.get() == "outside"


@pytest.mark.parametrize("begin", [start, Deferred.fromCoroutine])
def test_cancelling_is_told_where_it_waits(begin: Callable[..., Any]) -> None:
    seen: list[str] = []

    async def work() -> None:
        try:
            await Deferred()
        except CancelledError:
            seen.append("cancelled")
            raise
        finally:
            seen.append("ended")

    running = begin(work())
    running.cancel()
    failures: list[Any] = []
    running.addErrback(failures.append)
    assert seen == ["cancelled", "ended"]
    assert failures[0].check(CancelledError)


@pytest.mark.parametrize("begin", [start, Deferred.fromCoroutine])
def test_what_it_raises_later_is_its_deferreds(begin: Callable[..., Any]) -> None:
    gate: Deferred[None] = Deferred()

    async def work() -> None:
        await gate
        raise KeyError("later")

    running = begin(work())
    gate.callback(None)
    failures: list[Any] = []
    running.addErrback(failures.append)
    assert failures[0].check(KeyError)
