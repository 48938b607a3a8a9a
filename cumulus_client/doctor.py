"""What `cumulus doctor` looks at, and what it makes of it: one finding a line."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Protocol

from cumulus_client.exceptions import CumulusError, NotAuthenticated

DISTRIBUTION = "cumulus-gpu"
_ROLES_THAT_SUBMIT = ("client", "admin")


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at. `advice`: what to do about a fault."""

    subject: str
    ok: bool
    said: str
    advice: str | None = None


class Asked(Protocol):
    """Of the client's."""

    server_url: str

    def get_server_info(self) -> dict[str, Any]: ...
    def list_workers(self) -> list[dict[str, Any]]: ...


def client_version() -> str | None:
    """This client's version; None for one that runs without having been installed."""
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:
        return None


def examine(client: Asked, version: str | None) -> Iterator[Finding]:
    """Looks at connection, token, version and workers, one after the other, and stops where going
    on makes no sense. `version`: this client's. Every call is bounded by the client's own bounds.
    """
    try:
        info = client.get_server_info()
    except NotAuthenticated as error:
        yield Finding("connection", True, f"a daemon answers at {client.server_url}")
        yield _failed("token", error)
        return
    except CumulusError as error:
        yield _failed("connection", error)
        return
    yield Finding("connection", True, f"a daemon answers at {client.server_url}")
    yield _token(info)
    yield _version(info, version)
    yield from _asked("workers", lambda: worker_findings(client.list_workers()))


def worker_findings(workers: Sequence[Mapping[str, Any]]) -> list[Finding]:
    """Of `cumulus.worker.list`: the pool, then each worker with its devices."""
    usable = sum(bool(worker.get("usable") and worker.get("devices")) for worker in workers)
    if not workers:
        pool = Finding(
            "workers",
            False,
            "the pool has no worker",
            "enrol one (platform.swarm.enroll, or a provisioning token)",
        )
    elif not usable:
        advice = "see each worker below" if len(workers) > 1 else "see below"
        pool = Finding("workers", False, f"none of {len(workers)} can take jobs", advice)
    else:
        pool = Finding("workers", True, f"{usable} of {len(workers)} can take jobs")
    found = [pool]
    for worker in workers:
        found += _worker(worker)
    return found


def told(finding: Finding) -> list[str]:
    """The finding as lines for a person."""
    lines = [f"{'ok' if finding.ok else 'fault':5}  {finding.subject:12}  {finding.said}"]
    if finding.advice:
        lines.append(f"       {'':12}  -> {finding.advice}")
    return lines


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "ok": all(finding.ok for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }


def _asked(subject: str, ask: Callable[[], Sequence[Finding]]) -> Sequence[Finding]:
    try:
        return ask()
    except CumulusError as error:
        return [_failed(subject, error)]


def _failed(subject: str, error: CumulusError) -> Finding:
    return Finding(subject, False, error.message, error.hint)


def _token(info: Mapping[str, Any]) -> Finding:
    owner, role = info.get("owner"), info.get("role")
    who = f"you are {owner} ({role})"
    if role in _ROLES_THAT_SUBMIT:
        return Finding("token", True, who)
    return Finding("token", True, f"{who}: you may look, and submit nothing")


def _version(info: Mapping[str, Any], version: str | None) -> Finding:
    server = str(info.get("server_version"))
    if version is None:
        return Finding("version", True, f"daemon {server}; this client was not installed")
    said = f"daemon {server}, this client {version}"
    if _release(server) == _release(version):
        return Finding("version", True, said)
    return Finding("version", False, said, "install the same release on both sides")


def _release(version: str) -> list[str]:
    """What must be the same: major and minor."""
    return version.split(".")[:2]


def _worker(worker: Mapping[str, Any]) -> Iterator[Finding]:
    name = str(worker.get("hostname") or worker.get("node_id"))
    devices = worker.get("devices") or []
    why, advice = _why_unusable(worker)
    if why is not None:
        yield Finding(name, False, why, advice)
    else:
        books = (worker.get("chronos") or {}).get("backend", "builtin")
        said = f"takes jobs, {_count(len(devices), 'device')}, partitions by {books}"
        yield Finding(name, True, said)
    for one in worker.get("disagreements") or ():
        yield Finding(
            name,
            False,
            f"ledger and platform disagree: {one}",
            "see `docker service ls` and the daemon's log; what jobs may have, the ledger says",
        )
    backend = worker.get("chronos") or {}
    if backend.get("fault"):
        yield Finding(
            name,
            False,
            f"libchronos: {backend['fault']}",
            "the agent's ledger books all the same; see what is wrong with the library, or set "
            "chronos.backend to builtin",
        )
    if why is None and worker.get("discovery_error"):
        yield Finding(
            name,
            False,
            f"the last look at its drivers failed: {worker['discovery_error']}",
            "its devices are those of the look before; look at the driver on that worker",
        )
    for device in devices:
        yield Finding(name, True, _device(device))


def _why_unusable(worker: Mapping[str, Any]) -> tuple[str | None, str | None]:
    state, availability = worker.get("state"), worker.get("availability")
    if state != "ready":
        return f"the platform says it is {state}", "is the machine up, and its engine?"
    if availability != "active":
        return (
            f"its availability is {availability}",
            "set it to active when it is to take jobs again",
        )
    if worker.get("agent") != "present":
        return (
            "its agent is away",
            "does the agent run there, and can it reach the daemon (advertise_url)?",
        )
    if not worker.get("usable"):
        return str(worker.get("fault")), "it takes jobs again when that is over"
    if not worker.get("devices"):
        why = worker.get("discovery_error") or worker.get("fault") or "none was found"
        return f"it has no devices: {why}", "look at the driver on that worker"
    return None, None


def _device(device: Mapping[str, Any]) -> str:
    gib = int(device["memory_bytes"]) / (1 << 30)
    free = 100 * int(device["units_free"]) / int(device["units_total"])
    note = device.get("tier_note")
    return (
        f"device {device['index']}: {device['name']} ({device['kind']}), {gib:.1f} GiB, "
        f"{free:g} % free, tier {device['tier']}" + (f" ({note})" if note else "")
    )


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
