"""Searching jobs: what is found, in which order, how pages follow one another, how far a look
goes."""

from itertools import chain, repeat
from typing import Any

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_values import record, spec

from cumulus_wire.states import JobState
from cumulusd.errors import InvalidArgument
from cumulusd.job_search import (
    MAX_FOUND,
    MAX_SEEN,
    Cursor,
    Search,
    in_line,
    last_line,
    look,
)
from cumulusd.jobs.model import End, JobRecord, Phase

ARGUMENTS: dict[str, Any] = {
    "states": [], "owner": "", "text": "", "order": "newest", "after": "", "limit": 50
}  # fmt: skip


def read(**changes: Any) -> Search:
    return Search.read(**{**ARGUMENTS, **changes})


def ended(
    job_id: str, at: float, state: JobState = JobState.COMPLETED, **changes: Any
) -> JobRecord:
    end = End(state=state, reason=None, message="")
    return record(job_id, phase=Phase.ENDED, created_at=at, ended_at=at, end=end, **changes)


def everybody(_: JobRecord) -> bool:
    return True


def ids(records: list[JobRecord]) -> list[str]:
    return [one.job_id for one in records]


def test_texts_are_found_in_name_id_and_owner_in_either_case() -> None:
    named = ended("job_AB", 1.0, spec=spec(name="Train ResNet"), owner="Ann")
    assert read(text="resnet").finds(named) and read(text="ab").finds(named)
    assert read(owner="AN").finds(named)
    assert not read(text="ann").finds(named) and not read(owner="resnet").finds(named)
    assert read(states=["completed", "failed"]).finds(named)
    assert not read(states=["failed"]).finds(named)
    assert not read(text="none").finds(attrs.evolve(named, spec=spec(name=None)))


def test_what_is_wrong_is_told_at_once() -> None:
    with pytest.raises(InvalidArgument) as refused:
        read(states=["done", ["x"]], text="x" * 201, owner="y" * 201, order="up", after="soon")
    assert [fault["key"] for fault in refused.value.details["faults"]] == [
        "states", "owner", "text", "order", "after"
    ]  # fmt: skip
    assert "'done' is none of pending" in refused.value.message
    with pytest.raises(InvalidArgument):
        read(states=[{}])
    assert read(limit=0).limit == 1 and read(limit=10**9).limit == MAX_FOUND


@given(
    moments=st.lists(st.integers(0, 5), max_size=30),
    limit=st.integers(1, 7),
    forgotten=st.sets(st.integers(0, 29)),
)
def test_pages_show_each_job_once_also_when_some_are_forgotten_meanwhile(
    moments: list[int], limit: int, forgotten: set[int]
) -> None:
    """Several are of one moment: the order they came in decides."""
    records = [ended(f"j{index}", float(at)) for index, at in enumerate(sorted(moments))]
    newest = list(reversed(records))
    first = look(read(limit=limit), newest, everybody)
    shown = ids(first.records)
    left = [one for one in newest if int(one.job_id[1:]) not in forgotten]
    cursor = first.next
    while cursor is not None:
        page = look(read(limit=limit, after=str(cursor)), left, everybody)
        shown += ids(page.records)
        assert page.next != cursor
        cursor = page.next
    expected = [one.job_id for one in newest if one in left or one.job_id in ids(first.records)]
    lost = forgotten & {int(job_id[1:]) for job_id in ids(first.records)}
    if lost:  # who stood at the place itself is gone: one of its moment may be shown again
        assert set(shown) == set(expected)
    else:
        assert shown == expected


def test_a_look_goes_so_far_and_says_where_to_go_on() -> None:
    records = [ended(f"j{index}", float(-index)) for index in range(MAX_SEEN + 5)]
    target = records[-1].job_id
    first = look(read(text=target), records, everybody)
    assert first.records == [] and first.next is not None
    assert ids(look(read(text=target, after=str(first.next)), records, everybody).records) == [
        target
    ]
    # Those that the asker may not see count too: the look costs the same.
    hidden = look(read(), records, lambda one: one.job_id == target)
    assert hidden.records == [] and hidden.next is not None


def test_a_cursor_says_itself_exactly() -> None:
    cursor = Cursor(created_at=1795720000.123456, job_id="a~b")
    assert Cursor.read(str(cursor)) == cursor


def test_the_line_is_in_its_order() -> None:
    line = [record("first"), record("second", owner="bob"), record("third")]
    records = [
        line[2],
        line[0],
        record("coming", phase=Phase.PREPARING, created_at=300.0),
        record("again", phase=Phase.RETRYING, created_at=200.0),
        record("running", phase=Phase.RUNNING),
        ended("over", 1.0),
        line[1],
    ]
    found = in_line(records, line, read(order="queue"), everybody)
    assert ids(found.records) == ["again", "coming", "first", "second", "third"]
    assert not found.cut
    three = in_line(records, iter(line), read(order="queue", limit=3), everybody)
    assert ids(three.records) == ids(found.records)[:3]
    bob = in_line(records, line, read(order="queue", owner="bob", limit=1), everybody)
    assert ids(bob.records) == ["second"]
    own = in_line(records, line, read(order="queue"), lambda one: one.owner == "bob")
    assert ids(own.records) == ["second"]


def test_a_look_along_the_line_goes_no_further_than_any_and_says_so() -> None:
    one, last = record("one"), record("last")
    line = chain(repeat(one, MAX_SEEN), [last], iter(int, 1))  # who goes on never ends
    found = in_line([], line, read(order="queue", text="last"), everybody)
    assert (found.records, found.cut) == ([], True)
    # Those that the asker may not see count too.
    line = chain(repeat(one, MAX_SEEN), [last], iter(int, 1))
    assert in_line([], line, read(order="queue"), lambda one: False).cut
    whole = in_line([], chain(repeat(one, MAX_SEEN - 1), [last]), read(text="last"), everybody)
    assert (ids(whole.records), whole.cut) == (["last"], False)


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", None),
        ("\n \n", None),
        ("one\ntwo", "two"),
        ("one\ntwo  \n\n", "two"),
        ("10 %\r50 %\r", "50 %"),
        ("x" * 1000, "x" * 240),
    ],
    ids=["nothing", "blanks", "no end", "with an end", "written over", "long"],
)
def test_the_last_line_of_an_output(text: str, line: str | None) -> None:
    assert last_line(text) == line
