"""The table of jobs tells who looks on."""

import attrs
from hypothesis import given
from hypothesis import strategies as st
from job_values import record

from cumulusd.jobs.model import JobRecord, Phase, Placement
from cumulusd.jobs.table import JobTable


def test_who_watches_is_told_of_changes_and_of_what_is_forgotten() -> None:
    table = JobTable()
    told: list[str] = []
    table.watch(lambda before, after: told.append(f"{after.job_id} {before is None}"))
    table.watch_forgotten(lambda job_id: told.append(f"{job_id} {job_id in table}"))
    table.put(record("a"))
    table.put(record("a"))
    table.forget("a")
    assert told == ["a True", "a False", "a False"]


def ended(job_id: str, at: float | None) -> JobRecord:
    return attrs.evolve(record(job_id), phase=Phase.ENDED, ended_at=at)


def ids(records: list[JobRecord]) -> list[str]:
    return [each.job_id for each in records]


def test_those_that_have_ended_are_known_by_when() -> None:
    table = JobTable()
    for job_id, at in (("c", 30.0), ("a", 10.0), ("b", 20.0), ("n", None), ("d", 30.0)):
        table.put(record(job_id))
        table.put(ended(job_id, at))
    table.put(record("runs"))
    assert table.ended_count == 5
    assert table.oldest_ends() == ["n", "a", "b", "c", "d"]
    assert table.oldest_ends(2) == ["n", "a"]
    assert table.ended_before(30.0) == ["n", "a", "b"], "one at that moment is not before it"
    table.put(ended("a", 40.0))  # told anew, by another clock
    table.put(ended("b", 20.0))
    table.forget("c")
    table.forget("runs")
    table.forget("never there")
    assert table.oldest_ends() == ["n", "b", "d", "a"]
    assert table.ended_count == 4


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.none() | st.integers(0, 5)), max_size=40))
def test_ends_stay_in_order_whatever_comes(steps: list[tuple[str, int | None]]) -> None:
    """A number: it has ended then; none: it is forgotten."""
    table, expected = JobTable(), dict[str, float]()
    for job_id, at in steps:
        if at is None:
            table.forget(job_id)
            expected.pop(job_id, None)
        else:
            table.put(ended(job_id, float(at)))
            expected[job_id] = float(at)
    assert table.oldest_ends() == sorted(expected, key=lambda job_id: (expected[job_id], job_id))


def placed(job_id: str, node_id: str, phase: Phase = Phase.RUNNING) -> JobRecord:
    placement = Placement(node_id=node_id, hostname=node_id, device_id="d")
    return attrs.evolve(record(job_id), phase=phase, placement=placement)


def test_who_is_on_a_node_is_known_without_looking_at_all() -> None:
    table = JobTable()
    table.put(record("a"))
    assert table.placed_on("n1") == []
    for each in (placed("a", "n1", Phase.PREPARING), placed("b", "n2"), placed("c", "n1")):
        table.put(each)
    table.put(placed("a", "n1"))
    assert ids(table.placed_on("n1")) == ["a", "c"]
    assert table.placed_on("n1")[0].phase is Phase.RUNNING
    table.put(placed("c", "n2"))  # its next attempt
    table.put(placed("a", "n1", Phase.ENDED))
    table.put(placed("b", "n2", Phase.PAUSED))
    assert (ids(table.placed_on("n1")), ids(table.placed_on("n2"))) == ([], ["c"])
    table.forget("c")
    assert table.placed_on("n2") == [] == table.placed_on("never seen")
