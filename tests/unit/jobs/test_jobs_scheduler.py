"""Placement: best fit, never too much, no starving, and words for everybody who waits."""

import random
from collections.abc import Sequence
from typing import Any

import attrs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_values import agents, device, node, record, running, spec

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.states import JobState
from cumulusd.errors import CumulusError, InsufficientResources, NoWorkers
from cumulusd.jobs import scheduler
from cumulusd.jobs.model import End, EndedAttempt, JobRecord, Phase, Placement, Wait
from cumulusd.jobs.pool import could_ever_fit, fits_somewhere
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.queue import JobQueue
from cumulusd.jobs.room import Room
from cumulusd.jobs.waiting import Waiting


@attrs.frozen(kw_only=True)
class Decision:
    """What one pass came to."""

    placements: list[tuple[str, Placement]]
    waits: dict[str, Wait]
    refusals: dict[str, End]
    reservations: dict[str, tuple[str, str]]


class Passes:
    """One pass after the other over a line and a room that stay."""

    def __init__(self, agent_grace_s: float = 60.0) -> None:
        self.line = JobQueue()
        self.room = Room()
        self.waiting = Waiting(self.line, self.room, agent_grace_s)

    def decide(
        self,
        waiting: Sequence[JobRecord],
        views: dict[str, AgentView],
        running: Sequence[JobRecord] = (),
        nodes: Sequence[Node] | None = None,
        now: float = 1000.0,
        observed_since: float = 0.0,
    ) -> Decision:
        """`waiting` in the order of the line."""
        if nodes is None:
            nodes = [node(node_id) for node_id in views]
        for number, each in enumerate(waiting):
            if each.job_id not in self.line:
                ordered = attrs.evolve(each, spec=attrs.evolve(each.spec, priority=-number))
                self.line.push(ordered, now)
                self.waiting.add(ordered)
            self.waiting.time_is_over(each.job_id)  # so that each is looked at for that
        placed_on: dict[str, dict[str, JobRecord]] = {}
        for each in running:
            assert each.placement is not None
            placed_on.setdefault(each.placement.node_id, {})[each.job_id] = each
        self.room.fill(nodes, views, placed_on, placed_on)
        self.waiting.renew(nodes, views)
        decision = scheduler.place(self.line, self.room, self.waiting.gone())
        for job_id, _ in decision.placements:
            self.line.remove(job_id)
        refusals = self.waiting.lost()
        for job_id in refusals:
            self.line.remove(job_id)
        self.waiting.passed(now)
        refusals |= self.waiting.refused(now, observed_since)
        for job_id in refusals:
            self.line.remove(job_id)
        waits = {}
        for each in self.line.ordered():
            wait = self.waiting.explained(each)
            assert wait is not None and wait.reason is self.waiting.reason(each)
            waits[each.job_id] = wait
        return Decision(
            placements=decision.placements,
            waits=waits,
            refusals=refusals,
            reservations=decision.reservations,
        )


def decide(*arguments: Any, **options: Any) -> Decision:
    """The only pass over that line."""
    return Passes().decide(*arguments, **options)


def where(decision: Decision) -> dict[str, tuple[str, str]]:
    return {job_id: (to.node_id, to.device_id) for job_id, to in decision.placements}


# Placing.


def test_the_tightest_device_is_taken() -> None:
    views = agents(
        n1=(device("a", free=9000), device("b", 1, free=6000)), n2=(device("c", free=5500),)
    )
    decision = decide([record("j", 0.5)], views)
    assert where(decision) == {"j": ("n2", "c")}
    ((_, placement),) = decision.placements
    assert placement.hostname == "host-n2"
    assert not decision.waits
    assert not decision.refusals


