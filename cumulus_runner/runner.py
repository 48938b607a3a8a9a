"""One job from its orders to its EXIT record."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import sys
import time

from cumulus_runner import cgroup, outcome, package, variables
from cumulus_runner.agent_socket import AgentSocket
from cumulus_runner.container_log import ContainerLog
from cumulus_runner.environment import Environment, EnvironmentBuilder
from cumulus_runner.journal_writer import JournalWriter
from cumulus_runner.orders import Orders, OrdersInvalid
from cumulus_runner.outcome import JobFailed, Outcome, Stop, StopRequested
from cumulus_runner.report import bounded_error, read_report
from cumulus_runner.sandbox import Process, StartFailed, become_subreaper, seal_descriptors
from cumulus_runner.supervisor import JournalUnwritable, Supervisor
from cumulus_wire import folder
from cumulus_wire.codes import EndReason
from cumulus_wire.journal import MAX_PAYLOAD_BYTES, Kind, encode_json
from cumulus_wire.states import JobState

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

EXIT_OK = 0
EXIT_JOB_FAILED = 1
EXIT_USAGE = 64
EXIT_CANT_RECORD = 74  #: sysexits' EX_IOERR: there is no journal to say it in
EXIT_LOCKED = 75  #: EX_TEMPFAIL: another runner has this folder

MAX_RESULT_BYTES = 100 << 20
MAX_LOGGED_RESULT_BYTES = 64 << 10
#: The runner's own corner of scratch/.
_PRIVATE = ".cumulus"
#: Between the last SIGKILL and the moment at which nothing may be left.
_LAST_MARGIN_S = 15.0
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
            journal.append(encode_json(Kind.EXIT, _exit_record(verdict, None, 0.0, 0.0)))
            journal.sync()
            return EXIT_JOB_FAILED
        return Runner(path, orders, journal, log, lock).run()
    finally:
        journal.close()


class Runner:
    """Runs one job. It owns the agent's socket and the wake-up pipe; the rest is handed in."""

    def __init__(
        self, path: str, orders: Orders, journal: JournalWriter, log: ContainerLog, lock: int
    ) -> None:
        """`lock`: the locked descriptor, which every child keeps."""
        self._path = path
        self._orders = orders
        self._journal = journal
        self._log = log
        self._lock = lock
        self._work = os.path.join(path, folder.WORK)
        self._scratch = os.path.join(path, folder.SCRATCH)
        self._private = os.path.join(self._scratch, _PRIVATE)
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
        #: The result as the container's log shows it.
        self._last_line: str | None = None
        self._begun_at = boot_time()
        self._running_at: float | None = None

    def run(self) -> int:
        """From set-up to EXIT; the process's exit code. Whatever goes wrong, EXIT says it."""
        self._watch_signals()
        problem = become_subreaper()
        if problem is not None:
            self._log.note(f"descendants that leave the job's tree can't be found: {problem}")
        result: dict[str, Any] | None = None
        try:
            try:
                verdict, result = self._run_job()
            except StopRequested as request:
                verdict = outcome.of_stop(request.stop)
            except JobFailed as failure:
                verdict = outcome.of_failure(failure)
            except Exception as error:
                verdict = self._crashed(error)
            return self._end(verdict, result)
        finally:
            signal.set_wakeup_fd(-1)
            self._agent.close()
            os.close(self._wakeup)
            os.close(self._alarm)

    def _run_job(self) -> tuple[Outcome, dict[str, Any] | None]:
        orders, supervisor = self._orders, self._supervisor
        self._refuse_late()
        self._set_deadline(
            self._begun_at + orders.setup_timeout_s,
            Stop(
                EndReason.SETUP_TIMEOUT,
                f"setting up took longer than its {orders.setup_timeout_s:g} s",
                orders.stop_grace_s,
            ),
        )
        if os.path.lexists(self._started_mark):
            raise JobFailed(
                EndReason.RUNNER_FAILED,
                "the runner died while the code was running; the code isn't run a second time",
                "Submit the job again if it may be run twice.",
            )
        os.makedirs(self._private, exist_ok=True)
        self._journal.set_aside(os.path.join(self._private, "reserve"))
        supervisor.record(Kind.STATUS, {"phase": "setup", "attempt": orders.attempt})
        supervisor.check()
        manifest, environment = self._set_up()
        supervisor.check()
        with open(self._started_mark, "x", encoding="ascii"):
            pass
        self._running_at = boot_time()
        self._set_deadline(
            self._running_at + orders.duration_s,
            Stop(
                EndReason.DURATION_EXCEEDED,
                f"the code ran longer than its {orders.duration_s:g} s",
                orders.stop_grace_s,
            ),
        )
        supervisor.record(
            Kind.STATUS,
            {
                "phase": "running",
                "cached": environment.cached,
                "requirements": len(orders.requirements),
            },
        )
        return self._run_code(manifest, environment)

    def _refuse_late(self) -> None:
        """Raises JobFailed where the daemon may have taken this attempt for over and begun another
        one elsewhere: after a restart of the worker, and past the last moment."""
        orders = self._orders
        booted = boot_id()
        if orders.boot_id is not None and booted not in (None, orders.boot_id):
            why = "the worker was restarted since the job was placed on it"
        elif boot_time() >= self._last_moment:
            why = "the time in which the job could run on this worker is over"
        else:
            return
        raise JobFailed(
            EndReason.RUNNER_FAILED, f"{why}; nothing was started", "Submit the job again."
        )

    @property
    def _last_moment(self) -> float:
        """When the job is stopped in any case, so that it is gone at the very last one."""
        return self._orders.last_moment_s - self._orders.stop_grace_s - _LAST_MARGIN_S

    def _set_deadline(self, deadline: float, stop: Stop) -> None:
        """The deadline, or the last moment where that comes first."""
        if self._last_moment < deadline:
            message = f"{stop.message}, or the start took so long that the worker's time was over"
            deadline, stop = self._last_moment, Stop(stop.reason, message, stop.grace_s)
        self._supervisor.set_deadline(deadline, stop)

    def _set_up(self) -> tuple[dict[str, Any], Environment]:
        """Unpacks the package and provides the environment. Raises JobFailed, StopRequested."""
        orders = self._orders
        os.makedirs(os.path.join(self._scratch, "tmp"), exist_ok=True)
        if os.path.lexists(self._work):
            import shutil

            shutil.rmtree(self._work)  # a runner before this one died while setting up
        archive = os.path.join(self._path, folder.PACKAGE)
        if not os.path.isfile(archive):
            raise JobFailed(
                EndReason.RUNNER_FAILED,
                f"the worker's agent left no {folder.PACKAGE} in the job's folder",
                "This is Cumulus's own fault; submitting again may help.",
            )
        try:
            package.unpack(
                archive,
                self._work,
                orders.package_max_bytes,
                orders.package_max_files,
                self._supervisor.check,
            )
            manifest = package.load_manifest(self._work)
        except package.PackageInvalid as error:
            raise JobFailed(EndReason.PACKAGE_INVALID, str(error)) from error
        except package.EntryPointMissing as error:
            raise JobFailed(EndReason.ENTRY_POINT_MISSING, str(error)) from error
        builder = EnvironmentBuilder(
            self._supervisor,
            uv=orders.uv,
            cache=orders.environments,
            scratch=self._scratch,
            work=self._work,
            installer_environment={
                **variables.base(self._scratch),
                **orders.installer_environment,
            },
            lock=self._lock,
        )
        return manifest, builder.provide(orders.python, orders.requirements)

    def _run_code(
        self, manifest: dict[str, Any], environment: Environment
    ) -> tuple[Outcome, dict[str, Any] | None]:
        """Runs the code and judges how it ended. Raises JobFailed, StopRequested."""
        orders = self._orders
        call = os.path.join(self._private, "call.json")
        report_path = os.path.join(self._private, "report.json")
        result_path = os.path.join(self._private, "result")
        with open(call, "w", encoding="utf-8") as file:
            json.dump(
                {
                    "work": self._work,
                    "manifest": manifest,
                    "report": report_path,
                    "result": result_path,
                    "result_max_bytes": MAX_RESULT_BYTES,
                },
                file,
            )
        bootstrap = os.path.join(os.path.dirname(os.path.abspath(__file__)), "bootstrap.py")
        oom_kills, refused = cgroup.oom_kills(), cgroup.processes_refused()
        try:
            process = Process.start(
                [environment.python, "-u", bootstrap, call],
                variables.of_job(orders, environment, self._work, self._scratch),
                self._work,
                self._lock,
            )
        except StartFailed as error:
            raise JobFailed(EndReason.RUNNER_FAILED, f"the job's Python: {error}") from error
        stopped = self._supervisor.run(process, (Kind.STDOUT, Kind.STDERR))
        if stopped is not None:
            return outcome.of_stop(stopped, process.exit_code, process.signal), None
        report = read_report(report_path)
        verdict = outcome.of_code(
            report,
            process.exit_code,
            process.signal,
            max(0, cgroup.oom_kills() - oom_kills),
            max(0, cgroup.processes_refused() - refused),
        )
        if report is not None and report.get("state") == "raised":
            raised = bounded_error(report.get("error"))
            self._supervisor.record(Kind.ERROR, raised)
            self._log.err(raised["traceback"].encode(errors="replace"))
        if report is None or verdict.state is not JobState.COMPLETED:
            return verdict, None
        if report.get("state") != "returned":
            return verdict, None
        return verdict, self._send_result(
            result_path, "json" if report.get("encoding") == "json" else "pickle"
        )

    def _send_result(self, path: str, encoding: str) -> dict[str, Any]:
        """The result's bytes into the journal; its description for EXIT.

        Raises JobFailed (result_invalid) when it isn't there, is too large, or found no room.
        """
        import hashlib

        digest, size = hashlib.sha256(), 0
        part_bytes = min(MAX_PAYLOAD_BYTES, max(4096, self._journal.max_bytes // 8))
        until = self._supervisor.deadline + self._orders.stop_grace_s
        self._supervisor.set_deadline(float("inf"), Stop(None, "", 0.0))
        logged = b""
        try:
            with open(path, "rb") as file:
                while part := file.read(part_bytes):
                    digest.update(part)
                    size += len(part)
                    if size > MAX_RESULT_BYTES:
                        raise JobFailed(
                            EndReason.RESULT_INVALID, f"the result is over {MAX_RESULT_BYTES} bytes"
                        )
                    if not self._supervisor.record_result(part, until):
                        raise JobFailed(
                            EndReason.RESULT_INVALID,
                            "the result found no room in the worker's journal within the job's "
                            f"time: after {size - len(part)} bytes nobody had taken any away",
                            "Was the daemon away? Submit again, or return less.",
                        )
                    if size <= MAX_LOGGED_RESULT_BYTES:
                        logged += part
        except FileNotFoundError:
            raise JobFailed(
                EndReason.RESULT_INVALID, "the code took away the file of its own result"
            ) from None
        result = {"encoding": encoding, "size_bytes": size, "sha256": digest.hexdigest()}
        if encoding == "json" and size <= MAX_LOGGED_RESULT_BYTES:
            self._last_line = logged.decode(errors="replace")
        else:
            self._last_line = json.dumps(result)
        return result

    def _end(self, verdict: Outcome, result: dict[str, Any] | None) -> int:
        """EXIT into the journal, the last words to agent and log."""
        now = boot_time()
        running_at = now if self._running_at is None else self._running_at
        setup_s = running_at - self._begun_at
        record = _exit_record(verdict, result, setup_s, now - running_at)
        try:
            self._supervisor.record(Kind.EXIT, record)
        except Exception as error:
            self._log.note(f"EXIT can't be written: {error}; it was to say: {verdict.message}")
            return EXIT_CANT_RECORD
        self._supervisor.farewell()
        self._journal.sync()
        if self._last_line is not None:
            self._log.last_line(self._last_line)
        if verdict.state is JobState.COMPLETED:
            return EXIT_OK
        self._log.note(f"{verdict.state.value}: {verdict.message}")
        return EXIT_JOB_FAILED

    def _crashed(self, error: Exception) -> Outcome:
        """A fault of the runner's own, or of the worker's disk."""
        import traceback

        self._log.note("".join(traceback.format_exception(error)))
        full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
        if full or isinstance(error, JournalUnwritable):
            return Outcome(
                JobState.FAILED,
                EndReason.DISK_FULL,
                f"the worker's disk is full, or what the job may have of it: {error}",
                hint=outcome.DISK_FULL_HINT,
            )
        return Outcome(
            JobState.FAILED,
            EndReason.RUNNER_FAILED,
            f"the runner failed: {type(error).__name__}: {error}",
            hint="This is no fault of the job's; the container's log has the details.",
        )

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


def boot_time() -> float:
    """Seconds since the machine's start, suspended ones too."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


def boot_id() -> str | None:
    """Which start of the machine this is; None where the kernel doesn't tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return None


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


def _exit_record(
    verdict: Outcome, result: dict[str, Any] | None, setup_s: float, run_s: float
) -> dict[str, Any]:
    return {
        "outcome": verdict.state.value,
        "reason": None if verdict.reason is None else verdict.reason.value,
        "message": verdict.message,
        "exit_code": verdict.exit_code,
        "signal": verdict.signal,
        "hint": verdict.hint,
        "result": result,
        "setup_s": round(setup_s, 6),
        "run_s": round(run_s, 6),
    }
