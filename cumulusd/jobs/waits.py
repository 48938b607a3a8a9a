"""What a waiting job is told: in words for a person, and the same as data. Pure.

Nothing in it changes with the clock alone, so that a wait is announced only when it is news.
"""

from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import attrs

from cumulus_wire.codes import WaitReason
from cumulusd.errors import CumulusError
from cumulusd.jobs.model import UNITS_PER_DEVICE, EndedAttempt, Wait
from cumulusd.jobs.ports import Device, Node

#: Docker's own words of a task that it can't place.
NO_PLACE = "no suitable node"
#: How many workers a wait names in words, and in its data.
_NAMED = 5
_LISTED = 100


@attrs.frozen(kw_only=True)
class Asked:
    """The job's place in the line and what it asks for."""

    position: int  #: 1 is next
    waiting: int  #: jobs in the line
    units: int
    gpu_memory: float

    @property
    def words(self) -> str:
        """Position and need."""
        return f"position {self.position} of {self.waiting}, needs {share(self.units)}"

    @property
    def data(self) -> dict[str, Any]:
        """The same."""
        return attrs.asdict(self)


@attrs.frozen(kw_only=True)
class FreeShare:
    """The largest share that is free now, and where."""

    node_id: str
    hostname: str
    device_id: str
    device_name: str
    units_free: int
    units_total: int

    @classmethod
    def of(cls, node: Node, device: Device, free: int) -> "FreeShare":
        """Of a device with `free` units."""
        return cls(
            node_id=node.node_id,
            hostname=node.hostname,
            device_id=device.device_id,
            device_name=device.name,
            units_free=free,
            units_total=device.units_total,
        )

    @property
    def words(self) -> str:
        """How much is free where."""
        if self.units_free == 0:
            return "nothing is free on any device"
        return (
            f"the largest free share is {share(self.units_free)} "
            f"on {self.hostname}, {self.device_name}"  # its id is in the details
        )


def share(units: int) -> str:
    """A share in words: `0.25 of a GPU (2500 units)`."""
    return f"{units / UNITS_PER_DEVICE:g} of a GPU ({units} units)"


def no_free_share(asked: Asked, largest: FreeShare | None, frees_by: float | None) -> Wait:
    """It fits a device, but too little is free. `frees_by`: unix time, None when unknown."""
    if frees_by is None:
        when = "when a share that large frees is not known yet"
    else:
        when = f"a share that large frees by {_time(frees_by)} at the latest"
    return Wait(
        reason=WaitReason.NO_FREE_SHARE,
        message=f"Waiting for a free share: {asked.words}; {_words(largest)}; {when}",
        details={**asked.data, "largest_free": _data(largest), "frees_by": frees_by},
    )


def with_faults(wait: Wait, faults: Iterable[tuple[Node, str]]) -> Wait:
    """The same wait, naming the workers that take no job now, and why."""
    found = list(faults)
    if not found:
        return wait
    words = "; ".join(f"{node.hostname} takes no jobs: {fault}" for node, fault in found[:5])
    workers = [
        {"node_id": node.node_id, "hostname": node.hostname, "fault": fault}
        for node, fault in found[:100]
    ]
    return attrs.evolve(
        wait, message=f"{wait.message}; {words}", details={**wait.details, "faulty": workers}
    )


def behind_others(asked: Asked, largest: FreeShare | None) -> Wait:
    """It would fit, but on a device that is held for jobs ahead of it."""
    return Wait(
        reason=WaitReason.BEHIND_OTHERS,
        message=f"Waiting behind others: {asked.words}; {_words(largest)}, "
        "but that device is held for jobs ahead in the line",
        details={**asked.data, "largest_free": _data(largest)},
    )


def agent_away(asked: Asked, away: Sequence[Node], since: float) -> Wait:
    """No device known now is large enough, but workers are there whose agents are away."""
    names = ", ".join(node.hostname for node in away[:5])
    more = f" and {len(away) - 5} more" if len(away) > 5 else ""
    return Wait(
        reason=WaitReason.AGENT_AWAY,
        message=f"Waiting for the agent of {names}{more} to connect: {asked.words}",
        details={
            **asked.data,
            "away": [{"node_id": node.node_id, "hostname": node.hostname} for node in away[:100]],
            "since": since,
        },
    )


def nothing_there(asked: Asked, error: CumulusError | None, since: float) -> Wait:
    """The pool has shrunk since the job was taken: no worker could take it now."""
    why = error.message if error is not None else "No GPU workers available"
    return Wait(
        reason=WaitReason.AGENT_AWAY,
        message=f"Waiting for a worker to come back: {why}; {asked.words}",
        details={
            **asked.data,
            "away": [],
            "code": error.code.value if error is not None else None,
            "since": since,
        },
    )