def test_placements_are_subtracted_as_it_goes() -> None:
    jobs = [record(f"j{n}", 0.4, created_at=float(n)) for n in range(6)]
    decision = decide(jobs, agents(n1=(device("a"), device("b", 1))))
    assert where(decision) == {
        "j0": ("n1", "a"),
        "j1": ("n1", "a"),
        "j2": ("n1", "b"),
        "j3": ("n1", "b"),
    }
    assert list(decision.waits) == ["j4", "j5"]


def test_what_was_placed_counts_before_its_agent_has_booked_it() -> None:
    views = agents(n1=(device("a", free=10_000),))
    preparing = running("p", "n1", "a", 0.7, phase=Phase.PREPARING, started_at=None)
    assert where(decide([record("j", 0.5)], views, [preparing])) == {}
    assert where(decide([record("j", 0.3)], views, [preparing])) == {"j": ("n1", "a")}
    booked = agents(n1=(device("a", free=3000),))
    assert where(decide([record("j", 0.3)], booked, [preparing])) == {"j": ("n1", "a")}


@pytest.mark.parametrize(
    "change", [{"state": "down"}, {"availability": "drain"}, {"is_worker": False}]
)
def test_unusable_nodes_take_nothing(change: dict[str, Any]) -> None:
    decision = decide([record("j")], agents(n1=(device(),)), nodes=[node("n1", **change)])
    assert decision.placements == []
    assert "No GPU workers available" in decision.waits["j"].message


# Waiting.


def test_nothing_is_placed_on_a_worker_that_another_one_replaced() -> None:
    passes = Passes()
    passes.decide([], agents(n1=(device(),)))
    decision = passes.decide([record("a")], agents(n2=(device(),)))
    assert [node_id for node_id, _ in where(decision).values()] == ["n2"]


def test_a_large_job_holds_its_device_and_others_go_past_elsewhere() -> None:
    views = agents(n1=(device("a", free=4000), device("b", 1, free=3000)))
    on_a = running("r1", "n1", "a", 0.6, started_at=500.0)
    on_b = running("r2", "n1", "b", 0.7, started_at=900.0)
    jobs = [record("large", 1.0), record("s1", 0.3), record("s2", 0.3), record("s3", 0.1)]
    decision = decide(jobs, views, [on_a, on_b])
    assert decision.reservations["large"] == ("n1", "a")
    assert where(decision) == {"s1": ("n1", "b")}
    assert decision.waits["large"].reason is WaitReason.NO_FREE_SHARE
    assert decision.waits["large"].details["frees_by"] == 560.0
    assert decision.waits["s2"].reason is WaitReason.BEHIND_OTHERS
    assert decision.waits["s3"].reason is WaitReason.BEHIND_OTHERS


def test_a_wait_says_position_need_what_is_free_and_until_when() -> None:
    views = agents(n1=(device("a", free=2500),), n2=(device("b", free=1000),))
    busy = [
        running("r1", "n1", "a", 0.5, started_at=1_000_000.0),
        running("r2", "n1", "a", 0.25, started_at=1_000_100.0),
    ]
    jobs = [record("first", 0.25), record("j", 0.5)]
    wait = decide(jobs, views, busy).waits["j"]
    assert wait.message == (
        "Waiting for a free share: position 1 of 1, needs 0.5 of a GPU (5000 units); the largest "
        "free share is 0.1 of a GPU (1000 units) on host-n2, Card b; a share that large frees "
        "by 1970-01-12 13:47:40 UTC at the latest"
    )
    assert dict(wait.details) == {
        "position": 1,  # the first has its place
        "waiting": 1,
        "units": 5000,
        "gpu_memory": 0.5,
        "largest_free": {
            "node_id": "n2",
            "hostname": "host-n2",
            "device_id": "b",
            "device_name": "Card b",
            "units_free": 1000,
            "units_total": 10_000,
        },
        "frees_by": 1_000_060.0,
    }


