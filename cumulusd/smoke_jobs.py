"""The job that tries a new worker: a real one, through the relay, on that worker only."""

import hashlib
import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet.defer import DeferredLock

from cumulus_wire import folder
from cumulusd.identity import Principal, Role
from cumulusd.jobs.model import UNITS_PER_DEVICE, JobRecord
from cumulusd.jobs.ports import AgentView
from cumulusd.jobs.supervisor import Supervisor
from cumulusd.jobs.table import JobTable
from cumulusd.relay import PACKAGE_CHUNK_BYTES, Relay

OWNER = "provision"
_WHO = Principal(name=OWNER, owner=OWNER, role=Role.CLIENT)
_SCRIPT = Path(__file__).with_name("smoke_script.py")
#: Its code takes a second; what takes long on a new worker is the first container.
DURATION_S = 120.0
SETUP_TIMEOUT_S = 300.0
QUEUE_TIMEOUT_S = 300.0


class SmokeJobs:
    """The jobs as provisioning sees them: implements `cumulusd.swarm.trial.SmokeJobs` and
    `cumulusd.swarm.enrolment.JobsThere` by the daemon's own use cases."""

    def __init__(self, relay: Relay, table: JobTable, supervisor: Supervisor) -> None:
        self._relay = relay
        self._table = table
        self._supervisor = supervisor
        self._uploading = DeferredLock()
        self._package = package()

    async def begin(self, node_id: str, key: str) -> str:
        """The id of the job that is, or was, begun on that node under that key. Durable. Raises
        CumulusError."""
        sha256, size_bytes = hashlib.sha256(self._package).hexdigest(), len(self._package)
        # One upload at a time, as for any client: several workers may be new.
        async with self._uploading:
            there = self._relay.package_check(_WHO, sha256, size_bytes)
            offset = there["offset"]
            while not there["present"] and offset < size_bytes:
                chunk = self._package[offset : offset + PACKAGE_CHUNK_BYTES]
                offset = (await self._relay.package_put(_WHO, sha256, offset, chunk))["offset"]
            await self._relay.package_commit(_WHO, sha256, size_bytes)
        limits = self._relay.info(_WHO)["limits"]
        spec = {
            "package": {"sha256": sha256, "size_bytes": size_bytes},
            "gpu_memory": 1 / UNITS_PER_DEVICE,
            "duration_s": min(DURATION_S, limits["max_duration_s"]),
            "setup_timeout_s": SETUP_TIMEOUT_S,
            "queue_timeout_s": QUEUE_TIMEOUT_S,
            "name": "try a new worker",
            "idempotency_key": key,
        }
        view = await self._relay.submit(_WHO, spec, only_node=node_id)
        return str(view["job_id"])

    def record(self, job_id: str) -> JobRecord | None:
        """How it stands; None: it was deleted, or has left the history."""
        return self._table.get(job_id)

    def agents(self) -> Mapping[str, AgentView]:
        """The agents that are connected, by node id."""
        return self._supervisor.placing.agents()

    def running_on(self, node_id: str) -> list[str]:
        """Ids of the jobs that are on that node, or on their way to it, and have not ended."""
        return [one.job_id for one in self._on(node_id) if one.end is None]

    def clearing_on(self, node_id: str) -> list[str]:
        """Ids of those that have ended, and are being cleared from it."""
        return [one.job_id for one in self._on(node_id) if one.end is not None]

    def _on(self, node_id: str) -> list[JobRecord]:
        return [
            record
            for record in self._table.placed()
            if record.placement is not None and record.placement.node_id == node_id
        ]


def package() -> bytes:
    """The job's package: always the same bytes, so that it is uploaded once."""
    manifest: dict[str, Any] = {"version": 1, "kind": "script", "path": _SCRIPT.name}
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in (
            (folder.MANIFEST, json.dumps(manifest)),
            (_SCRIPT.name, _SCRIPT.read_text()),
        ):
            archive.writestr(zipfile.ZipInfo(name), text)
    return data.getvalue()
