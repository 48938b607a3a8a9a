"""Deleting what released jobs left: one pass at a time, and waits for it that end."""

from collections.abc import Callable

from twisted.internet.defer import Deferred

from cumulusd.agent.threads import Threads
from cumulusd.agent.trash import Trash


class Passes:
    """Those under way, each ended by hand."""

    def __init__(self) -> None:
        self.under_way: list[Deferred[None]] = []
        self.trash = Trash(Threads(self._run), lambda: None)

    def _run(self, work: Callable[[], None]) -> Deferred[None]:
        self.under_way.append(Deferred())
        return self.under_way[-1]

    def end(self) -> None:
        (one,) = self.under_way
        self.under_way.clear()
        one.callback(None)

    def wait(self) -> "Deferred[None]":
        return Deferred.fromCoroutine(self.trash.cleared())


def test_nothing_goes_on() -> None:
    assert Passes().wait().called


def test_what_came_during_a_pass_is_waited_for() -> None:
    passes = Passes()
    passes.trash.clear()
    passes.trash.clear()
    waiting = passes.wait()
    passes.end()
    assert not waiting.called
    passes.end()
    assert waiting.called and not passes.under_way


def test_what_comes_later_is_not_waited_for() -> None:
    passes = Passes()
    passes.trash.clear()
    waiting = passes.wait()
    for _ in range(2):
        passes.trash.clear()
        passes.end()
    assert waiting.called and len(passes.under_way) == 1


def test_stopped_in_the_middle() -> None:
    passes = Passes()
    passes.trash.clear()
    passes.trash.clear()
    waiting = passes.wait()
    passes.trash.stop()
    passes.end()
    assert waiting.called and not passes.under_way