def test_nothing_free_and_no_known_bound_is_said() -> None:
    views = agents(n1=(device("a", free=0),))
    starting = running("r", "n1", "a", 1.0, phase=Phase.LAUNCHING, started_at=None)
    wait = decide([record("j", 0.1)], views, [starting]).waits["j"]
    assert "nothing is free on any device" in wait.message
    assert "is not known yet" in wait.message
    assert wait.details["frees_by"] is None


def test_a_job_in_setup_is_bounded_by_both_budgets() -> None:
    views = agents(n1=(device("a", free=0),))
    setup = running(
        "r",
        "n1",
        "a",
        1.0,
        phase=Phase.STARTING,
        started_at=None,
        setup_at=100.0,
        spec=spec(1.0, setup_timeout_s=30.0, duration_s=7.0),
    )
    assert decide([record("j")], views, [setup]).waits["j"].details["frees_by"] == 137.0


def test_a_wait_does_not_change_with_the_clock_alone() -> None:
    cases: list[tuple[dict[str, AgentView], list[JobRecord], list[Node]]] = [
        (agents(n1=(device("a", free=0),)), [running("r", "n1", "a", 1.0)], [node("n1")]),
        (agents(n1=(device("a", free=4000),)), [running("r", "n1", "a", 0.6)], [node("n1")]),
        ({}, [], [node("n1")]),
        ({}, [], []),
    ]
    for views, busy, nodes in cases:
        jobs, passes = [record("x", 1.0), record("j")], Passes()
        first = passes.decide(jobs, views, busy, nodes, now=1000.0)
        assert passes.decide(jobs, views, busy, nodes, now=1010.0).waits == first.waits


def test_a_stream_of_small_jobs_does_not_starve_a_large_one() -> None:
    """Small jobs keep coming; the large one starts once what ran before it has ended."""
    chance = random.Random(7)
    active: list[JobRecord] = []
    waiting = [record("large", 1.0, created_at=30.0)]
    for step in range(200):
        now = 30.0 + step
        active = [r for r in active if (r.started_at or 0) + r.spec.duration_s > now]
        if step < 150:
            small = spec(chance.choice([0.1, 0.3, 0.5]), duration_s=chance.uniform(1, 20))
            for n in range(2):
                waiting.append(record(f"s{step}-{n}", created_at=now, spec=small))
        devices = []
        for index, name in enumerate("ab"):
            used = sum(
                r.spec.units for r in active if r.placement and r.placement.device_id == name
            )
            devices.append(device(name, index, free=10_000 - used))
        if step == 0:  # the devices are busy when it comes
            active = [running(f"r{d}", "n1", d, 0.9, started_at=now) for d in "ab"]
            devices = [device(d, i, free=1000) for i, d in enumerate("ab")]
        decision = decide(waiting, agents(n1=tuple(devices)), active, now=now)
        placed = where(decision)
        for each in waiting:
            if each.job_id in placed:
                device_id = placed[each.job_id][1]
                active.append(
                    attrs.evolve(
                        running(each.job_id, "n1", device_id, 0.5), spec=each.spec, started_at=now
                    )
                )
        waiting = [each for each in waiting if each.job_id not in placed]
        if "large" in placed:
            assert step <= 61  # its device drains within the longest duration, 60 s
            return
    pytest.fail("the large job never started")


# Agents away, pools that shrink, refusals.


def test_agents_away_are_waited_for_then_given_up() -> None:
    nodes = [node("n1"), node("n2")]
    waiting = record("j")
    passes, new = Passes(60.0), Passes(60.0)
    decision = passes.decide([waiting], {}, nodes=nodes, now=1000.0)
    wait = decision.waits["j"]
    assert wait.reason is WaitReason.AGENT_AWAY
    assert "host-n1, host-n2" in wait.message
    assert wait.details["since"] == 1000.0
    assert "j" in passes.decide([waiting], {}, nodes=nodes, now=1059.0).waits
    late: dict[str, Any] = {"nodes": nodes, "now": 1060.0}
    # A daemon that has only just started has not waited for anybody yet.
    assert "j" in new.decide([waiting], {}, nodes=nodes, now=1000.0).waits
    assert "j" in new.decide([waiting], {}, observed_since=1050.0, **late).waits
    end = passes.decide([waiting], {}, **late).refusals["j"]
    assert (end.state, end.reason) == (JobState.FAILED, EndReason.UNSCHEDULABLE)
    assert "No GPU workers available" in end.message
    assert end.hint


