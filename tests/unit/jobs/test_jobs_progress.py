"""The last word of a job's code on its progress, and how often it is published."""

import json
from typing import Any

import attrs
import pytest
from twisted.internet.task import Clock

from cumulus_wire.journal import Kind, Record
from cumulusd.jobs.model import JobRecord, JobSpec, Phase
from cumulusd.jobs.progress import ProgressBoard


def said(**value: Any) -> Record:
    return Record(Kind.PROGRESS, json.dumps(value).encode(), 0, 0, 0)


def record(phase: Phase = Phase.RUNNING, attempt: int = 1) -> JobRecord:
    spec = JobSpec(package_sha256="0" * 64, package_size_bytes=1, gpu_memory=0.5, duration_s=9.0)
    return JobRecord(job_id="j", owner="a", spec=spec, phase=phase, created_at=0.0, attempt=attempt)


def test_it_is_published_at_most_once_a_second_and_the_last_one_always() -> None:
    clock, told = Clock(), list[Any]()
    board = ProgressBoard(clock, lambda job_id: told.append(board.of(job_id)))
    for step in range(25):
        board.feed("j", said(fraction=step / 100, message=f"step {step}"))
        assert board.of("j") == {"fraction": step / 100, "message": f"step {step}"}
        clock.advance(0.1)
    clock.advance(1.0)
    steps = [int(one["message"].split()[1]) for one in told]
    assert len(steps) == 4
    assert steps[0] == 0 and steps[-1] == 24
    assert steps[2] - steps[1] >= 10
    board.feed("j", said(fraction=0.24, message="step 24"))
    assert not clock.getDelayedCalls(), "the same again is no news"


@pytest.mark.parametrize("after", [record(Phase.ENDING), record(attempt=2), record(Phase.RETRYING)])
def test_it_goes_with_its_attempt(after: JobRecord) -> None:
    clock = Clock()
    board = ProgressBoard(clock, lambda job_id: None)
    board.feed("j", said(fraction=0.5, message="half"))
    board.job_changed(record(), attrs.evolve(record(), wait=None))
    assert board.of("j") is not None
    board.job_changed(record(), after)
    assert board.of("j") is None
    assert not clock.getDelayedCalls()


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ({}, {"fraction": None, "message": ""}),
        ({"fraction": True, "message": 5}, {"fraction": None, "message": ""}),
        ({"fraction": 1.5, "message": "a\0b"}, {"fraction": None, "message": "a\\0b"}),
        ({"fraction": 1, "message": "m" * 900}, {"fraction": 1, "message": "m" * 500}),
    ],
)
def test_what_a_hostile_job_writes_is_bounded(value: Any, shown: Any) -> None:
    clock = Clock()
    board = ProgressBoard(clock, lambda job_id: None)
    board.feed("j", said(**value))
    assert board.of("j") == shown
    board.stop()
    assert not clock.getDelayedCalls()
