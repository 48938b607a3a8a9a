"""One look for all who ask, and never one that began before they asked."""

from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from cumulusd.errors import Unavailable
from cumulusd.swarm.shared_look import MAX_REST_S, SharedLook


class Looks:
    def __init__(self) -> None:
        self.clock = Clock()
        self.under_way: list[Deferred[str]] = []
        self.shared = SharedLook(self.clock, self._look)

    async def _look(self) -> str:
        self.under_way.append(Deferred())
        return await self.under_way[-1]

    def ask(self) -> Deferred[str]:
        return Deferred.fromCoroutine(self.shared.get())


def result(deferred: Deferred[Any]) -> Any:
    return getattr(deferred, "result", None) if deferred.called else None


def test_who_asks_during_a_look_gets_the_next() -> None:
    looks = Looks()
    first = looks.ask()
    second, third = looks.ask(), looks.ask()
    assert len(looks.under_way) == 1
    looks.under_way[0].callback("one")
    assert (result(first), result(second), result(third)) == ("one", None, None)
    assert len(looks.under_way) == 2
    looks.under_way[1].callback("two")
    assert (result(second), result(third)) == ("two", "two")


@pytest.mark.parametrize(("took_s", "rest_s"), [(0.05, 0.1), (10.0, MAX_REST_S)])
def test_the_pace_follows_the_platforms(took_s: float, rest_s: float) -> None:
    looks = Looks()
    looks.ask()
    looks.clock.advance(took_s)
    looks.under_way[0].callback("one")
    looks.ask()
    looks.clock.advance(rest_s * 0.99)
    assert len(looks.under_way) == 1
    looks.clock.advance(rest_s * 0.02)
    assert len(looks.under_way) == 2


@pytest_twisted.ensureDeferred
async def test_an_error_is_everybodys_and_the_next_look_is_new() -> None:
    looks = Looks()
    asked = [looks.ask()]
    looks.under_way[0].errback(Unavailable("away"))
    with pytest.raises(Unavailable, match="away"):
        await asked[0]
    again = looks.ask()
    looks.under_way[1].callback("there")
    assert await again == "there"


@pytest_twisted.ensureDeferred
async def test_cancelling_is_ones_own_affair() -> None:
    looks = Looks()
    first, second = looks.ask(), looks.ask()
    given_up = looks.ask()
    given_up.cancel()
    first.cancel()
    for each in (first, given_up):
        with pytest.raises(CancelledError):
            await each
    looks.under_way[0].callback("one")
    looks.under_way[1].callback("two")
    assert await second == "two"


@pytest_twisted.ensureDeferred
async def test_closing_tells_those_who_wait() -> None:
    looks = Looks()
    first, second = looks.ask(), looks.ask()
    await looks.shared.close()
    for each in (first, second):
        with pytest.raises(Unavailable, match="stopping"):
            await each
    assert looks.clock.getDelayedCalls() == []
