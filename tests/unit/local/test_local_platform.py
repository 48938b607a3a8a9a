"""The local platform over real processes: found again, ended whole, leaving nothing."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.logger import capturedLogs, formatEvent

from cumulus_wire import folder as names
from cumulusd.errors import Unavailable
from cumulusd.jobs.ports import ContainerSpec
from cumulusd.local import processes
from cumulusd.local.environment import installer_environment, runner_environment
from cumulusd.local.platform import LocalPlatform
from cumulusd.tasks import sleep
from tests.unit.supervisor.test_job_machine import GRANT

#: Stands in for the runner: takes the lock, leaves a child that holds it, ignores TERM if told so.
FAKE_RUNNER = """#!{python}
import fcntl, os, signal, subprocess, sys, time
folder = sys.argv[-1]
lock = open(folder + "/lock", "w")
os.set_inheritable(lock.fileno(), True)
fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
print("words of the runner", os.environ.get("SECRET"), os.environ.get("LANG"), flush=True)
mode = open(folder + "/mode").read()
if mode == "leave":
    subprocess.Popen(["sleep", "60"], pass_fds=[lock.fileno()], start_new_session=True)
    sys.exit(7)
if mode == "stubborn":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
open(folder + "/ready", "w").close()
time.sleep(60)
"""


class Site:
    def __init__(self, tmp_path: Path, mode: str) -> None:
        self.tmp_path = tmp_path
        self.folder = tmp_path / "jobs/a"
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "mode").write_text(mode)
        self.runner = tmp_path / "runner"
        self.runner.write_text(FAKE_RUNNER.replace("{python}", sys.executable))
        self.runner.chmod(0o755)
        self.platform = self.make()
        self.spec = ContainerSpec(
            job_id="a",
            attempt=1,
            node_id="local",
            grant=attrs.evolve(GRANT, folder=str(self.folder)),
            cpu_cores=None,
            memory_bytes=None,
            stop_grace_s=0.2,
        )

    def make(self) -> LocalPlatform:
        return LocalPlatform(
            root=self.tmp_path / "local",
            hostname="here",
            clock=reactor,  # type: ignore[arg-type]
            runner_python=self.runner,
            environment={"LANG": "C", "PATH": os.environ["PATH"]},
        )

    async def until(
        self, condition: Callable[[], Awaitable[bool]], timeout_s: float = 10.0
    ) -> None:
        deadline = time.monotonic() + timeout_s
        while not await condition():
            assert time.monotonic() < deadline
            await sleep(reactor, 0.02)  # type: ignore[arg-type]

    async def gone(self) -> bool:
        container = (await self.platform.containers())["a"]
        return not container.alive and not processes.holders(self.folder / names.LOCK)

    async def ready(self) -> bool:
        return (self.folder / "ready").exists()


@pytest_twisted.ensureDeferred
async def test_a_full_disk_is_told_once_and_the_runner_is_known_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, "sleep")

    def full(path: Path, text: str) -> int:
        path.touch()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as disk, capturedLogs() as said:
        disk.setattr(Path, "write_text", full)
        for _ in range(3):
            with pytest.raises(Unavailable, match="No space left on device") as caught:
                await site.platform.launch(site.spec)
            assert caught.value.hint and str(tmp_path / "local") in caught.value.hint
    told = [event for event in said if event.get("job_id") == "a" and "can't" in formatEvent(event)]
    assert len(told) == 1 and "log_failure" not in told[0], "one line, no traceback"
    assert [path.name for path in (tmp_path / "local").iterdir()] == ["a.log"]
    await site.until(site.ready)
    assert (await site.platform.containers())["a"].alive
    # With room again the next try notes it, so that the next daemon finds it too.
    await site.platform.launch(site.spec)
    assert (await site.make().containers())["a"].alive
    assert len(processes.holders(site.folder / names.LOCK)) == 1
    await site.platform.stop("a", 1)
    await site.until(site.gone)
    await site.platform.remove("a", 1)
    await site.platform.close()


@pytest_twisted.ensureDeferred
async def test_a_runner_whose_file_was_never_written_is_ended_and_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Site(tmp_path, "sleep")

    def full(path: Path, text: str) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(Unavailable):
        await site.platform.launch(site.spec)
    await site.platform.stop("a", 1)
    await site.until(site.gone)
    await site.platform.remove("a", 1)
    assert await site.platform.containers() == {}
    await site.platform.close()


@pytest_twisted.ensureDeferred
async def test_a_runner_is_started_once_and_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "the daemon's own")
    site = Site(tmp_path, "sleep")
    await site.platform.launch(site.spec)
    await site.platform.launch(site.spec)
    await site.until(site.ready)
    assert len(processes.holders(site.folder / names.LOCK)) == 1
    with pytest.raises(Unavailable):
        await site.platform.remove("a", 1)
    assert await site.platform.explain("a", 1) == "words of the runner None C"
    await site.platform.stop("a", 1)
    await site.until(site.gone)
    container = (await site.platform.containers())["a"]
    assert container.exit_code == -signal.SIGTERM and "SIGTERM" in container.message
    await site.platform.remove("a", 1)
    assert await site.platform.containers() == {}
    assert list((tmp_path / "local").iterdir()) == []
    await site.platform.close()


@pytest_twisted.ensureDeferred
async def test_what_ignores_term_is_killed(tmp_path: Path) -> None:
    site = Site(tmp_path, "stubborn")
    await site.platform.launch(site.spec)
    await site.until(site.ready)
    await site.platform.stop("a", 1)
    await site.until(site.gone)
    await site.platform.remove("a", 1)
    await site.platform.close()


@pytest_twisted.ensureDeferred
async def test_what_outlives_its_runner_is_found_by_the_lock(tmp_path: Path) -> None:
    site = Site(tmp_path, "leave")
    await site.platform.launch(site.spec)

    async def runner_dead() -> bool:
        return not (await site.platform.containers())["a"].alive

    await site.until(runner_dead)
    assert (await site.platform.containers())["a"].exit_code == 7
    assert processes.holders(site.folder / names.LOCK), "its child lives"
    await site.platform.stop("a", 1)
    await site.until(site.gone)
    await site.platform.remove("a", 1)
    await site.platform.close()


@pytest_twisted.ensureDeferred
async def test_a_runner_is_found_again_after_a_restart(tmp_path: Path) -> None:
    site = Site(tmp_path, "sleep")
    await site.platform.launch(site.spec)
    await site.until(site.ready)
    first, site.platform = site.platform, site.make()
    assert (await site.platform.containers())["a"].alive
    await site.platform.stop("a", 1)

    async def ended() -> bool:
        await first.containers()  # the first one is the parent: it reaps
        return await site.gone()

    await site.until(ended)
    await site.platform.remove("a", 1)
    await first.close()
    await site.platform.close()


@pytest_twisted.ensureDeferred
async def test_a_runner_whose_file_was_never_written_is_found_not_started_again(
    tmp_path: Path,
) -> None:
    site = Site(tmp_path, "sleep")
    await site.platform.launch(site.spec)
    await site.until(site.ready)
    (runner,) = processes.holders(site.folder / names.LOCK)
    # As a daemon leaves it that is killed between the two.
    (tmp_path / "local/a.json").unlink()
    first, site.platform = site.platform, site.make()
    await site.platform.launch(site.spec)
    assert (await site.platform.containers())["a"].alive
    assert processes.holders(site.folder / names.LOCK) == [runner]
    assert await site.platform.explain("a", 1) == "words of the runner None C"
    await site.platform.stop("a", 1)

    await site.until(site.gone)
    await first.containers()  # the first one is the parent: it reaps
    await site.platform.remove("a", 1)
    await first.close()
    await site.platform.close()


def test_a_reused_pid_is_not_the_runner() -> None:
    with subprocess.Popen(["sleep", "60"]) as child:
        ticks = processes.start_ticks(child.pid)
        assert ticks is not None
        assert processes.start_ticks(os.getpid()) != ticks
        child.kill()
    assert processes.start_ticks(child.pid) is None
    assert processes.send(child.pid, signal.SIGTERM) is False


def test_only_what_a_job_needs_of_the_environment_is_passed() -> None:
    environ = {
        "PATH": "/bin",
        "CUMULUSD_TOKEN_A": "secret",
        "SSL_CERT_FILE": "/ca.pem",
        "PIP_INDEX_URL": "https://index.example/simple",
    }
    assert runner_environment(environ, None) == {
        "PATH": "/bin",
        "LANG": "C.UTF-8",
        "SSL_CERT_FILE": "/ca.pem",
    }
    assert "LANG" not in runner_environment({"LC_ALL": "C"}, None)
    installer = installer_environment(environ, Path("/own.pem"), None)
    assert installer["UV_DEFAULT_INDEX"] == "https://index.example/simple"
    assert installer["SSL_CERT_FILE"] == "/own.pem"
    assert "CUMULUSD_TOKEN_A" not in installer
    named = installer_environment(environ, None, "https://other.example/simple")
    assert named["UV_DEFAULT_INDEX"] == "https://other.example/simple"


@pytest_twisted.ensureDeferred
async def test_the_runners_of_another_daemon_are_not_this_ones(tmp_path: Path) -> None:
    """Two daemons on one machine, as the same user: each knows the runners in its own folder."""
    mine = Site(tmp_path / "mine", "sleep")
    other = Site(tmp_path / "other", "sleep")
    await other.platform.launch(other.spec)
    try:
        assert await mine.platform.all_containers() == []
        await mine.platform.stop("a", 1)
        await mine.platform.remove("a", 1)
        assert (await other.platform.containers())["a"].alive
    finally:
        await other.platform.stop("a", 1)
        await other.until(lambda: gone(other))
        await other.platform.remove("a", 1)
        await other.platform.close()
        await mine.platform.close()


async def gone(site: Site) -> bool:
    return not (await site.platform.containers())["a"].alive


def test_a_copy_of_the_runner_that_runs_code_is_not_taken_for_it() -> None:
    program = (
        "import os, sys\n"
        "reads, writes = os.pipe()\n"
        "if os.fork() == 0:\n"
        "    with open('/proc/self/comm', 'w') as file: file.write(sys.argv[2])\n"
        "    os.write(writes, b'.')\n"
        "    sys.stdin.read()\n"
        "    os._exit(0)\n"
        "os.read(reads, 1)\n"
        "sys.stdout.write('.')\n"
        "sys.stdout.flush()\n"
        "sys.stdin.read()\n"
    )
    arguments = ["-c", program, "fake", names.CODE_NAME]
    with subprocess.Popen(
        [sys.executable, *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as runner:
        assert runner.stdout is not None and runner.stdin is not None
        assert runner.stdout.read(1) == b"."
        assert processes.running(arguments) == runner.pid
        runner.kill()
        runner.wait()
        assert processes.running(arguments) is None
