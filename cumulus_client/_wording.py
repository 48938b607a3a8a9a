"""The daemon's words in the names that whoever reads them can type.

The wire's fields carry their unit (`duration_s`); a Python user knows `duration=`, the command line
`--duration`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Record, is_rest_missing

_FIELD = re.compile(
    r"(?<![\w.-])(?P<name>duration_s|queue_timeout_s|setup_timeout_s|memory_bytes|cpu_cores"
    r"|gpu_memory|environment(?=\.\w)|secrets(?=\.\w)|requirements(?=\.\d))(?:\.(?P<part>\w+))?(?!\w)"
)
#: What uv says of itself before it does anything; no news in a job's log.
UV_CHATTER = re.compile(
    r"\s*(Using (CPython|PyPy|GraalPy|Python)\b.*|Creating virtual environment\b.*)"
)
#: No installing takes longer: what a record says beyond it is forged.
_MAX_TOLD_S = 1e9
_UV_FAILED = re.compile(r"(uv .*? failed \([^)]*\)):[ \n]*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Words:
    """One reader's names. `names`: wire name -> theirs; `phrases`: the same for several words."""

    names: Mapping[str, str]
    phrases: Mapping[str, str] = field(default_factory=dict)

    def text(self, said: str) -> str:
        """A sentence of the daemon's."""
        return _FIELD.sub(self._field, self.phrased(said))

    def phrased(self, said: str) -> str:
        """A sentence of this client's, which has no names of the wire."""
        for phrase, theirs in self.phrases.items():
            said = said.replace(phrase, theirs)
        return said

    def key(self, key: str) -> str:
        """A fault's key, such as `environment.PATH` or `requirements.0`."""
        name, dot, part = key.partition(".")
        named = self.names.get(name, name)
        return f"{named}[{part}]" if dot else named

    def _field(self, match: "re.Match[str]") -> str:
        part = match["part"]
        return self.key(match["name"] + (f".{part}" if part else ""))


PYTHON = Words(
    {
        "duration_s": "duration",
        "queue_timeout_s": "queue_timeout",
        "setup_timeout_s": "setup_timeout",
        "environment": "env",
        "memory_bytes": "memory",
        "cpu_cores": "cpu",
    }
)
COMMAND_LINE = Words(
    {
        "gpu_memory": "--gpu-memory",
        "duration_s": "--duration",
        "queue_timeout_s": "--queue-timeout",
        "setup_timeout_s": "--setup-timeout",
        "environment": "--env",
        "secrets": "--secret",
        "memory_bytes": "--memory",
        "cpu_cores": "--cpu",
        "name": "--name",
        "priority": "--priority",
        "retries": "--retries",
    },
    {
        "in the job's `requirements`": "by --with, or in a file for -r",
        "pass api_key=... or set CUMULUS_API_KEY": "set CUMULUS_API_KEY, or run `cumulus login`",
        "(api_key_name=... or CUMULUS_API_KEY_NAME)": "(CUMULUS_API_KEY_NAME, or `cumulus login "
        "--name`)",
        "(api_key=... or CUMULUS_API_KEY)": "(CUMULUS_API_KEY, or what `cumulus login` kept)",
        "ca_file=... or CUMULUS_CA_FILE": "--ca-file FILE or CUMULUS_CA_FILE",
        "CUMULUS_SERVER_URL or server_url names it": "CUMULUS_SERVER_URL, --server or "
        "`cumulus login` names it",
        'files={"place/in/the/job": path}': "--file place/in/the/job=path",
        'files={"a_name": path}': "--file a_name=path",
    },
)


def faults_told(said: str, details: Mapping[str, Any], words: Words) -> list[str]:
    """An error's message and its faults as lines, each fault once."""
    found = details.get("faults")
    faults = [each for each in found if isinstance(each, dict)] if isinstance(found, list) else []
    plain = [(str(each.get("key")), str(each.get("message"))) for each in faults]
    joined = "; ".join(f"{key}: {message}" for key, message in plain)
    if len(plain) > 1 and said.endswith(joined):
        said = said.removesuffix(joined).rstrip(" :")
    lines = [words.text(said)]
    for key, message in plain:
        if message != said and f"{key}: {message}" not in said:
            lines.append(f"  {words.key(key)}: {message}")
    return lines


def end_told(view: Mapping[str, Any], words: Words) -> tuple[str, str | None]:
    """How a job ended: message and hint. What the job's own code said is left as it is."""
    end = view.get("end") or {}
    message = str(end.get("message") or view.get("error") or "")
    if end.get("reason") == EndReason.REQUIREMENTS_FAILED:
        message = installer_cause(message)
    elif end.get("reason") not in (EndReason.USER_ERROR, EndReason.EXIT_CODE):
        message = words.text(message)
    hint = words.text(str(end.get("hint") or ""))
    return message, hint or None


def installer_cause(message: str) -> str:
    """A failed installation with what uv says of the cause first, and without its chatter."""
    match = _UV_FAILED.fullmatch(message.strip())
    if match is None:
        return message
    lines = [line for line in match[2].splitlines() if line.strip()]
    lines = [line for line in lines if not UV_CHATTER.match(line)]
    cause = "\n".join(lines).strip()
    return f"{cause}\n({match[1]})" if cause else match[1]


def requirements_told(status: Mapping[str, Any]) -> str | None:
    """What a STATUS record says of the job's requirements; None: nothing."""
    if status.get("phase") != "running" or not status.get("requirements"):
        return None
    if status.get("cached"):
        return "requirements: cached"
    took_s = status.get("build_s")
    known = isinstance(took_s, int | float) and 0 <= took_s < _MAX_TOLD_S
    return f"requirements: installed in {took_s:.1f} s" if known else "requirements: installed"


def fraction_told(progress: Mapping[str, Any]) -> float | None:
    """How far a PROGRESS record says that the code is, 0 to 1; None: it doesn't."""
    fraction = progress.get("fraction")
    if isinstance(fraction, bool) or not isinstance(fraction, int | float):
        return None
    # Compared before it is made a float: a job may write a number larger than any.
    return 1.0 if fraction >= 1 else float(fraction) if fraction > 0 else 0.0


def message_told(progress: Mapping[str, Any]) -> str:
    """What it says beside that; empty: nothing."""
    message = progress.get("message")
    return message if isinstance(message, str) else ""


def gap_told(record: Record) -> str:
    """What a GAP record says."""
    gap = record.said()
    if is_rest_missing(record):
        return (
            f"more output of attempt {gap.get('attempt')} may be missing here: its worker was "
            "given up"
        )
    if not all(type(gap.get(end)) is int for end in ("from", "to")):
        return "some of the job's output may be missing here"
    if gap["to"] < gap["from"]:
        return (
            f"the daemon has lost the last {gap['from'] - gap['to']} B that are shown here; "
            "the job's output goes on from before them"
        )
    return f"{gap['to'] - gap['from']} B of the job's output are not kept: over the size cap"
