"""Whether what is to hold the job to its share does so: proven before any of its code runs."""

from __future__ import annotations

import json
import os
import sys

from cumulus_runner.outcome import JobFailed, Stop, StopRequested
from cumulus_runner.sandbox import Process, StartFailed
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from cumulus_runner.supervisor import Supervisor

#: A driver that hasn't answered by then hangs.
TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 64 << 10
_HINT = (
    "This is no fault of the job's: the worker's administrator looks at its OpenCL drivers and at "
    "the job image, which must hold the layer (docs/gpu.md). Nothing of the code was run."
)


def prove_opencl_layer(
    supervisor: Supervisor, *, variables: Mapping[str, str], folder: str, lock: int
) -> None:
    """Returns when the OpenCL layer is in force for processes that are started with `variables`.

    `folder`: the runner's own, for the answer. Sets the supervisor's deadline; the caller sets its
    own again. Raises JobFailed (partition_failed), StopRequested.
    """
    answer = os.path.join(folder, "layer.json")
    program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "layer_probe.py")
    now = supervisor.now()
    if now + TIMEOUT_S < supervisor.deadline:
        supervisor.set_deadline(
            now + TIMEOUT_S,
            Stop(
                EndReason.PARTITION_FAILED,
                "the job's share of the device can't be shown to be enforced: an OpenCL driver "
                f"gave no answer within {TIMEOUT_S:g} s; nothing of the code was run",
                0.0,
            ),
        )
    try:
        process = Process.start([sys.executable, "-I", program, answer], variables, folder, lock)
    except StartFailed as error:
        raise _not_enforced(str(error)) from error
    stopped = supervisor.run(process, (Kind.SETUP, Kind.SETUP))
    if stopped is not None:
        raise StopRequested(stopped)
    if process.signal is not None:
        raise _not_enforced(f"an OpenCL driver crashed the test (signal {process.signal})")
    if process.exit_code != 0:
        raise _not_enforced(f"the test failed (exit code {process.exit_code}); the log has why")
    try:
        with open(answer, encoding="utf-8") as file:
            why = json.loads(file.read(MAX_ANSWER_BYTES))["why"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _not_enforced(f"the test left no answer: {error}") from error
    if why is not None:
        raise _not_enforced(str(why))


def _not_enforced(why: str) -> JobFailed:
    return JobFailed(
        EndReason.PARTITION_FAILED,
        f"the job's share of the device isn't enforced on this worker: {why}",
        _HINT,
    )
