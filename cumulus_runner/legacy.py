"""Zips of the old SDK: `main.py` says how it ended by the files that it leaves.

`result.json` in its working directory is the job's value, byte for byte; `error.json` its error.
Written by programs of all kinds: what is in them is looked for under several names, and bounded.
"""

from __future__ import annotations

import os
import stat

from cumulus_runner.outcome import JobFailed, Stop, StopRequested
from cumulus_runner.sandbox import Process, StartFailed
from cumulus_wire import folder
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind
from cumulus_wire.light_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from cumulus_runner.supervisor import Supervisor

KIND = "legacy"
MAX_ERROR_BYTES = 1 << 20
#: Names under which an old program may have told it.
_TYPES = ("type", "error_type", "exception_type", "exception")
_MESSAGES = ("message", "error", "error_message", "msg", "detail")
_TRACEBACKS = ("traceback", "trace", "stack_trace", "stacktrace", "stack")
#: What `runtime` raises where the code pauses.
_PAUSE = "CooperativePause"
#: The last line of a traceback: `ValueError: boom`, `torch.cuda.OutOfMemoryError: …`
_LAST_LINE = r"(?s)([A-Za-z_][\w.]*)(?:: (.*))?\Z"
#: Reads a file as Python reads JSON, which takes NaN too: an old program's own module wrote it.
_CHECK = """
import json, sys
try:
    with open(sys.argv[1], encoding="utf-8-sig") as file:
        json.load(file)
except (ValueError, RecursionError):
    sys.exit(3)
"""
_NO_JSON = 3


def manifest(work: str) -> dict[str, Any] | None:
    """What stands for an old zip's manifest; None when this isn't one."""
    if not os.path.isfile(os.path.join(work, folder.LEGACY_MAIN)):
        return None
    return {"version": 1, "kind": KIND, "path": folder.LEGACY_MAIN, "argv": []}


def prepare(work: str) -> None:
    """Takes out what the old SDK put in of its own, which ours stands in for, and what a run
    before this one left: it would be taken for this one's end."""
    for name in (*folder.LEGACY_REPLACED, folder.LEGACY_RESULT, folder.LEGACY_ERROR):
        path = os.path.join(work, name)
        if os.path.isfile(path) or os.path.islink(path):
            os.unlink(path)


def report_of(work: str, report: dict[str, Any] | None, failed: bool) -> dict[str, Any] | None:
    """How the program ended, as the bootstrap reports a function's end.

    `report`: the bootstrap's own; `failed`: the program left with an exit code or by a signal.
    """
    if report is not None and report.get("state") in ("raised", "paused"):
        return report
    has_result = _is_file(os.path.join(work, folder.LEGACY_RESULT))
    if failed or not has_result:
        error = read_error(os.path.join(work, folder.LEGACY_ERROR))
        if error is not None:
            state = "paused" if error["type"] == _PAUSE else "raised"
            return {"state": state, "error": error, "hint": _hint(error)}
    if has_result and not failed:
        return {"state": "returned", "encoding": "json"}
    return report


def read_error(path: str) -> dict[str, str] | None:
    """The ERROR record of what the program left; None when it left nothing."""
    if not _is_file(path):
        return None
    with open(path, "rb") as file:
        text = file.read(MAX_ERROR_BYTES).decode(errors="replace")
    try:
        value = loads(text)
    except (ValueError, RecursionError):
        value = text
    if not isinstance(value, dict):
        value = {"message": value if isinstance(value, str) else text}
    inner = value.get("error")
    if isinstance(inner, dict):
        value = {**value, **inner, "error": None}
    traceback = _first(value, _TRACEBACKS)
    lines = traceback.strip().splitlines()
    import re  # few jobs need it

    found = re.match(_LAST_LINE, lines[-1].strip()) if lines else None
    module, _, kind = (_first(value, _TYPES) or (found.group(1) if found else "")).rpartition(".")
    message = _first(value, _MESSAGES) or (found.group(2) or "" if found else "")
    return {
        "type": kind or "Exception",
        "module": module or "builtins",
        "message": message.removeprefix(f"{kind}: ") if kind else message,
        "traceback": traceback,
    }


def check_result(
    path: str,
    python: str,
    variables: Mapping[str, str],
    work: str,
    lock: int,
    supervisor: Supervisor,
    grace_s: float,
) -> None:
    """Raises JobFailed (result_invalid) when the file is no JSON, StopRequested.

    It is read in a process of its own: however it is made, it costs the runner nothing. There is
    time for that until the job's deadline, and `grace_s` longer.
    """
    message = f"reading {folder.LEGACY_RESULT} took until the job's time was over"
    late = Stop(EndReason.DURATION_EXCEEDED, message, grace_s)
    supervisor.set_deadline(supervisor.deadline + grace_s, late)
    try:
        process = Process.start([python, "-I", "-c", _CHECK, path], variables, work, lock)
    except StartFailed as error:
        raise JobFailed(EndReason.RUNNER_FAILED, f"the job's Python: {error}") from error
    stopped = supervisor.run(process, (Kind.STDOUT, Kind.STDERR))
    if stopped is not None:
        raise StopRequested(stopped)
    if process.exit_code != 0:
        why = "is no JSON" if process.exit_code == _NO_JSON else "can't be read"
        raise JobFailed(
            EndReason.RESULT_INVALID,
            f"the {folder.LEGACY_RESULT} that {folder.LEGACY_MAIN} left {why}",
            "Write it whole, with json.dump, as the last thing that the program does.",
        )


def _is_file(path: str) -> bool:
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except OSError:
        return False


def _first(value: dict[str, Any], names: tuple[str, ...]) -> str:
    for name in names:
        text = value.get(name)
        if isinstance(text, list):
            text = "".join(line for line in text if isinstance(line, str))
        if isinstance(text, str) and text:
            return text
    return ""


def _hint(error: dict[str, str]) -> str | None:
    if error["type"] in ("ModuleNotFoundError", "ImportError"):
        return f"If a package is missing, name it in {folder.LEGACY_REQUIREMENTS}."
    return None
