"""The command line, Ctrl-C, the examples and the demo, as a person runs them."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.harness import PYTHON, REPOSITORY, Daemon, gone_within
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.next_line import next_line

CUMULUS = Path(sys.executable).with_name("cumulus")


def cumulus(
    daemon: Daemon, *arguments: str, server: str | None = None
) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [str(CUMULUS), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        stdin=subprocess.DEVNULL,
        cwd=daemon.folder,
        env={**os.environ, "CUMULUS_SERVER_URL": server or daemon.url},
    )


def test_run_a_script_with_arguments(daemon: Daemon) -> None:
    (daemon.folder / "beside.py").write_text("def shout(text):\n    return text.upper()\n")
    script = daemon.script(
        "import os, sys\nfrom beside import shout\n"
        "print(shout(sys.argv[1]), len(sys.argv), os.environ['COLOUR'], __name__)\n"
        "print('a warning', file=sys.stderr)\nsys.exit(3)\n",
        "job.py",
    )
    done = cumulus(daemon, "run", "--env", "COLOUR=blue", str(script), "--", "hello", "--flag")
    assert done.returncode == 3, done.stderr
    assert done.stdout == "HELLO 3 blue __main__\n"
    assert "a warning\n" in done.stderr
    assert "[cumulus] worker" in done.stderr
    quiet = cumulus(daemon, "run", "-q", "--env", "COLOUR=red", str(script), "--", "x")
    assert (quiet.stdout, quiet.stderr) == ("X 2 red __main__\n", "a warning\n")


def test_a_script_that_raises_shows_its_traceback_once(daemon: Daemon) -> None:
    script = daemon.script("def f():\n    raise KeyError('lost')\n\nf()\n", "raises.py")
    done = cumulus(daemon, "run", "--json", str(script))
    assert done.returncode == 1
    assert done.stderr.count("Traceback (most recent call last)") == 1, done.stderr
    assert "line 2, in f" in done.stderr
    assert "\nKeyError: 'lost'\n" in done.stderr
    assert last_json(done.stdout)["status"] == "failed"


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["run", "--duration", "1s", "sleeps.py"], 124, "ran longer than its 1 s"),
        (["run", "missing.py"], 2, "missing.py"),
        (["run", "--gpu-memory", "1.5", "sleeps.py"], 2, "--gpu-memory"),
        (["run", "--duration", "soon", "sleeps.py"], 2, "soon"),
        (["run"], 2, "script.py"),
        (["no-such-verb"], 2, "no-such-verb"),
    ],
)
def test_exit_codes(daemon: Daemon, arguments: list[str], code: int, words: str) -> None:
    daemon.script("import time\ntime.sleep(60)\n", "sleeps.py")
    done = cumulus(daemon, *arguments)
    assert done.returncode == code, done.stderr
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_no_daemon_there(daemon: Daemon) -> None:
    script = daemon.script("print(1)\n", "one.py")
    done = cumulus(daemon, "run", str(script), server="http://127.0.0.1:9")
    assert done.returncode == 69
    assert "127.0.0.1:9" in done.stderr and "Traceback" not in done.stderr


def test_doctor_tells_what_is_well_and_what_is_not(daemon: Daemon) -> None:
    deadline = time.monotonic() + 60
    while (done := cumulus(daemon, "doctor")).returncode != 0:
        assert time.monotonic() < deadline, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert all(line.startswith("ok ") for line in lines), done.stdout
    for subject in ("connection", "token", "version", "workers"):
        assert sum(line.split()[1] == subject for line in lines) == 1
    assert any("device 0:" in line and "tier" in line for line in lines)
    done = cumulus(daemon, "doctor", "--gpu")
    assert done.returncode == 1, "the local platform holds no job to its share, and says so"
    assert "tier advisory (booked, not enforced)" in done.stdout
    assert "booked, not enforced: nothing holds a job to its share here" in done.stdout
    done = cumulus(daemon, "doctor", "--json", server="http://127.0.0.1:9")
    assert done.returncode == 1, done.stderr
    answer = json.loads(done.stdout)
    assert answer["ok"] is False
    (fault,) = answer["findings"]
    assert fault["subject"] == "connection" and fault["advice"]


def test_ctrl_c_cancels_the_job(daemon: Daemon) -> None:
    script = daemon.script(
        "import os, time\nprint(os.getpid(), flush=True)\ntime.sleep(300)\n", "waits.py"
    )
    process = subprocess.Popen(
        [str(CUMULUS), "run", str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=daemon.folder,
        env={**os.environ, "CUMULUS_SERVER_URL": daemon.url},
    )
    with process:
        assert process.stdout is not None
        pid = int(next_line(process))
        process.send_signal(signal.SIGINT)
        gone_within([pid], 3.0)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert daemon.jobs()[0]["status"] == "cancelled"


def test_a_client_that_is_gone_leaves_its_job_running(daemon: Daemon) -> None:
    process = daemon.begin(
        HEAD
        + """
