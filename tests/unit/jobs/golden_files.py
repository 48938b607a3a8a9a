"""The golden files: records and stores as every version of the daemon wrote them.

Run as a program it writes those of today's version, if they aren't there; one that is there is
never written again.
"""

import json
import sys
from pathlib import Path

from cumulusd.jobs import codec, store_file, versions

FOLDER = Path(__file__).parent / "golden"
#: What the golden stores say of themselves.
INSTANCE_ID = "11111111-2222-4333-8444-555555555555"


def record_path(version: int) -> Path:
    """A job record of that version of `cumulusd.jobs.versions`."""
    return FOLDER / f"record_v{version}.json"


def store_path(version: int) -> Path:
    """A job store of that format of `cumulusd.jobs.store_file`, holding one record, job-1."""
    return FOLDER / f"store_v{version}.sqlite3"


def write_missing() -> list[Path]:
    """The files written."""
    from job_values import full_record

    written = []
    record = record_path(versions.VERSION)
    if not record.exists():
        record.write_text(json.dumps(codec.encode(full_record()), indent=1) + "\n")
        written.append(record)
    store = store_path(store_file.FORMAT)
    if not store.exists():
        store_file.write_new(store, INSTANCE_ID, [full_record()])
        written.append(store)
    return written


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    for path in write_missing():
        print(path)
