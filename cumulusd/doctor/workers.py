"""What is known of each enrolled node: its state, its agent's connection, its images, its clock.

The Swarm's API tells nobody what images a worker has. What tasks there have shown is said, and
nothing more. Pure.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import attrs

from cumulusd.doctor.finding import Finding, fault, not_known, ok, warning
from cumulusd.doctor.manager import SKEW_TOLD_S, unanswered
from cumulusd.doctor.swarm_look import Look, unix_s
from cumulusd.swarm import labels
from cumulusd.swarm.answers import NodeInfo, TaskInfo

#: What engines say of an image that a node lacks and can't pull.
_NO_IMAGE = ("no such image", "manifest unknown", "pull access denied", "not found: manifest")


@attrs.frozen(kw_only=True)
class Wanted:
    """What the configuration asks of workers, and what the running daemon knows of them."""

    job_image: str
    advertise_url: str
    instance_id: str | None  #: None: no daemon tells
    image_is_tried: bool = False  #: by a probe: nothing is to be concluded
    agents: Mapping[str, bool] | None  #: node id -> is its agent connected? None: no daemon tells


def examine(look: Look, wanted: Wanted) -> Iterator[Finding]:
    """Each node that is enrolled; with no running daemon, by whichever."""
    if look.nodes is None:
        yield not_known("workers", unanswered(look))
        return
    enrolled = enrolled_nodes(look, wanted.instance_id)
    if not enrolled and wanted.agents is None:
        yield warning(
            "workers",
            "no node of the Swarm is enrolled",
            "enrol one (platform.swarm.enroll, or a provisioning token)",
        )
    for node in enrolled:
        yield from _worker(node, look, wanted)


def _worker(node: NodeInfo, look: Look, wanted: Wanted) -> Iterator[Finding]:
    name = node.hostname or node.node_id
    if node.state != "ready":
        why = f": {node.message}" if node.message else ""
        yield fault(
            name, f"the platform says it is {node.state}{why}", "is the machine up, and its engine?"
        )
        return
    if node.availability != "active":
        yield warning(
            name,
            f"its availability is {node.availability}",
            "set it to active when it is to take jobs again",
        )
    yield _agent(node, look, wanted)
    if not wanted.image_is_tried:
        yield _image(node, look, wanted)
    yield from _clock(node, look)


def _agent(node: NodeInfo, look: Look, wanted: Wanted) -> Finding:
    name, url = node.hostname or node.node_id, wanted.advertise_url
    task = _newest(
        [one for one in look.agent_tasks or () if one.labels.get(labels.AGENT) == node.node_id]
    )
    if wanted.agents is not None and wanted.agents.get(node.node_id):
        return ok(name, f"its agent is connected: {url} is reached from there")
    if task is None:
        said, advice = "no agent was started there yet", "the daemon starts it; is it running?"
        if wanted.agents is None:
            return not_known(name, f"{said}: does it reach {url}?", advice)
        return fault(name, said, "see the daemon's log for why")
    if task.state != "running":
        why = task.error or task.message
        return fault(
            name,
            f"its agent doesn't run ({task.state}: {why})",
            cure(why) or f"see `docker service ps` of the service {task.service_id}",
        )
    if wanted.agents is None:
        return not_known(
            name,
            f"its agent runs; does it reach {url}? Only a running daemon can tell",
            "start the daemon and run this again",
        )
    return fault(
        name,
        f"its agent is away: it runs, and is not connected to {url}",
        f"on that worker: can {url} be reached (firewall, NAT), and is its certificate known "
        f"(advertise_ca)? The agent says it itself: docker service logs {task.service_id}",
    )


def _image(node: NodeInfo, look: Look, wanted: Wanted) -> Finding:
    """Of jobs: the agent's own shows in its task."""
    name, image = node.hostname or node.node_id, wanted.job_image
    there = look.images.get(image)
    names = {image, *(() if there is None else (there.image_id, *there.digests))}
    tasks = [
        one for one in look.job_tasks or () if one.node_id == node.node_id and one.image in names
    ]
    newest = _newest([one for one in tasks if one.had_container or _lacks_image(one)])
    if newest is None:
        return not_known(
            name,
            f"whether it has {image}: no job that is listed ran there with it, and the Swarm's API "
            "doesn't tell",
            "try it: cumulusd doctor --probe",
        )
    if newest.had_container:
        return ok(name, f"it has {image}: a job's container was made of it")
    return fault(name, f"it lacks {image}: {newest.error}", cure(newest.error))


def _clock(node: NodeInfo, look: Look) -> Iterator[Finding]:
    """A task can't have come to its state before it was made, nor in the time to come: a worker's
    clock that says so is wrong by at least that much."""
    now = None if look.info is None else unix_s(look.info.time)
    for task in look.agent_tasks or ():
        made, moved = unix_s(task.created_at), unix_s(task.status_at)
        if task.node_id != node.node_id or made is None or moved is None or now is None:
            continue
        behind_s, ahead_s = made - moved, moved - now
        if max(behind_s, ahead_s) > SKEW_TOLD_S:
            way = "behind" if behind_s > ahead_s else "ahead of"
            yield warning(
                node.hostname or node.node_id,
                f"its clock is at least {max(behind_s, ahead_s):.0f} s {way} the manager's",
                "set both by NTP: certificates and the order of logs go by clocks",
            )
            return


def enrolled_nodes(look: Look, instance_id: str | None) -> list[NodeInfo]:
    """By that daemon, or by any."""
    return [node for node in look.nodes or () if _is_enrolled(node, instance_id)]


def _is_enrolled(node: NodeInfo, instance_id: str | None) -> bool:
    if node.labels.get(labels.WORKER) != "true":
        return False
    return instance_id is None or node.labels.get(labels.INSTANCE) == instance_id


def _newest(tasks: Sequence[TaskInfo]) -> TaskInfo | None:
    return max(tasks, key=lambda task: task.created_at, default=None)


def _lacks_image(task: TaskInfo) -> bool:
    return any(words in task.error.lower() for words in _NO_IMAGE)


def cure(why: str) -> str | None:
    """What to do about an image that a node lacks; None for another trouble."""
    if any(words in why.lower() for words in _NO_IMAGE):
        return "load or pull the image on that worker, or push it to a registry that it reaches"
    return None


def agents_of(workers: Sequence[Mapping[str, Any]] | None) -> dict[str, bool] | None:
    """Of the daemon's list of workers: whose agent is connected. None stays None."""
    if workers is None:
        return None
    return {str(one["node_id"]): one["agent"] == "present" for one in workers}