def test_a_device_that_comes_in_time_resets_the_grace() -> None:
    waiting, passes = record("j"), Passes(60.0)
    assert passes.decide([waiting], {}, nodes=[node()]).waits["j"].details["since"] == 1000.0
    full = agents(n1=(device(free=0),))
    assert "since" not in passes.decide([waiting], full, now=1030.0).waits["j"].details
    decision = passes.decide([waiting], {}, nodes=[node()], now=2000.0)
    assert decision.waits["j"].details["since"] == 2000.0


def test_an_empty_pool_does_not_end_queued_jobs_at_once() -> None:
    passes = Passes(60.0)
    decision = passes.decide([record("j")], {}, nodes=[])
    assert decision.refusals == {}
    assert "worker to come back" in decision.waits["j"].message
    end = passes.decide([record("j")], {}, nodes=[], now=1061.0).refusals["j"]
    assert end.reason is EndReason.UNSCHEDULABLE


def test_a_job_that_would_not_wait_is_refused_with_the_reason() -> None:
    views = agents(n1=(device("a", free=0),))
    hasty = record("j", created_at=1000.0, spec=spec(0.5, queue_timeout_s=0.0))
    end = decide([hasty], views).refusals["j"]
    assert (end.state, end.reason) == (JobState.FAILED, EndReason.QUEUE_TIMEOUT)
    assert "was not to wait" in end.message
    assert "nothing is free" in end.message
    free = agents(n1=(device("a"),))
    assert where(decide([hasty], free)) == {"j": ("n1", "a")}


def test_a_queue_timeout_counts_from_the_submission() -> None:
    views = agents(n1=(device("a", free=0),))
    patient = record("j", created_at=900.0, spec=spec(0.5, queue_timeout_s=100.0))
    assert "j" in decide([patient], views, now=999.0).waits
    assert "Waited 100 s" in decide([patient], views, now=1000.0).refusals["j"].message


# Could it ever fit?


def refusal(*arguments: Any, **options: Any) -> CumulusError:
    error = could_ever_fit(*arguments, **options)
    assert error is not None
    assert error.status == 503
    assert error.hint
    return error


def test_no_usable_worker() -> None:
    for nodes in ([], [node(state="down")], [node(is_worker=False)]):
        error = refusal(spec(), nodes, agents(n1=(device(),)))
        assert type(error) is NoWorkers
        assert error.message == "No GPU workers available"
        assert len(error.details["workers"]) == len(nodes)


def test_an_agent_away_may_have_what_is_needed() -> None:
    nodes = [node("n1"), node("n2")]
    assert could_ever_fit(spec(1.0), nodes, agents(n1=(device(total=5000),))) is None
    error = refusal(spec(1.0), nodes, agents(n1=(device(total=5000),)), overdue=["n2"])
    assert type(error) is InsufficientResources
    assert type(refusal(spec(), [node()], {}, overdue=["n1"])) is NoWorkers


def test_busy_is_no_reason() -> None:
    assert could_ever_fit(spec(1.0), [node()], agents(n1=(device(free=0),))) is None


def test_agents_without_a_device_are_named() -> None:
    error = refusal(spec(), [node("n1"), node("n2")], agents(n1=(), n2=()))
    assert type(error) is NoWorkers
    assert error.message == "No GPU workers available"
    assert [each["hostname"] for each in error.details["workers"]] == ["host-n1", "host-n2"]
    assert "host-n1: no device was found on it" in error.details["why"]


