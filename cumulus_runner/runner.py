"""One job from its orders to its EXIT record."""

from __future__ import annotations

import errno
import os
import sys

from cumulus_runner import cgroup, legacy, outcome, variables
from cumulus_runner.agent_socket import AgentSocket
from cumulus_runner.beginning import EXIT_CANT_RECORD
from cumulus_runner.boot import boot_time
from cumulus_runner.checkpoint_index import CheckpointIndex
from cumulus_runner.code_process import (
    CodeProcess,
    CopyProcess,
    Waiting,
    has_start_modules,
    may_start_early,
)
from cumulus_runner.code_socket import CodeSocket
from cumulus_runner.control import Control
from cumulus_runner.deadlines import Deadlines
from cumulus_runner.enforcement import LayerProof
from cumulus_runner.interpreter import Environment
from cumulus_runner.outcome import JobFailed, Outcome, StopRequested
from cumulus_runner.outputs import describe_outputs
from cumulus_runner.report import bounded_error, read_report
from cumulus_runner.result import MAX_RESULT_BYTES, Result, send_result
from cumulus_runner.sandbox import StartFailed, become_subreaper
from cumulus_runner.secret_file import delete_secrets, read_secrets
from cumulus_runner.supervisor import JournalUnwritable, Supervisor
from cumulus_runner.unpacking import unpack_job
from cumulus_wire import folder
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind
from cumulus_wire.states import JobState

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from typing import Any

    from cumulus_runner.container_log import ContainerLog
    from cumulus_runner.environment import EnvironmentBuilder
    from cumulus_runner.journal_writer import JournalWriter
    from cumulus_runner.orders import Orders
else:
    import _signal as signal  # see `sandbox`

EXIT_OK = 0
EXIT_JOB_FAILED = 1

#: That the set-up began is told with its end, and that with the code's first output, if these come
#: so soon: else agent, daemon and client would work on it, and a disk, just when the code starts.
SETUP_HELD_S = 0.02
RUNNING_HELD_S = 0.01

#: The runner's own corner of scratch/.
_PRIVATE = ".cumulus"
#: In it: where code and runner leave each other word.
_CONTROL = "control"


