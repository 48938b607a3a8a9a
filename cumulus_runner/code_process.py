"""The job's interpreter: started while the set-up goes on, it begins the code when it is told."""

from __future__ import annotations

import os

from cumulus_runner.sandbox import Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

#: Modules that an interpreter imports at its start, where the package brings them.
_AT_START = ("sitecustomize", "usercustomize")


def may_start_early(names: Iterable[str]) -> bool:
    """Whether an interpreter with these variables of the job's, before the package is there, loads
    nothing that the job or one before it can have left on this worker."""
    return not any(name == "HOME" or name.startswith("PYTHON") for name in names)


def has_start_modules(work: str) -> bool:
    """Whether the package changes how an interpreter starts: it has to be there before one does."""
    return any(name.partition(".")[0] in _AT_START for name in os.listdir(work))


class CodeProcess:
    """Started, it has run nothing of the job's; `begin` or `discard` it."""

    def __init__(self, process: Process, go: int) -> None:
        self._process = process
        self._go = go

    @classmethod
    def start(
        cls,
        python: str,
        *,
        call: str,
        work: str,
        variables: Mapping[str, str],
        folder: str,
        lock: int,
        held: Sequence[int] = (),
    ) -> CodeProcess:
        """`call`: the file that will say what to run, in the folder `work`, which needs not be
        there yet. `folder`: where it is until then. Raises StartFailed."""
        bootstrap = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")
        waits, go = os.pipe2(os.O_CLOEXEC)
        try:
            argv = [python, "-u", bootstrap, call, work, str(waits)]
            process = Process.start(argv, variables, folder, lock, (waits, *held))
        except BaseException:
            os.close(go)
            raise
        finally:
            os.close(waits)
        process.set_aside()
        return cls(process, go)

    def begin(self) -> Process:
        """Tells it to run the code; the caller minds it from now on."""
        self._process.take_up()
        try:
            os.write(self._go, b"g")
        except BrokenPipeError:
            pass  # it has ended already, and how is seen as with any other
        finally:
            os.close(self._go)
        return self._process

    def discard(self) -> None:
        """Ends it: nothing of the code is run."""
        self._process.take_up()
        os.close(self._go)
        self._process.end_now()
        self._process.close()
