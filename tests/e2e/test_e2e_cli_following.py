"""Following jobs from the shell: logs and attach, signals, readers that are gone."""

import json
import re
import signal
import subprocess

import pytest

from tests.e2e.harness import Daemon, alive, gone_within
from tests.e2e.shell import CUMULUS, Shell, waiting_job
from tests.next_line import next_line

#: Many commands, each a process of its own.
pytestmark = pytest.mark.timeout(300)


def test_submit_and_all_that_one_does_with_the_job(shell: Shell, daemon: Daemon) -> None:
    job_id, pid = waiting_job(shell, daemon, "--name", "mine", "--gpu-memory", "25%", "-d")
    assert re.fullmatch(r"job_[0-9a-f]{12}", job_id)

    head, *rows = shell("jobs").stdout.splitlines()
    assert head.split() == ["JOB", "NAME", "STATUS", "AGE", "RAN", "SHARE", "WORKER", "NOTE"]
    row = next(row for row in rows if row.startswith(job_id))
    assert row.split()[1:3] == ["mine", "running"] and " 25% " in row
    views = [json.loads(line) for line in shell("jobs", "--json").stdout.splitlines()]
    assert next(view for view in views if view["job_id"] == job_id)["name"] == "mine"
    assert shell("jobs", "--active", "-q").stdout.split() == [job_id]
    assert shell("jobs", "--limit", "1", "-q").stdout.split() == [job_id]
    about = shell("jobs", job_id[:9]).stdout
    assert re.search(r"^status +running$", about, re.MULTILINE)
    assert re.search(r"^may run +1h00m$", about, re.MULTILINE)

    following = shell.begin("logs", "-f", "last")
    looking = shell.begin("logs", "-f", job_id)
    attached = shell.begin("attach", job_id.removeprefix("job_")[:8])
    with following, looking, attached:
        for each in (following, looking, attached):
            assert each.stdout is not None
            assert next_line(each) == f"{pid}\n"
        looking.send_signal(signal.SIGINT)
        assert looking.wait(20) == 130
        assert alive(pid), "Ctrl-C on a log ends the looking alone"
        (shell.folder / "go").touch()
        out, err = following.communicate(timeout=30)
        assert (following.returncode, out) == (7, "over\n"), err
        out, err = attached.communicate(timeout=30)
        assert (attached.returncode, out) == (7, "over\n"), err
    assert "[cumulus] failed after" in err
    daemon.wait_job(job_id, "ended")
    shell("logs", job_id)
    assert shell("logs", "-f", "-q", job_id, code=7).stdout == f"{pid}\nover\n"
    assert f"[cumulus] job {job_id} failed: " in shell("logs", job_id).stderr
    assert shell("logs", "-q", job_id).stderr == ""
    assert shell("attach", "-q", job_id, code=7).stdout == f"{pid}\nover\n"
    assert "left with exit code 7" in shell("result", job_id, code=7).stderr
    assert shell("cancel", job_id).stderr == (
        f"[cumulus] job {job_id}: it had ended already: failed\n"
    )


def test_logs_in_lines(shell: Shell, daemon: Daemon) -> None:
    shell.write(
        "writes.py",
        "import sys, time\nprint('one')\nprint('warned', file=sys.stderr)\n"
        "sys.stdout.buffer.write(b'\\xff\\n')\nsys.stdout.flush()\ntime.sleep(0.1)\n"
        "print('no end', end='')\n",
    )
    job_id = shell("submit", "writes.py").stdout.strip()
    daemon.wait_job(job_id, "ended")
    raw = subprocess.run(
        [str(CUMULUS), "logs", job_id], capture_output=True, env=shell.environment, timeout=60
    )
    assert (raw.stdout, raw.stderr) == (b"one\n\xff\nno end", b"warned\n")
    done = shell("logs", "-t", job_id)
    stamp = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z "
    assert re.fullmatch(f"{stamp}warned\n", done.stderr)
    lines = [json.loads(line) for line in shell("logs", "--json", job_id).stdout.splitlines()]
    assert [(line["stream"], line["text"]) for line in lines if line["stream"] == "stdout"] == [
        ("stdout", "one\n"),
        ("stdout", "\ufffd\n"),
        ("stdout", "no end"),
    ]
    assert [line["text"] for line in lines if line["stream"] == "stderr"] == ["warned\n"]
    assert shell("logs", "--tail", "1", job_id).stdout == "no end"
    last = max(line["time"] for line in lines)
    since = f"{last - 0.001:.6f}"
    assert shell("logs", "--since", since, job_id).stdout == "no end"
    assert shell("logs", "--since", "1h", "--tail", "1", job_id).stdout == "no end"
    assert shell("logs", "-f", "--tail", "1", "--since", "1s", "last").stderr in ("", "warned\n")


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_attach_cancels_as_run_does(
    shell: Shell, daemon: Daemon, number: signal.Signals, code: int
) -> None:
    job_id, pid = waiting_job(shell, daemon)
    with shell.begin("attach", job_id) as process:
        assert process.stdout is not None
        assert next_line(process) == f"{pid}\n"
        process.send_signal(number)
        _, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert f"cancelling job {job_id}" in err and "Traceback" not in err
    gone_within([pid], 10.0)
    assert daemon.wait_job(job_id, "ended")["status"] == "cancelled"


