"""One look at a Swarm for `cumulusd doctor`: what its manager tells, or why it doesn't."""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import TypeVar

import attrs

from cumulusd.errors import CumulusError, NotFound
from cumulusd.swarm import labels
from cumulusd.swarm.answers import (
    ApiVersion,
    ImageInfo,
    NodeInfo,
    ServiceInfo,
    SwarmInfo,
    TaskInfo,
)
from cumulusd.swarm.engine import Engine

_T = TypeVar("_T")


@attrs.frozen(kw_only=True)
class Look:
    """Everything is None that wasn't told; `errors` says why, the first of them first."""

    name: str  #: where the engine is
    api: ApiVersion | None = None
    info: SwarmInfo | None = None
    #: How far the engine's clock is ahead of this machine's, and how exact that is.
    ahead_s: float | None = None
    ahead_within_s: float = 0.0
    nodes: Sequence[NodeInfo] | None = None
    agents: Sequence[ServiceInfo] | None = None
    agent_tasks: Sequence[TaskInfo] | None = None
    job_tasks: Sequence[TaskInfo] | None = None
    #: What this engine has; a name that isn't there it lacks.
    images: dict[str, ImageInfo] = attrs.field(factory=dict)
    missing_images: Sequence[str] = ()
    errors: Sequence[CumulusError] = ()


async def look(engine: Engine, images: Sequence[str], wall_clock: Callable[[], float]) -> Look:
    """Asks one thing after the other; after the first that fails no more. Raises nothing of the
    engine's. `wall_clock`: unix seconds."""
    found = Look(name=engine.name)
    try:
        found = attrs.evolve(found, api=await engine.negotiate())
        before = wall_clock()
        info = await engine.info()
        after = wall_clock()
        found = attrs.evolve(found, info=info, ahead_within_s=(after - before) / 2)
        theirs = unix_s(info.time)
        if theirs is not None:
            found = attrs.evolve(found, ahead_s=theirs - (before + after) / 2)
        for name in images:
            found = await _image(found, engine, name)
        if info.is_manager:
            found = attrs.evolve(found, nodes=await engine.nodes())
            found = attrs.evolve(found, agents=await engine.services({labels.AGENT: None}))
            found = attrs.evolve(found, agent_tasks=await engine.tasks({labels.AGENT: None}))
            found = attrs.evolve(found, job_tasks=await engine.tasks({labels.JOB: None}))
    except CumulusError as error:
        return attrs.evolve(found, errors=[*found.errors, error])
    return found


def unix_s(rfc3339: str) -> float | None:
    """None for what is no moment."""
    try:
        return datetime.fromisoformat(rfc3339).timestamp()
    except ValueError:
        return None


async def _image(found: Look, engine: Engine, name: str) -> Look:
    try:
        image = await engine.image(name)
    except NotFound:
        return attrs.evolve(found, missing_images=[*found.missing_images, name])
    return attrs.evolve(found, images={**found.images, name: image})
