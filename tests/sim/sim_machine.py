"""The few places where the code under test meets the machine, and what stands there instead."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest import mock

from twisted.logger import Logger

from cumulusd import submissions
from cumulusd.agent import live_job, partitions
from cumulusd.jobs import clearing, machine, segments
from cumulusd.jobs.model import JobRecord
from tests.sim.sim_worker import SimRunnerSocket

if TYPE_CHECKING:
    from tests.sim.sim_world import World

_current: "World | None" = None


class _Secrets:
    """`secrets`, but the same in each run."""

    @staticmethod
    def token_hex(size: int = 0) -> str:
        assert _current is not None
        return _current.token()


_real_step = machine.step
_real_sync = segments.sync_files
_real_write = segments.write_at
_real_rewrite = segments.rewrite


def _step(record: JobRecord, event: machine.Event) -> Any:
    if _current is not None and event.attempt in (None, record.attempt):
        _current.stepped(record.phase, machine._true_kind(record, event))
    return _real_step(record, event)


def _sync_files(folder: Path, starts: list[int], names: bool = True) -> None:
    assert _current is not None
    disk = _current.disk
    if disk.sync_fails:
        raise OSError(5, "Input/output error")
    for start in starts:
        path = segments.path_of(folder, start)
        if path.exists():
            disk.synced[str(path)] = path.stat().st_size


def _rewrite(folder: Path, start: int, size_bytes: int) -> int:
    assert _current is not None
    disk = _current.disk
    if disk.sync_fails or disk.full:
        raise OSError(5, "Input/output error")
    kept = _real_rewrite(folder, start, size_bytes)
    disk.synced[str(segments.path_of(folder, start))] = kept
    return kept


def _write_at(fd: int, data: bytes, position: int) -> None:
    assert _current is not None
    if _current.disk.full:
        raise OSError(28, "No space left on device")
    _real_write(fd, data, position)


def _emit(logger: Logger, level: Any, format: str | None = None, **fields: Any) -> None:
    if _current is not None and (_current.verbose or "log_failure" in fields):
        _current.logged({"log_level": level, "log_format": format, **fields})


@contextmanager
def simulated(world: "World") -> Iterator[None]:
    """The few places where the code under test meets the machine, while `world` runs."""
    global _current
    _current = world
    with (
        mock.patch.object(live_job, "RunnerSocket", SimRunnerSocket),
        mock.patch.object(partitions, "secrets", _Secrets),
        mock.patch.object(submissions, "secrets", _Secrets),
        mock.patch.object(clearing, "_LIFETIME_MARGIN_S", 3.0),
        mock.patch.object(machine, "step", _step),
        mock.patch.object(segments, "sync_files", _sync_files),
        mock.patch.object(segments, "write_at", _write_at),
        mock.patch.object(segments, "rewrite", _rewrite),
        mock.patch.object(Logger, "emit", _emit),
        mock.patch.object(os, "fsync", lambda fd: None),
    ):
        try:
            yield
        finally:
            _current = None
