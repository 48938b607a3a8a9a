"""Child processes that leave nothing behind: own session, pipes, TERM, KILL, reaping."""

from __future__ import annotations

import os
import resource
import time

from cumulus_runner.descriptors import close_all_but, enlarge
from cumulus_wire import folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Callable, Mapping, Sequence
else:
    import _signal as signal  # `signal` adds enumerations, whose import each start would wait for

#: Makes the kernel, out of memory, pick the job rather than the runner, which tells of it.
OOM_SCORE = b"500"
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
#: How often, and with which pause, it is looked whether what was killed is gone.
_KILL_TRIES = 100
_KILL_PAUSE_S = 0.02


class StartFailed(Exception):
    """The program could not be started; the message says which and why."""


class Process:
    """One running program, leader of its own session and group, with its two output pipes.

    Its owner reads `stdout` and `stderr` and closes them with `close`.
    """

    def __init__(self, pid: int, stdout: int, stderr: int) -> None:
        self.pid = pid
        self.stdout = stdout
        self.stderr = stderr
        self.exit_code: int | None = None
        self.signal: int | None = None
        _running[pid] = self

    @classmethod
    def start(
        cls,
        argv: Sequence[str],
        environment: Mapping[str, str],
        working_directory: str,
        lock: int,
        held: Sequence[int] = (),
    ) -> Process:
        """Starts `argv` (`argv[0]`: a path). Raises StartFailed.

        `lock` becomes its stdin (an empty file, so reads end at once) and stays open under its own
        number too: stdin is what also programs that close all other descriptors hand on. `held`:
        further descriptors that it keeps.
        """

        def run() -> None:
            for fd in (lock, *held):
                os.set_inheritable(fd, True)
            os.chdir(working_directory)
            os.execve(argv[0], list(argv), dict(environment))

        return cls._fork(run, argv[0], lock)

    @classmethod
    def fork(
        cls,
        work: Callable[[], int],
        what: str,
        environment: Mapping[str, str],
        working_directory: str,
        lock: int,
    ) -> Process:
        """Does `work` in a copy of this process, which is there sooner than a program; its value is
        the exit code. The copy has that environment and the lock, and nothing else of ours open.
        Raises StartFailed, which says `what`."""

        def run() -> None:
            os.chdir(working_directory)
            os.environ.clear()
            os.environ.update(environment)
            close_all_but(lock)
            code = 1
            try:
                code = work()
            except BaseException:
                import traceback

                os.write(2, traceback.format_exc().encode(errors="replace"))
            finally:
                os._exit(code)

        return cls._fork(run, what, lock)

    @classmethod
    def divide(cls, lock: int, held: Sequence[int] = ()) -> Process | None:
        """Makes a copy of this process, which goes on where this one does: None in the copy. It has
        its pipes as stdout and stderr, and beside them the lock and `held`, nothing else open.
        Raises StartFailed, here only: a copy that can't be prepared says why and ends.

        For interpreters that have done nothing yet. The copy's handlers of signals are those of a
        new one.
        """
        opened: list[int] = []
        try:
            for _ in range(2):
                opened += os.pipe2(os.O_CLOEXEC)
            out_r, out_w, err_r, err_w = opened
            enlarge(out_r)
            enlarge(err_r)
            runner = os.getpid()
            _find_prctl()  # by both together
            pid = os.fork()
        except OSError as error:
            for fd in opened:
                os.close(fd)
            raise StartFailed(f"no copy of the runner can be made: {error.strerror}") from error
        if pid == 0:
            try:
                _settle(lock, out_w, err_w, runner)
                close_all_but(lock, *held)
                os.set_inheritable(lock, True)
                _take_signals_anew()
                _name_copy()
            except BaseException as error:
                os.write(err_w, f"the runner's copy: {error}\n".encode(errors="replace"))
                os._exit(127)
            return None
        os.close(out_w)
        os.close(err_w)
        return cls(pid, out_r, err_r)

    @classmethod
    def _fork(cls, run: Callable[[], None], what: str, lock: int) -> Process:
        """`run` doesn't return. What it raises with the descriptors still open is StartFailed."""
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += os.pipe2(os.O_CLOEXEC)
            out_r, out_w, err_r, err_w, fault_r, fault_w = opened
            enlarge(out_r)
            enlarge(err_r)
            runner = os.getpid()
            mask = signal.pthread_sigmask(signal.SIG_BLOCK, _BLOCKED)
            try:
                pid = os.fork()
                if pid == 0:
                    _become(run, lock, opened, mask, runner)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        except OSError as error:
            for fd in opened:
                os.close(fd)
            raise StartFailed(f"{what} can't be started: {error.strerror}") from error
        for fd in (out_w, err_w, fault_w):
            os.close(fd)
        with open(fault_r, "rb") as faults:
            fault = faults.read(4096)
        if fault:
            os.waitpid(pid, 0)
            os.close(out_r)
            os.close(err_r)
            raise StartFailed(f"{what} can't be started: {fault.decode(errors='replace')}")
        return cls(pid, out_r, err_r)

    @property
    def ended(self) -> bool:
        """It has ended and was reaped."""
        return self.exit_code is not None or self.signal is not None

    def leaves_any(self) -> bool:
        """Collects what has ended. True while any child is left, but for processes aside."""
        if not reap():
            return False
        aside = _pids_aside()
        return not aside or bool(descendants(os.getpid()) - aside)

    def set_aside(self) -> None:
        """It waits for its turn: who minds another process meanwhile leaves it alone."""
        _aside.add(self.pid)

    def take_up(self) -> None:
        """Its turn has come."""
        _aside.discard(self.pid)

    def note_end(self, status: int) -> None:
        """How it ended, as the kernel says it."""
        _running.pop(self.pid, None)
        if os.WIFSIGNALED(status):
            self.signal = os.WTERMSIG(status)
        else:
            self.exit_code = os.WEXITSTATUS(status)

    def end_now(self) -> None:
        """Kills it and all descendants that aren't aside, and waits for them, within a bound."""
        for _ in range(_KILL_TRIES):
            if not self.leaves_any():
                return
            self.kill()
            time.sleep(_KILL_PAUSE_S)

    def terminate(self) -> None:
        """SIGTERM to its group, also when it is stopped."""
        _send_group(self.pid, signal.SIGTERM)
        _send_group(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to its group and to every descendant, wherever it hid."""
        if not self.ended:
            _send_group(self.pid, signal.SIGKILL)
        kill_descendants()

    def close(self) -> None:
        """Frees the pipes."""
        for fd in (self.stdout, self.stderr):
            if fd >= 0:
                os.close(fd)
        self.stdout = self.stderr = -1


#: Those that have not been seen to end, and those of them that are aside, by pid.
_running: dict[int, Process] = {}
_aside: set[int] = set()


def reap() -> bool:
    """Collects every child that has ended, adopted ones too. True while any child is left."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if pid == 0:
            return True
        ended = _running.get(pid)
        if ended is not None:
            ended.note_end(status)


def _pids_aside() -> set[int]:
    return _aside & _running.keys()


def become_subreaper() -> str | None:
    """Orphans among the descendants become children of this process. Returns why not, or None."""
    try:
        if _prctl(_PR_SET_CHILD_SUBREAPER, 1) == 0:
            return None
        return "prctl(PR_SET_CHILD_SUBREAPER) failed"
    except (ImportError, OSError, AttributeError) as error:
        return f"prctl can't be called: {error}"


def kill_descendants() -> None:
    """SIGKILL to all descendants of this process that aren't aside. They are stopped first: none
    can fork away."""
    stopped: set[int] = set()
    for _ in range(20):
        found = descendants(os.getpid()) - stopped - _pids_aside()
        if not found:
            break
        for pid in found:
            _send(pid, signal.SIGSTOP)
        stopped |= found
    for pid in stopped:
        _send(pid, signal.SIGKILL)


def descendants(ancestor: int) -> set[int]:
    """Process ids below that one, from /proc; zombies are left out."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                # The command's name, in parentheses, may hold anything.
                state, parent = file.read().rpartition(b")")[2].split()[:2]
        except (OSError, ValueError):
            continue  # it has ended meanwhile
        if state not in (b"Z", b"X"):
            children.setdefault(int(parent), []).append(int(name))
    found: set[int] = set()
    ahead = [ancestor]
    while ahead:
        new = [pid for pid in children.get(ahead.pop(), ()) if pid not in found]
        found.update(new)
        ahead += new
    return found


def _become(
    run: Callable[[], None],
    lock: int,
    pipes: Sequence[int],
    mask: set[signal.Signals | int],
    runner: int,
) -> None:
    """In the forked child: does what it is for, or says why not and is gone."""
    _, out_w, _, err_w, _, fault_w = pipes
    try:
        _settle(lock, out_w, err_w, runner)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        # Handlers of ours are gone with exec; until then a signal must not run them here.
        for number in _BLOCKED:
            signal.signal(number, signal.SIG_DFL)
        signal.set_wakeup_fd(-1)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        run()
    except BaseException as error:
        os.write(fault_w, str(error).encode(errors="replace")[:4000])
    finally:
        os._exit(127)


def _settle(lock: int, stdout: int, stderr: int, runner: int) -> None:
    """In the forked child: a session of its own, which ends with the runner; its descriptors."""
    os.setsid()
    _die_with_parent()
    if os.getppid() != runner:
        os._exit(127)
    _prefer_for_oom()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    for source, target in ((lock, 0), (stdout, 1), (stderr, 2)):
        os.dup2(source, target)


def _die_with_parent() -> None:
    try:
        _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    except (ImportError, OSError, AttributeError):
        return  # `become_subreaper` failed in the same way and said so


def _take_signals_anew() -> None:
    """As an interpreter does that `_become` starts, whatever the runner was started to ignore."""
    for number in _BLOCKED:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def _name_copy() -> None:
    try:
        with open("/proc/self/comm", "wb", buffering=0) as file:
            file.write(folder.CODE_NAME.encode())
    except OSError:
        return  # /proc is read-only here; the local platform, which looks at it, has its own


def _prefer_for_oom() -> None:
    try:
        with open("/proc/self/oom_score_adj", "wb", buffering=0) as file:
            file.write(OOM_SCORE)
    except OSError:
        return  # /proc is read-only here: then the kernel chooses by size alone


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        return  # it changed its user; the container's end is its end


def _send_group(group: int, number: int) -> None:
    try:
        os.killpg(group, number)
    except (ProcessLookupError, PermissionError):
        return


def _prctl(option: int, argument: int) -> int:
    """What it returns. Raises ImportError, OSError, AttributeError where it can't be called."""
    # `ctypes` around it adds types that aren't used here, and takes 2 ms of each start.
    import _ctypes

    function = _ctypes.dlsym(_ctypes.dlopen(None, 0), "prctl")  # type: ignore[arg-type]
    return int(_ctypes.call_function(function, (option, int(argument), 0, 0, 0)))


def _find_prctl() -> None:
    """Has loaded what `_prctl` needs. Where it isn't there, that says so."""
    try:
        import _ctypes  # noqa: F401
    except ImportError:
        return
