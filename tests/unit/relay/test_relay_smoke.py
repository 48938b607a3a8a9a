"""The job that tries a new worker, through the same use cases as everybody's."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from cumulusd.errors import InvalidArgument
from cumulusd.identity import Principal, Role
from cumulusd.jobs.packages import Packages
from cumulusd.relay import Relay
from cumulusd.smoke_jobs import OWNER, SmokeJobs
from cumulusd.spec import SpecLimits
from cumulusd.submissions import SubmitLimits
from tests.unit.supervisor.world import World, run_at_once

MAX_DURATION_S = 30.0
ANN = Principal(name="ann", owner="ann", role=Role.CLIENT)


class Office:
    def __init__(self, folder: Path) -> None:
        self.world = world = World(folder)
        self.relay = Relay(
            table=world.table,
            journals=world.journals,
            packages=Packages(folder / "p", run_in_thread=run_at_once, max_package_bytes=1 << 20),
            outputs=world.outputs,
            supervisor=world.supervisor,
            parts=dict,
            clock=world.clock,
            wall_clock=world.clock.seconds,
            limits=SubmitLimits(spec=SpecLimits(max_duration_s=MAX_DURATION_S)),
            platform_name="memory",
            forget=_nothing,
        )
        self.jobs = SmokeJobs(self.relay, world.table, world.supervisor)


async def _nothing(job_id: str) -> None:
    raise AssertionError(job_id)


@pytest_twisted.async_yield_fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    await office.world.start()
    yield office
    await office.world.stop()


@pytest_twisted.ensureDeferred
async def test_it_is_a_real_job_on_that_node(office: Office) -> None:
    job_id = await office.jobs.begin("n1", "key-1")
    office.world.pass_time(0.1)
    record = office.jobs.record(job_id)
    assert record is not None and record.placement is not None
    assert (record.owner, record.pinned_node, record.placement.node_id) == (OWNER, "n1", "n1")
    assert record.spec.units == 1
    assert record.spec.duration_s == MAX_DURATION_S, "what the operator allows"
    assert office.jobs.running_on("n1") == [job_id] and not office.jobs.running_on("n2")
    assert not office.jobs.clearing_on("n1")
    assert job_id not in [view["job_id"] for view in office.relay.list(ANN, False, 10)]


@pytest_twisted.ensureDeferred
async def test_the_same_key_is_the_same_job_also_at_once(office: Office) -> None:
    asked = [Deferred.fromCoroutine(office.jobs.begin("n1", "key-1")) for _ in range(3)]
    assert len({await one for one in asked}) == 1
    another, again = [await office.jobs.begin("n1", key) for key in ("key-2", "key-1")]
    assert another != again


@pytest.mark.parametrize("key", ["only_node", "pinned_node"])
@pytest_twisted.ensureDeferred
async def test_no_client_chooses_a_node(office: Office, key: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await office.relay.submit(ANN, {key: "n1"})
    assert key in [fault["key"] for fault in caught.value.details["faults"]]