def f():
    import time
    for i in range(10):
        print(i)
        time.sleep(0.2)
    return "there"

job = client.submit(f, duration=60)
print(job.job_id)
next(iter(job.logs(follow=True)))
print("GO")
time.sleep(60)
"""
    )
    with process:
        assert process.stdout is not None
        job_id = next_line(process).strip()
        assert next_line(process) == "GO\n"
        process.kill()
    assert daemon.wait_job(job_id, "ended")["status"] == "completed"
    told = daemon.run(
        HEAD
        + f"""
job = client.attach("{job_id}")
print(json.dumps({{"log": "".join(job.logs()), "result": job.result(timeout=5)}}))
"""
    )
    assert last_json(told.stdout) == {
        "log": "".join(f"{i}\n" for i in range(10)),
        "result": "there",
    }


def test_a_reader_that_stalls_costs_bounded_memory_and_loses_nothing(daemon: Daemon) -> None:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status")

    def resident_bytes() -> int:
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    before = resident_bytes()
    process = daemon.begin(
        HEAD
        + """
def flood():
    block = "x" * 1023 + "\\n"
    for _ in range(60):
        sys.stdout.write(block * 1024)
    return "over"

import sys
job = client.submit(flood, duration=120)
chunks = job.logs(follow=True)
size = len(next(chunks))
print("STALL", flush=True)
time.sleep(4)
size += sum(len(chunk) for chunk in chunks)
print(json.dumps({"size": size, "result": job.result(timeout=30)}))
"""
    )
    with process:
        assert process.stdout is not None
        assert next_line(process) == "STALL\n"
        highest = before
        for _ in range(35):
            highest = max(highest, resident_bytes())
            time.sleep(0.1)
        out, err = process.communicate(timeout=60)
    assert last_json(out) == {"size": 60 << 20, "result": "over"}, err
    assert highest - before < 40 << 20, f"{(highest - before) >> 20} MiB more"


#: Those whose jobs need more than a job's Python has here, and the tests that run them.
ELSEWHERE = {"pytorch_checkpoint": "test_e2e_training.py, tests/engine/test_ml_image.py"}


def examples() -> list[Path]:
    found = sorted((REPOSITORY / "examples").glob("*.py"))
    return [path for path in found if path.stem not in ELSEWHERE]


@pytest.mark.parametrize("path", examples(), ids=lambda path: path.stem)
def test_every_example_runs(daemon: Daemon, path: Path) -> None:
    done = subprocess.run(
        [PYTHON, str(path)],
        capture_output=True,
        text=True,
        timeout=100,
        stdin=subprocess.DEVNULL,
        cwd=daemon.folder,
        env={**os.environ, "CUMULUS_SERVER_URL": daemon.url},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_the_readmes_first_example_is_one_of_them() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    first = readme.partition("```python\n")[2].partition("```\n")[0]
    assert first == (REPOSITORY / "examples/hello.py").read_text()


def test_the_demo_ends_in_one_json_object_and_leaves_nothing() -> None:
    done = subprocess.run(
        [str(REPOSITORY / "script/demo")],
        capture_output=True,
        text=True,
        timeout=110,
        stdin=subprocess.DEVNULL,
        cwd="/",
    )
    assert done.returncode == 0, done.stdout + done.stderr
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["status"] == "completed"
    assert last["job_id"].startswith("job_")
    assert isinstance(last["result"], dict)
    assert "Traceback" not in done.stderr
    lines = done.stderr
    assert "partition" in lines and "worker" in lines
