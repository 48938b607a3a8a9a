"""Every verb of the command line against a real daemon, as a person or a script uses it."""

import hashlib
import json
import os
import re
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import Daemon, gone_within
from tests.e2e.shell import CUMULUS, Shell, waiting_job
from tests.next_line import next_line

#: Many commands, each a process of its own.
pytestmark = pytest.mark.timeout(300)


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
        assert next_line(following) == "from 0\n"
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
    named = ("login", "--profile", "c", "--name", "alice", "--server-url", daemon.url)
    bare(*named, "--api-key-stdin", stdin=token)
    assert 'api_key_name = "alice"' in path.read_text()
    assert json.loads(bare("info", "--json", "--profile", "c").stdout)["owner"] == "alice"
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