@pytest.mark.parametrize("verb", [["attach"], ["logs", "-f"]])
def test_who_reads_no_more_leaves_the_job_alone(
    shell: Shell, daemon: Daemon, verb: list[str]
) -> None:
    shell.write(
        "talks.py",
        "import os, time\nwhile not os.path.exists({go!r}):\n"
        "    print('x' * 100, flush=True)\n    time.sleep(0.02)\n".format(
            go=str(shell.folder / "go")
        ),
    )
    job_id = shell("submit", "talks.py").stdout.strip()
    with shell.begin(*verb, job_id) as process:
        assert process.stdout is not None and process.stderr is not None
        assert next_line(process) == "x" * 100 + "\n"
        process.stdout.close()
        err = process.stderr.read()
        assert process.wait(30) == 141, err
    assert "Traceback" not in err
    assert daemon.job(job_id)["status"] == "running"
    (shell.folder / "go").touch()
    assert daemon.wait_job(job_id, "ended")["status"] == "completed"


def test_output_that_can_not_be_written(shell: Shell, daemon: Daemon) -> None:
    shell.write("talks.py", "print('x' * 100, flush=True)\n")
    command = f"{CUMULUS} run talks.py > /dev/full; echo code $?; {CUMULUS} jobs > /dev/full; " + (
        f"echo code $?; {CUMULUS} run -q talks.py >&-; echo code $?; {CUMULUS} jobs -q 2>&-"
    )
    done = subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=shell.folder,
        env=shell.environment,
    )
    assert "Traceback" not in done.stderr
    codes = [line for line in done.stdout.splitlines() if line.startswith("code")]
    assert codes == ["code 1", "code 1", "code 0"], done.stderr
    later, job_id = [line for line in done.stdout.splitlines() if line.startswith("job_")][:2]
    assert f"the output of job {job_id} can't be written here: No space left on device; the " in (
        done.stderr
    )
    assert f"cumulus attach {job_id}\n" in done.stderr
    assert shell("attach", "-q", job_id).stdout == "x" * 100 + "\n"
    daemon.wait_job(later, "ended")


def test_the_two_signals_of_timeout_are_one(shell: Shell, daemon: Daemon) -> None:
    shell.write("sleeps.py", "import time\ntime.sleep(300)\n")
    done = subprocess.run(
        ["timeout", "--preserve-status", "10", str(CUMULUS), "run", "sleeps.py"],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=shell.folder,
        env=shell.environment,
    )
    assert "cancelling job" in done.stderr and "detached" not in done.stderr
    assert done.returncode == 143
    assert daemon.wait_job(daemon.jobs()[0]["job_id"], "ended")["status"] == "cancelled"


def test_a_second_ctrl_c_detaches_and_says_how_to_come_back(shell: Shell, daemon: Daemon) -> None:
    shell.write(
        "stubborn.py",
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(300)\n",
    )
    with shell.begin("run", "stubborn.py") as process:
        assert process.stdout is not None and process.stderr is not None
        pid = int(next_line(process))
        process.send_signal(signal.SIGINT)
        for line in process.stderr:
            if "Ctrl-C again" in line:
                break
        process.send_signal(signal.SIGINT)
        err = process.stderr.read()
        assert process.wait(30) == 130
    job_id = daemon.jobs()[0]["job_id"]
    assert (
        f"[cumulus] detached; job {job_id} may still be running: come back with cumulus attach "
        f"{job_id}\n"
    ) in err
    gone_within([pid], 15.0)
    daemon.wait_job(job_id, "ended")
