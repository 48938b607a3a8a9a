"""The queue: fair between owners, then priority, then age."""

from typing import Any
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_values import record, spec

from cumulusd.jobs.line_ranks import LineRanks
from cumulusd.jobs.model import JobRecord
from cumulusd.jobs.owner_line import OwnerLine
from cumulusd.jobs.queue import JobQueue


def queue_of(*records: JobRecord) -> JobQueue:
    queue = JobQueue()
    for each in records:
        queue.push(each)
    return queue


def ids(records: list[JobRecord]) -> list[str]:
    return [each.job_id for each in records]


def test_one_owner_by_priority_then_age() -> None:
    queue = queue_of(
        record("late", created_at=3.0),
        record("early", created_at=1.0),
        record("urgent", created_at=9.0, spec=spec(priority=5)),
        record("unimportant", created_at=0.0, spec=spec(priority=-1)),
    )
    assert ids(queue.ordered()) == ["urgent", "early", "late", "unimportant"]


def test_owners_take_turns_whatever_their_priorities() -> None:
    greedy = [record(f"g{n}", created_at=float(n), spec=spec(priority=9)) for n in range(3)]
    modest = [record(f"m{n}", owner="ben", created_at=50.0 + n) for n in range(2)]
    assert ids(queue_of(*greedy, *modest).ordered()) == ["g0", "m0", "g1", "m1", "g2"]


def test_turns_count_shares_not_jobs() -> None:
    large = [record(f"l{n}", 0.5, created_at=float(n)) for n in range(2)]
    small = [record(f"s{n}", 0.25, owner="ben", created_at=10.0 + n) for n in range(3)]
    assert ids(queue_of(*large, *small).ordered()) == ["l0", "s0", "s1", "l1", "s2"]


def test_who_uses_much_waits_longer() -> None:
    queue = queue_of(record("a", created_at=1.0), record("b", owner="ben", created_at=2.0))
    assert ids(queue.ordered()) == ["a", "b"]
    queue.use("ann", 1)
    assert ids(queue.ordered()) == ["b", "a"]
    queue.use("ben", 5000)
    assert ids(queue.ordered()) == ["a", "b"]
    queue.use("ann", -1)
    queue.use("ben", -5000)
    assert ids(queue.ordered()) == ["a", "b"]


def test_a_newer_record_takes_the_place_of_the_old() -> None:
    queue = queue_of(record("a", created_at=1.0), record("b", created_at=2.0))
    queue.push(record("a", created_at=1.0, attempt=2))
    assert [each.attempt for each in queue.ordered()] == [2, 1]
    queue.push(record("a", created_at=3.0, owner="ben"))
    assert (queue.waiting_of("ann"), queue.waiting_of("ben"), len(queue)) == (1, 1, 2)


def test_what_is_removed_is_gone() -> None:
    queue = queue_of(record("a"))
    assert "a" in queue
    removed = queue.remove("a")
    assert removed is not None
    assert removed.job_id == "a"
    assert queue.remove("a") is None
    assert (len(queue), queue.waiting_of("ann"), queue.ordered()) == (0, 0, [])


jobs = st.lists(
    st.tuples(
        st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 5), st.sampled_from([0.1, 0.5, 1])
    ),
    max_size=25,
)


@settings(max_examples=200, deadline=None)
@given(jobs, st.dictionaries(st.sampled_from("abc"), st.integers(0, 20_000)), st.data())
def test_every_turn_goes_to_the_owner_with_least(
    wanted: list[tuple[str, int, int, float]], used: dict[str, int], data: st.DataObject
) -> None:
    records = [
        record(f"j{number}", owner=owner, created_at=float(at), spec=spec(share, priority=priority))
        for number, (owner, priority, at, share) in enumerate(wanted)
    ]
    queue = queue_of(*records)
    gone = data.draw(st.sets(st.sampled_from(ids(records)))) if records else set()
    for job_id in gone:
        assert queue.remove(job_id) is not None
    for owner, units in used.items():
        queue.use(owner, units)
    ordered = queue.ordered()
    places = list(range(1, len(ordered) + 1))
    for search_jobs in (0, 1 << 30):  # by searches alone, and by a ranking alone
        with mock.patch("cumulusd.jobs.queue._SEARCH_JOBS", search_jobs):
            assert [queue.position(each.job_id) for each in ordered] == places
    assert sorted(ids(ordered)) == sorted(set(ids(records)) - gone)
    units = {owner: used.get(owner, 0) for owner in "abc"}
    for index, each in enumerate(ordered):
        rest = ordered[index:]
        assert units[each.owner] == min(units[other.owner] for other in rest)
        own = [other for other in rest if other.owner == each.owner]
        best = min(own, key=lambda one: (-one.spec.priority, one.created_at, one.job_id))
        assert each is best
        units[each.owner] += each.spec.units


def test_places_of_many_askers_share_one_ranking(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search for each owner and asker would be a thousand times what is asked."""
    searches = rankings = 0
    search, rank = OwnerLine.count_before, LineRanks.__init__

    def searching(*args: Any) -> int:
        nonlocal searches
        searches += 1
        return search(*args)

    def ranking(*args: Any) -> None:
        nonlocal rankings
        rankings += 1
        rank(*args)

    monkeypatch.setattr(OwnerLine, "count_before", searching)
    monkeypatch.setattr(LineRanks, "__init__", ranking)
    owners, each = 1000, 10
    queue = queue_of(
        *(
            record(f"j{number}-{owner}", owner=f"o{owner}", created_at=float(number))
            for number in range(each)
            for owner in range(owners)
        )
    )
    queue.use("o7", 5000)
    expected = {one.job_id: place for place, one in enumerate(queue.in_turn(), 1)}
    asked = list(queue)[:: owners // 10]
    assert {job_id: queue.position(job_id) for job_id in asked} == {
        job_id: expected[job_id] for job_id in asked
    }
    assert (searches <= owners * each // 8, rankings) == (True, 1)
    # The first of them is gone: nothing is told of the line as it was.
    queue.remove(next(iter(expected)))
    last = list(expected)[-1]
    assert [queue.position(last) for _ in range(20)] == [owners * each - 1] * 20
    assert rankings == 2


def test_few_askers_cost_no_ranking_of_a_long_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(LineRanks, "__init__", None)  # whoever makes one fails
    queue = queue_of(*(record(f"j{n}", created_at=float(n)) for n in range(100)))
    assert [queue.position(f"j{n}") for n in range(10)] == list(range(1, 11))


def test_a_job_that_is_pushed_again_keeps_its_place_among_those_of_its_size() -> None:
    queue = JobQueue()
    queue.push(record("a"), 1.0)
    queue.push(record("b"), 2.0)
    queue.push(record("a", attempt=2), 3.0)
    assert list(queue.of_size(5000)) == ["a", "b"]
    again = queue.get("a")
    assert again is not None and again.pushed_at == 1.0
    # Of another size it is new there: it waits for so much since now.
    queue.push(record("a", 0.25), 4.0)
    assert (list(queue.of_size(5000)), list(queue.of_size(2500))) == (["b"], ["a"])
    again = queue.get("a")
    assert again is not None and again.pushed_at == 4.0