def with_unfit(wait: Wait, unfit: Sequence[tuple[Node, str]], told: Collection[str] = ()) -> Wait:
    """The same wait, naming the workers that can't take any job now, and why. `told`: ids of those
    that its words name already."""
    if not unfit:
        return wait
    news = [(node, why) for node, why in unfit if node.node_id not in told]
    words = ", ".join(f"{node.hostname} ({why})" for node, why in news[:_NAMED])
    more = f" and {len(news) - _NAMED} more" if len(news) > _NAMED else ""
    workers = [
        {"node_id": node.node_id, "hostname": node.hostname, "why": why}
        for node, why in unfit[:_LISTED]
    ]
    return attrs.evolve(
        wait,
        message=f"{wait.message}; not usable: {words}{more}" if news else wait.message,
        details={**wait.details, "unfit": workers},
    )


def pinned(wait: Wait, node: Node, needs_kept: bool) -> Wait:
    """The same wait of a job that may run there only; `needs_kept`: it goes on from what is
    there."""
    why = "It goes on from a checkpoint that is on" if needs_kept else "It is to run on"
    return attrs.evolve(
        wait,
        message=f"{why} {node.hostname} only: {wait.message}",
        details={
            **wait.details,
            "pinned": {"node_id": node.node_id, "hostname": node.hostname},
        },
    )


def placing(hostname: str, holds: str | None = None) -> Wait:
    """A device was chosen. `holds`: why that takes long."""
    return Wait(
        reason=WaitReason.PLACING,
        message=f"Placed on {hostname}: its agent makes the partition and fetches the package"
        + (f". Now: {holds}" if holds else ""),
        details={"hostname": hostname, "holds": holds},
    )


def launching(hostname: str, holds: str | None = None) -> Wait:
    """Partition and folder are there. `holds`: why the platform doesn't take the container."""
    return Wait(
        reason=WaitReason.LAUNCHING,
        message=f"Ready on {hostname}: the platform is asked for the container"
        + (f". Now: {holds}" if holds else ""),
        details={"hostname": hostname, "holds": holds},
    )


def starting(hostname: str, platform: str) -> Wait:
    """The platform has the container. `platform`: what it says of it."""
    if NO_PLACE in platform:
        return Wait(
            reason=WaitReason.NO_PLACE,
            message=f"The platform finds no place for the container on {hostname}: {platform}",
            details={"hostname": hostname, "platform": platform},
        )
    return Wait(
        reason=WaitReason.STARTING,
        message=f"Starting on {hostname}: the runner hasn't spoken yet"
        + (f" (the platform says: {platform})" if platform else ""),
        details={"hostname": hostname, "platform": platform},
    )


def retrying(over: EndedAttempt, last: int, holds: str | None, certain_at: float | None) -> Wait:
    """An attempt ended, and another is to follow, up to number `last` at most. `holds`: what its
    worker can't be cleared for, if that is known; `certain_at`: unix time when nothing of it can
    run any more in any case.
    """
    where = over.hostname or "its worker"
    text = (
        f"Attempt {over.attempt} of {last} ended ({over.reason}: {over.message}); "
        f"the next one waits until nothing of it can run on {where} any more"
    )
    if holds:
        text += f". Now: {holds}"
    if certain_at is not None:
        text += (
            f". Should {where} not come back, that is certain by {_time(certain_at)}, or once it "
            "is removed from the pool"
        )
    return Wait(
        reason=WaitReason.RETRYING,
        message=text,
        details={
            "attempt": over.attempt,
            "attempts": last,
            "ended": over.reason.value,
            "message": over.message,
            "node_id": over.node_id,
            "hostname": over.hostname,
            "holds": holds,
            "certain_at": certain_at,
        },
    )


def storing_outputs(hostname: str, count: int, size_bytes: int) -> Wait:
    """Its code has ended; the end is told when what it left is stored."""
    files = "1 file" if count == 1 else f"{count} files"
    return Wait(
        reason=WaitReason.STORING_OUTPUTS,
        message=f"Its code has ended; the outputs it left on {hostname} are being stored: {files}, "
        f"{size_bytes} bytes",
        details={"hostname": hostname, "count": count, "size_bytes": size_bytes},
    )


def _time(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _words(largest: FreeShare | None) -> str:
    return largest.words if largest is not None else "no device is there"


def _data(largest: FreeShare | None) -> dict[str, Any] | None:
    return attrs.asdict(largest) if largest is not None else None
