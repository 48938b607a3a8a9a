"""The Swarm service of one node's agent, as a payload for the Engine. Pure."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
from docker import types

from cumulusd.swarm import labels
from cumulusd.swarm.image_reference import ImageBy

TOKEN_FILE = "cumulus_agent_token"
CA_BUNDLE_FILE = "cumulus_ca_bundle"
DAEMON_CA_FILE = "cumulus_daemon_ca"
_SECRETS = "/run/secrets"
_SECOND_NS = 1_000_000_000
STOP_GRACE_S = 20
RESTART_DELAY_S = 2
_PIDS = 4096


@attrs.frozen(kw_only=True)
class AgentSettings:
    """What all agents of one daemon have in common."""

    instance_id: str
    image: str  #: as configured; what it resolves to goes into the service
    url: str  #: where agents dial, ws://host:port
    worker_root: str
    image_by: ImageBy = ImageBy.DIGEST
    options: Mapping[str, Any] = attrs.field(factory=dict)  #: of the agent, see its settings
    #: name of the file under /run/secrets -> content; the same for all agents
    files: Mapping[str, bytes] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class SecretUse:
    """A Swarm secret as a file in the agent's container."""

    secret_id: str
    secret_name: str
    file: str  #: under /run/secrets


def service_name(node_id: str) -> str:
    """One service a node; a second daemon that enrols the same node collides on purpose."""
    return f"cumulus-agent-{node_id}"


def secret_prefix(node_id: str) -> str:
    """Names of that node's secrets, before their number."""
    return f"cumulus-agent-{node_id}-"


def agent_service(
    settings: AgentSettings,
    *,
    node_id: str,
    hostname: str,
    image: str,
    secrets: Sequence[SecretUse],
) -> dict[str, Any]:
    """The payload of `/services/create` and `/services/{id}/update`. `image`: id or digest.

    Its label `cumulus.spec` is a hash of everything else, so that a change is seen.
    """
    payload = {
        "Name": service_name(node_id),
        "TaskTemplate": types.TaskTemplate(
            _container(settings, node_id, hostname, image, secrets),
            # An agent must come back whatever happened to it: no bound on attempts.
            restart_policy={"Condition": "any", "Delay": RESTART_DELAY_S * _SECOND_NS},
            placement=types.Placement(constraints=[f"node.id=={node_id}"]),
            log_driver=types.DriverConfig("json-file", {"max-size": "10m", "max-file": "3"}),
            networks=[{"Target": "host"}],
            resources={"Limits": {"Pids": _PIDS}},
        ),
        "Mode": types.ServiceMode("replicated", replicas=1),
        # The folder on the worker takes one agent at a time: the old one ends first.
        "UpdateConfig": types.UpdateConfig(
            parallelism=1, order="stop-first", failure_action="continue"
        ),
    }
    service_labels = {
        labels.INSTANCE: settings.instance_id,
        labels.KIND: labels.KIND_AGENT,
        labels.AGENT: node_id,
    }
    digest = _digest({**payload, "Labels": service_labels})
    return {**payload, "Labels": {**service_labels, labels.SPEC: digest}}


def _container(
    settings: AgentSettings,
    node_id: str,
    hostname: str,
    image: str,
    secrets: Sequence[SecretUse],
) -> dict[str, Any]:
    environment = {
        "CUMULUS_AGENT_URL": settings.url,
        "CUMULUS_AGENT_NODE_ID": node_id,
        "CUMULUS_AGENT_HOSTNAME": hostname,
        "CUMULUS_AGENT_TOKEN_FILE": f"{_SECRETS}/{TOKEN_FILE}",
        "CUMULUS_AGENT_ROOT": settings.worker_root,
        "CUMULUS_AGENT_OPTIONS": json.dumps(settings.options, sort_keys=True),
        # It looks at all the devices there are; jobs see the one they are granted.
        "NVIDIA_VISIBLE_DEVICES": "all",
        "NVIDIA_DRIVER_CAPABILITIES": "compute,utility",
        "HOME": "/tmp",
    }
    if CA_BUNDLE_FILE in settings.files:
        environment["CUMULUS_AGENT_CA_BUNDLE"] = f"{_SECRETS}/{CA_BUNDLE_FILE}"
    if DAEMON_CA_FILE in settings.files:
        environment["CUMULUS_AGENT_CA_FILE"] = f"{_SECRETS}/{DAEMON_CA_FILE}"
    mounts = [
        types.Mount(
            settings.worker_root, settings.worker_root, type="bind", propagation="rprivate"
        ),
        types.Mount("/tmp", None, type="tmpfs", tmpfs_size=64 << 20, tmpfs_mode=0o1777),
    ]
    return dict(
        types.ContainerSpec(
            image,
            command=["python3", "-m", "cumulusd.agent"],
            workdir="/",
            env=environment,
            user="0:0",
            labels={labels.INSTANCE: settings.instance_id, labels.AGENT: node_id},
            mounts=mounts,
            stop_grace_period=STOP_GRACE_S * _SECOND_NS,
            secrets=[
                types.SecretReference(one.secret_id, one.secret_name, filename=one.file, mode=0o400)
                for one in secrets
            ],
            init=True,
            read_only=True,
        )
    )


def _digest(payload: Mapping[str, Any]) -> str:
    text = json.dumps(payload, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