def test_too_large_for_every_device() -> None:
    views = agents(n1=(device("a", total=4000),), n2=(device("b", total=6000),))
    error = refusal(spec(0.7), [node("n1"), node("n2")], views)
    assert type(error) is InsufficientResources
    assert "0.7 of a GPU (7000 units)" in error.message
    assert "Card b on host-n2" in error.message
    assert error.details["largest"]["units_total"] == 6000


# Properties.

shares = st.sampled_from([0.0001, 0.1, 0.25, 0.333, 0.5, 0.75, 1.0])


@st.composite
def pools(draw: st.DrawFn) -> tuple[list[Node], dict[str, AgentView], list[JobRecord]]:
    nodes, views, busy = [], {}, []
    for number in range(draw(st.integers(0, 4))):
        node_id = f"n{number}"
        state = draw(st.sampled_from(["ready", "ready", "ready", "down"]))
        nodes.append(node(node_id, state=state))
        if draw(st.integers(0, 4)) == 0:
            continue
        devices = []
        for index in range(draw(st.integers(0, 3))):
            device_id = f"{node_id}-d{index}"
            total = draw(st.sampled_from([10_000, 10_000, 5_000]))
            free = total
            for each in range(draw(st.integers(0, 3))):
                share = draw(shares)
                units = spec(share).units
                started = draw(st.none() | st.floats(0, 1000))
                if units <= free:
                    free -= units
                    job_id = f"r-{device_id}-{each}"
                    busy.append(running(job_id, node_id, device_id, share, started_at=started))
            reported = draw(st.integers(free, total))
            devices.append(device(device_id, index, free=reported, total=total))
        views[node_id] = agents(x=tuple(devices))["x"]
        views[node_id] = attrs.evolve(views[node_id], node_id=node_id)
    return nodes, views, busy


@settings(max_examples=300, deadline=None)
@given(pools(), st.lists(shares, max_size=12))
def test_whatever_the_pool(
    pool: tuple[list[Node], dict[str, AgentView], list[JobRecord]], wanted: list[float]
) -> None:
    nodes, views, busy = pool
    jobs = [record(f"j{n}", share, created_at=float(n)) for n, share in enumerate(wanted)]
    decision = decide(jobs, views, busy, nodes)
    placed = where(decision)

    # Each job has exactly one answer, and the same question gets the same one.
    assert sorted([*placed, *decision.waits]) == sorted(each.job_id for each in jobs)
    assert decision.refusals == {}
    assert decide(jobs, dict(reversed(views.items())), busy[::-1], nodes[::-1]) == decision

    # Never more than is free.
    usable = {each.node_id for each in nodes if each.usable}
    free, totals = {}, {}
    for node_id, view in views.items():
        for card in view.devices:
            key = (node_id, card.device_id)
            ours = sum(
                r.spec.units
                for r in busy
                if r.placement and (r.placement.node_id, r.placement.device_id) == key
            )
            totals[key] = card.units_total
            free[key] = min(card.units_free, card.units_total - ours)
    left = dict(free)
    for each in jobs:
        if each.job_id in placed:
            key = placed[each.job_id]
            assert key[0] in usable
            left[key] -= each.spec.units
            assert left[key] >= 0

    # Order: in turn, no job takes a device that an earlier one holds; and none waits idly.
    left, held = dict(free), set()
    for each in jobs:
        units = each.spec.units
        room = {k for k, f in left.items() if k[0] in usable and k not in held and f >= units}
        if each.job_id in placed:
            key = placed[each.job_id]
            assert key in room
            assert left[key] == min(left[other] for other in room)
            left[key] -= units
            continue
        assert not room
        large = {k for k in totals if k[0] in usable and k not in held and totals[k] >= units}
        if each.job_id in decision.reservations:
            assert decision.reservations[each.job_id] in large
            held.add(decision.reservations[each.job_id])
        elif large:
            least = min(other.spec.units for other in jobs)
            open_to_all = [f for k, f in left.items() if k[0] in usable and k not in held]
            assert max(open_to_all, default=0) < least, "nothing is left to be held from anybody"

    # Words for everybody.
    waiting = [each for each in jobs if each.job_id in decision.waits]
    for position, each in enumerate(waiting, start=1):
        wait = decision.waits[each.job_id]
        assert f"position {position} of {len(waiting)}" in wait.message
        assert f"{each.spec.units} units" in wait.message
        assert wait.details["position"] == position
        assert wait.details["units"] == each.spec.units


