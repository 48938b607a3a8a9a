"""No leak passes: every test fails that leaves something behind.

Looked at after each test: errors nobody handled, delayed calls, sockets, pipes and open files,
child processes, entries in the temporary directory. A test that must leave one of them says so
with `@pytest.mark.leaks("delayed_calls", reason="...")`; the reason is compulsory.
"""

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import greenlet
import pytest
import pytest_twisted
from hypothesis import HealthCheck, settings
from twisted.internet import task
from twisted.logger import LogEvent, formatEvent, globalLogPublisher
from xdist.scheduler import LoadScopeScheduling

# How long an example takes says how busy the machine is. What is tried is bounded in the tests.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")

pytest_plugins = ["pytester", "tests.engine.plugin", "tests.failures", "tests.torch_python"]

KINDS = ("errors", "delayed_calls", "descriptors", "processes", "temporary_files")
#: How long the reactor may turn until closed sockets and reaped children are gone.
SETTLE_S = 1.0
#: Collecting garbage should cost less than this; what lives longer is then set aside.
COLLECT_BUDGET_S = 0.003
#: Helpers of the standard library that live as long as the process.
LASTING_CHILDREN = ("multiprocessing.resource_tracker", "multiprocessing.forkserver")


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell starts its background commands so, and what tests start would inherit it.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    config.addinivalue_line(
        "markers",
        f"leaks(*kinds, reason): the test may leave these behind ({', '.join(KINDS)})",
    )


class Sharing(LoadScopeScheduling):
    """Where several processes share the tests, a file's stay in one; so do all that need the one
    cluster of engines, and all that need the other router and clients installed."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.split("::")[0]
        folder = file.rpartition("/")[0]
        return folder if folder in ("tests/engine", "tests/interop") else file


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Sharing:
    return Sharing(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_timeout_set_timer(item: pytest.Item) -> Iterator[Any]:
    """A test that waits for ever fails alone.

    pytest-timeout raises wherever the process happens to be. For such a test that is the waiting
    reactor, which it would end, and every later test with it. The test is told instead.
    """
    done = yield
    raising = signal.getsignal(signal.SIGALRM)
    if not callable(raising):
        return done

    def tell_the_test(number: int, frame: Any) -> None:
        current = greenlet.getcurrent()
        waiting = frame is not None and frame.f_globals.get("__name__", "").startswith(
            "twisted.internet."
        )
        if not waiting or current.parent is None:
            raising(number, frame)
            return
        try:
            raising(number, frame)
        except BaseException as error:
            current.parent.throw(error)  # comes back here when the reactor is next let run

    signal.signal(signal.SIGALRM, tell_the_test)
    return done


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """What all tests shared goes with the last one, and is bounded by itself, not by the time that
    this test happens to have."""
    if nextitem is None and hasattr(item, "cancel_timeout"):
        item.config.hook.pytest_timeout_cancel_timer(item=item)


@pytest.fixture(scope="session", autouse=True)
def private_tmp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A temporary directory of this run's own, so that whatever is left in it is ours."""
    tmp_path_factory.getbasetemp()  # stays where pytest puts it
    folder = Path(tempfile.mkdtemp(prefix="cumulus-test-"))
    # Nor is a configuration file of this machine's user one of the tests'.
    ours = {"TMPDIR": str(folder), "XDG_CONFIG_HOME": str(folder / "config")}
    before, tempdir = {name: os.environ.get(name) for name in ours}, tempfile.tempdir
    os.environ.update(ours)
    tempfile.tempdir = str(folder)
    yield folder
    tempfile.tempdir = tempdir
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    shutil.rmtree(folder)


class LostErrors:
    """Failures that Twisted itself logged: nobody handled them.

    What our own code logs as a failure was handled there, and is the test's business.
    """

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: LogEvent) -> None:
        failure = event.get("log_failure")
        namespace = str(event.get("log_namespace", ""))
        if failure is None or not namespace.startswith(("twisted.", "log_legacy")):
            return
        if len(self.texts) < 20:
            text = (formatEvent(event).strip(), failure.getTraceback().strip()[-2000:])
            self.texts.append("\n".join(part for part in text if part))


def collect_garbage() -> None:
    """Finds Deferreds that died with an error. Cheap: what survives is not looked at again."""
    began = time.perf_counter()
    gc.collect()
    if time.perf_counter() - began > COLLECT_BUDGET_S:
        gc.freeze()


def descriptors(session_tmp: str) -> set[tuple[int, str]]:
    """Sockets, pipes, and open files in temporary directories, as (number, what it is)."""
    found = set()
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # the listing's own, closed by now
            continue
        if target.startswith(("socket:", "pipe:", session_tmp, tempfile.gettempdir())):
            found.add((int(name), target))
    return found


