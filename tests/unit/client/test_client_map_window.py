"""Which items of a map begin when, and whose outcome comes next."""

from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cumulus_client._map_window import MapCall, Outcome, Window, make_map_call, zipped


def make(**options: Any) -> MapCall:
    given: dict[str, Any] = {
        "kwargs": None, "timeout": None, "max_in_flight": 2, "ordered": True,
        "return_exceptions": False, "options": {},
    }  # fmt: skip
    func, iterables = options.pop("func", abs), options.pop("iterables", ([1],))
    return make_map_call(func, iterables, **{**given, **options})


@given(
    items=st.integers(0, 30),
    max_in_flight=st.integers(1, 5),
    ordered=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
def test_every_outcome_comes_once_and_no_bound_is_passed(
    items: int, max_in_flight: int, ordered: bool, seed: int
) -> None:
    choice = Random(seed)
    window = Window(max_in_flight, ordered=ordered)
    running: set[int] = set()
    ended: list[int] = []
    taken: list[int] = []
    begun = 0
    while not window.finished:
        steps = ["take"]
        if window.wants_more:
            steps.append("begin")
        if running:
            steps.append("end")
        step = choice.choice(steps)
        if step == "begin":
            if begun == items:
                window.no_more()
                continue
            index = window.begin()
            assert index == begun
            begun += 1
            running.add(index)
        elif step == "end":
            index = choice.choice(sorted(running))
            running.remove(index)
            ended.append(index)
            window.end(index, Outcome(value=index))
        else:
            found = window.take()
            if found is not None:
                assert found == (found[0], Outcome(value=found[0]))
                taken.append(found[0])
            elif not window.wants_more:
                assert running or (begun == items and len(taken) == items), "nothing can go on"
        assert len(running) == window.under_way <= max_in_flight
        assert len(running) + len(ended) - len(taken) <= 2 * max_in_flight
    assert taken == (list(range(items)) if ordered else ended)
    assert window.take() is None and not window.wants_more


def test_one_slow_item_holds_up_no_more_than_twice_the_bound() -> None:
    window = Window(2, ordered=True)
    slow = window.begin()
    others = 0
    while window.wants_more:
        others += 1
        window.end(window.begin(), Outcome())
    assert (others, window.take()) == (3, None)
    window.end(slow, Outcome(value="slow"))
    assert window.take() == (0, Outcome(value="slow"))
    assert window.wants_more


def test_what_the_caller_gets_of_an_outcome() -> None:
    good, bad = Outcome(value=5), Outcome(error=ValueError("no"))
    interrupted = Outcome(error=KeyboardInterrupt())
    assert make().shown(3, good) == 5
    assert make(ordered=False).shown(3, good) == (3, 5)
    with pytest.raises(ValueError, match="no"):
        make().shown(3, bad)
    assert make(return_exceptions=True).shown(3, bad) is bad.error
    assert make(return_exceptions=True, ordered=False).shown(3, bad) == (3, bad.error)
    with pytest.raises(KeyboardInterrupt):
        make(return_exceptions=True).shown(3, interrupted)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"func": 3}, TypeError, r"map\(\) needs a function, not int"),
        ({"iterables": ()}, TypeError, r"at least one iterable .* kwargs=\{...\}"),
        ({"kwargs": [1]}, TypeError, "kwargs must be a dict, not list"),
        ({"max_in_flight": 0}, ValueError, "max_in_flight must be at least 1: 0"),
        ({"max_in_flight": "4"}, TypeError, "max_in_flight must be an int, not str"),
        ({"max_in_flight": True}, TypeError, "max_in_flight must be an int, not bool"),
        ({"timeout": 0}, ValueError, "timeout must be over 0 s"),
        ({"options": {"gpu": 1}}, TypeError, "'gpu' is no option; these are: gpu_memory, dur"),
        ({"options": {"memory": "x"}}, ValueError, "memory: 'x' is no size"),
    ],
)
def test_calls_that_can_not_be_right(
    options: dict[str, Any], error: type[Exception], words: str
) -> None:
    with pytest.raises(error, match=words):
        make(**options)


def test_iterables_are_taken_together_and_no_further_than_asked() -> None:
    read = []

    def endless() -> Any:
        number = 0
        while True:
            read.append(number)
            yield number
            number += 1

    calls = zipped((endless(), "abc"))
    assert next(calls) == [0, "a"]
    assert read == [0]
    assert list(calls) == [[1, "b"], [2, "c"]]
