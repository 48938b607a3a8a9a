"""What was looked at, and what is made of it: one finding a line, as `cumulus doctor` has it."""

from collections.abc import Sequence
from typing import Any, Literal

import attrs

from cumulusd.errors import CumulusError

Verdict = Literal["ok", "warning", "fault", "not known"]


@attrs.frozen
class Finding:
    """One thing that was looked at. `advice`: what to do about it."""

    subject: str
    verdict: Verdict
    said: str
    advice: str | None = None


def ok(subject: str, said: str) -> Finding:
    """It is as it should be."""
    return Finding(subject, "ok", said)


def warning(subject: str, said: str, advice: str) -> Finding:
    """It works, and is probably not meant so, or won't work for long."""
    return Finding(subject, "warning", said, advice)


def fault(subject: str, said: str, advice: str | None) -> Finding:
    """It doesn't work."""
    return Finding(subject, "fault", said, advice)


def not_known(subject: str, said: str, advice: str | None = None) -> Finding:
    """It can't be told from here, or not now."""
    return Finding(subject, "not known", said, advice)


def of_error(subject: str, error: CumulusError) -> Finding:
    """The fault that an error stands for, in its words and the platform's."""
    platform = error.details.get("platform")
    said = f"{error.message}: {platform}" if platform else error.message
    return fault(subject, said, error.hint)


def told(finding: Finding) -> list[str]:
    """The finding as lines for a person."""
    lines = [f"{finding.verdict:9}  {finding.subject:14}  {' '.join(finding.said.split())}"]
    if finding.advice:
        lines.append(f"{'':9}  {'':14}  -> {' '.join(finding.advice.split())}")
    return lines


def is_well(findings: Sequence[Finding]) -> bool:
    """Is there no fault?"""
    return all(finding.verdict != "fault" for finding in findings)


def as_json(findings: Sequence[Finding]) -> dict[str, Any]:
    """The same for programs."""
    return {
        "ok": is_well(findings),
        "findings": [attrs.asdict(finding) for finding in findings],
    }


def count(number: int, noun: str) -> str:
    """`1 worker`, `2 workers`."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def size(number_bytes: float) -> str:
    """In GiB, or MiB below one."""
    gib = number_bytes / (1 << 30)
    return f"{gib:.1f} GiB" if gib >= 1 else f"{number_bytes / (1 << 20):.0f} MiB"