def test_a_long_line_is_told_to_the_last_job() -> None:
    """10,000 waiting jobs on 100 busy devices: answers are shared, not worked out for each."""
    views = agents(
        **{f"n{n}": tuple(device(f"n{n}-d{i}", i, free=500) for i in range(4)) for n in range(25)}
    )
    jobs = [record(f"j{n}", 0.1 + (n % 50) / 100, created_at=float(n)) for n in range(10_000)]
    decision = decide(jobs, views)
    assert len(decision.waits) == 10_000
    assert "position 10000 of 10000" in decision.waits["j9999"].message


# Workers that take no job now.


def test_a_worker_with_a_fault_takes_nothing_and_is_named() -> None:
    views = agents(n1=(device("a"),), n2=(device("b", free=3000),))
    views["n1"] = attrs.evolve(views["n1"], fault="its disk is full")
    decision = decide([record("small", 0.2), record("large", 0.5), record("tiny", 0.1)], views)
    assert where(decision) == {"small": ("n2", "b")}
    wait = decision.waits["large"]
    assert wait.reason is WaitReason.NO_FREE_SHARE
    assert "host-n1 takes no jobs: its disk is full" in wait.message
    assert wait.details["faulty"] == [
        {"node_id": "n1", "hostname": "host-n1", "fault": "its disk is full"}
    ]
    assert decision.reservations == {"large": ("n2", "b")}, "only what may take it is held for it"


def test_a_fault_is_waited_for_not_refused() -> None:
    views = agents(n1=(device("a"),))
    views["n1"] = attrs.evolve(views["n1"], fault="its disk is full")
    assert could_ever_fit(spec(0.5), [node("n1")], views) is None
    waiting, passes = record("j", 0.5), Passes()
    for now in (1000.0, 2000.0, 900_000.0):
        assert list(passes.decide([waiting], views, now=now).waits) == ["j"]
    assert where(decide([waiting], agents(n1=(device("a"),)))) == {"j": ("n1", "a")}


# Workers that can't take a job.


def mixed_pool() -> tuple[list[Node], dict[str, AgentView]]:
    nodes = [
        node("a", state="down"),
        node("b", availability="drain"),
        node("c", availability="pause"),
        node("d"),
        node("e"),
        node("f"),
        node("g", is_worker=False, state="down"),
    ]
    views = agents(b=(device(),), c=(device(),), e=(), f=(device(),))
    views["e"] = attrs.evolve(views["e"], discovery_error="no driver")
    return nodes, views


UNFIT = {
    "host-a": "its node is down",
    "host-b": "drained",
    "host-c": "paused",
    "host-d": "its agent is away",
    "host-e": "no device was found on it (no driver)",
}


def test_every_wait_names_the_workers_that_are_not_usable_and_why() -> None:
    nodes, views = mixed_pool()
    busy = [running("r", "f", "d0", 0.8)]
    decision = decide([record("j", 0.5)], views, busy, nodes)
    wait = decision.waits["j"]
    assert wait.reason is WaitReason.NO_FREE_SHARE
    assert {each["hostname"]: each["why"] for each in wait.details["unfit"]} == UNFIT
    words = ", ".join(f"{hostname} ({why})" for hostname, why in UNFIT.items())
    assert wait.message.endswith(f"; not usable: {words}")


