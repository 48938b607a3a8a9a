"""History keeps ended jobs for as long as it says, and drops them whole."""

from collections.abc import Sequence
from pathlib import Path

import attrs
import pytest
import pytest_twisted

from cumulus_wire.states import JobState
from cumulusd.errors import Unavailable
from cumulusd.jobs.history import History
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.packages import Packages
from cumulusd.jobs.settings import Settings
from tests.unit.supervisor.world import World, new_record, output, run_at_once

HOUR_S = 3600.0


class ForgetfulStore:
    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.broken = False

    async def delete(self, job_ids: Sequence[str]) -> None:
        if self.broken:
            raise Unavailable("disk full")
        self.deleted += job_ids


def ended(job_id: str, at: float) -> JobRecord:
    return attrs.evolve(
        new_record(job_id, at - 60.0, idempotency_key=f"key-{job_id}"),
        phase=Phase.ENDED,
        end=End(state=JobState.COMPLETED, reason=None, message=""),
        ended_at=at,
    )


@pytest_twisted.ensureDeferred
async def test_jobs_stay_for_a_day_after_their_end(tmp_path: Path) -> None:
    world = World(tmp_path, Settings(history_s=24 * HOUR_S))
    store = ForgetfulStore()
    packages = Packages(tmp_path / "p", run_in_thread=run_at_once, max_package_bytes=10)
    history = History(
        table=world.table,
        store=store,  # type: ignore[arg-type]
        journals=world.journals,
        packages=packages,
        clock=world.clock,
        wall_clock=world.clock.seconds,
        settings=world.settings,
    )
    now = world.clock.seconds()
    for record in (
        ended("old", now - 25 * HOUR_S),
        ended("young", now - 23 * HOUR_S),
        attrs.evolve(new_record("long", now - 100 * HOUR_S), phase=Phase.RUNNING),
    ):
        world.table.put(record)
        world.journals.open(record.job_id).append(0, output("kept"))

    store.broken = True
    with pytest.raises(Unavailable):
        await history.prune()
    assert "old" in world.table, "what could not be deleted on disk is still shown"
    store.broken = False

    history.start()
    world.clock.advance(300.0)
    assert store.deleted == ["old"]
    assert {record.job_id for record in world.table.all()} == {"young", "long"}
    assert world.journals.known() == ["long", "young"]
    assert world.table.by_key("ann", "key-old") is None
    assert world.table.by_key("ann", "key-young") is not None
    await history.stop()
    await world.journals.stop()
    assert not world.clock.getDelayedCalls()