def reactor_descriptors(reactor: Any) -> set[int]:
    """Those that the reactor keeps for itself: its wakers."""
    numbers: set[int] = set()
    for waker in getattr(reactor, "_internalReaders", ()):
        for end in (getattr(waker, "i", None), getattr(waker, "o", None)):
            if end is not None:
                numbers.add(end if isinstance(end, int) else end.fileno())
    return numbers


def children() -> set[int]:
    """Process ids of this process's children, also those that ended and were not waited for."""
    found: set[int] = set()
    for thread in os.listdir("/proc/self/task"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            text = Path(f"/proc/self/task/{thread}/children").read_text()
            found.update(int(number) for number in text.split())
    return {pid for pid in found if not any(word in command(pid) for word in LASTING_CHILDREN)}


def command(pid: int) -> str:
    try:
        raw = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    return raw.replace(b"\0", b" ").decode(errors="replace").strip()


def temporary_entries() -> set[str]:
    return {
        name
        for name in os.listdir(tempfile.gettempdir())
        if name.startswith(("cumulus", "tmp"))  # ours, and what `tempfile` makes for us
    }


class Leaks:
    """What is there before a test, and what is there too much after it."""

    def __init__(self, reactor: Any, session_tmp: str, lost: LostErrors) -> None:
        self._reactor = reactor
        self._session_tmp = session_tmp
        self._lost = lost
        self._calls = set(map(id, reactor.getDelayedCalls()))
        self._descriptors = descriptors(session_tmp)
        self._children = children()
        self._temporary = temporary_entries()

    def new_calls(self) -> list[Any]:
        return [call for call in self._reactor.getDelayedCalls() if id(call) not in self._calls]

    def new_children(self) -> set[int]:
        return children() - self._children

    def found(self) -> dict[str, list[str]]:
        """Kind -> descriptions; empty when all is clean."""
        own = reactor_descriptors(self._reactor)
        found = {
            "errors": list(self._lost.texts),
            "delayed_calls": [str(call) for call in self.new_calls()],
            "descriptors": [
                f"descriptor {number}: {target}"
                for number, target in sorted(descriptors(self._session_tmp) - self._descriptors)
                if number not in own
            ],
            "processes": [
                f"process {pid}: {command(pid) or 'ended, never waited for'}"
                for pid in sorted(self.new_children())
            ],
            "temporary_files": [
                os.path.join(tempfile.gettempdir(), name)
                for name in sorted(temporary_entries() - self._temporary)
            ],
        }
        return {kind: texts for kind, texts in found.items() if texts}

    def clear(self, allowed: set[str]) -> None:
        """Keeps one test's leak from failing the next; what it may leave is left."""
        for call in self.new_calls() if "delayed_calls" not in allowed else ():
            if call.active():
                call.cancel()
        for pid in self.new_children() if "processes" not in allowed else ():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def turn(reactor: Any, done: Callable[[], bool]) -> None:
    """Lets the reactor turn until `done`, at most `SETTLE_S`."""
    ends = time.monotonic() + SETTLE_S
    while not done() and time.monotonic() < ends:
        pytest_twisted.blockon(task.deferLater(reactor, 0.01, lambda: None))


def allowed_kinds(node: pytest.Item) -> set[str]:
    allowed: set[str] = set()
    for marker in node.iter_markers("leaks"):
        if not marker.kwargs.get("reason") or not marker.args or set(marker.args) - set(KINDS):
            pytest.fail(
                f"leaks marker: name kinds ({', '.join(KINDS)}) and give a reason", pytrace=False
            )
        allowed.update(marker.args)
    return allowed


@pytest.fixture(autouse=True)
def no_leaks(
    request: pytest.FixtureRequest, private_tmp: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Fails the test that leaves something behind."""
    from twisted.internet import reactor

    allowed = allowed_kinds(request.node)
    if not getattr(reactor, "running", False):
        # The reactor makes its wakers when it starts: before the first look.
        pytest_twisted.blockon(task.deferLater(reactor, 0, lambda: None))
    collect_garbage()
    lost = LostErrors()
    leaks = Leaks(reactor, str(tmp_path_factory.getbasetemp()), lost)
    globalLogPublisher.addObserver(lost)  # type: ignore[arg-type]
    try:
        yield
        collect_garbage()
        if leaks.found():
            turn(reactor, lambda: not set(leaks.found()) - {"errors"})
            collect_garbage()
    finally:
        globalLogPublisher.removeObserver(lost)  # type: ignore[arg-type]
    found = {kind: texts for kind, texts in leaks.found().items() if kind not in allowed}
    leaks.clear(allowed)
    if found:
        lines = [f"the test left {kind}:\n  " + "\n  ".join(found[kind]) for kind in found]
        pytest.fail("\n".join(lines), pytrace=False)
