"""What a job's end and its value look like in a shell."""

import json
import sys
from collections.abc import Mapping
from typing import Any

from cumulus_client._wording import COMMAND_LINE, end_told
from cumulus_client.cli.displays import warn
from cumulus_client.cli.exits import exit_code
from cumulus_wire.codes import EndReason
from cumulus_wire.states import JobState


def show_end(view: Mapping[str, Any], *, quiet: bool) -> int:
    """Tells on stderr how a job ended that did not complete; the exit code for it."""
    code = exit_code(view)
    end = view.get("end") or {}
    error = end.get("error")
    if error:
        # What Python itself would have written, had the script run here.
        print(str(error["traceback"]).rstrip(), file=sys.stderr)
    own = end.get("reason") in (EndReason.USER_ERROR, EndReason.EXIT_CODE)
    if code and view.get("status") != JobState.CANCELLED and not (own and quiet):
        said, hint = end_told(view, COMMAND_LINE)
        also = f" ({hint})" if hint else ""
        warn(f"job {view['job_id']} {view['status']}: {said}{also}")
    return code


def show_value(value: Any) -> bool:
    """Prints a function's value as one line of JSON; False, and why on stderr, for one that JSON
    can't hold."""
    try:
        text = json.dumps(value, default=_plain)
    except (TypeError, ValueError, RecursionError) as error:
        warn(
            f"the value is a {type(value).__name__}, which JSON can't hold ({error}); return what "
            "JSON can hold, or write a file and `cumulus download` it"
        )
        return False
    print(text, flush=True)
    return True


def _plain(value: Any) -> Any:
    """NumPy's and others' numbers and arrays as plain ones."""
    if callable(getattr(value, "tolist", None)):
        return value.tolist()
    raise TypeError(f"a {type(value).__name__} is in it")
