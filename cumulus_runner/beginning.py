"""The first steps: the folder's lock, the orders, and a copy of the interpreter for the job's code.

The interpreter is divided before it has loaded anything more: the one half becomes the runner, the
other waits to run the code, and is what `python -u bootstrap.py` would be, without a second start.
"""

from __future__ import annotations

import fcntl
import os
import sys
import time

from cumulus_runner.code_process import CopyProcess, is_as_the_jobs, may_be_a_copy
from cumulus_runner.descriptors import seal_descriptors
from cumulus_runner.orders import Orders, OrdersInvalid
from cumulus_runner.sandbox import Process, StartFailed
from cumulus_wire import folder

EXIT_USAGE = 64
EXIT_CANT_RECORD = 74  #: sysexits' EX_IOERR: there is no journal to say it in
EXIT_LOCKED = 75  #: EX_TEMPFAIL: another runner has this folder

_LOCK_TRIES = 20
_LOCK_PAUSE_S = 0.01


class Refused(Exception):
    """Nothing is begun; why was said on stderr."""

    def __init__(self, exit_code: int, why: str) -> None:
        super().__init__(why)
        self.exit_code = exit_code
        if sys.stderr is not None:
            sys.stderr.write(f"{why}\n")


class Begun:
    """The folder is locked: what the runner begins with."""

    def __init__(self, path: str, lock: int, orders: Orders | None, problem: str) -> None:
        self.path = path
        self.lock = lock  #: the locked descriptor, which every child keeps
        self.orders = orders  #: None: they can't be taken, for this `problem`
        self.problem = problem
        self.copy: CopyProcess | None = None  #: waits to run the code
        self.go: int | None = None  #: this is that copy, and hears its word there


def begin(argv: list[str], may_divide: bool) -> Begun:
    """With the folder `argv[0]`. Returns twice where `may_divide` and the job allow it: in a copy
    of this process too. Raises Refused."""
    if len(argv) != 1:
        raise Refused(EXIT_USAGE, "usage: python -u cumulus_runner/__main__.py FOLDER")
    path = os.path.abspath(argv[0])
    seal_descriptors()
    try:
        lock = _lock(path)
    except OSError as error:
        raise Refused(
            EXIT_CANT_RECORD, f"cumulus_runner: {path} can't be locked: {error.strerror}"
        ) from None
    if lock is None:
        raise Refused(
            EXIT_LOCKED,
            f"cumulus_runner: {path} is locked: another runner, or a process of its job, is still "
            "there. Nothing was started or written.",
        )
    try:
        begun = Begun(path, lock, Orders.load(path), "")
    except OrdersInvalid as error:
        return Begun(path, lock, None, str(error))
    assert begun.orders is not None
    if may_divide and is_as_the_jobs(os.environ) and may_be_a_copy(begun.orders, os.environ):
        _divide(begun)
    return begun


def _divide(begun: Begun) -> None:
    """Without a copy the job's interpreter is started when it is time to."""
    waits, go = os.pipe2(os.O_CLOEXEC)
    try:
        process = Process.divide(begun.lock, (waits,))
    except StartFailed:
        os.close(waits)
        os.close(go)
        return  # to start another one will fail as well, and is told then
    if process is None:
        begun.go = waits
    else:
        os.close(waits)
        begun.copy = CopyProcess(process, go)


def _lock(path: str) -> int | None:
    """The locked descriptor of the folder; None when somebody else holds it. Raises OSError."""
    # Read-only: it is the children's stdin, and must stay an empty file.
    lock = os.open(os.path.join(path, folder.LOCK), os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
    for _ in range(_LOCK_TRIES):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            # The agent's probe holds it for microseconds; another runner for good.
            time.sleep(_LOCK_PAUSE_S)
    os.close(lock)
    return None
