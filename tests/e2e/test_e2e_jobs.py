"""A job's way from a user's script to its result, over real processes on the local platform."""

import itertools
import json
import re
import time

from tests.e2e.harness import Daemon, gone_within
from tests.next_line import next_line

HEAD = """\
import json, sys, time
from cumulus_client import CumulusClient
client = CumulusClient("{URL}")
"""


def last_json(text: str) -> dict:  # type: ignore[type-arg]
    value = json.loads(text.strip().splitlines()[-1])
    assert isinstance(value, dict)
    return value


def test_output_streams_in_order_while_the_job_runs(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def count(n, pause=0.25):
    import time
    for i in range(n):
        print("line", i)
        time.sleep(pause)
    return {"n": n, "ended": time.time()}

job = client.submit(count, args=[6], duration=60)
seen = []
for chunk in job.logs(follow=True):
    seen.append((time.time(), chunk))
result = job.result(timeout=10)
text = "".join(chunk for _, chunk in seen)
print(json.dumps({"text": text, "lead": result["ended"] - seen[0][0],
                  "chunks": len(seen), "n": result["n"]}))
"""
    )
    told = last_json(done.stdout)
    assert told["text"] == "".join(f"line {i}\n" for i in range(6))
    assert told["n"] == 6
    assert told["chunks"] >= 4, "the lines came one after the other, not at the end"
    assert told["lead"] > 0.8, "the first line was there long before the function returned"


def test_run_prints_the_output_live_and_returns_the_result(daemon: Daemon) -> None:
    process = daemon.begin(
        HEAD
        + """
def speak():
    import sys, time
    print("to stdout")
    print("to stderr", file=sys.stderr)
    time.sleep(2)
    return [1, "two", None]

print("RESULT", client.run(speak, gpu_memory=0.25, duration=60))
"""
    )
    with process:
        assert process.stdout is not None and process.stderr is not None
        assert next_line(process) == "to stdout\n"
        assert process.poll() is None, "the line came while the job ran"
        out, err = process.communicate(timeout=30)
    assert out == "RESULT [1, 'two', None]\n"
    assert "to stderr\n" in err
    status = [line for line in err.splitlines() if line.startswith("[cumulus]")]
    job = daemon.jobs()[0]
    assert any(job["partition_id"] in line for line in status), status
    assert any("0.25" in line or "25" in line for line in status), status
    assert job["status"] == "completed"


def test_20000_lines_and_a_last_line_without_newline_are_exact(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def flood():
    import sys
    for i in range(20_000):
        print(f"{i:06d} " + "x" * (i % 90))
    sys.stdout.write("no newline at the end")

job = client.submit(flood, duration=120)
text = "".join(job.logs(follow=True))
want = "".join(f"{i:06d} " + "x" * (i % 90) + "\\n" for i in range(20_000))
want += "no newline at the end"
again = "".join(job.logs(follow=True))
print(json.dumps({"exact": text == want, "again": again == want, "length": len(text)}))
"""
    )
    told = last_json(done.stdout)
    assert told["exact"], told
    assert told["again"], "history and live output are one code path"


