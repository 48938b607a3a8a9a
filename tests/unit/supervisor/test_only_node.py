"""Jobs that the daemon itself wants on one node and nowhere else."""

import attrs

from cumulus_wire.codes import EndReason
from cumulusd.jobs.model import JobRecord, Phase
from tests.unit.supervisor.test_supervisor import in_world
from tests.unit.supervisor.world import World, new_record


def only_on(world: World, node_id: str) -> JobRecord:
    record = new_record("a", world.clock.seconds(), 0.0001)
    return attrs.evolve(record, pinned_node=node_id)


async def with_another(world: World, availability: str = "active") -> None:
    """The pool: "one", as set, and "two", which is as good."""
    mine = world.platform.pool[0]
    other = attrs.evolve(mine, node_id="n2", hostname="two")
    world.platform.pool = [attrs.evolve(mine, availability=availability), other]
    await world.supervisor.placing.refresh()


@in_world
async def test_it_goes_to_that_node_and_needs_nothing_there(world: World) -> None:
    await with_another(world)
    await world.supervisor.submit(only_on(world, "n1"))
    world.pass_time(1)
    record = world.record("a")
    assert record.phase is Phase.STARTING and not record.needs_kept
    assert record.placement is not None and record.placement.node_id == "n1"


@in_world
async def test_it_waits_for_that_node_and_says_so(world: World) -> None:
    await with_another(world, "pause")
    await world.supervisor.submit(only_on(world, "n1"))
    world.pass_time(1)
    record = world.record("a")
    assert record.phase is Phase.QUEUED and record.wait is not None
    assert record.wait.message.startswith("It is to run on one only: ")


@in_world
async def test_it_ends_with_that_node(world: World) -> None:
    await with_another(world, "pause")
    await world.supervisor.submit(only_on(world, "n1"))
    world.platform.pool = world.platform.pool[1:]
    await world.supervisor.placing.refresh()
    world.pass_time(2)
    end = world.record("a").end
    assert end is not None and end.reason is EndReason.UNSCHEDULABLE
    assert "n1" in end.message
