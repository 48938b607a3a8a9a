"""Jobs that are stopped: commands, deadlines, signals; nothing of them survives."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from runner_kit import REPOSITORY, WAIT_S, JobFolder, fake_agent, gone, until

from cumulus_wire import folder
from cumulus_wire.journal import Kind
from cumulusd.agent.options import AgentOptions

NewJob = Callable[..., JobFolder]

#: Ignores TERM; its grandchild has left group and session, and its parent, and ignores TERM too.
STUBBORN = """
import os, signal, time
def f():
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            open('grandchild', 'w').write(str(os.getpid()))
            time.sleep(600)
        os._exit(0)
    os.wait()
    while not (os.path.exists('grandchild') and os.path.getsize('grandchild')): time.sleep(.01)
    print('ready')
    time.sleep(600)
"""


def grandchild(job: JobFolder) -> int:
    return int((job.path / folder.WORK / "grandchild").read_text())


def lock_is_free(job: JobFolder) -> bool:
    fd = os.open(job.path / folder.LOCK, os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(fd)
    return True


def test_the_deadline_ends_everything(new_job: NewJob) -> None:
    job = new_job(duration_s=0.7, stop_grace_s=0.3).function(STUBBORN)
    end = job.run()
    assert (end["outcome"], end["reason"]) == ("timeout", "duration_exceeded")
    assert 1.0 <= end["run_s"] < 3.0 and end["signal"] == signal.SIGKILL
    assert "0.7 s" in end["message"] and "duration" in end["hint"]
    assert job.jsons(Kind.STATUS)[-1]["phase"] == "stopping"
    assert gone(grandchild(job)) and lock_is_free(job)


def test_what_ignores_term_is_gone_within_5_s_of_its_time(new_job: NewJob) -> None:
    job = new_job(duration_s=0.5, stop_grace_s=AgentOptions().stop_grace_s).function(STUBBORN)
    end = job.run()
    assert end["reason"] == "duration_exceeded" and end["signal"] == signal.SIGKILL
    assert end["run_s"] < 5.5
    assert gone(grandchild(job)) and lock_is_free(job)


def test_children_that_fork_on_and_on_are_gone_with_the_job(new_job: NewJob) -> None:
    """Each of them is another process a moment later, in a session of its own."""
    source = (
        "import os, signal, time\n"
        "def f():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    for _ in range(4):\n"
        "        if os.fork() == 0:\n"
        "            while True:\n"
        "                if os.fork(): os._exit(0)\n"
        "                os.setsid()\n"
        "                open('forked', 'a').write('x')\n"
        "                time.sleep(0.002)\n"
        "    time.sleep(600)"
    )
    job = new_job(duration_s=1.0, stop_grace_s=0.2).function(source)
    end = job.run()
    assert (end["reason"], end["signal"]) == ("duration_exceeded", signal.SIGKILL)
    forked = job.path / folder.WORK / "forked"
    assert forked.stat().st_size > 20, "they did fork on"
    assert lock_is_free(job), "whoever lives has it open"


def test_a_spinning_kernel_ends_with_the_job(new_job: NewJob) -> None:
    source = (
        "import pyopencl as cl, signal\n"
        "CODE = '__kernel void spin(__global volatile int *go) { while (!go[0]) {} }'\n"
        "def f():\n"
        "    signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "    context = cl.create_some_context(interactive=False)\n"
        "    queue = cl.CommandQueue(context)\n"
        "    go = cl.Buffer(context, cl.mem_flags.READ_WRITE, 4)\n"
        "    cl.enqueue_fill_buffer(queue, go, bytes(4), 0, 4)\n"
        "    event = cl.Program(context, CODE).build().spin(queue, (1,), None, go)\n"
        "    queue.flush()\n"
        "    while event.command_execution_status != cl.command_execution_status.RUNNING: pass\n"
        "    print('spinning', flush=True)\n"
        "    queue.finish()"
    )
    job = new_job(python=str(REPOSITORY / ".venv-job/bin/python")).function(source)
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(job.said(b"spinning"), "the kernel runs")
        agent.stop("duration_exceeded", 0.2)
        job.finish(process)
    end = job.exit()
    assert (end["reason"], end["signal"]) == ("duration_exceeded", signal.SIGKILL)
    assert lock_is_free(job)


def test_a_cancelled_job_is_gone_within_a_second(new_job: NewJob) -> None:
    job = new_job().function("import time\ndef f(): print('ready'); time.sleep(600)")
    with fake_agent(job) as agent:
        process = job.start()
        hello = agent.accept()
        assert hello == {"t": "hello", "job_id": "job-1", "attempt": 1, "pid": process.pid}
        until(job.said(b"ready"), "the job runs")
        asked = time.monotonic()
        agent.stop("cancelled_by_user", 5.0)
        agent.read_until("bye")
        assert time.monotonic() - asked < 1.0
        job.finish(process)
    end = job.exit()
    assert (end["outcome"], end["reason"]) == ("cancelled", "cancelled_by_user")
    assert end["signal"] == signal.SIGTERM


def test_a_cancelled_job_that_ignores_term_is_killed_after_the_grace(new_job: NewJob) -> None:
    job = new_job().function(STUBBORN)
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(job.said(b"ready"), "the job runs")
        asked = time.monotonic()
        agent.stop("worker_drained", 0.4)
        job.finish(process)
    assert 0.4 <= time.monotonic() - asked < 2.0
    end = job.exit()
    assert (end["outcome"], end["reason"]) == ("failed", "worker_drained")
    assert gone(grandchild(job))


def test_a_second_stop_can_shorten_the_grace(new_job: NewJob) -> None:
    job = new_job().function(STUBBORN)
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(job.said(b"ready"), "the job runs")
        agent.stop("cancelled_by_user", 600.0)
        until(lambda: job.jsons(Kind.STATUS)[-1]["phase"] == "stopping", "it is being stopped")
        agent.stop("duration_exceeded", 0.0)
        job.finish(process)
    assert job.exit()["reason"] == "cancelled_by_user"  # the first reason counts


def test_code_that_cleans_up_on_term_has_its_grace(new_job: NewJob) -> None:
    source = (
        "import signal, sys, time\n"
        "def leave(*_): time.sleep(0.2); print('saved'); sys.exit(0)\n"
        "def f(): signal.signal(signal.SIGTERM, leave); print('ready'); time.sleep(600)"
    )
    job = new_job(stop_grace_s=10.0).function(source)
    process = job.start()
    until(job.said(b"ready"), "the job runs")
    process.send_signal(signal.SIGTERM)
    job.finish(process)
    end = job.exit()
    assert (end["outcome"], end["reason"]) == ("failed", "runner_failed")
    assert "stopped from outside" in end["message"]
    assert end["exit_code"] == 0 and job.output(Kind.STDOUT).endswith(b"saved\n")


def test_descendants_dont_outlive_a_job_that_completes(new_job: NewJob) -> None:
    returning = STUBBORN.rpartition("    time.sleep(600)")[0] + "    return 1\n"
    job = new_job().function(returning)
    end = job.run()
    assert end["outcome"] == "completed" and job.output(Kind.RESULT) == b"1"
    assert gone(grandchild(job)) and lock_is_free(job)


def test_set_up_has_a_deadline_of_its_own(new_job: NewJob, tmp_path: Path) -> None:
    uv = tmp_path / "slow-uv"
    uv.write_text("#!/bin/sh\necho working\nsleep 600\n")
    uv.chmod(0o755)
    job = new_job(uv=str(uv), requirements=["six"], setup_timeout_s=0.5, stop_grace_s=0.2)
    end = job.function("def f(): pass").run()
    assert (end["outcome"], end["reason"]) == ("failed", "setup_timeout")
    assert end["setup_s"] < 3 and end["run_s"] == 0
    assert job.output(Kind.SETUP) == b"working\n"
    phases = [status["phase"] for status in job.jsons(Kind.STATUS)]
    assert phases == ["setup", "stopping"]


def test_stop_during_set_up(new_job: NewJob, tmp_path: Path) -> None:
    uv = tmp_path / "slow-uv"
    uv.write_text("#!/bin/sh\necho working\nexec sleep 600\n")
    uv.chmod(0o755)
    job = new_job(uv=str(uv), requirements=["six"]).function("def f(): pass")
    with fake_agent(job) as agent:
        process = job.start()
        agent.accept()
        until(lambda: job.output(Kind.SETUP), "uv runs")
        agent.stop("cancelled_by_user", 5.0)
        job.finish(process)
    assert job.exit()["outcome"] == "cancelled"


def test_a_second_runner_is_refused(new_job: NewJob) -> None:
    job = new_job().function("import time\ndef f(): print('ready'); time.sleep(600)")
    first = job.start()
    until(job.said(b"ready\n"), "the job runs")
    before = job.records()[-1].next_offset
    code, _, err = job.finish(job.start())
    assert code == 75 and b"locked" in err
    assert job.records()[-1].next_offset == before
    first.send_signal(signal.SIGINT)
    job.finish(first)


def test_a_job_that_has_ended_isnt_run_again(new_job: NewJob) -> None:
    job = new_job().function("def f(): print('once')")
    job.run()
    before = [segment.read_bytes() for segment in job.segments()]
    assert job.finish(job.start())[0] == 0
    assert [segment.read_bytes() for segment in job.segments()] == before


def test_the_lock_is_held_while_descendants_of_a_killed_runner_live(new_job: NewJob) -> None:
    # `subprocess` closes all descriptors but 0 to 2: the lock lives on as the child's stdin.
    source = (
        "import subprocess, time\n"
        "def f():\n"
        "    child = subprocess.Popen(['sleep', '600'], start_new_session=True)\n"
        "    print(child.pid, 'ready')\n    time.sleep(600)"
    )
    job = new_job().function(source)
    process = job.start()
    until(job.said(b"ready"), "the job runs")
    child = int(job.output(Kind.STDOUT).split()[0])
    process.kill()
    process.wait(WAIT_S)
    time.sleep(0.2)
    assert not gone(child) and not lock_is_free(job)
    os.kill(child, signal.SIGKILL)
    until(lambda: lock_is_free(job), "the lock is free once the last descendant is gone")
    # Nothing says EXIT; another start neither runs the code again nor leaves that so.
    job.finish(job.start())
    end = job.exit()
    assert end["reason"] == "runner_failed" and "second time" in end["message"]
    assert job.output(Kind.STDOUT).count(b"ready") == 1


def test_a_runner_that_died_while_setting_up_is_repeated(new_job: NewJob, tmp_path: Path) -> None:
    uv = tmp_path / "slow-uv"
    uv.write_text("#!/bin/sh\necho working\nexec sleep 600\n")
    uv.chmod(0o755)
    job = new_job(uv=str(uv), requirements=["six"]).function("def f(): return 'ran'")
    process = job.start()
    until(lambda: job.output(Kind.SETUP), "uv runs")
    process.kill()
    process.wait(WAIT_S)
    until(lambda: lock_is_free(job), "uv died with the runner")
    (job.path / folder.ORDERS).write_text(json.dumps({**job.orders, "requirements": []}))
    assert job.run()["outcome"] == "completed"
    assert [status["phase"] for status in job.jsons(Kind.STATUS)] == ["setup", "setup", "running"]


@pytest.fixture
def memory_cgroup() -> Iterator[Path]:
    """A memory cgroup (version 1 or 2) that kills above 100 MB; skips where none can be made."""
    own = Path("/proc/self/cgroup").read_text().splitlines()
    paths = [line.split(":", 2) for line in own]
    one = [p for _, controllers, p in paths if "memory" in controllers.split(",")]
    root = Path("/sys/fs/cgroup")
    parent = root / "memory" / one[0].lstrip("/") if one else root
    group = parent / f"cumulus-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = "memory.limit_in_bytes" if one else "memory.max"
        (group / limit).write_text(str(100 << 20))
    except OSError as error:
        if group.is_dir():
            group.rmdir()
        pytest.skip(f"no memory cgroup can be made here: {error}")
    yield group
    until(lambda: not (group / "cgroup.procs").read_text(), "the cgroup is empty")
    group.rmdir()


def test_out_of_memory_is_told_apart(new_job: NewJob, memory_cgroup: Path) -> None:
    job = new_job().function("def f():\n  x = []\n  while True: x.append(bytearray(1 << 20))")
    join = f'echo $$ > {memory_cgroup}/cgroup.procs && exec "$@"'
    command = [sys.executable, "-I", str(Path(__file__).parents[3] / "cumulus_runner")]
    process = subprocess.Popen(
        ["sh", "-c", join, "sh", *command, str(job.path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    job.processes.append(process)
    job.finish(process)
    end = job.exit()
    assert (end["outcome"], end["reason"]) == ("failed", "out_of_memory")
    assert end["signal"] == signal.SIGKILL and "memory_bytes" in end["hint"]


def test_killed_from_elsewhere_isnt_out_of_memory(new_job: NewJob) -> None:
    end = new_job().script("import os\nos.kill(os.getpid(), 9)").run()
    assert (end["reason"], end["signal"]) == ("signalled", signal.SIGKILL)


def test_a_probe_of_the_lock_does_not_turn_the_runner_away(new_job: NewJob) -> None:
    job = new_job().function("def f(): print('ran')")
    lock = os.open(job.path / folder.LOCK, os.O_RDONLY | os.O_CREAT, 0o644)
    fcntl.flock(lock, fcntl.LOCK_EX)
    runner = job.start()
    path = str(job.path / folder.LOCK)
    until(lambda: path in open_files(runner.pid), "the runner tries to lock")
    time.sleep(0.05)
    os.close(lock)
    assert job.finish(runner)[0] == 0


def open_files(pid: int) -> list[str]:
    """What the process has open."""
    found = []
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            found.append(os.readlink(entry))
    return found
