"""`cumulusd doctor --probe`: a container of the job image on each worker, which does nothing and is
removed. The only check that changes the Swarm, and the only one that proves the image."""

from collections.abc import Sequence
from typing import Any

from docker import types
from twisted.internet.defer import Deferred, DeferredList

from cumulusd.doctor.finding import Finding, fault, of_error, ok
from cumulusd.doctor.workers import cure
from cumulusd.errors import CumulusError
from cumulusd.swarm import labels
from cumulusd.swarm.answers import NodeInfo, TaskInfo
from cumulusd.swarm.engine import Engine
from cumulusd.swarm.image_reference import ImageBy, resolve_image
from cumulusd.tasks import sleep

#: On the services, beside no instance: no daemon takes them for its own.
KIND_PROBE = "probe"
#: Long enough to pull an image of some GiB.
PROBE_TIMEOUT_S = 300.0
_LOOK_S = 0.5
_SECOND_NS = 1_000_000_000
_UID = 65_534  # nobody


async def probe(engine: Engine, nodes: Sequence[NodeInfo], image: str, clock: Any) -> list[Finding]:
    """One finding a node, in their order; all at a time. Raises nothing of the engine's."""
    try:
        fixed = await resolve_image(engine, image, ImageBy.DIGEST)
    except CumulusError as error:
        return [of_error("image", error)]
    tries = [Deferred.fromCoroutine(_one(engine, node, image, fixed, clock)) for node in nodes]
    results: Any = await DeferredList(tries, fireOnOneErrback=False, consumeErrors=True)
    return [_found(node, *each) for node, each in zip(nodes, results, strict=True)]


def _found(node: NodeInfo, went: bool, result: Any) -> Finding:
    if went:
        finding: Finding = result
        return finding
    if isinstance(result.value, CumulusError):
        return of_error(node.hostname or node.node_id, result.value)
    result.raiseException()
    raise AssertionError("unreachable")


async def _one(engine: Engine, node: NodeInfo, image: str, fixed: str, clock: Any) -> Finding:
    name = f"cumulus-probe-{node.node_id}"
    await engine.remove_service(name)  # of a doctor that was killed
    await engine.create_service(_payload(name, node.node_id, fixed))
    try:
        task = await _ended(engine, name, clock)
    finally:
        await engine.remove_service(name)
    who = node.hostname or node.node_id
    if task is not None and task.state == "complete":
        return ok(who, f"it has {image}: a container was made of it, and ran")
    if task is None:
        return fault(who, f"a container of {image} could not be tried: no task was made", None)
    why = task.error or task.message
    if task.state in ("failed", "rejected"):
        advice = cure(why) or f"on that worker: docker run --rm {image} true"
        return fault(who, f"no container of {image} runs there: {why}", advice)
    return fault(
        who,
        f"a container of {image} is {task.state} after {PROBE_TIMEOUT_S:g} s: {why}",
        "does it still pull? Is the worker able to take tasks?",
    )


async def _ended(engine: Engine, name: str, clock: Any) -> TaskInfo | None:
    """Its task when it is over, or as it is when the time is up."""
    until = clock.seconds() + PROBE_TIMEOUT_S
    while True:
        tasks = await engine.tasks_of(await engine.service(name))
        task = max(tasks, key=lambda one: one.created_at, default=None)
        over = task is not None and task.state in ("complete", "failed", "rejected", "shutdown")
        if over or clock.seconds() > until:
            return task
        await sleep(clock, _LOOK_S)


def _payload(name: str, node_id: str, image: str) -> dict[str, Any]:
    container = types.ContainerSpec(
        image,
        command=["/bin/sh", "-c", "exit 0"],
        user=f"{_UID}:{_UID}",
        labels={labels.KIND: KIND_PROBE},
        stop_grace_period=_SECOND_NS,
        read_only=True,
        cap_drop=["ALL"],
    )
    return {
        "Name": name,
        "Labels": {labels.KIND: KIND_PROBE},
        "TaskTemplate": types.TaskTemplate(
            container,
            restart_policy=types.RestartPolicy(condition="none"),
            placement=types.Placement(constraints=[f"node.id=={node_id}"]),
        ),
        "Mode": types.ServiceMode("replicated", replicas=1),
    }
