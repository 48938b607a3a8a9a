"""Every verb of the command line against a real daemon, as a person or a script uses it."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Daemon, alive, gone_within

#: Many commands, each a process of its own.
pytestmark = pytest.mark.timeout(300)

CUMULUS = Path(sys.executable).with_name("cumulus")


class Shell:
    """Runs the command in a folder, with a daemon's URL in the environment."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = {**os.environ, "XDG_CONFIG_HOME": str(folder / "xdg"), **environment}

    def __call__(
        self,
        *arguments: str,
        code: int = 0,
        stdin: str = "",
        raises: bool = False,
        **environment: str,
    ) -> "subprocess.CompletedProcess[str]":
        done = subprocess.run(
            [str(CUMULUS), *arguments],
            capture_output=True,
            encoding="utf-8",
            errors="surrogateescape",
            timeout=60,
            input=stdin,
            cwd=self.folder,
            env={**self.environment, **environment},
        )
        assert done.returncode == code, (arguments, done.returncode, done.stdout, done.stderr)
        assert ("Traceback" in done.stderr) is raises, "only what the job's code raised has one"
        return done

    def begin(self, *arguments: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [str(CUMULUS), *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
            text=True,
            cwd=self.folder,
            env=self.environment,
        )

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


@pytest.fixture
def shell(daemon: Daemon, tmp_path: Path) -> Shell:
    return Shell(tmp_path, CUMULUS_SERVER_URL=daemon.url)


WAITS = """\
import os, sys, time
print(os.getpid(), flush=True)
while not os.path.exists({go!r}):
    time.sleep(0.02)
print("over", flush=True)
sys.exit(7)
"""


def waiting_job(shell: Shell, daemon: Daemon, *options: str) -> tuple[str, int]:
    """A job that runs until the file `go` is there, and exits with 7: its id and process."""
    shell.write("waits.py", WAITS.format(go=str(shell.folder / "go")))
    job_id = shell("submit", *options, "waits.py").stdout.strip()
    daemon.wait_job(job_id, "running")
    deadline = time.monotonic() + 30
    while not (out := shell("logs", job_id).stdout):
        assert time.monotonic() < deadline
    return job_id, int(out)


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
            assert each.stdout.readline() == f"{pid}\n"
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


def test_a_function_of_a_module(shell: Shell, daemon: Daemon) -> None:
    shell.write("helper.py", "FACTOR = 3\n")
    shell.write(
        "mod.py",
        "import helper\n\ndef scale(x, *, times=1, tags=()):\n    print('scaling')\n"
        "    return {'value': x * helper.FACTOR * times, 'tags': list(tags)}\n\n"
        "def fails():\n    raise KeyError('lost')\n\n"
        "def odd():\n    return {1, 2}\n",
    )
    done = shell("run", "-q", "-m", "mod:scale", "--", "2", "times=5", 'tags=["a"]')
    assert done.stdout == 'scaling\n{"value": 30, "tags": ["a"]}\n'
    done = shell("run", "-m", "mod:scale", "2", "-q", code=2)
    assert "too many positional arguments" in done.stderr, "what follows is the function's"
    done = shell("run", "-m", "mod:fails", code=1, raises=True)
    assert done.stderr.count("Traceback") == 1 and "in fails" in done.stderr
    done = shell("run", "-q", "-m", "mod:odd", code=1)
    assert done.stdout == "" and "the value is a set, which JSON can't hold" in done.stderr


def test_what_programs_read_begins_a_line(shell: Shell, daemon: Daemon) -> None:
    shell.write("mod.py", "def f():\n    print('no end', end='')\n    return 1\n")
    shell.write("plain.py", "import mod\nmod.f()\n")
    done = shell("run", "--json", "-m", "mod:f")
    out, value, end = done.stdout.splitlines()
    assert (out, value, json.loads(end)["status"]) == ("no end", "1", "completed")
    out, end = shell("run", "--json", "-q", "plain.py").stdout.splitlines()
    assert (out, json.loads(end)["returncode"]) == ("no end", 0)
    assert shell("run", "-q", "plain.py").stdout == "no end"


def test_a_result_is_waited_for(shell: Shell, daemon: Daemon) -> None:
    shell.write("mod.py", "import time\n\ndef f(x):\n    time.sleep(0.5)\n    return [x, None]\n")
    submitted = json.loads(shell("submit", "--json", "-m", "mod:f", "--", "x=é").stdout)
    assert shell("result", submitted["job_id"]).stdout == '["\\u00e9", null]\n'
    shell.write("plain.py", "print('out')\n")
    job_id = shell("submit", "plain.py").stdout.strip()
    done = shell("result", job_id)
    assert done.stdout == "" and "has no value: it ran a script" in done.stderr


def test_a_folder(shell: Shell, daemon: Daemon) -> None:
    shell.write("project/main.py", "import sys, pkg.part\nprint(pkg.part.X, sys.argv[1:])\n")
    shell.write("project/pkg/__init__.py", "")
    shell.write("project/pkg/part.py", "X = open('data.txt').read()\n")
    shell.write("project/data.txt", "data")
    assert shell("run", "-q", "project", "--", "-v").stdout == "data ['-v']\n"
    shell.write("other/train.py", "")
    done = shell("run", "other", code=2)
    assert "neither __main__.py nor main.py" in done.stderr
    assert "write: cumulus run other/train.py" in done.stderr


def test_files_variables_and_requirements(shell: Shell, daemon: Daemon) -> None:
    shell.write("data.csv", "1,2\n")
    shell.write("vars", "# two\nA=file\nB=b\n")
    shell.write("r.txt", "-r more.txt\n")
    shell.write("more.txt", "six  # small\n")
    shell.write(
        "job.py",
        "import os, six\nprint(open('in/x.csv').read(), os.environ['A'], os.environ['B'],"
        " os.environ['HERE'], six.__name__)\n",
    )
    done = shell(
        *("run", "--file", "in/x.csv=data.csv", "--env-file", "vars", "--env", "A=given"),
        *("--env", "HERE", "-r", "r.txt", "--cpu", "1", "--memory", "1GiB", "job.py"),
        HERE="h",
    )
    assert done.stdout == "1,2\n given b h six\n"
    assert "[cumulus] requirements: " in done.stderr
    done = shell("logs", "last")
    assert done.stdout == "1,2\n given b h six\n"
    assert all(line.startswith("[cumulus] ") for line in done.stderr.splitlines())
    assert shell("logs", "-q", "last").stderr == ""


def test_secrets_are_handed_over_unseen(shell: Shell, daemon: Daemon) -> None:
    shell.write("token", "from-a-file\n")
    shell.write(
        "job.py", "import os\nprint(*(len(os.environ[x]) for x in ('FIRST', 'SECOND', 'THIRD')))\n"
    )
    done = shell(
        *("run", "--secret", "FIRST", "--secret", "SECOND@token", "--secret", "THIRD=typed-here"),
        "job.py",
        FIRST="from-the-shell",
    )
    assert done.stdout == "14 11 10\n"
    assert "--secret THIRD=...: other users of this machine can read" in done.stderr
    told = shell("jobs", "--json", "last").stdout + shell("jobs", "last").stdout + done.stderr
    assert re.search(r"^secrets +FIRST, SECOND, THIRD$", told, re.MULTILINE)
    for value in ("from-the-shell", "from-a-file", "typed-here"):
        assert value not in told + daemon.log_text()


def test_what_a_job_left_is_downloaded(shell: Shell, daemon: Daemon) -> None:
    shell.write(
        "leaves.py",
        "import os\nout = os.environ['CUMULUS_OUTPUT_DIR']\nos.makedirs(out + '/plots')\n"
        "open(out + '/a.txt', 'w').write('a' * 2048)\n"
        "open(out + '/plots/b.png', 'wb').write(bytes(range(256)))\n",
    )
    shell("run", "-q", "leaves.py")
    listed = shell("download", "--list", "last").stdout
    assert sorted(listed.split("\n")) == ["", "     256 B  plots/b.png", "   2.0 KiB  a.txt"]
    done = shell("download", "last", "-o", "got")
    assert sorted(done.stdout.splitlines()) == ["got/a.txt", "got/plots/b.png"]
    assert (shell.folder / "got/plots/b.png").read_bytes() == bytes(range(256))
    one = json.loads(shell("download", "--json", "last", "a.txt").stdout)
    assert (one["name"], one["size_bytes"], one["path"]) == ("a.txt", 2048, "a.txt")
    done = shell("download", "last", "b.txt", code=2)
    assert "has no output 'b.txt'; did you mean a.txt?" in done.stderr
    shell.write("none.py", "")
    shell("run", "-q", "none.py")
    assert "left no outputs" in shell("download", "last").stderr


def test_several_are_cancelled(shell: Shell, daemon: Daemon) -> None:
    job_id, pid = waiting_job(shell, daemon, "--gpu-memory", "1")
    done = shell("result", "--timeout", "0.2s", job_id, code=69)
    assert f"wait longer, or end it with: cumulus cancel {job_id}" in done.stderr
    queued = shell("submit", "--gpu-memory", "1", "waits.py").stdout.strip()
    row = next(row for row in shell("jobs").stdout.splitlines() if row.startswith(queued))
    assert "pending" in row and "free" in row, "why it waits is told"
    done = shell("cancel", queued, "nothing", job_id, queued, code=2)
    assert done.stdout.split() == [queued, job_id]
    assert "there is no job 'nothing'" in done.stderr
    gone_within([pid], 10.0)
    assert daemon.wait_job(job_id, "ended")["status"] == "cancelled"
    assert shell("attach", "-q", queued, code=130).stdout == ""
    assert shell("result", job_id, code=130).stdout == ""


def test_a_job_is_paused_resumed_and_deleted(shell: Shell, daemon: Daemon) -> None:
    shell.write(
        "pauses.py",
        """\
import os, runtime, time
keep = os.path.join(os.environ["CUMULUS_CHECKPOINT_DIR"], "step")
step = int(open(keep).read()) if os.path.exists(keep) else 0
print("from", step, flush=True)
while step == 0:
    if runtime.should_pause():
        with open(keep, "w") as file:
            file.write("1")
        raise runtime.CooperativePause("saved")
    time.sleep(0.05)
print("over")
""",
    )
    job_id = shell("submit", "pauses.py").stdout.strip()
    daemon.wait_job(job_id, "running")
    with shell.begin("logs", "-f", job_id) as following:
        assert following.stdout is not None
        assert following.stdout.readline() == "from 0\n"
        done = shell("pause", job_id)
        assert done.stdout == f"{job_id}\n"
        deadline = time.monotonic() + 60
        while "paused" not in shell("jobs", "-n", "1").stdout:
            assert time.monotonic() < deadline
        assert "paused" in shell("pause", job_id, code=1).stderr
        assert "cumulus" in shell("delete", job_id, code=1).stderr
        (answer,) = [json.loads(x) for x in shell("resume", "--json", job_id).stdout.splitlines()]
        assert (answer["job_id"], answer["resumed"]) == (job_id, True)
        out, err = following.communicate(timeout=60)
        assert (following.returncode, out) == (0, "from 1\nover\n"), err
    daemon.wait_job(job_id, "ended")
    assert "has ended" in shell("pause", job_id, code=1).stderr
    assert "has ended" in shell("resume", job_id, code=1).stderr
    assert shell("delete", job_id).stdout == f"{job_id}\n"
    assert "there is no job" in shell("logs", job_id, code=2).stderr


def test_a_job_that_is_none(shell: Shell, daemon: Daemon) -> None:
    for verb in ("logs", "attach", "result", "download", "cancel", "pause", "resume", "delete"):
        done = shell(verb, "job_nothing", code=2)
        assert "there is no job 'job_nothing'" in done.stderr
        assert "cumulus jobs" in done.stderr or "did you mean" in done.stderr


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_attach_cancels_as_run_does(
    shell: Shell, daemon: Daemon, number: signal.Signals, code: int
) -> None:
    job_id, pid = waiting_job(shell, daemon)
    with shell.begin("attach", job_id) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{pid}\n"
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
        assert process.stdout.readline() == "x" * 100 + "\n"
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
    later, job_id = done.stdout.splitlines()[-2:]
    assert f"the output of job {job_id} can't be written here: No space left on device; the " in (
        done.stderr
    )
    assert f"cumulus attach {job_id}\n" in done.stderr
    assert shell("attach", "-q", job_id).stdout == "x" * 100 + "\n"
    daemon.wait_job(later, "ended")


def test_a_second_ctrl_c_detaches_and_says_how_to_come_back(shell: Shell, daemon: Daemon) -> None:
    shell.write(
        "stubborn.py",
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print(os.getpid(), flush=True)\ntime.sleep(300)\n",
    )
    with shell.begin("run", "stubborn.py") as process:
        assert process.stdout is not None and process.stderr is not None
        pid = int(process.stdout.readline())
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


def test_workers_and_info(shell: Shell, daemon: Daemon) -> None:
    head, row = shell("workers").stdout.splitlines()
    assert head.split() == ["WORKER", "STATE", "DEVICE", "MEMORY", "FREE", "TIER", "NOTE"]
    assert " ready " in row and " advisory " in row
    (worker,) = [json.loads(line) for line in shell("workers", "--json").stdout.splitlines()]
    assert row.startswith(worker["hostname"])
    assert json.loads(shell("info", "--json").stdout)["role"] == "admin"


def test_login_keeps_what_works(shell: Shell, make_daemon: Any, tmp_path: Path) -> None:
    token = "a-token-of-some-length-0123456789"
    daemon = make_daemon(extra=tokens_for(token))
    daemon.start()
    bare = Shell(tmp_path)
    bare.environment.pop("CUMULUS_SERVER_URL", None)
    done = bare("login", "--server-url", daemon.url, "--api-key-stdin", stdin="wrong\n", code=69)
    assert not (tmp_path / "xdg").exists(), "what doesn't work isn't kept"
    done = bare("login", "--server-url", daemon.url, "--api-key-stdin", stdin=token + "\n")
    assert "you are alice (client)" in done.stdout
    path = tmp_path / "xdg/cumulus/config.toml"
    assert path.stat().st_mode & 0o777 == 0o600
    assert token in path.read_text()
    assert json.loads(bare("info", "--json").stdout)["owner"] == "alice"
    assert bare("info", code=69, CUMULUS_API_KEY="wrong").stdout == "", "the environment is first"
    bare("info", "--api-key", token, CUMULUS_API_KEY="wrong")
    bare("login", "--profile", "b", "--server-url", daemon.url, "--api-key-stdin", stdin=token)
    assert json.loads(bare("info", "--json", "--profile", "b").stdout)["owner"] == "alice"
    bare("info", CUMULUS_PROFILE="b")
    assert "no profile 'bb'; did you mean 'b'" in bare("info", "--profile", "bb", code=2).stderr
    path.chmod(0o644)
    assert "chmod 600" in bare("info", code=2).stderr


def tokens_for(token: str) -> str:
    digest = hashlib.sha256(token.encode()).hexdigest()
    return f"tokens:\n  - {{name: alice, owner: alice, role: client, token_sha256: {digest}}}\n"


def test_bash_completes(shell: Shell, daemon: Daemon) -> None:
    job_id, _ = waiting_job(shell, daemon)
    text = """\
eval "$(cumulus completion bash)"
complete_line() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _cumulus; printf '%s\\n' "${COMPREPLY[*]}"
}
complete_line cumulus ca
complete_line cumulus run --gpu
complete_line cumulus logs job_
complete_line cumulus run wai
complete_line cumulus completion f
"""
    done = subprocess.run(
        ["bash", "-c", text],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=shell.folder,
        env={**shell.environment, "PATH": f"{CUMULUS.parent}:{os.environ['PATH']}"},
    )
    verbs, options, jobs, files, shells = done.stdout.splitlines()
    assert (verbs, options, files, shells) == ("cancel", "--gpu-memory", "waits.py", "fish")
    assert job_id in jobs.split()
    shell("cancel", "-q", job_id)
    daemon.wait_job(job_id, "ended")
