"""The queue: fair between owners, then priority, then age."""

from hypothesis import given, settings
from hypothesis import strategies as st
from job_values import record, spec

from cumulusd.jobs.model import JobRecord
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
    assert [queue.position(each.job_id) for each in ordered] == list(range(1, len(ordered) + 1))
    assert sorted(ids(ordered)) == sorted(set(ids(records)) - gone)
    units = {owner: used.get(owner, 0) for owner in "abc"}
    for index, each in enumerate(ordered):
        rest = ordered[index:]
        assert units[each.owner] == min(units[other.owner] for other in rest)
        own = [other for other in rest if other.owner == each.owner]
        best = min(own, key=lambda one: (-one.spec.priority, one.created_at, one.job_id))
        assert each is best
        units[each.owner] += each.spec.units
