"""A daemon's state with jobs of history in it: as many days of work leave it."""

import hashlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

from cumulus_wire.journal import Kind, encode, encode_json
from cumulus_wire.states import JobState
from cumulusd.jobs.model import (
    UNITS_PER_DEVICE,
    End,
    Grant,
    JobRecord,
    JobSpec,
    Moment,
    Phase,
    Placement,
    Stage,
)
from cumulusd.jobs.store_file import write_new

LINES = 10


def make_history(state_dir: Path, count: int, now: float, owners: int = 20) -> None:
    """`count` jobs that have ended within the last hours before `now`, each with its journal."""
    state_dir.mkdir(parents=True, exist_ok=True)
    journals = state_dir / "journals"
    journals.mkdir(exist_ok=True)
    said = b"".join(
        [
            encode_json(Kind.STATUS, {"phase": "setup", "attempt": 1}, 0),
            encode_json(Kind.STATUS, {"phase": "running"}, 0),
            *(encode(Kind.STDOUT, b"%0100d\n" % number, 0) for number in range(LINES)),
            encode_json(Kind.EXIT, {"outcome": "completed", "message": "", "exit_code": 0}, 0),
        ]
    )
    for number in range(count):
        folder = journals / _job_id(number)
        folder.mkdir(mode=0o700)
        fd = os.open(folder / journal_file(), os.O_WRONLY | os.O_CREAT, 0o600)
        os.write(fd, said)
        os.close(fd)
    path = state_dir / "jobs.sqlite3"
    write_new(path, str(uuid.uuid4()), _records(count, now, owners))


def journal_file() -> str:
    """What a journal's first segment is called."""
    from cumulusd.jobs import segments

    return segments.path_of(Path(), 0).name


def _job_id(number: int) -> str:
    return f"job_{number:012x}"


def _records(count: int, now: float, owners: int) -> Iterator[JobRecord]:
    sha256 = hashlib.sha256(b"").hexdigest()
    for number in range(count):
        began = now - 3600.0 - (count - number) * (36_000.0 / count)
        spec = JobSpec(
            package_sha256=sha256,
            package_size_bytes=2000,
            gpu_memory=0.25,
            duration_s=3600.0,
            name=f"train {number}",
            environment={"EPOCHS": "10"},
        )
        node = f"{number % 1000 + 2:025d}"
        device = f"{node}-d0"
        stages = (Stage.QUEUED, Stage.PREPARING, Stage.LAUNCHING, Stage.SETUP, Stage.RUNNING)
        times = (0.0, 0.1, 0.2, 0.6, 0.7)
        moments = [
            Moment(stage=stage, at=began + at, attempt=1)
            for stage, at in zip(stages, times, strict=True)
        ]
        moments += [
            Moment(stage=Stage.ENDING, at=began + 300.0, attempt=1),
            Moment(stage=Stage.ENDED, at=began + 300.2, attempt=1),
        ]
        yield JobRecord(
            job_id=_job_id(number),
            owner=f"owner{number % owners}",
            spec=spec,
            phase=Phase.ENDED,
            created_at=began,
            placement=Placement(node_id=node, hostname="worker", device_id=device),
            grant=Grant(
                partition_id=f"part-{number}",
                device_id=device,
                device_name="Simulated GPU",
                device_index=0,
                units=UNITS_PER_DEVICE // 4,
                gpu_memory_bytes=4 << 30,
                tier="advisory",
                tier_note="simulated",
                folder=f"/var/lib/cumulus/jobs/{_job_id(number)}",
            ),
            setup_at=began + 0.6,
            started_at=began + 0.7,
            ended_at=began + 300.0,
            end=End(
                state=JobState.COMPLETED,
                reason=None,
                message="",
                exit_code=0,
                log_tail="".join(f"{line:0100d}\n" for line in range(LINES)),
            ),
            moments=tuple(moments),
        )
