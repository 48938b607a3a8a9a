"""The regression guard: what jobs cost in requests, writes, bytes and passes. It measures no time.

Bounds stand a little above what was counted when they were written. Whoever makes the daemon do
less lowers them; whoever needs more says in the same change what it pays for.
"""

from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from tests.sim import sim_daemon, sim_worker, sim_world
from tests.sim.sim_counts import Counts
from tests.sim.sim_plan import JobPlan, Plan
from tests.sim.sim_runner import Script
from tests.sim.sim_world import run_seed

Run = Callable[[Plan], Counts]
MIB = 1 << 20
#: What is counted must be within its bound, and more than this part of it: a bound that is far
#: above holds nothing, and a counter that counts nothing any more would pass.
_LEAST = 0.6


def job(number: int, script: Script, *, readers: int = 1) -> JobPlan:
    return JobPlan(
        key=f"k{number}",
        owner=("ann", "bob")[number % 2],
        at=1.0,
        script=script,
        gpu_memory=0.25,
        duration_s=30.0,
        setup_timeout_s=4.0,
        queue_timeout_s=None,
        priority=0,
        retries=0,
        cancel_at=None,
        readers=readers,
    )


def plan(*jobs: JobPlan) -> Plan:
    return Plan(seed=1, devices=(1, 1), jobs=jobs, faults=(), strikes=())


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    def run(plan: Plan) -> Counts:
        counts = Counts()
        counts.install(monkeypatch)
        outcome = run_seed(plan.seed, plan=plan, root=tmp_path)
        assert outcome.violations == ()
        return counts

    return run


def check(counts: Counts, bounds: dict[str, int]) -> None:
    """Every count is within its bound, and near it."""
    unknown = sorted(set(counts.of) - set(bounds))
    assert not unknown, f"counted without a bound: {unknown}"
    for what, bound in bounds.items():
        assert counts.of[what] <= bound, f"{what}: {counts.of[what]}, at most {bound} may be"
        assert counts.of[what] >= _LEAST * bound, (
            f"{what}: {counts.of[what]}, lower its bound {bound}"
        )


def test_twenty_jobs_on_two_workers(run: Run) -> None:
    """Eight find a place at once, the others wait; each prints a little and is followed."""
    script = Script(kind="ok", setup_s=0.1, run_s=1.0, outputs=(100,) * 10)
    counts = run(plan(*(job(number, script) for number in range(20))))
    # Exactly one each a job, and every byte once at each place.
    once = {"engine create_service", "engine negotiate", "engine remove_service"}
    once |= {"agent prepare", "agent release"}
    assert {counts.of[what] for what in once} == {20}
    passed = ("journal bytes in", "journal bytes written", "journal bytes read")
    assert len({counts.of[what] for what in passed}) == 1
    check(
        counts,
        {
            **dict.fromkeys(once, 20),
            **dict.fromkeys(passed, 36_000),
            "engine image": 4,  # those that are launched at once ask once
            "engine services": 19,  # all of the jobs' services and tasks, each time
            "engine tasks": 19,
            "engine nodes": 6,
            "agent devices": 5,
            "agent journals": 4,
            "agent partitions": 4,
            "commits": 110,
            "records written": 152,  # eight for each job, seven for one that finds room at once
            "fsyncs": 62,
            "folder fsyncs": 88,  # two with new files, no longer with each sync
            "scheduling passes": 87,  # one of its own for each that comes while nobody waits
            "jobs looked at in passes": 20,  # each once
            "link messages": 280,
            "journal reads": 230,
            "messages to readers: journal": 230,
            "messages to readers: state": 245,  # shares come free one by one
        },
    )


def test_ten_megabytes_of_output(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte passes each place once."""
    monkeypatch.setattr(sim_daemon, "JOURNAL_CAP_BYTES", 64 * MIB)
    monkeypatch.setattr(sim_world, "JOURNAL_CAP_BYTES", 64 * MIB)
    monkeypatch.setattr(sim_daemon, "JOURNAL_SEGMENT_BYTES", 4 * MIB)
    options = attrs.evolve(sim_worker.OPTIONS, journal_max_bytes=64 * MIB, segment_bytes=4 * MIB)
    monkeypatch.setattr(sim_worker, "OPTIONS", options)
    script = Script(kind="ok", setup_s=0.1, run_s=4.0, outputs=(64 << 10,) * 160)
    counts = run(plan(job(0, script)))
    passed = ("journal bytes in", "journal bytes written", "journal bytes read")
    assert len({counts.of[what] for what in passed}) == 1
    check(
        counts,
        {
            **dict.fromkeys(passed, 10_490_000),
            "engine create_service": 1,
            "engine image": 1,
            "engine negotiate": 1,
            "engine remove_service": 1,
            "engine services": 10,
            "engine tasks": 10,
            "engine nodes": 6,
            "agent prepare": 1,
            "agent release": 1,
            "agent devices": 5,
            "agent journals": 5,
            "agent partitions": 4,
            "commits": 7,
            "records written": 7,
            "fsyncs": 8,
            "folder fsyncs": 9,
            "scheduling passes": 1,
            "jobs looked at in passes": 1,
            "link messages": 175,
            "journal reads": 175,
            "messages to readers: journal": 175,
            "messages to readers: state": 6,
        },
    )
