"""Simulated schedules: the real code under faults, with what must hold after every step.

`python -m tests.sim --seed N -v` replays a seed that failed here.
"""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cumulusd.jobs.events import EventKind
from cumulusd.jobs.machine import TABLE
from cumulusd.jobs.model import Phase
from tests.sim.sim_coverage import RARE, UNREACHABLE, Coverage
from tests.sim.sim_mutants import ADAPTED, MUTANTS
from tests.sim.sim_plan import (
    FAULTS,
    STRIKES,
    Plan,
    abandoned,
    hurried,
    interrupted,
    make_plan,
    paused,
    regretted,
    talkative,
)
from tests.sim.sim_world import Outcome, run_seed, temporary_root

ROOT = Path(__file__).parents[2]
#: About half a minute.
SHORT = range(1, 451)
LONG = range(10_001, 13_001)
#: On a slow disk; what the short run may miss of the table, since a launch ends so but seldom.
HURRIED = range(360, 400)
#: Most jobs are paused and resumed.
PAUSED = range(1, 41)
SELDOM = {
    (Phase.PREPARING, EventKind.HELD),
    (Phase.RETRYING, EventKind.CHECKPOINTED),
    (Phase.RETRYING, EventKind.YIELDED),
    (Phase.LAUNCHING, EventKind.FINAL),
    (Phase.LAUNCHING, EventKind.ATTEMPT_OVER),
    (Phase.LAUNCHING, EventKind.BEFELL),
}
#: A deliberate bug is caught within so many schedules.
MUTANT_SEEDS = 60


def same(plan: Plan) -> Plan:
    return plan


def run(seeds: range, adapt: Callable[[Plan], Plan] = same) -> Coverage:
    """Fails at the first violation; gives what was visited."""
    coverage = Coverage()
    root = temporary_root()
    try:
        for seed in seeds:
            outcome = run_seed(seed, plan=adapt(make_plan(seed)), root=root)
            assert not outcome.violations, failed(outcome)
            assert outcome.jobs >= 5 and outcome.faults >= 3, seed
            coverage.add(outcome.coverage)
    finally:
        root.rmdir()
    return coverage


def failed(outcome: Outcome) -> str:
    return f"seed {outcome.seed}: {outcome.violations[0]}"


@pytest.mark.timeout(600)
def test_a_short_run_of_schedules_violates_nothing_and_visits_what_matters() -> None:
    coverage = run(SHORT)
    assert not coverage.missing_boundaries()
    assert not coverage.missing_crashes()
    coverage.add(run(HURRIED, hurried))
    coverage.add(run(PAUSED, paused))
    assert coverage.actions["pause"] > 100 and coverage.actions["resume"] > 100
    assert set(TABLE) - set(UNREACHABLE) - set(coverage.pairs) <= SELDOM
    assert set(coverage.faults) == set(FAULTS) | set(STRIKES)


@pytest.mark.timeout(300)
def test_jobs_that_print_much_lose_nothing_over_cuts_and_kills() -> None:
    run(range(1, 41), talkative)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("adapt", [interrupted, abandoned, regretted, paused])
def test_the_schedules_that_bugs_are_caught_by_violate_nothing(
    adapt: Callable[[Plan], Plan],
) -> None:
    run(range(1, 21), adapt)


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_long_run_visits_every_pair_of_the_table() -> None:
    coverage = run(LONG)
    coverage.add(run(range(1, 400), hurried))
    for adapt in (talkative, interrupted, abandoned, regretted, paused):
        coverage.add(run(range(21, 200), adapt))
    assert set(coverage.missing_pairs()) <= RARE
    assert not set(coverage.pairs) & set(UNREACHABLE)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("bug", MUTANTS)
def test_a_deliberate_bug_is_caught(bug: str) -> None:
    adapt = ADAPTED.get(bug, same)
    root = temporary_root()
    try:
        with MUTANTS[bug]():
            caught = (
                seed
                for seed in range(1, MUTANT_SEEDS + 1)
                if run_seed(seed, plan=adapt(make_plan(seed)), root=root).violations
            )
            assert next(caught, None) is not None, f"{MUTANT_SEEDS} schedules didn't see: {bug}"
    finally:
        root.rmdir()


#: In all of these several waiters of one moment are woken, whose order was once another each time.
SEEDS_AGAIN = (7, 16, 36, 56, 58, 65, 126)


def test_a_seed_gives_the_same_schedule_again_in_another_process() -> None:
    digests = {str([run_seed(seed).digest for seed in SEEDS_AGAIN]) for _ in range(2)}
    code = (
        "from tests.sim.sim_world import run_seed\n"
        f"print([run_seed(seed).digest for seed in {SEEDS_AGAIN}])"
    )
    for hash_seed in ("1", "2"):
        said = subprocess.run(
            [sys.executable, "-c", code],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        )
        digests.add(said.stdout.strip())
    assert len(digests) == 1


def test_the_command_tells_its_counts_as_json() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "tests.sim", "--schedules", "2", "--first-seed", "3"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    last = said.stdout.splitlines()[-1]
    assert '"schedules": 2, "violations": 0' in last
