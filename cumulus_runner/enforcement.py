"""Whether what is to hold the job to its share does so: proven before any of its code runs."""

from __future__ import annotations

import os
import sys

from cumulus_runner.outcome import JobFailed, Stop, StopRequested
from cumulus_runner.sandbox import Process, StartFailed
from cumulus_wire.codes import EndReason
from cumulus_wire.grant import FINGERPRINT_DIGITS, GRANT, IMAGE_VARIABLE, MAX_PROVEN, PROVEN
from cumulus_wire.journal import Kind

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from cumulus_runner.supervisor import Supervisor

#: A driver that hasn't answered by then hangs.
TIMEOUT_S = 60.0
MAX_ANSWER_BYTES = 64 << 10
#: What layer_probe.py says when all is well; anything else is why it isn't.
IN_FORCE = "in force\n"
_HINT = (
    "This is no fault of the job's: the worker's administrator looks at its OpenCL drivers and at "
    "the job image, which must hold the layer (docs/gpu.md). Nothing of the code was run."
)


PROVEN_NOW, REMEMBERED = "proven", "remembered"


class LayerProof:
    """That the OpenCL layer is in force: what is known of this worker, or else a test, which runs
    beside the set-up, from `begin` to `finish`."""

    def __init__(
        self,
        process: Process | None,
        answer: str,
        begun_at: float,
        take: Callable[[], str | None],
        taken: str | None,
        is_asked: bool,
    ) -> None:
        """`process`: the test; None: it isn't needed. `take`: takes the fingerprint of what it
        depends on, None where nobody can; `taken`: that of before the test. `is_asked`: the agent
        remembers such."""
        self._process = process
        self._answer = answer
        self._begun_at = begun_at
        self._take = take
        self._taken = taken
        self._is_asked = is_asked
        self.is_known = process is None  #: from the beginning
        self.how = REMEMBERED if process is None else PROVEN_NOW

    @classmethod
    def begin(
        cls,
        supervisor: Supervisor,
        *,
        variables: Mapping[str, str],
        folder: str,
        lock: int,
        mounted: Iterable[str | None] = (),
        partition_id: str | None = None,
    ) -> LayerProof:
        """Starts it, for processes that are started with `variables`.

        `folder`: the runner's own, for the answer. `mounted`: the job's folders. Raises JobFailed
        (partition_failed).
        """
        answer = os.path.join(folder, "layer.answer")
        folders = tuple(path for path in mounted if path is not None)

        def take() -> str | None:
            return _fingerprint(variables, folders, partition_id)

        known = known_fingerprints()
        taken = None if known is None else take()
        if known is not None and taken in known:
            supervisor.tell_proof({REMEMBERED: taken})
            return cls(None, answer, supervisor.now(), take, taken, True)
        try:
            if any(name.startswith("LD_") for name in (*os.environ, *variables)):
                # What a process loads at its start may differ: it has to be one like the code's.
                program = os.path.join(os.path.dirname(os.path.abspath(__file__)), "layer_probe.py")
                argv = [sys.executable, "-I", "-S", program, answer]
                process = Process.start(argv, variables, folder, lock)
            else:
                process = Process.fork(
                    lambda: _probe(answer), "the test of the layer", variables, folder, lock
                )
        except StartFailed as error:
            raise _not_enforced(str(error)) from error
        return cls(process, answer, supervisor.now(), take, taken, known is not None)

    def finish(self, supervisor: Supervisor) -> None:
        """Returns when the layer is known to be in force, and the agent was told.

        May set the supervisor's deadline; the caller sets its own again. Raises JobFailed
        (partition_failed), StopRequested.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if self._begun_at + TIMEOUT_S < supervisor.deadline:
            supervisor.set_deadline(
                self._begun_at + TIMEOUT_S,
                Stop(
                    EndReason.PARTITION_FAILED,
                    "the job's share of the device can't be shown to be enforced: an OpenCL driver "
                    f"gave no answer within {TIMEOUT_S:g} s; nothing of the code was run",
                    0.0,
                ),
            )
        stopped = supervisor.run(process, (Kind.SETUP, Kind.SETUP))
        if stopped is not None:
            raise StopRequested(stopped)
        if process.signal is not None:
            raise _not_enforced(f"an OpenCL driver crashed the test (signal {process.signal})")
        if process.exit_code != 0:
            raise _not_enforced(f"the test failed (exit code {process.exit_code}); the log has why")
        try:
            with open(self._answer, encoding="utf-8") as file:
                answer = file.read(MAX_ANSWER_BYTES)
        except (OSError, ValueError) as error:
            raise _not_enforced(f"the test left no answer: {error}") from error
        if answer != IN_FORCE:
            raise _not_enforced(answer or "the test's answer is empty")
        if self._is_asked:
            # What changed meanwhile may not be what was tested.
            same = self._taken is not None and self._take() == self._taken
            supervisor.tell_proof({PROVEN_NOW: self._taken} if same else {})

    def discard(self) -> None:
        """Ends it, if it was not finished."""
        if self._process is not None:
            self._process.end_now()
            self._process.close()
            self._process = None


def known_fingerprints() -> frozenset[str] | None:
    """With what the layer was proven on this worker, as the agent says in the grant, where no job
    can write. None: it doesn't want to know."""
    try:
        with open(f"{GRANT}/{PROVEN}", "rb") as file:
            text = file.read(MAX_PROVEN * (FINGERPRINT_DIGITS + 1)).decode("ascii")
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        return frozenset()  # then it is proven here
    return frozenset(line for line in text.split("\n") if len(line) == FINGERPRINT_DIGITS)


def _fingerprint(
    variables: Mapping[str, str], folders: tuple[str, ...], partition_id: str | None
) -> str | None:
    """None: it can't be told on what the proof depends, so nothing is remembered."""
    from cumulus_runner.layer_fingerprint import Unknown, fingerprint

    try:
        return fingerprint(
            {**{name: text for name, text in os.environ.items() if name[:3] == "LD_"}, **variables},
            image=os.environ.get(IMAGE_VARIABLE, ""),
            folders=folders,
            partition_id=partition_id,
        )
    except (Unknown, OSError):
        return None


def _probe(answer: str) -> int:
    from cumulus_runner.layer_probe import main

    main(answer)
    return 0


def _not_enforced(why: str) -> JobFailed:
    return JobFailed(
        EndReason.PARTITION_FAILED,
        f"the job's share of the device isn't enforced on this worker: {why}",
        _HINT,
    )