def test_with_no_fit_worker_left_the_wait_and_the_end_name_them_all() -> None:
    nodes, views = mixed_pool()
    nodes = [each for each in nodes if each.node_id not in ("d", "f")]
    views = {node_id: view for node_id, view in views.items() if node_id != "f"}
    passes = Passes()
    wait = passes.decide([record("j", 0.5)], views, nodes=nodes).waits["j"]
    told = {key: why for key, why in UNFIT.items() if key != "host-d"}
    assert {each["hostname"]: each["why"] for each in wait.details["unfit"]} == told
    end = passes.decide([record("j", 0.5)], views, nodes=nodes, now=2000.0).refusals["j"]
    assert end.reason is EndReason.UNSCHEDULABLE
    for hostname, why in told.items():
        assert f"{hostname}: {why}" in end.message


def test_an_agent_away_is_named_once() -> None:
    nodes, views = mixed_pool()
    views = {node_id: view for node_id, view in views.items() if node_id != "f"}
    nodes = [each for each in nodes if each.node_id != "f"]
    wait = decide([record("j", 0.5)], views, nodes=nodes).waits["j"]
    assert wait.reason is WaitReason.AGENT_AWAY
    assert wait.message.count("host-d") == 1
    assert "host-a (its node is down)" in wait.message
    assert {each["hostname"] for each in wait.details["unfit"]} == set(UNFIT)


def test_many_unusable_workers_are_counted() -> None:
    nodes = [node(f"n{number:03}", state="down") for number in range(300)] + [node("z")]
    busy = [running("r", "z", "d0", 1.0)]
    wait = decide([record("j", 0.5)], agents(z=(device(),)), busy, nodes).waits["j"]
    assert "and 295 more" in wait.message
    assert len(wait.details["unfit"]) == 100


def test_an_attempt_goes_elsewhere_than_the_one_before_if_it_can() -> None:
    over = EndedAttempt(
        attempt=1,
        reason=EndReason.RUNNER_FAILED,
        message="killed",
        node_id="n1",
        hostname="host-n1",
        started_at=None,
        ended_at=1.0,
    )
    job = record("j", 0.5, attempt=2, attempts=(over,))
    views = agents(n1=(device("a", free=5000),), n2=(device("b"),))
    assert where(decide([job], views)) == {"j": ("n2", "b")}
    views = agents(n1=(device("a", free=5000),), n2=(device("b", free=100),))
    assert where(decide([job], views)) == {"j": ("n1", "a")}, "rather there than not at all"


def test_a_queue_timeout_counts_anew_for_another_attempt() -> None:
    waiting = record("j", 0.5, spec=spec(0.5, queue_timeout_s=50.0), queued_at=980.0, attempt=2)
    views, busy = agents(n1=(device(),)), [running("r", "n1", "d0", 1.0)]
    assert decide([waiting], views, busy, now=1000.0).waits
    assert decide([waiting], views, busy, now=1030.0).refusals


def test_a_worker_being_cleared_for_another_attempt_has_no_known_bound() -> None:
    held = [running("r", "n1", "d0", 1.0, phase=Phase.RETRYING)]
    wait = decide([record("j", 0.5)], agents(n1=(device(),)), held).waits["j"]
    assert wait.details["frees_by"] is None


@pytest.mark.parametrize("total", [5000, 10_000])
@pytest.mark.parametrize("availability", ["active", "drain"])
@pytest.mark.parametrize("present", [True, False])
def test_what_fits_somewhere_is_never_refused(total: int, availability: str, present: bool) -> None:
    nodes = [node(availability=availability)]
    views = agents(n1=(device(total=total, free=0),)) if present else {}
    fits = fits_somewhere(spec(1.0), nodes, views)
    assert fits == (total == 10_000 and availability == "active" and present)
    if fits:
        assert could_ever_fit(spec(1.0), nodes, views) is None
