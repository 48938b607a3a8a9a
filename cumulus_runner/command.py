"""The runner's part of what was begun: the journal, one job."""

from __future__ import annotations

import os

from cumulus_runner.beginning import EXIT_CANT_RECORD, Begun
from cumulus_runner.container_log import ContainerLog
from cumulus_runner.journal_writer import JournalWriter
from cumulus_runner.outcome import Outcome
from cumulus_runner.runner import EXIT_JOB_FAILED, EXIT_OK, Runner
from cumulus_wire import folder
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind, encode_json
from cumulus_wire.states import JobState


def main(begun: Begun) -> int:
    """Runs the job; the process's exit code."""
    log = ContainerLog()
    try:
        return _run(begun, log)
    except OSError as error:
        log.note(f"the journal in {begun.path} can't be written: {error}")
        return EXIT_CANT_RECORD
    finally:
        if begun.copy is not None:
            begun.copy.discard()  # nobody came to need it


def _run(begun: Begun, log: ContainerLog) -> int:
    """With the folder ours: opens the journal, runs the job, and always writes EXIT."""
    orders = begun.orders
    journal = JournalWriter(
        os.path.join(begun.path, folder.JOURNAL),
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
                f"the runner's orders can't be taken: {begun.problem}",
                hint="This is Cumulus's own fault: are daemon, agent and job image of one version?",
            )
            log.note(verdict.message)
            journal.append(encode_json(Kind.EXIT, verdict.exit_record(None, 0.0, 0.0)))
            journal.sync()
            return EXIT_JOB_FAILED
        copy, begun.copy = begun.copy, None
        return Runner(begun.path, orders, journal, log, begun.lock, copy).run()
    finally:
        journal.close()
