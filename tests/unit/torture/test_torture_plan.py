"""The torture's plans: the same for the same seed, and every kind of fault in time."""

import hashlib

import pytest

from tests.torture import work
from tests.torture.plan import COVERING_ROUNDS, Fault, plan_rounds

WORKERS = ["worker1", "worker2"]


def test_a_seed_is_one_plan() -> None:
    assert plan_rounds(5, 4, WORKERS) == plan_rounds(5, 4, WORKERS)
    assert plan_rounds(5, 4, WORKERS) != plan_rounds(6, 4, WORKERS)


@pytest.mark.parametrize("seed", range(40))
def test_every_kind_comes_in_every_eight_rounds(seed: int) -> None:
    rounds = plan_rounds(seed, 30, WORKERS)
    assert COVERING_ROUNDS <= 8
    for first in range(len(rounds) - 7):
        struck = {strike.fault for plan in rounds[first : first + 8] for strike in plan.strikes}
        assert struck == set(Fault)


def test_a_round_has_ten_jobs_of_all_kinds_and_no_seed_comes_twice() -> None:
    rounds = plan_rounds(1, 8, WORKERS)
    jobs = [job for plan in rounds for job in plan.jobs]
    assert all(len(plan.jobs) >= 10 for plan in rounds)
    assert all(len({job.kind for job in plan.jobs}) == len(plan.jobs) for plan in rounds)
    assert len({job.seed for job in jobs}) == len(jobs)
    assert {job.cancel for job in jobs} == {None, "pending", "starting", "running"}


@pytest.mark.parametrize("size", [0, 1, 2, 79, 80, 81, 400, 100_001])
def test_sequences_have_their_size_and_can_be_made_again(size: int) -> None:
    for as_lines in (True, False):
        said = work.sequence("seed", "stdout", size, as_lines)
        assert len(said) == size
        assert said == work.sequence("seed", "stdout", size, as_lines)
        assert said.endswith(b"\n") == (as_lines and size > 0)


def test_no_two_sequences_are_alike() -> None:
    one = work.sequence("1/1/1", "stdout", 500, False)
    others = [
        work.sequence("1/1/1", "stderr", 500, False),
        work.sequence("1/1/2", "stdout", 500, False),
    ]
    digests = {hashlib.sha256(said).digest() for said in (one, *others)}
    assert len(digests) == 3
