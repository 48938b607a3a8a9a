"""The command `python -m cumulus_runner FOLDER`: the folder's lock, its journal, one job."""

from __future__ import annotations

import fcntl
import os
import sys
import time

from cumulus_runner.container_log import ContainerLog
from cumulus_runner.journal_writer import JournalWriter
from cumulus_runner.orders import Orders, OrdersInvalid
from cumulus_runner.outcome import Outcome
from cumulus_runner.runner import EXIT_CANT_RECORD, EXIT_JOB_FAILED, EXIT_OK, Runner
from cumulus_runner.sandbox import seal_descriptors
from cumulus_wire import folder
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind, encode_json
from cumulus_wire.states import JobState

EXIT_USAGE = 64
EXIT_LOCKED = 75  #: EX_TEMPFAIL: another runner has this folder

_LOCK_TRIES = 20
_LOCK_PAUSE_S = 0.01


def main(argv: list[str]) -> int:
    """Runs the job in the folder `argv[0]`; the process's exit code."""
    if len(argv) != 1:
        sys.stderr.write("usage: python -I -m cumulus_runner FOLDER\n")
        return EXIT_USAGE
    path = os.path.abspath(argv[0])
    seal_descriptors()
    try:
        lock = _lock(path)
    except OSError as error:
        sys.stderr.write(f"cumulus_runner: {path} can't be locked: {error.strerror}\n")
        return EXIT_CANT_RECORD
    if lock is None:
        sys.stderr.write(
            f"cumulus_runner: {path} is locked: another runner, or a process of its job, is still "
            "there. Nothing was started or written.\n"
        )
        return EXIT_LOCKED
    log = ContainerLog()
    try:
        return _run_locked(path, lock, log)
    except OSError as error:
        log.note(f"the journal in {path} can't be written: {error}")
        return EXIT_CANT_RECORD


def _run_locked(path: str, lock: int, log: ContainerLog) -> int:
    """With the folder ours: opens the journal, runs the job, and always writes EXIT."""
    orders: Orders | None = None
    problem = ""
    try:
        orders = Orders.load(path)
    except OrdersInvalid as error:
        problem = str(error)
    journal = JournalWriter(
        os.path.join(path, folder.JOURNAL),
        orders.journal_max_bytes if orders else 1 << 20,
        orders.segment_bytes if orders else 1 << 20,
        orders.journal_start if orders else 0,
    )
    try:
        if journal.exited:
            log.note("this job has ended already: its journal holds EXIT. Nothing was started.")
            return EXIT_OK
        if orders is None:
            verdict = Outcome(
                JobState.FAILED,
                EndReason.RUNNER_FAILED,
                f"the runner's orders can't be taken: {problem}",
                hint="This is Cumulus's own fault: are daemon, agent and job image of one version?",
            )
            log.note(verdict.message)
            journal.append(encode_json(Kind.EXIT, verdict.exit_record(None, 0.0, 0.0)))
            journal.sync()
            return EXIT_JOB_FAILED
        return Runner(path, orders, journal, log, lock).run()
    finally:
        journal.close()


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
