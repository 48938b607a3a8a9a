"""docs/operations.md has every reason there is, and no other."""

from pathlib import Path

from cumulus_wire.codes import RETRIED, EndReason, WaitReason
from cumulus_wire.states import ENDED

PAGE = (Path(__file__).parents[3] / "docs" / "operations.md").read_text()
SECTIONS = {
    part.partition("\n")[0]: part.partition("\n")[2] for part in PAGE.split("\n## ") if part
}


def rows(section: str) -> list[list[str]]:
    """Cells of the section's table, without its head."""
    lines = [line for line in SECTIONS[section].splitlines() if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert len({len(row) for row in cells}) == 1, "a row has more or fewer cells"
    return cells[1:]


def test_every_end_is_there_and_no_other() -> None:
    table = rows("Every end of a job")
    reasons = [row[1].strip("`") for row in table]
    assert sorted(reasons) == sorted([reason.value for reason in EndReason] + ["none"])
    assert {row[0] for row in table} == {state.value for state in ENDED}
    for row in table:
        assert row[3] and row[4], f"{row[1]}: what it means, and what to do"


def test_the_ends_that_are_tried_again_say_so() -> None:
    table = rows("Every end of a job")
    again = {row[1].strip("`") for row in table if row[3].endswith("*Again*")}
    assert again == {reason.value for reason in RETRIED}


def test_every_wait_is_there_and_no_other() -> None:
    table = rows("Why a job waits")
    assert sorted(row[0].strip("`") for row in table) == sorted(each.value for each in WaitReason)
    assert all(row[1] and row[2] for row in table)
