"""How script/bench shares its time, takes turns, and keeps what it found."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import plan
from bench.__main__ import parse, write_into
from bench.parts.errors import BenchError
from bench.parts.run import Run, alone, paired
from bench.report import BEGIN, END, Report, written_into
from bench.table import Row, at_most, measured, not_measured

ROOT = Path(__file__).parents[3]
NEVER = float("inf")


def test_there_is_a_part_for_every_module() -> None:
    modules = {path.stem for path in (ROOT / "bench").glob("*.py")}
    apart = {"__init__", "__main__", "plan", "report", "table"}
    assert modules - apart == set(plan.PARTS)
    assert set(plan.PARTS) >= plan.ON_SWARM


def test_modules_on_a_swarm_come_first() -> None:
    order = [name in plan.ON_SWARM for name in plan.chosen([])]
    assert order == sorted(order, reverse=True)


def test_names_are_taken_in_the_order_of_the_plan() -> None:
    assert plan.chosen(["router", "start"]) == ["start", "router"]
    with pytest.raises(KeyError):
        plan.chosen(["nonsense"])


def test_all_of_it_ends_in_time() -> None:
    left_s, to_come = plan.usable_s(plan.TOTAL_S), plan.chosen([])
    while to_come:
        left_s -= plan.share_s(to_come[0], to_come, left_s)
        to_come = to_come[1:]
    assert left_s >= -1e-6
    # One may be over its time by its grace, at the very end.
    assert plan.TOTAL_S - plan.usable_s(plan.TOTAL_S) > plan.GRACE_S
    assert plan.usable_s(100.0) == 90.0


def test_what_one_module_leaves_is_the_others() -> None:
    names = plan.chosen([])
    first, rest = names[0], names[1:]
    share_s = plan.share_s(first, names, 1000.0)
    assert plan.share_s(rest[0], rest, 1000.0) > plan.share_s(rest[0], rest, 1000.0 - share_s)
    assert plan.share_s(first, [first], -1.0) == 0.0


def test_sides_take_turns() -> None:
    said: list[str] = []
    found = paired(
        lambda: said.append("ours"),
        lambda: said.append("theirs"),
        rounds=3,
        until=NEVER,
    )
    assert said == ["ours", "theirs"] * 2 + ["theirs", "ours"] + ["ours", "theirs"]
    assert [len(side) for side in found] == [3, 3]


def test_the_first_round_is_not_counted() -> None:
    values = iter(range(10))
    assert alone(lambda: next(values), rounds=2, until=NEVER) == [1, 2]
    assert alone(lambda: next(values), rounds=2, until=NEVER, warm_up=False) == [3, 4]


def test_rounds_end_with_the_time_but_not_below_the_least() -> None:
    over = time.monotonic() - 1.0
    assert len(alone(lambda: 1, rounds=9, until=over, least=4)) == 4


def run(tmp_path: Path, *words: str) -> Run:
    return Run(seconds=10.0, folder=tmp_path, words=words)


def test_a_row_is_wanted_by_any_of_the_words(tmp_path: Path) -> None:
    assert run(tmp_path).wants("a case")
    assert run(tmp_path, "nothing", "case").wants("one", "a case")
    assert not run(tmp_path, "nothing").wants("one", "a case")


def test_where_a_part_breaks_off_is_told_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def rows() -> Iterator[Row]:
        yield measured("first", "ms", [1.0])
        raise BenchError("it broke\nin detail")

    found = list(run(tmp_path).part("the part", rows()))
    assert [row.case for row in found] == ["first", "the part: the rest"]
    assert found[1].cells()[-1] == "not measured: it broke"
    assert "in detail" in capsys.readouterr().err


def report() -> Report:
    return Report(
        began_at=1_800_000_000.0,
        took_s=90.0,
        machine={
            "cpu": "a CPU",
            "cores": 2,
            "memory_bytes": 4 << 30,
            "kernel": "Linux 6",
            "file_system": "ext4",
            "python": "CPython 3.11",
            "cumulus": "0.1.0",
            "commit": "abc",
            "libraries": {"twisted": "26"},
            "load": [0.5, 0.5, 0.5],
        },
        options=["--quick"],
        rows=[
            measured("a case", "ms", [1.0, 2.0], goals=[at_most(1.0)]),
            not_measured("another", "no Swarm", goals=[at_most(1.0)]),
        ],
    )


def test_a_report_is_kept_and_found_again(tmp_path: Path) -> None:
    path = report().save(tmp_path)
    assert path.name == "20270115-080000.json"
    assert Report.load(tmp_path / "latest.json") == report()
    assert json.loads(path.read_text())["rows"][0]["met"] == "not met"


def test_the_summary_counts_goals() -> None:
    assert report().summary() == "0 goals met, 1 not met, 1 not measured, in 2 min"


def test_a_document_gets_the_table_between_its_marks() -> None:
    page = report().page()
    assert "2 cores of a CPU, 4 GiB" in page
    assert "| a case | 1.5 [1.25 1.75] ms |" in page
    before = f"# Title\n\n{BEGIN}\nold\n{END}\n\nWords.\n"
    after = written_into(before, page)
    assert after == f"# Title\n\n{BEGIN}\n{page}{END}\n\nWords.\n"
    other = dataclasses.replace(report(), rows=[]).page()
    assert written_into(after, other) == written_into(before, other)
    with pytest.raises(ValueError, match="bench:begin"):
        written_into("# Title\n", page)


def test_without_a_run_there_is_nothing_to_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    document = tmp_path / "page.md"
    document.write_text(f"{BEGIN}\nold\n{END}\n")
    monkeypatch.setattr("bench.__main__.FOLDER", tmp_path)
    assert write_into(document) == 2
    assert "latest.json is not there" in capsys.readouterr().err
    assert "old" in document.read_text()
    report().save(tmp_path)
    assert write_into(document) == 0
    assert "| a case |" in document.read_text() and "old" not in document.read_text()


def test_a_name_that_is_no_module_is_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parse(["nonsense"])
    assert "no bench/nonsense.py" in capsys.readouterr().err
