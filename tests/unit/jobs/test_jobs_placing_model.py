"""Placing, which remembers and skips, does what one plain pass over everything would do."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from job_values import agents, device, node, record, spec
from plain_scheduler import Decision, decide, in_turn
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.jobs.events import Event, EventKind
from cumulusd.jobs.model import End, EndedAttempt, JobRecord, Phase, Placement, Wait
from cumulusd.jobs.placing import Placing
from cumulusd.jobs.ports import AgentView, Node
from cumulusd.jobs.settings import Settings
from cumulusd.jobs.table import HOLDING, JobTable

GRACE_S = 60.0
_COMPLETED = End(state=JobState.COMPLETED, reason=None, message="")
_NODES = ("n0", "n1", "n2")
_owners = st.sampled_from(["ann", "ben", "cem"])
#: Few sizes, so that many are alike, and rare ones.
_shares = st.sampled_from([0.05, 0.1, 0.1, 0.25, 0.5, 0.5, 1.0]) | st.floats(0.01, 1.0)
_pins = st.sampled_from([None, None, None, None, *_NODES])


class Platform:
    """Tells the nodes that there are."""

    def __init__(self) -> None:
        self.there: dict[str, Node] = {}

    async def nodes(self) -> Sequence[Node]:
        return list(self.there.values())


class Workers:
    """Has the agents that are present."""

    def __init__(self) -> None:
        self.present: dict[str, AgentView] = {}
        self.changed: Callable[[str], None] = lambda node_id: None

    def agents(self) -> Mapping[str, AgentView]:
        return self.present

    def watch(self, changed: Callable[[str], None]) -> None:
        self.changed = changed


class PlacingModel(RuleBasedStateMachine):
    """Between two passes anything may change; after each, both are asked and compared."""

    @initialize()
    def begin(self) -> None:
        self.clock = Clock()
        self.clock.advance(1000.0)
        self.table, self.platform, self.workers = JobTable(), Platform(), Workers()
        self.told: deque[tuple[str, EventKind, Placement | End]] = deque()
        #: Placed or refused, which is not in the table yet: the disk takes its time.
        self.late: dict[str, tuple[EventKind, Placement | End]] = {}
        self.waits: dict[str, Wait] = {}
        self.count = 0
        platform: Any = self.platform
        workers: Any = self.workers
        self.placing = Placing(
            table=self.table,
            platform=platform,
            workers=workers,
            clock=self.clock,
            wall_clock=self.clock.seconds,
            settings=Settings(agent_grace_s=GRACE_S),
            tell=self.tell,
        )
        self.node_comes(0, "active")
        self.agent_says(0, [(10_000, 10_000)], None)
        self.node_comes(1, "active")
        self.agent_says(1, [(10_000, 10_000), (10_000, 10_000)], None)
        self.refresh()
        self.observed_since = self.clock.seconds()

    def tell(
        self, job_id: str, kind: EventKind, *, end: End | None = None, event: Event | None = None
    ) -> None:
        if kind is EventKind.BEFELL:
            return  # of jobs that are placed already: no pass has a say in it
        outcome = end if end is not None else event and event.placement
        assert outcome is not None
        self.told.append((job_id, kind, outcome))

    def refresh(self) -> None:
        looking = Deferred.fromCoroutine(self.placing.refresh())
        assert looking.called

    # -- what happens

    @rule(
        owner=_owners,
        share=_shares,
        priority=st.sampled_from([0, 0, 0, 1]),
        timeout_s=st.sampled_from([None, None, None, 0.0, 30.0]),
        pinned=_pins,
        failed_on=st.none() | st.sampled_from(_NODES),
    )
    def submit(
        self,
        owner: str,
        share: float,
        priority: int,
        timeout_s: float | None,
        pinned: str | None,
        failed_on: str | None,
    ) -> None:
        self.count += 1
        over = EndedAttempt(
            attempt=1,
            reason=EndReason.RUNNER_FAILED,
            message="",
            node_id=failed_on,
            hostname=failed_on,
            started_at=None,
            ended_at=1.0,
        )
        new = record(
            f"j{self.count:03}",
            owner=owner,
            spec=spec(share, priority=priority, queue_timeout_s=timeout_s),
            created_at=self.clock.seconds(),
            pinned_node=pinned,
            attempts=() if failed_on is None else (over,),
        )
        self.table.put(new)
        self.placing.add(new)
        if timeout_s:
            self.clock.callLater(timeout_s, self.placing.time_is_over, new.job_id)

    @rule(owner=_owners, shares=st.lists(_shares, min_size=5, max_size=20))
    def submit_many(self, owner: str, shares: list[float]) -> None:
        for share in shares:
            self.submit(owner, share, 0, None, None, None)

    @rule(number=st.integers(0, 2), availability=st.sampled_from(["active", "active", "drain"]))
    def node_comes(self, number: int, availability: str) -> None:
        node_id = _NODES[number]
        self.platform.there[node_id] = node(node_id, availability=availability)
        self.refresh()

    @rule(number=st.integers(0, 2))
    def node_goes(self, number: int) -> None:
        self.platform.there.pop(_NODES[number], None)
        self.refresh()

    @rule(
        number=st.integers(0, 2),
        cards=st.lists(
            st.tuples(st.sampled_from([10_000, 10_000, 5_000]), st.integers(0, 10_000)), max_size=3
        ),
        fault=st.sampled_from([None, None, None, "its disk is full"]),
    )
    def agent_says(self, number: int, cards: list[tuple[int, int]], fault: str | None) -> None:
        node_id = _NODES[number]
        cards_ = tuple(
            device(f"d{index}", index, free=min(total, free), total=total)
            for index, (total, free) in enumerate(cards)
        )
        view = agents(**{node_id: cards_})[node_id]
        self.workers.present[node_id] = attrs.evolve(view, fault=fault)
        self.workers.changed(node_id)

    @rule(number=st.integers(0, 2))
    def agent_goes(self, number: int) -> None:
        self.workers.present.pop(_NODES[number], None)
        self.workers.changed(_NODES[number])

    @rule(data=st.data(), phase=st.sampled_from([Phase.RUNNING, Phase.RETRYING, Phase.ENDING]))
    def goes_on(self, data: st.DataObject, phase: Phase) -> None:
        placed = self.table.placed()
        if placed:
            one = data.draw(st.sampled_from(placed), "one")
            now = self.clock.seconds()
            ended_at = now if phase is Phase.ENDING else None
            self.change(one, phase=phase, started_at=one.started_at or now, ended_at=ended_at)

    @rule(data=st.data(), again=st.booleans())
    def leaves(self, data: st.DataObject, again: bool) -> None:
        placed = self.table.placed()
        if placed:
            one = data.draw(st.sampled_from(placed), "one")
            phase = Phase.QUEUED if again else Phase.ENDED
            now = self.clock.seconds()
            self.change(
                one, phase=phase, placement=None, started_at=None, ended_at=now, queued_at=now
            )

    @rule(data=st.data())
    def cancelled(self, data: st.DataObject) -> None:
        waiting = [
            one
            for one in self.table.live()
            if one.phase is Phase.QUEUED and one.job_id not in self.late
        ]
        if waiting:
            self.change(data.draw(st.sampled_from(waiting), "one"), phase=Phase.ENDED)

    @rule()
    def disk_is_done(self) -> None:
        for job_id, (_, outcome) in list(self.late.items()):
            before = self.table.get(job_id)
            assert before is not None
            del self.late[job_id]
            if isinstance(outcome, Placement):
                self.change(before, phase=Phase.PREPARING, placement=outcome)
            else:
                self.change(before, phase=Phase.ENDED, end=outcome)

    @rule(seconds=st.sampled_from([0.5, 2.0, 10.0, 31.0, 61.0]))
    def time_passes(self, seconds: float) -> None:
        self.run_passes()
        self.clock.advance(seconds)
        self.placing.soon()

    def change(self, before: JobRecord, **changes: Any) -> None:
        if changes["phase"] in (Phase.ENDING, Phase.ENDED):
            changes.setdefault("end", before.end or _COMPLETED)
        after = attrs.evolve(before, wait=None, **changes)
        self.table.put(after)
        self.placing.changed(before, after)

    # -- what must hold

    @invariant()
    def run_passes(self) -> None:
        """One pass, and the plain one; then another, in which nothing is new to either."""
        for _ in range(2):
            self.placing.soon()
            expected = self.plain()
            self.clock.advance(0)
            self.compare(expected)

    def in_flight(self, kind: EventKind) -> list[str]:
        return [job_id for job_id, (each, _) in self.late.items() if each is kind]

    def plain(self) -> Decision:
        line = [
            attrs.evolve(one, wait=self.waits.get(one.job_id))
            for one in self.table.live()
            if one.phase is Phase.QUEUED and one.job_id not in self.late
        ]
        placed = [one for one in self.table.live() if one.phase in HOLDING]
        for job_id in self.in_flight(EventKind.PLACED):
            waiting, where = self.table.get(job_id), self.late[job_id][1]
            assert waiting is not None and isinstance(where, Placement)
            placed.append(attrs.evolve(waiting, placement=where))
        return decide(
            in_turn(line, in_use(placed)),
            list(self.platform.there.values()),
            self.workers.present,
            placed,
            self.clock.seconds(),
            GRACE_S,
            self.observed_since,
        )

    def compare(self, plain: Decision) -> None:
        told, placed, refused = list(self.told), {}, {}
        self.told.clear()
        for job_id, kind, outcome in told:
            self.late[job_id] = (kind, outcome)
            if isinstance(outcome, Placement):
                placed[job_id] = outcome
            else:
                refused[job_id] = outcome
        assert placed == dict(plain.placements)
        assert {job_id: end.reason for job_id, end in refused.items()} == {
            job_id: end.reason for job_id, end in plain.refusals.items()
        }
        for job_id, end in refused.items():
            assert end.hint == plain.refusals[job_id].hint
        self.waits = plain.waits
        holding = [one for one in self.table.live() if one.phase in HOLDING]
        holding += [self.table.get(job_id) for job_id in self.in_flight(EventKind.PLACED)]  # type: ignore[misc]
        left = [self.table.get(job_id) for job_id in plain.waits]
        order = in_turn([one for one in left if one is not None], in_use(holding))
        assert [one.job_id for one in self.placing.in_turn() if one.job_id in plain.waits] == [
            one.job_id for one in order
        ]
        for position, one in enumerate(order, start=1):
            wait = self.placing.explained(one).wait
            theirs = plain.waits[one.job_id]
            assert wait is not None
            assert wait.reason is theirs.reason is self.placing.wait_reason(one)
            # Here those that were placed meanwhile are out of the line already.
            place = {"position": position, "waiting": len(order)}
            assert wait.details == {**theirs.details, **place}
            assert wait.message.replace(f"{position} of {len(order)}", "") == (
                theirs.message.replace("{position} of {waiting}".format(**theirs.details), "")
            )


def in_use(placed: Sequence[JobRecord]) -> dict[str, int]:
    units: dict[str, int] = {}
    for one in placed:
        units[one.owner] = units.get(one.owner, 0) + one.spec.units
    return units


TestPlacing = pytest.mark.timeout(400)(PlacingModel.TestCase)
TestPlacing.settings = settings(max_examples=25, stateful_step_count=30, deadline=None)
