"""Something that must not be, as the oracle tells it."""

from dataclasses import dataclass

from tests.torture.seen import Seen

#: What counts against the system.
COUNTERS = ("lost_jobs", "lost_bytes", "doubled_bytes", "wrong_ends")


@dataclass(frozen=True, kw_only=True)
class Finding:
    """Something that must not be. `counter`: one of those above, or a leak's."""

    counter: str
    amount: int
    text: str
    job_id: str | None = None


def finding(seen: Seen, counter: str, amount: int, text: str) -> Finding:
    """One about that job, with the faults that may excuse it."""
    faults = ", ".join(sorted({w.fault.value for w in seen.windows})) or "none"
    return Finding(
        counter=counter,
        amount=amount,
        job_id=seen.job_id,
        text=f"{seen.job.name}: {text} (faults that may change its end: {faults})",
    )
