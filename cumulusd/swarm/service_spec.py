"""A job's container as the payload of a Swarm service. Pure.

Each option is sent only to versions of the API that honour it: engines ignore the rest in silence.
What a version can't give is told in words.
"""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

import attrs
from docker import types

from cumulus_wire.grant import IMAGE_VARIABLE
from cumulusd.errors import InvalidArgument
from cumulusd.jobs.ports import ContainerSpec
from cumulusd.swarm import labels
from cumulusd.swarm.answers import ApiVersion, version_text

#: From which version on the engine honours it, measured or from the Engine's API history.
NO_NEW_PRIVILEGES_API: ApiVersion = (1, 44)
OOM_SCORE_API: ApiVersion = (1, 46)
#: The kernel ends a job before it ends the engine or the agent.
OOM_SCORE = 500
_SECOND_NS = 1_000_000_000
#: TERM takes a second to arrive in a task, and the runner writes its last record.
_GRACE_MARGIN_S = 2.0
_MAX_NAME_CHARACTERS = 63
_SCRATCH = "/tmp"
_SHARED_MEMORY = "/dev/shm"


@attrs.frozen(kw_only=True)
class JobSettings:
    """What all jobs of one daemon have in common."""

    instance_id: str
    worker_root: str  #: on every worker; nothing outside of it is ever mounted
    environment: Mapping[str, str] = attrs.field(factory=dict)  #: the grant's wins
    #: The folder follows. By its path and with `-u` alone: see the runner's `__main__`.
    command: tuple[str, ...] = (
        "python3",
        "-u",
        "/usr/local/lib/cumulus/cumulus_runner/__main__.py",
    )
    uid: int = 1000
    gid: int = 1000
    pids: int = 4096
    #: bounds for jobs that ask for none; None: unbounded
    cpu_cores: float | None = None
    memory_bytes: int | None = None
    tmp_bytes: int = 256 << 20  #: /tmp, in memory
    shared_memory_bytes: int = 1 << 30  #: /dev/shm: frameworks pass tensors there
    log_bytes: int = 4 << 20  #: of the container's own log, on the worker's disk
    resource_prefix: str = "cumulus_gpu"  #: and the device's index


@attrs.frozen(kw_only=True)
class JobService:
    """The payload of `/services/create`, and what this version of the engine can't guarantee."""

    payload: Mapping[str, Any]
    warnings: tuple[str, ...]


def service_name(job_id: str, attempt: int) -> str:
    """Set always: it makes the create idempotent."""
    return f"cumulus-job-{job_id}-{attempt}"


def job_labels(instance_id: str, job_id: str, attempt: int) -> dict[str, str]:
    """On the service, and on the container: tasks show the container's only."""
    return {labels.INSTANCE: instance_id, labels.JOB: job_id, labels.ATTEMPT: str(attempt)}


def missing_guarantees(api: ApiVersion) -> tuple[str, ...]:
    """What is wanted of every job's container and this version of the API can't give."""
    found = []
    if api < NO_NEW_PRIVILEGES_API:
        found.append(
            f"no_new_privileges: needs API {version_text(NO_NEW_PRIVILEGES_API)}, the engine has "
            f"{version_text(api)}; set-uid programs in the job image keep their power "
            "(with all capabilities dropped)"
        )
    if api < OOM_SCORE_API:
        found.append(
            f"oom_score: needs API {version_text(OOM_SCORE_API)}, the engine has "
            f"{version_text(api)}; short of memory, the kernel may end other processes than jobs"
        )
    return tuple(found)


def job_service(
    spec: ContainerSpec, settings: JobSettings, *, image: str, api: ApiVersion
) -> JobService:
    """`image`: an id or a digest. Raises InvalidArgument for a grant that no job may have."""
    name = service_name(spec.job_id, spec.attempt)
    if len(name) > _MAX_NAME_CHARACTERS:
        raise InvalidArgument(
            f"the service name {name} has over {_MAX_NAME_CHARACTERS} characters",
            job_id=spec.job_id,
        )
    ours = job_labels(settings.instance_id, spec.job_id, spec.attempt)
    task = types.TaskTemplate(
        _container(spec, settings, image, api, ours),
        resources=_resources(spec, settings),
        restart_policy=types.RestartPolicy(condition="none"),
        placement=types.Placement(constraints=[f"node.id=={spec.node_id}"]),
        log_driver=types.DriverConfig(
            "json-file",
            {
                "mode": "non-blocking",
                "max-buffer-size": "4m",
                "max-size": f"{settings.log_bytes // 1024}k",
                "max-file": "1",
            },
        ),
    )
    payload = {
        "Name": name,
        "Labels": ours,
        "TaskTemplate": task,
        "Mode": types.ServiceMode("replicated", replicas=1),
    }
    return JobService(payload=payload, warnings=missing_guarantees(api))


