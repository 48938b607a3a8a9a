"""Listings look at what they show, however long the history is."""

from collections.abc import Iterator

import attrs
import pytest

from cumulus_wire.states import JobState
from cumulusd.identity import Principal, Role
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.log_tails import LogTails
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.table import JobTable
from cumulusd.listings import Listings
from tests.unit.supervisor.world import new_record

ANN = Principal(name="ann", owner="ann", role=Role.CLIENT)
NEW = Principal(name="new", owner="new", role=Role.CLIENT)
ADMIN = Principal(name="root", owner="root", role=Role.ADMIN)
AGENT = Principal(name="n1", owner="n1", role=Role.AGENT)


class NoJournals:
    def extent(self, job_id: str) -> tuple[int, int]:
        return 0, 0


class Looked(JobTable):
    """Counts the records that are looked at."""

    seen = 0

    def newest(
        self, owner: str | None = None, until: float | None = None
    ) -> Iterator[JobRecord | EndedJob]:
        for record in super().newest(owner, until):
            self.seen += 1
            yield record


@pytest.fixture
def table() -> Looked:
    table = Looked()
    for number in range(200):
        owner = "ann" if number % 50 == 0 else "bob"
        record = attrs.evolve(new_record(f"j{number:03}", 1000.0 + number), owner=owner)
        end = End(state=JobState.COMPLETED, reason=None, message="")
        table.put(attrs.evolve(record, phase=Phase.ENDED, end=end, ended_at=2000.0))
    return table


def ids_of(table: JobTable, who: Principal, limit: int) -> list[str]:
    listings = Listings(
        table=table,
        journals=NoJournals(),  # type: ignore[arg-type]
        tails=LogTails(),
        wall_clock=lambda: 3000.0,
        progress=lambda job_id: None,
    )
    return [view["job_id"] for view in listings.list(who, False, limit)]


def test_the_newest_are_listed_and_the_rest_is_not_looked_at(table: Looked) -> None:
    assert ids_of(table, ADMIN, 3) == ["j199", "j198", "j197"]
    assert table.seen == 3


def test_an_owner_s_own_are_found_without_a_look_at_others(table: Looked) -> None:
    assert ids_of(table, ANN, 10) == ["j150", "j100", "j050", "j000"]
    assert table.seen == 4
    assert ids_of(table, NEW, 10) == []
    assert table.seen == 4


def test_who_may_see_none_sees_none(table: Looked) -> None:
    assert ids_of(table, AGENT, 10) == []
    assert ids_of(table, ADMIN, -1) == ids_of(table, ADMIN, 0) == []


def test_those_of_one_moment_s_saves_are_in_the_order_of_their_making(table: Looked) -> None:
    for job_id, at in (("late", 5000.0), ("early", 4000.0)):
        table.put(new_record(job_id, at))
    assert ids_of(table, ADMIN, 3) == ["late", "early", "j199"]


def test_what_is_forgotten_is_listed_no_more(table: Looked) -> None:
    for job_id in ("j150", "j100", "j050", "j000"):
        table.forget(job_id)
    assert ids_of(table, ANN, 10) == []
    table.put(attrs.evolve(new_record("again", 9000.0), owner="ann"))
    table.put(attrs.evolve(new_record("again", 9000.0), owner="ann", phase=Phase.RUNNING))
    assert ids_of(table, ANN, 10) == ["again"]
