"""The table of script/bench: what is met, what a ratio is of, and that JSON keeps all of it."""

import json

import pytest

from bench.table import (
    COLUMNS,
    Goal,
    Met,
    Peer,
    Row,
    at_least,
    at_most,
    commands,
    markdown,
    measured,
    not_measured,
    number,
    ratio_at_least,
    ratio_at_most,
    row_of,
)

PEER = Peer(name="theirs", command="theirs --now")


def row(*goals: Goal, why_not: str = "") -> Row:
    """20 here, 10 there."""
    return measured(
        "a case", "ms", [10.0, 20.0, 30.0], PEER, [5.0, 10.0, 15.0], goals=goals, why_not=why_not
    )


@pytest.mark.parametrize(
    ("goal", "met"),
    [
        (at_most(20.0), Met.YES),
        (at_most(19.9), Met.NO),
        (at_least(20.0), Met.YES),
        (at_least(20.1), Met.NO),
        (ratio_at_most(2.0), Met.YES),
        (ratio_at_most(1.9), Met.NO),
        (ratio_at_least(2.0), Met.YES),
        (ratio_at_least(2.1), Met.NO),
    ],
    ids=lambda value: value.name if isinstance(value, Met) else value.text("ms"),
)
def test_a_goal_bounds_the_median_or_the_ratio(goal: Goal, met: Met) -> None:
    assert row(goal).met is met


def test_all_goals_of_a_row_have_to_be_met() -> None:
    assert row(at_most(20.0), ratio_at_most(2.0)).met is Met.YES
    assert row(at_most(20.0), ratio_at_most(1.0)).met is Met.NO


def test_a_row_without_a_goal_is_neither() -> None:
    assert row().met is Met.NONE
    assert row().cells()[-1] == ""


def test_a_ratio_is_the_median_of_the_pairs() -> None:
    # The machine was slow in the last two rounds, for both.
    found = measured("a case", "ms", [10.0, 100.0, 100.0], PEER, [10.0, 50.0, 100.0])
    assert found.ratio == 1.0


def test_rounds_that_are_no_pairs_have_the_ratio_of_their_medians() -> None:
    found = measured("a case", "ms", [30.0, 20.0], PEER, [10.0, 20.0, 5.0])
    assert found.ratio == 2.5


def test_what_was_not_measured_is_not_met_either() -> None:
    assert not_measured("a case", "no Swarm", goals=[at_most(1.0)]).met is Met.UNKNOWN
    alone = measured("a case", "ms", [1.0], goals=[at_most(1.0), ratio_at_most(1.0)])
    assert alone.met is Met.UNKNOWN
    # That much is known without the peer.
    assert measured("a case", "ms", [2.0], goals=[at_most(1.0), ratio_at_most(1.0)]).met is Met.NO


def test_nothing_measured_is_no_row() -> None:
    with pytest.raises(ValueError, match="no round"):
        measured("a case", "ms", [])


def test_a_row_says_all_that_it_is() -> None:
    cells = dict(zip(COLUMNS, row(at_most(19.0), ratio_at_most(3.0)).cells(), strict=True))
    assert cells == {
        "case": "a case",
        "ours": "20 [15 25] ms",
        "peer": "10 [7.5 12.5] ms (theirs)",
        "ratio": "2×",
        "goal": "≤ 19 ms, ≤ 3×",
        "met or not": "not met",
    }


def test_why_stands_beside_what_is_missing() -> None:
    missing = not_measured("a case", "no Swarm", unit="ms", goals=[at_most(1.0)])
    assert missing.cells() == ["a case", "", "", "", "≤ 1 ms", "not measured: no Swarm"]


def test_one_round_has_no_spread() -> None:
    assert measured("a case", "s", [1.5]).cells()[1] == "1.5 s"


def test_json_gives_the_same_row() -> None:
    for each in (row(at_most(1.0), why_not="x"), not_measured("a", "b", goals=[at_least(2.0)])):
        assert row_of(json.loads(json.dumps(each.as_json()))) == each


def test_a_bar_does_not_end_a_cell() -> None:
    table = markdown([measured("a | b", "ms", [1.0])])
    assert table.splitlines()[2].startswith("| a \\| b | 1 ms |")


def test_each_peers_command_is_told_once() -> None:
    assert commands([row(), row()]) == "- theirs: `theirs --now`"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.01234, "0.0123"), (1.5, "1.5"), (99.96, "100"), (12345.6, "12,346")],
    ids=str,
)
def test_numbers_have_the_digits_that_count(value: float, text: str) -> None:
    assert number(value) == text


def test_differences_have_no_ratio() -> None:
    row = measured("a", "s", [0.1], Peer(name="b", command="b"), [-0.001], has_ratio=False)
    assert row.ratio is None and row.theirs is not None
