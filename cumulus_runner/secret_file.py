"""The job's secrets, handed over in a file that is gone once they are read."""

from __future__ import annotations

import os

from cumulus_runner.outcome import JobFailed
from cumulus_wire import folder
from cumulus_wire.codes import EndReason
from cumulus_wire.light_json import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_BYTES = 4 << 20


def read_secrets(job_folder: str, names: Sequence[str]) -> dict[str, str]:
    """The values of those variables. Raises JobFailed."""
    if not names:
        return {}
    path = os.path.join(job_folder, folder.SECRETS)
    why = "it isn't what the agent writes"
    try:
        with open(path, "rb") as file:
            values = loads(file.read(_MAX_BYTES))
        if isinstance(values, dict) and sorted(values) == sorted(names):
            return {name: str(text) for name, text in values.items()}
    except OSError as error:
        why = str(error.strerror)
    except ValueError:
        pass  # what is wrong with it may quote it
    raise _failed(f"can't be read from {path}: {why}")


def delete_secrets(job_folder: str, names: Sequence[str]) -> None:
    """Takes their file away, before the code begins. Raises JobFailed."""
    if not names:
        return
    path = os.path.join(job_folder, folder.SECRETS)
    try:
        os.unlink(path)
    except OSError as error:
        raise _failed(f"can't be deleted from {path}: {error.strerror}") from error


def _failed(what: str) -> JobFailed:
    return JobFailed(
        EndReason.RUNNER_FAILED,
        f"the job's secrets {what}",
        "This is Cumulus's own fault; submitting again may help.",
    )