def test_an_exception_arrives_with_its_traceback_and_the_log(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def inner(x):
    raise ValueError(f"bad value {x}")

def fails():
    print("before the failure")
    inner(42)

try:
    client.run(fails, duration=60)
except RuntimeError as error:
    print(json.dumps({"text": str(error), "kind": type(error).__name__,
                      "job_id": error.job_id, "reason": error.reason}))
"""
    )
    told = last_json(done.stdout)
    assert "before the failure\n" in done.stdout
    assert told["text"].startswith("Job failed: ")
    assert "ValueError: bad value 42" in told["text"]
    assert 'raise ValueError(f"bad value {x}")' in told["text"], "with the source line"
    assert re.search(r"line 6, in inner", told["text"]), "with the script's own line number"
    assert told["reason"] == "user_error"
    job = daemon.job(told["job_id"])
    assert (job["status"], job["end"]["error"]["type"]) == ("failed", "ValueError")


def test_cancel_ends_the_whole_process_group_within_a_second(daemon: Daemon) -> None:
    process = daemon.begin(
        HEAD
        + """
def tree():
    import os, subprocess, sys, time
    child = subprocess.Popen(["sleep", "300"])
    stubborn = subprocess.Popen([sys.executable, "-c",
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep(300)"], start_new_session=True)
    time.sleep(0.5)
    print("PIDS", os.getpid(), child.pid, stubborn.pid, flush=True)
    time.sleep(300)

job = client.submit(tree, duration=600)
print(job.job_id)
said = ""
for chunk in job.logs(follow=True):
    said += chunk  # one print may come in several
    if "PIDS" in said and said.endswith("\\n"):
        break
print(said, end="")
time.sleep(0.2)
began = time.time()
print("CANCEL", began)
job.cancel()
try:
    job.result(timeout=20)
except RuntimeError as error:
    print("ENDED", type(error).__name__, job.status())
"""
    )
    with process:
        assert process.stdout is not None
        job_id = next_line(process).strip()
        pids: list[int] = []
        for line in process.stdout:
            if line.startswith("PIDS"):
                pids = [int(word) for word in line.split()[1:]]
            if line.startswith("CANCEL"):
                break
        assert len(pids) == 3
        gone_within(pids, 1.0)
        out, err = process.communicate(timeout=30)
    assert "ENDED JobCancelled cancelled" in out, (out, err)
    assert daemon.job(job_id)["end"]["reason"] == "cancelled_by_user"


def test_cancel_of_a_waiting_job(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def hold():
    import time
    print("holding")
    time.sleep(60)

first = client.submit(hold, gpu_memory=1.0, duration=120)
next(iter(first.logs(follow=True)))
second = client.submit(hold, gpu_memory=0.5, duration=120)
time.sleep(0.3)
view = client.get_job_status(second.job_id)
second.cancel()
try:
    second.result(timeout=5)
except RuntimeError as error:
    kind = type(error).__name__
first.cancel()
print(json.dumps({"view": view, "kind": kind, "status": second.status()}))
"""
    )
    told = last_json(done.stdout)
    assert (told["kind"], told["status"]) == ("JobCancelled", "cancelled")
    wait = told["view"]["wait"]
    assert told["view"]["status"] == "pending"
    assert wait["reason"] == "no_free_share"
    assert "position 1 of 1" in wait["message"]


def test_duration_ends_as_timeout(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def long():
    import time
    print("started")
    time.sleep(60)

try:
    client.run(long, duration=1)
except TimeoutError as error:
    print(json.dumps({"text": str(error), "job_id": error.job_id}))
"""
    )
    told = last_json(done.stdout)
    assert told["text"].startswith("Job timed out")
    job = daemon.job(told["job_id"])
    assert (job["status"], job["end"]["reason"]) == ("timeout", "duration_exceeded")


def test_globals_and_helpers_travel_from_an_unguarded_script(daemon: Daemon) -> None:
    helper = daemon.folder / "my_helpers.py"
    helper.write_text("FACTOR = 3\n\ndef triple(x):\n    return x * FACTOR\n")
    try:
        done = daemon.run(
            """\
import importlib.util
import json
import math as m
from pathlib import Path
from my_helpers import triple
from cumulus_client import CumulusClient

marker = Path("TOP_LEVEL_RAN.txt")
marker.write_text("at the client")
client = CumulusClient("{URL}")
OFFSET = 1
TABLE = {"a": [1, 2], "b": (3, 4)}
OFFSET = OFFSET + 99
BASE = Path("/srv/data")

class Point:
    SCALE = OFFSET
    def __init__(self, x):
        self.x = x * self.SCALE

def helper(x):
    return m.floor(triple(x)) + OFFSET

def work(x, *, y=OFFSET):
    import importlib.util, os
    return {"helper": helper(x), "y": y, "point": Point(2).x, "b": sum(TABLE["b"]),
            "base": str(BASE),
            "client_there": importlib.util.find_spec("cumulus_client") is not None,
            "top_level_ran": os.path.exists("TOP_LEVEL_RAN.txt")}

print(json.dumps(client.run(work, args=[5], duration=60)))
"""
        )
    finally:
        helper.unlink()
    assert last_json(done.stdout) == {
        "helper": 115,
        "y": 100,
        "point": 200,
        "b": 7,
        "base": "/srv/data",
        "client_there": False,
        "top_level_ran": False,
    }


def test_a_share_over_one_is_refused_naming_gpu_memory(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def f():
    return 1

try:
    client.run(f, gpu_memory=1.5, duration=60)
except Exception as error:
    print(json.dumps({"text": str(error), "status": error.status, "job_id": error.job_id,
                      "details": error.details}))
"""
    )
    told = last_json(done.stdout)
    assert "gpu_memory" in told["text"]
    assert told["status"] == 400
    assert told["job_id"]
    assert [fault["key"] for fault in told["details"]["faults"]] == ["gpu_memory"]


def test_three_of_0_6_never_overlap_and_wait_with_a_reason(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def span():
    import time
    began = time.time()
    time.sleep(0.7)
    return [began, time.time()]

jobs = [client.submit(span, gpu_memory=0.6, duration=60) for _ in range(3)]
time.sleep(0.3)
views = [client.get_job_status(job.job_id) for job in jobs]
spans = sorted(job.result(timeout=60) for job in jobs)
print(json.dumps({"spans": spans, "waits": [view["wait"] for view in views if view["wait"]]}))
"""
    )
    told = last_json(done.stdout)
    spans = told["spans"]
    for (_, end), (begin, _) in itertools.pairwise(spans):
        assert end <= begin, spans
    reasons = [wait for wait in told["waits"] if wait["reason"] == "no_free_share"]
    assert len(reasons) == 2, told["waits"]
    for wait in reasons:
        assert "position" in wait["message"] and "0.6" in wait["message"]


def test_three_thirds_fit_together(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def meet(name):
    import time
    began = time.time()
    time.sleep(2.0)
    return [began, time.time()]

jobs = [client.submit(meet, args=[i], gpu_memory=1/3, duration=60) for i in range(3)]
print(json.dumps({"spans": [job.result(timeout=60) for job in jobs]}))
"""
    )
    spans = last_json(done.stdout)["spans"]
    assert max(begin for begin, _ in spans) < min(end for _, end in spans), spans


def test_numpy_and_pyopencl_are_there_without_being_required(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def device():
    import numpy, pyopencl
    names = [d.name for p in pyopencl.get_platforms() for d in p.get_devices()]
    return {"sum": float(numpy.arange(4).sum()), "names": names}

print(json.dumps(client.run(device, duration=60)))
"""
    )
    told = last_json(done.stdout)
    assert told["sum"] == 6.0
    assert told["names"]


def test_a_requirement_is_installed_and_shown(daemon: Daemon) -> None:
    # A version that no other test installs: the cache is the worker's.
    done = daemon.run(
        HEAD
        + """
def use():
    import six
    return six.__version__

for requirement in ("six==1.14.0", "Six == 1.14.0  # the same"):
    print(json.dumps({"version": client.run(use, requirements=[requirement], duration=60)}))
"""
    )
    assert last_json(done.stdout)["version"] == "1.14.0"
    told = re.findall(r"\[cumulus\] (?:job_\w+: )?requirements: (\w+)", done.stderr)
    assert told == ["installed", "cached"]
    first, _, second = done.stderr.partition("requirements: installed")
    assert "six==1.14.0" in first, "what uv says is shown as it installs"
    assert "six==1.14.0" not in second, "and nothing is installed the second time"


def test_requirements_that_do_not_resolve_say_why(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def f():
    return 1

try:
    client.run(f, requirements=["six==99.99"], duration=60)
except RuntimeError as error:
    print(json.dumps({"text": str(error), "reason": error.reason}))
"""
    )
    told = last_json(done.stdout)
    assert told["reason"] == "requirements_failed"
    assert "six==99.99" in told["text"]


def test_partitions_folders_and_processes_of_ended_jobs_are_gone(daemon: Daemon) -> None:
    done = daemon.run(
        HEAD
        + """
def leave():
    import subprocess
    child = subprocess.Popen(["sleep", "300"], start_new_session=True)
    return child.pid

def fail():
    raise SystemExit(3)

job = client.submit(leave, duration=60)
pid = job.result(timeout=30)
bad = client.submit(fail, duration=60)
try:
    bad.result(timeout=30)
except RuntimeError as error:
    print(json.dumps({"pid": pid, "exit_code": error.exit_code, "reason": error.reason}))
"""
    )
    told = last_json(done.stdout)
    assert (told["exit_code"], told["reason"]) == (3, "exit_code")
    gone_within([told["pid"]], 2.0)
    daemon.wait_nothing_left(5.0)
    deadline = time.monotonic() + 5.0
    while True:
        text = daemon.get("/metrics")[1]
        if re.search(r"^cumulus\w*active\w* 0(\.0)?$", text, re.M):
            break
        assert time.monotonic() < deadline, text
        time.sleep(0.1)