class Runner:
    """Runs one job. It owns the agent's socket and the wake-up pipe; the rest is handed in."""

    def __init__(
        self,
        path: str,
        orders: Orders,
        journal: JournalWriter,
        log: ContainerLog,
        lock: int,
        copy: CopyProcess | None = None,
    ) -> None:
        """`lock`: the locked descriptor, which every child keeps. `copy`: of this interpreter, for
        the code; it is ended here."""
        self._path = path
        self._orders = orders
        self._journal = journal
        self._log = log
        self._lock = lock
        self._work = os.path.join(path, folder.WORK)
        self._scratch = os.path.join(path, folder.SCRATCH)
        self._private = os.path.join(self._scratch, _PRIVATE)
        self._call = os.path.join(self._private, "call.json")
        self._control = Control(os.path.join(self._private, _CONTROL))
        hello = {
            "t": "hello",
            "job_id": orders.job_id,
            "attempt": orders.attempt,
            "pid": os.getpid(),
        }
        self._agent = AgentSocket(os.path.join(path, folder.SOCKET), hello, boot_time())
        self._wakeup, self._alarm = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._supervisor = Supervisor(
            journal, self._agent, log, boot_time, self._wakeup, orders.stop_grace_s
        )
        self._begun_at = boot_time()
        self._running_at: float | None = None
        self._code_socket: CodeSocket | None = None
        self._proof: LayerProof | None = None
        self._copy = copy
        self._code: Waiting | None = None  #: it waits; None: it is started when it may run

    def run(self) -> int:
        """From set-up to EXIT; the process's exit code. Whatever goes wrong, EXIT says it."""
        self._watch_signals()
        problem = become_subreaper()
        if problem is not None:
            self._log.note(f"descendants that leave the job's tree can't be found: {problem}")
        result: Result | None = None
        try:
            try:
                verdict, result = self._run_job()
            except StopRequested as request:
                verdict = outcome.of_stop(request.stop)
            except JobFailed as failure:
                verdict = outcome.of_failure(failure)
            except Exception as error:
                verdict = self._crashed(error)
            self._discard_waiting()
            return self._end(verdict, result)
        finally:
            signal.set_wakeup_fd(-1)
            self._agent.close()
            if self._code_socket is not None:
                self._code_socket.close()
            os.close(self._wakeup)
            os.close(self._alarm)

    def _run_job(self) -> tuple[Outcome, Result | None]:
        orders, supervisor = self._orders, self._supervisor
        deadlines = Deadlines(orders, supervisor, self._begun_at)
        deadlines.refuse_late()
        deadlines.begin_setup()
        if os.path.lexists(self._started_mark):
            raise JobFailed(
                EndReason.RUNNER_FAILED,
                "the runner died while the code was running; the code isn't run a second time",
                "Submit the job again if it may be run twice.",
            )
        self._control.make()
        if orders.kept is not None:
            for name in folder.KEPT_VARIABLES.values():
                # An attempt before may have taken it away: the folder is the code's own.
                os.makedirs(os.path.join(orders.kept, name), exist_ok=True)
        index = CheckpointIndex(
            None if orders.kept is None else os.path.join(orders.kept, folder.CHECKPOINTS),
            lambda value: supervisor.record(Kind.CHECKPOINT, value),
        )
        supervisor.mind_pauses(self._control, index)
        self._journal.set_aside(os.path.join(self._private, "reserve"))
        supervisor.hold_pokes(SETUP_HELD_S)
        supervisor.record(Kind.STATUS, {"phase": "setup", "attempt": orders.attempt})
        supervisor.check()
        os.makedirs(os.path.join(self._scratch, "tmp"), exist_ok=True)
        if orders.opencl_layer:
            self._proof = LayerProof.begin(
                supervisor,
                variables={**variables.base(self._scratch), **orders.environment},
                folder=self._private,
                lock=self._lock,
                mounted=(self._path, orders.environments, orders.kept),
                partition_id=orders.partition_id,
            )
        environment = self._take_environment()
        # What jobs before have left in an environment runs when its interpreter starts: not before
        # the proof.
        is_proven = self._proof is None or self._proof.is_known
        is_clean = not orders.requirements or is_proven
        is_plain = may_start_early((*orders.environment, *orders.secrets))
        if environment is not None and is_clean and is_plain:
            # The job's Python is known: it starts while the rest is done, and waits.
            self._code = self._start_code(environment, early=True)
        manifest = unpack_job(self._path, self._work, orders, supervisor.check)
        layer: dict[str, str] = {}
        if self._proof is not None:
            self._proof.finish(supervisor)
            layer["layer"] = self._proof.how
            deadlines.begin_setup()
        if environment is None:
            environment = self._environments().provide(orders.python, orders.requirements)
        if self._code is not None and has_start_modules(self._work):
            self._code.discard()
            self._code = None
        supervisor.check()
        with open(self._started_mark, "xb"):
            pass
        self._running_at = boot_time()
        deadlines.begin_code(self._running_at)
        supervisor.hold_pokes(RUNNING_HELD_S)
        supervisor.record(
            Kind.STATUS,
            {
                "phase": "running",
                "cached": environment.cached,
                "requirements": len(orders.requirements),
                "build_s": environment.build_s,
                **layer,
            },
        )
        return self._run_code(manifest, environment, index)

    def _take_environment(self) -> Environment | None:
        """The environment for the requirements; None: it has to be made."""
        orders = self._orders
        if not orders.requirements:
            return Environment(orders.python or sys.executable)
        return self._environments().take(orders.python, orders.requirements)

    def _environments(self) -> EnvironmentBuilder:
        from cumulus_runner.environment import EnvironmentBuilder

        return EnvironmentBuilder.for_job(
            self._orders, self._supervisor, scratch=self._scratch, work=self._work, lock=self._lock
        )

    def _start_code(self, environment: Environment, *, early: bool = False) -> Waiting:
        """The job's interpreter, waiting. `early`: beside the proof and the unpacking, so that it
        must not look for modules in the package. Else the job's code begins with it, and the
        secrets are deleted before. Raises JobFailed."""
        values = variables.of_job(
            self._orders,
            environment,
            read_secrets(self._path, self._orders.secrets),
            self._work,
            self._scratch,
            self._control.path,
        )
        if early:
            values["PYTHONPATH"] = variables.INSIDE  # bootstrap.py puts the package before it
        else:
            delete_secrets(self._path, self._orders.secrets)
        if early and self._copy is not None:
            copy, self._copy = self._copy, None
            copy.variables = values
            return copy
        try:
            return CodeProcess.start(
                environment.python,
                call=self._call,
                work=self._work,
                variables=values,
                folder=self._scratch if early else self._work,
                lock=self._lock,
                held=() if environment.held is None else (environment.held,),
            )
        except StartFailed as error:
            raise JobFailed(EndReason.RUNNER_FAILED, f"the job's Python: {error}") from error

    def _run_code(
        self, manifest: dict[str, Any], environment: Environment, index: CheckpointIndex
    ) -> tuple[Outcome, Result | None]:
        """Runs the code and judges how it ended. Raises JobFailed, StopRequested."""
        orders = self._orders
        report_path = os.path.join(self._private, "report.json")
        result_path = os.path.join(self._private, "result")
        call = {
            "work": self._work,
            "manifest": manifest,
            "report": report_path,
            "result": result_path,
            "result_max_bytes": MAX_RESULT_BYTES,
            "gpu_memory_bytes": variables.gpu_memory_bytes(orders),
        }
        self._hear_code()
        oom_kills, refused = cgroup.oom_kills(), cgroup.processes_refused()
        if self._code is not None and self._code.is_gone:
            self._code.discard()  # somebody killed it: of the job nothing was run
            self._code = None
        if self._code is None:
            self._code = self._start_code(environment)
        else:
            delete_secrets(self._path, orders.secrets)
        code, self._code = self._code, None
        process = code.begin(call)
        stopped = self._supervisor.run(process, (Kind.STDOUT, Kind.STDERR))
        index.tell()
        if stopped is not None:
            return outcome.of_stop(stopped, process.exit_code, process.signal), None
        report = read_report(report_path)
        if manifest["kind"] == legacy.KIND:
            report = legacy.report_of(self._work, report, process.exit_code != 0)
            result_path = os.path.join(self._work, folder.LEGACY_RESULT)
        verdict = outcome.of_code(
            report,
            process.exit_code,
            process.signal,
            max(0, cgroup.oom_kills() - oom_kills),
            max(0, cgroup.processes_refused() - refused),
        )
        raised_pause = report is not None and report.get("state") == "paused"
        if self._control.has_paused(raised_pause, verdict.state is JobState.COMPLETED):
            return outcome.paused(), None
        if report is not None and report.get("state") in ("raised", "paused"):
            raised = bounded_error(report.get("error"))
            self._supervisor.record(Kind.ERROR, raised)
            self._log.err(raised["traceback"].encode(errors="replace"), boot_time())
        if report is None or verdict.state is not JobState.COMPLETED:
            return verdict, None
        if report.get("state") != "returned":
            return verdict, None
        if manifest["kind"] == legacy.KIND:
            legacy.check_result(
                result_path,
                environment.python,
                variables.base(self._scratch),
                self._work,
                self._lock,
                self._supervisor,
                orders.stop_grace_s,
            )
        return verdict, send_result(
            result_path,
            "json" if report.get("encoding") == "json" else "pickle",
            self._supervisor,
            self._journal.max_bytes,
            orders.stop_grace_s,
        )

    def _end(self, verdict: Outcome, result: Result | None) -> int:
        """EXIT into the journal, the last words to agent and log."""
        now, orders = boot_time(), self._orders
        running_at = now if self._running_at is None else self._running_at
        setup_s = running_at - self._begun_at
        description = None if result is None else result.description
        record = verdict.exit_record(description, setup_s, now - running_at)
        ended = verdict.state is not JobState.PAUSED  # its outputs are listed when it really does
        if self._running_at is not None and orders.kept is not None and ended:
            path = os.path.join(orders.kept, folder.OUTPUTS)
            record.update(describe_outputs(path, orders, self._supervisor))
        try:
            self._supervisor.record(Kind.EXIT, record)
        except Exception as error:
            self._log.note(f"EXIT can't be written: {error}; it was to say: {verdict.message}")
            return EXIT_CANT_RECORD
        self._supervisor.farewell()
        self._journal.sync()
        if result is not None:
            self._log.last_line(result.last_line)
        if verdict.state in (JobState.COMPLETED, JobState.PAUSED):
            return EXIT_OK
        self._log.note(f"{verdict.state.value}: {verdict.message}")
        return EXIT_JOB_FAILED

    def _discard_waiting(self) -> None:
        """Ends what was started beside a set-up that came to nothing."""
        for one in (self._proof, self._code, self._copy):
            if one is not None:
                one.discard()
        self._proof = self._code = self._copy = None

    def _hear_code(self) -> None:
        """Has the code's word recorded; without it, too, the job runs."""
        try:
            self._code_socket = CodeSocket(self._control.path)
        except OSError as error:
            self._log.note(f"the code can't tell its progress: {error}")
            return
        self._supervisor.listen_to_code(self._code_socket)

    def _crashed(self, error: Exception) -> Outcome:
        """A fault of the runner's own, or of the worker's disk."""
        import traceback

        self._log.note("".join(traceback.format_exception(error)))
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        return outcome.of_crash(error, full or isinstance(error, JournalUnwritable))

    @property
    def _started_mark(self) -> str:
        """There once the code was begun: it is never run twice."""
        return os.path.join(self._private, "started")

    def _watch_signals(self) -> None:
        """Lets signals end the poll; SIGTERM and its like stop the job."""

        def note(number: int, _frame: object) -> None:
            self._supervisor.signalled = number

        signal.set_wakeup_fd(self._alarm, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, note)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