def _container(
    spec: ContainerSpec,
    settings: JobSettings,
    image: str,
    api: ApiVersion,
    ours: Mapping[str, str],
) -> dict[str, Any]:
    container: dict[str, Any] = types.ContainerSpec(
        image,
        command=[*settings.command, spec.grant.folder],
        # By what it is made of the runner knows one container from another.
        env={**settings.environment, **spec.grant.environment, IMAGE_VARIABLE: image},
        user=f"{settings.uid}:{settings.gid}",
        labels=dict(ours),
        mounts=_mounts(spec, settings),
        stop_grace_period=round((spec.stop_grace_s + _GRACE_MARGIN_S) * _SECOND_NS),
        read_only=True,
        # Without it the runner is PID 1 and ignores its own signals.
        init=True,
        cap_drop=["ALL"],
    )
    # docker.types has no word for these.
    container["Ulimits"] = [{"Name": "core", "Soft": 0, "Hard": 0}]
    if api >= NO_NEW_PRIVILEGES_API:
        container["Privileges"] = {"NoNewPrivileges": True}
    if api >= OOM_SCORE_API:
        container["OomScoreAdj"] = OOM_SCORE
    return container


def reserved_units(units: int) -> int:
    """What the Swarm is asked to hold for a share: one unit less, so that a device is never full.

    When a manager starts, or anything of a node changes (a label), SwarmKit's constraint enforcer
    ends a task that holds all of a discrete resource that is left there: it takes what is exactly
    as much for too much. Who has which share is for the agent's ledger to say.
    """
    return max(1, units - 1)


def _resources(spec: ContainerSpec, settings: JobSettings) -> dict[str, Any]:
    cores = settings.cpu_cores if spec.cpu_cores is None else spec.cpu_cores
    memory = settings.memory_bytes if spec.memory_bytes is None else spec.memory_bytes
    resources = types.Resources(
        cpu_limit=None if cores is None else round(cores * 1e9),
        mem_limit=memory,
        generic_resources={
            f"{settings.resource_prefix}{spec.grant.device_index}": reserved_units(spec.grant.units)
        },
    )
    limits = {**resources.get("Limits", {}), "Pids": settings.pids}
    return {**resources, "Limits": limits}


def _mounts(spec: ContainerSpec, settings: JobSettings) -> list[types.Mount]:
    """The job's folder, what the grant names, and scratch in memory."""
    folder = spec.grant.folder
    binds = {target: (source, read_only) for source, target, read_only in spec.grant.mounts}
    binds[folder] = (folder, False)
    root = PurePosixPath(settings.worker_root)
    mounts = []
    for target, (source, read_only) in binds.items():
        # The grant comes from a worker; with a mount it could name any path of the worker's.
        if not _is_below(root, source):
            raise InvalidArgument(
                f"the worker grants job {spec.job_id} a mount from outside {root}: {source!r}",
                job_id=spec.job_id,
                hint="the agent's folder and platform.swarm.worker_root must be the same",
            )
        mounts.append(
            types.Mount(target, source, type="bind", read_only=read_only, propagation="rprivate")
        )
    for target, size in (
        (_SCRATCH, settings.tmp_bytes),
        (_SHARED_MEMORY, settings.shared_memory_bytes),
    ):
        if target in binds:
            continue  # CUDA MPS has the worker's
        mounts.append(types.Mount(target, None, type="tmpfs", tmpfs_size=size, tmpfs_mode=0o1777))
    return mounts


def _is_below(root: PurePosixPath, text: str) -> bool:
    path = PurePosixPath(text)
    clean = str(path) == text and ".." not in path.parts
    return clean and path != root and path.is_relative_to(root)
