"""The daemon with S3 and without: what jobs are told, and whose objects are to go."""

import attrs
import pytest
import pytest_twisted
from twisted.internet.task import Clock

from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState
from cumulusd.config_s3 import S3Section
from cumulusd.jobs.model import End, JobRecord, JobSpec, Phase
from cumulusd.jobs.table import JobTable
from cumulusd.s3.janitor import Fate
from cumulusd.wiring_s3 import S3Parts

SPEC = JobSpec(package_sha256="ab" * 32, package_size_bytes=1, gpu_memory=0.5, duration_s=60.0)
SECTION = S3Section.model_validate(
    {"bucket": "abc", "prefix": "lab"},
    context={"environ": {"CUMULUSD_S3_ACCESS_KEY": "1", "CUMULUSD_S3_SECRET_KEY": "2"}},
)


def record(phase: Phase, state: JobState | None = None) -> JobRecord:
    made = JobRecord(job_id="job_1", owner="ann", spec=SPEC, phase=phase, created_at=1.0)
    if state is None:
        return made
    reason = EndReason.CANCELLED_BY_USER if state is JobState.CANCELLED else None
    return attrs.evolve(made, end=End(state=state, reason=reason, message="over"))


@pytest.mark.parametrize(
    ("found", "fate"),
    [
        (None, Fate.ALL),
        (record(Phase.QUEUED), Fate.KEEP),
        (record(Phase.RUNNING), Fate.KEEP),
        (record(Phase.PAUSED), Fate.KEEP),
        (record(Phase.ENDING, JobState.CANCELLED), Fate.KEEP),
        (record(Phase.ENDED, JobState.CANCELLED), Fate.CHECKPOINTS),
        (record(Phase.ENDED, JobState.COMPLETED), Fate.KEEP),
        (record(Phase.ENDED, JobState.FAILED), Fate.KEEP),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_table_decides(found: JobRecord | None, fate: Fate) -> None:
    table = JobTable()
    parts = S3Parts(SECTION, Clock(), "i-1", table)
    if found is not None:
        table.put(found)
    assert parts._fate("job_1") is fate
    await parts.stop()


@pytest_twisted.ensureDeferred
async def test_the_prefix_is_this_daemon_s_own() -> None:
    parts = S3Parts(SECTION, Clock(), "i-1", JobTable())
    assert parts.variables(())["CUMULUS_S3_PREFIX"] == "lab/i-1/"
    assert parts.variables(["AWS_ACCESS_KEY_ID"]) == {}
    await parts.stop()


@pytest_twisted.ensureDeferred
async def test_without_s3_there_is_nothing_of_it() -> None:
    table = JobTable()
    parts = S3Parts(None, Clock(), "i-1", table)
    parts.start()
    table.put(record(Phase.ENDED, JobState.CANCELLED))
    table.forget("job_1")
    assert parts.variables(()) == {}
    await parts.stop()
