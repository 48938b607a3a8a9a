"""The journals on a worker's disk, looked at from outside of everything."""

import json
from pathlib import Path

from cumulus_wire import folder as names
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import FrameParser, JournalCorrupt, Kind, Record
from tests.torture.plan import Fault
from tests.torture.seen import OnDisk


def look(worker_root: Path, fault: Fault) -> dict[str, OnDisk]:
    """Job id -> its journal, for every folder of a job there. Nobody should write meanwhile."""
    found = {}
    for folder in (worker_root / "jobs").glob("job_*"):
        try:
            attempt = int(json.loads((folder / names.ORDERS).read_text())["attempt"])
            there = _journal(folder / names.JOURNAL, fault, attempt)
        except FileNotFoundError:
            continue  # acknowledged and deleted at this moment, or not begun
        if there is not None:
            found[folder.name] = there
    return found


def _journal(folder: Path, fault: Fault, attempt: int) -> OnDisk | None:
    offsets = sorted(
        offset
        for path in folder.iterdir()
        if (offset := names.segment_offset(path.name)) is not None
    )
    if not offsets:
        return None
    records: list[Record] = []
    end = offsets[-1]
    for offset in offsets:
        parser = FrameParser(offset)
        try:
            records += parser.feed((folder / names.segment_name(offset)).read_bytes())
        except JournalCorrupt:
            pass  # torn by the kill: what is whole before it counts
        end = parser.offset
    running = offsets[0] > 0 or any(
        record.kind is Kind.STATUS and record.json().get("phase") == "running" for record in records
    )
    exited = (
        bool(records)
        and records[-1].kind is Kind.EXIT
        # Else the runner only says that it was ended from outside.
        and records[-1].json().get("reason") != EndReason.RUNNER_FAILED
    )
    return OnDisk(fault=fault, attempt=attempt, end_offset=end, running=running, exited=exited)
