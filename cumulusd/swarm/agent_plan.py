"""What is to be done so that every enrolled node has exactly one agent of ours. Pure."""

from collections.abc import Mapping, Sequence

import attrs

from cumulusd.swarm import labels
from cumulusd.swarm.agent_spec import secret_prefix
from cumulusd.swarm.answers import NodeInfo, SecretInfo, ServiceInfo, TaskInfo


@attrs.frozen(kw_only=True)
class Seen:
    """One look at the Swarm."""

    nodes: Sequence[NodeInfo]
    services: Sequence[ServiceInfo]  #: those of agents, whoever's
    secrets: Sequence[SecretInfo]


def members(nodes: Sequence[NodeInfo], instance_id: str) -> list[NodeInfo]:
    """The nodes that this daemon has enrolled."""
    ours = {labels.WORKER: "true", labels.INSTANCE: instance_id}
    return [node for node in nodes if ours.items() <= dict(node.labels).items()]


def unclaimed(nodes: Sequence[NodeInfo]) -> list[str]:
    """Ids of the nodes labelled as workers, which only a manager's operator can do, that no
    daemon has taken yet."""
    return [
        node.node_id
        for node in nodes
        if node.labels.get(labels.WORKER) == "true" and labels.INSTANCE not in node.labels
    ]


def agent_services(seen: Seen, instance_id: str) -> dict[str, ServiceInfo]:
    """Node id -> the agent service of ours there."""
    return {
        service.labels[labels.AGENT]: service
        for service in seen.services
        if labels.AGENT in service.labels and service.labels.get(labels.INSTANCE) == instance_id
    }


def own_secrets(seen: Seen, instance_id: str) -> list[SecretInfo]:
    """All secrets of ours."""
    return [one for one in seen.secrets if one.labels.get(labels.INSTANCE) == instance_id]


def next_secret_name(node_id: str, secrets: Sequence[SecretInfo]) -> str:
    """A name that no secret has, whoever's: names are unique in a Swarm."""
    prefix = secret_prefix(node_id)
    numbers = [
        int(one.name.removeprefix(prefix))
        for one in secrets
        if one.name.startswith(prefix) and one.name.removeprefix(prefix).isdecimal()
    ]
    return f"{prefix}{max(numbers, default=0) + 1}"


def new_secret_names(
    members: Sequence[NodeInfo], known: Mapping[str, str], seen: Seen
) -> dict[str, str]:
    """Node id -> the name of its next secret, of those that are not in `known`: node id -> the name
    of a secret that is there, whose token is known."""
    return {
        node.node_id: next_secret_name(node.node_id, seen.secrets)
        for node in members
        if node.node_id not in known
    }


def may_be_an_agents(name: str) -> bool:
    """Whether a service or secret of that name is an agent's, as far as the name tells."""
    return not name or name.startswith(("cumulus-agent-", "cumulus-file-"))


def unused_secrets(
    seen: Seen, instance_id: str, wanted_names: Mapping[str, str], files: Sequence[str]
) -> list[SecretInfo]:
    """Our secrets that no agent needs. `wanted_names`: node id -> its secret's name; `files`: the
    names of those that all agents share."""
    keep = {*wanted_names.values(), *files}
    return [one for one in own_secrets(seen, instance_id) if one.name not in keep]


@attrs.frozen(kw_only=True)
class Enrolling:
    """What to do with the names in the configuration."""

    nodes: Sequence[NodeInfo] = ()  #: get their labels now
    absent: Sequence[str] = ()  #: names that no node of the Swarm has
    refused: Mapping[str, str] = attrs.field(factory=dict)  #: name -> why not


def enrolling(names: Sequence[str], seen: Seen, instance_id: str) -> Enrolling:
    """Which nodes those names (host names or node ids) mean, and whether they can be ours."""
    chosen: list[NodeInfo] = []
    absent: list[str] = []
    refused: dict[str, str] = {}
    for name in names:
        named = [node for node in seen.nodes if name in (node.node_id, node.hostname)]
        # A worker that was set up anew stands beside its old self, which is down.
        live = [node for node in named if node.state != "down"] or named
        if not named:
            absent.append(name)
        elif len(live) > 1:
            ids = ", ".join(node.node_id for node in live)
            refused[name] = f"{len(live)} nodes have this host name ({ids}): give node ids instead"
        elif (why := someone_elses(live[0], seen, instance_id)) is not None:
            refused[name] = why
        else:
            chosen.append(live[0])
    return Enrolling(nodes=chosen, absent=absent, refused=refused)


def someone_elses(node: NodeInfo, seen: Seen, instance_id: str) -> str | None:
    """Why the node can't be ours; None when it can. What a daemon left that is gone for good
    (its label, without an agent) is no hindrance."""
    for service in seen.services:
        if service.labels.get(labels.AGENT) == node.node_id:
            other = service.labels.get(labels.INSTANCE)
            if other != instance_id:
                return (
                    f"node {node.hostname} has an agent of another daemon (instance {other}):"
                    f" if that daemon is gone, remove it with `docker service rm {service.name}`"
                )
    return None


#: States of tasks after which another one is made.
_OVER = ("complete", "failed", "shutdown", "rejected", "orphaned", "remove")


def troubles(tasks: Sequence[TaskInfo]) -> dict[str, str]:
    """Node id -> why no agent runs there, in Swarm's own words. Nodes whose newest tasks do well
    are absent."""
    newest: dict[str, TaskInfo] = {}
    running: set[str] = set()
    for task in tasks:
        node_id = task.labels.get(labels.AGENT)
        if node_id is None:
            continue
        if task.state == "running":
            running.add(node_id)
        said = task.error if task.state in _OVER or task.state == "pending" else ""
        if said and (node_id not in newest or newest[node_id].created_at < task.created_at):
            newest[node_id] = task
    return {
        node_id: f"{task.state}: {task.error}"
        for node_id, task in newest.items()
        if node_id not in running
    }
