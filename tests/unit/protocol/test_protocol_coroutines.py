"""Coroutines go as under Deferred.fromCoroutine, whether they wait or not."""

import gc
import sys
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred

from cumulusd.protocol.coroutines import _rest, start

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


@pytest.mark.parametrize("begin", [start, Deferred.fromCoroutine])
def test_one_that_nobody_waits_for_any_more_ends_quietly(begin: Callable[..., Any]) -> None:
    told: list[Any] = []
    ended = []

    async def work() -> None:
        gate: Deferred[None] = Deferred()
        itself = gate  # a cycle through its own frame
        try:
            await itself
        finally:
            ended.append(True)

    before, sys.unraisablehook = sys.unraisablehook, told.append
    try:
        for _ in range(20):
            coroutine = work()
            running = begin(coroutine)
            coroutine.cr_frame.f_locals  # noqa: B018
            del coroutine, running
        gc.collect()
    finally:
        sys.unraisablehook = before
    assert ended == [True] * 20 and told == []


def test_its_end_is_the_coroutines_end() -> None:
    ended = []

    async def work() -> None:
        try:
            await Deferred()
        finally:
            ended.append(True)

    coroutine = work()
    rest = _rest(coroutine, coroutine.send(None))
    rest.send(None)
    coroutine.close()  # as the garbage collector does, in whatever order
    rest.close()
    assert ended == [True]
    coroutine = work()
    rest = _rest(coroutine, coroutine.send(None))
    rest.send(None)
    rest.close()
    assert ended == [True, True]
