"""What may be, once a round has settled: compares what was seen of a job with its plan. Pure.

A fault on the worker's side may change a job's end. The others (the daemon, the manager, an agent,
a client killed, a reader stalled) never do.
"""

import json
from collections.abc import Iterable

from cumulus_wire.journal import JournalCorrupt, Kind, Record
from tests.torture.finding import Finding, finding
from tests.torture.oracle_bytes import wrong_bytes, wrong_copy
from tests.torture.oracle_ends import wrong_ends
from tests.torture.seen import Seen


def judge(seen: Seen) -> list[Finding]:
    """Everything that is wrong with one job."""
    if seen.view is None:
        return [finding(seen, "lost_jobs", 1, "the daemon acknowledged it and doesn't know it")]
    if seen.view.get("end") is None:
        words = f"it has not ended: {seen.view['status']}, {seen.view['phase']}"
        return [finding(seen, "lost_jobs", 1, f"{words}, wait {seen.view.get('wait')}")]
    found = [finding(seen, "wrong_ends", 1, text) for text in wrong_ends(seen)]
    found += wrong_bytes(seen)
    for copy in seen.copies:
        found += wrong_copy(seen, copy)
    return found


def readable(records: Iterable[Record]) -> str:
    """A journal's bare bones, for the evidence."""
    lines = []
    for record in records:
        text = ""
        if record.kind in (Kind.STATUS, Kind.EXIT):
            try:
                text = json.dumps(record.json())
            except (ValueError, JournalCorrupt) as error:
                text = repr(error)
        if text or record.kind in (Kind.ERROR, Kind.GAP, Kind.RESULT):
            lines.append(f"{record.offset} {record.kind.name} {text}".rstrip())
    return "\n".join(lines)
