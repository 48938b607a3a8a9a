"""The job's interpreter: it waits while the set-up goes on, and begins the code when it is told."""

from __future__ import annotations

import marshal
import os
import select
import sys
import time

from cumulus_runner.sandbox import Process, reap
from cumulus_wire.light_json import dumps

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import Any

    from cumulus_runner.orders import Orders

#: Modules that an interpreter imports at its start, where the package brings them.
_AT_START = ("sitecustomize", "usercustomize")
#: Ends a whole word to the runner's copy; `bootstrap` knows it.
WHOLE = b"cumulus: whole"
#: What a pipe doesn't hold of its word it takes at once, unless it is stopped.
WORD_TIMEOUT_S = 30.0

#: Variables that a process, its interpreter or its libraries look at as they start.
_FOR_A_PROCESS = (
    "GCONV_PATH",
    "GLIBC_",
    "LC_",
    "LD_",
    "LOCPATH",
    "MALLOC_",
    "PYTHON",
    "TZDIR",
)
#: So do these, but the runner may have been started with them. Those of GPUs are for libraries that
#: other tiers of enforcement preload, which then are among the job's too.
_FOR_A_START = (*_FOR_A_PROCESS, "CUDA", "HOME", "LANG", "NVIDIA")
#: HAMi-core, which is preloaded where these are, may set itself up by process as one starts.
_FOR_EACH_START = ("CUDA_DEVICE_MEMORY_",)
#: What the job's interpreter has none of, beside `-u`.
_FLAGS = (
    "bytes_warning",
    "debug",
    "dev_mode",
    "dont_write_bytecode",
    "ignore_environment",
    "inspect",
    "interactive",
    "isolated",
    "no_site",
    "no_user_site",
    "optimize",
    "safe_path",
    "utf8_mode",
    "verbose",
    "warn_default_encoding",
)


def may_start_early(names: Iterable[str]) -> bool:
    """Whether an interpreter with these variables of the job's, before the package is there, loads
    nothing that the job or one before it can have left on this worker."""
    # The C library's converters of characters are libraries, and are where GCONV_PATH says.
    return not any(name in ("GCONV_PATH", "HOME") or name.startswith("PYTHON") for name in names)


def is_as_the_jobs(environ: Mapping[str, str]) -> bool:
    """Whether this interpreter, in this environment, was started as the job's own one is."""
    site = sys.modules.get("site")
    return (
        not any(getattr(sys.flags, name, 0) for name in _FLAGS)
        and not sys.warnoptions
        and not sys._xoptions
        # The job's has none of them but the last, which it has from the runner.
        and not any(name.startswith(_FOR_A_PROCESS) and name != "LC_ALL" for name in environ)
        and bool(environ.get("LANG") or environ.get("LC_ALL"))  # else the job's differs
        and None not in (sys.stdin, sys.stdout, sys.stderr)
        and not hasattr(getattr(sys.stdout, "buffer", None), "raw")  # by `-u`
        and not any(os.isatty(fd) for fd in range(3))
        and site is not None
        and getattr(site, "USER_SITE", None) not in sys.path
    )


def may_be_a_copy(orders: Orders, environ: Mapping[str, str]) -> bool:
    """Whether nothing that the job asks for takes an interpreter started for it: this one, which
    was started with `environ`, has what one looks at as it starts. Each job of a container has some
    of that from its grant, as its runner has."""
    others = [
        name
        for name, text in orders.environment.items()
        if environ.get(name) != text or name.startswith(_FOR_EACH_START)
    ]
    return (
        not orders.requirements
        and orders.python in (None, sys.executable)
        and not any(name.startswith(_FOR_A_START) for name in (*others, *orders.secrets))
    )


def has_start_modules(work: str) -> bool:
    """Whether the package changes how an interpreter starts: it has to be there before one does."""
    return any(name.partition(".")[0] in _AT_START for name in os.listdir(work))


class Waiting:
    """An interpreter that has run nothing of the job's; `begin` or `discard` it."""

    def __init__(self, process: Process, go: int) -> None:
        self._process = process
        self._go = go
        process.set_aside()

    @property
    def is_gone(self) -> bool:
        """It has ended, though nobody told it to."""
        reap()
        return self._process.ended

    def begin(self, call: Mapping[str, Any]) -> Process:
        """Tells it to run that; the caller minds it from now on. One that takes no word within
        `WORD_TIMEOUT_S` is killed."""
        self._process.take_up()
        left = memoryview(self._word(call))
        os.set_blocking(self._go, False)
        room = select.poll()
        room.register(self._go, select.POLLOUT)
        until = time.monotonic() + WORD_TIMEOUT_S
        try:
            while left:
                if not room.poll(max(0.0, until - time.monotonic()) * 1000):
                    self._process.kill()  # somebody has stopped it
                    break
                left = left[os.write(self._go, left) :]
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

    def _word(self, call: Mapping[str, Any]) -> bytes:
        raise NotImplementedError


class CopyProcess(Waiting):
    """A copy of the runner's interpreter, made before that did anything. It waits in
    `bootstrap.follow`."""

    #: What the code is to have; set before `begin`.
    variables: Mapping[str, str]

    def _word(self, call: Mapping[str, Any]) -> bytes:
        return marshal.dumps((dict(self.variables), dict(call))) + WHOLE


class CodeProcess(Waiting):
    """An interpreter of its own, which waits in `bootstrap`."""

    def __init__(self, process: Process, go: int, call: str) -> None:
        super().__init__(process, go)
        self._call = call

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
        return cls(process, go, call)

    def _word(self, call: Mapping[str, Any]) -> bytes:
        with open(self._call, "wb") as file:
            file.write(dumps(call).encode())
        return b"g"
