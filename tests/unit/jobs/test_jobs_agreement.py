"""What counts as a disagreement over shares, and how it is told."""

import pytest
from job_values import record
from twisted.logger import LogLevel, capturedLogs

from cumulusd.jobs.agreement import MAX_TOLD, Agreement, expected_of, unbooked
from cumulusd.jobs.model import Phase, Placement
from cumulusd.jobs.ports import Disagreement, Holding, Inventory

PLACE = Placement(node_id="n1", hostname="one", device_id="d0")


def holding(job_id: str = "job-1", attempt: int = 1) -> Holding:
    return Holding(node_id="n1", job_id=job_id, attempt=attempt, device_index=0, units=5000)


def inventory(*holdings: Holding) -> dict[str, Inventory]:
    return {
        "n1": Inventory(jobs={(one.job_id, one.attempt) for one in holdings}, holdings=holdings)
    }


def differ(message: str = "5 units") -> Disagreement:
    return Disagreement(node_id="n1", message=message)


@pytest.mark.parametrize(
    ("phase", "runs"),
    [
        (Phase.PREPARING, False),
        (Phase.LAUNCHING, False),
        (Phase.STARTING, True),
        (Phase.RUNNING, True),
        (Phase.ENDING, False),
    ],
)
def test_a_container_is_expected_of_attempts_that_run(phase: Phase, runs: bool) -> None:
    job = record(phase=phase, placement=PLACE)
    held = expected_of(inventory(holding(), holding(attempt=2), holding("other")), [job])
    assert [one.runs for one in held["n1"]] == [runs, False, False]
    assert bool(unbooked(inventory(holding("other")), [job])) is runs
    assert unbooked(inventory(holding()), [job]) == []
    assert unbooked({}, [job]) == [], "its agent could not be asked"


def test_the_unbooked_job_is_named() -> None:
    (found,) = unbooked(inventory(), [record(phase=Phase.RUNNING, placement=PLACE)])
    assert found.node_id == "n1"
    assert "job-1" in found.message and "no partition" in found.message


def test_what_is_so_once_is_a_job_coming_or_going() -> None:
    agreement = Agreement()
    with capturedLogs() as logged:
        agreement.take([differ("a")])
        agreement.take([differ("b")])
        assert agreement.shown == ()
        agreement.take([differ("b"), differ("b"), differ("c")])
        assert agreement.shown == (differ("b"),)
        agreement.take([differ("b")])
    errors = [event for event in logged if event["log_level"] is LogLevel.error]
    assert [event["why"] for event in errors] == ["b"], "once as long as it lasts"
    with capturedLogs() as logged:
        agreement.take([])
    assert agreement.shown == ()
    assert [event["log_level"] for event in logged] == [LogLevel.info]


def test_many_make_few_lines() -> None:
    agreement = Agreement()
    many = [differ(str(number)) for number in range(50)]
    agreement.take(many)
    with capturedLogs() as logged:
        agreement.take(many)
    assert len(agreement.shown) == 50
    assert len(logged) == MAX_TOLD + 1
    assert logged[-1]["count"] == 50 - MAX_TOLD
