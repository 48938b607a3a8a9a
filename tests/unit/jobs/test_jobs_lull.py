"""Who waits for a lull goes on when nothing starts, when it has waited long, or when many wait."""

import attrs
import pytest
from job_values import record
from twisted.internet.task import Clock

from cumulusd.jobs import lull
from cumulusd.jobs.lull import Lull
from cumulusd.jobs.model import JobRecord, Phase
from cumulusd.jobs.table import JobTable

AT_MOST_S = 10.0


class World:
    def __init__(self) -> None:
        self.clock, self.table = Clock(), JobTable()
        self.lull = Lull(table=self.table, clock=self.clock, at_most_s=AT_MOST_S)
        self.gone_on = 0

    def wait(self) -> None:
        self.lull.wait().addCallback(self._go_on)

    def put(self, phase: Phase, job_id: str = "a", setup_at: float | None = None) -> JobRecord:
        changed = attrs.evolve(record(job_id), phase=phase, setup_at=setup_at)
        self.table.put(changed)
        return changed

    def _go_on(self, _: None) -> None:
        self.gone_on += 1


@pytest.mark.parametrize("phase", [Phase.PREPARING, Phase.LAUNCHING, Phase.STARTING])
def test_a_job_that_starts_is_waited_for(phase: Phase) -> None:
    world = World()
    world.put(phase)
    world.wait()
    world.clock.advance(AT_MOST_S / 2)
    assert world.gone_on == 0
    world.put(Phase.STARTING, setup_at=1.0)
    assert world.gone_on == 0, "another may follow at once"
    world.clock.advance(lull.QUIET_S / 2)
    world.put(Phase.PREPARING, "b")
    world.clock.advance(lull.QUIET_S)
    assert world.gone_on == 0
    world.put(Phase.ENDED, "b")
    world.put(Phase.RUNNING)
    world.clock.advance(lull.QUIET_S)
    assert world.gone_on == 1
    assert not world.clock.getDelayedCalls()


def test_all_go_on_together_and_none_waits_longer_than_the_bound() -> None:
    world = World()
    world.put(Phase.LAUNCHING)
    world.wait()
    world.clock.advance(AT_MOST_S / 2)
    world.wait()
    world.clock.advance(AT_MOST_S / 2)
    assert world.gone_on == 2
    world.wait()
    world.clock.advance(AT_MOST_S / 2)
    assert world.gone_on == 2


def test_more_than_so_many_never_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lull, "MAX_WAITING", 3)
    world = World()
    world.put(Phase.LAUNCHING)
    for count in (0, 0, 3, 3, 3, 6):
        world.wait()
        assert world.gone_on == count
    assert not world.clock.getDelayedCalls()


def test_who_gives_up_leaves_no_timer() -> None:
    world = World()
    waiting = world.lull.wait()
    waiting.addErrback(lambda _: None)
    waiting.cancel()
    assert not world.clock.getDelayedCalls()
    world.wait()
    world.clock.advance(lull.QUIET_S)
    assert world.gone_on == 1
