"""The daemon itself: killed, restarted, misconfigured, asked by strangers."""

import hashlib
import json
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.harness import JOB_PYTHON, TWISTD, Daemon, gone_within
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.next_line import next_line

MakeDaemon = Callable[..., Daemon]


def test_a_killed_daemon_loses_and_doubles_no_line(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    process = daemon.begin(
        HEAD
        + """
def talk():
    import time
    for i in range(60):
        print("line", i)
        time.sleep(0.05)
    return "done"

result = client.run(talk, duration=60)
print("RESULT", result)
"""
    )
    with process:
        assert process.stdout is not None
        lines = [next_line(process) for _ in range(10)]
        daemon.kill()
        time.sleep(1.0)
        daemon.start()
        out, err = process.communicate(timeout=60)
    text = "".join(lines) + out
    assert text == "".join(f"line {i}\n" for i in range(60)) + "RESULT done\n", err
    daemon.wait_nothing_left()


def test_the_deadline_holds_while_the_daemon_is_dead(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    told = daemon.run(
        HEAD
        + """
def long():
    import os, time
    print(os.getpid())
    time.sleep(300)

job = client.submit(long, duration=2)
pid = next(iter(job.logs(follow=True))).strip()
print(json.dumps({"job_id": job.job_id, "pid": int(pid)}))
"""
    )
    job = last_json(told.stdout)
    daemon.kill()
    gone_within([job["pid"]], 4.0)
    daemon.start()
    view = daemon.wait_job(job["job_id"], "ended")
    assert (view["status"], view["end"]["reason"]) == ("timeout", "duration_exceeded")
    daemon.wait_nothing_left()


def test_a_finished_job_is_still_there_after_a_restart(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    told = daemon.run(
        HEAD
        + """
def f():
    print("kept")
    return {"kept": True}

job = client.submit(f, duration=60)
job.result(timeout=30)
print(json.dumps({"job_id": job.job_id}))
"""
    )
    job_id = last_json(told.stdout)["job_id"]
    daemon.wait_job(job_id, "ended")
    timeline = daemon.get(f"/api/jobs/{job_id}")[1]["timeline"]
    assert [moment["phase"] for moment in timeline] == [
        *("queued", "preparing", "launching", "setup", "running", "ending", "ended")
    ]
    times = [moment["at"] for moment in timeline]
    assert times == sorted(times) and {moment["attempt"] for moment in timeline} == {1}
    assert daemon.stop() == -signal.SIGTERM, "twistd ends by the signal it was sent"
    daemon.start()
    assert daemon.get(f"/api/jobs/{job_id}")[1]["timeline"] == timeline
    again = daemon.run(
        HEAD
        + f"""
job = client.attach("{job_id}")
print(json.dumps({{"log": "".join(job.logs()), "result": job.result(timeout=10),
                  "status": job.status()}}))
"""
    )
    assert last_json(again.stdout) == {
        "log": "kept\n",
        "result": {"kept": True},
        "status": "completed",
    }


def test_a_killed_runner_ends_the_job_by_name(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    process = daemon.begin(
        HEAD
        + """
def long():
    import os, time
    print("RUNNER", os.getppid())
    print("CODE", os.getpid())
    time.sleep(300)

job = client.submit(long, duration=600)
for chunk in job.logs(follow=True):
    print(chunk, end="")
try:
    job.result(timeout=30)
except RuntimeError as error:
    print(json.dumps({"reason": error.reason, "text": str(error)}))
"""
    )
    with process:
        assert process.stdout is not None
        runner = int(next_line(process).split()[1])
        code = int(next_line(process).split()[1])
        subprocess.run(["kill", "-9", str(runner)], check=True)
        out, _ = process.communicate(timeout=60)
    assert last_json(out)["reason"] == "runner_failed"
    gone_within([code], 10.0)
    daemon.wait_nothing_left()


def test_a_killed_runner_is_run_again_into_one_stream(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon().start()
    process = daemon.begin(
        HEAD
        + """
def twice(marker):
    import os, time
    first = not os.path.exists(marker)
    open(marker, "w").close()
    if first:
        print("RUNNER", os.getppid())
        time.sleep(300)
    print("second")
    return 7

job = client.submit(twice, args=[MARKER], duration=600, retries=1)
for chunk in job.logs(follow=True):
    print(chunk, end="")
print(json.dumps({"job_id": job.job_id, "result": job.result(timeout=30)}))
""".replace("MARKER", repr(str(daemon.folder / "marker")))
    )
    with process:
        assert process.stdout is not None
        runner = next_line(process).split()[1]
        subprocess.run(["kill", "-9", runner], check=True)
        out, err = process.communicate(timeout=60)
    assert out.splitlines()[0] == "second", err
    told = last_json(out)
    assert told["result"] == 7
    view = daemon.get(f"/api/jobs/{told['job_id']}")[1]
    assert (view["status"], view["attempt"], view["retries"]) == ("completed", 2, 1)
    (over,) = view["attempts"]
    assert (over["attempt"], over["reason"]) == (1, "runner_failed")
    assert view["end"]["log_tail"] == "second\n"
    daemon.wait_nothing_left()


def test_no_worker_gives_503(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(count_cpu_devices=False).start()
    text = (
        HEAD
        + """
def f():
    return 1

try:
    client.run(f, duration=60)
except Exception as error:
    print(json.dumps({"text": str(error), "status": getattr(error, "status", None),
                      "job_id": error.job_id, "kind": type(error).__name__}))
"""
    )
    deadline = time.monotonic() + 30
    while "present" not in daemon.log_text():
        assert time.monotonic() < deadline, daemon.log_text()
        time.sleep(0.1)
    told = last_json(daemon.run(text).stdout)
    assert told["status"] == 503, told
    assert "No GPU workers available" in told["text"]
    assert told["job_id"].startswith("job_")


def test_two_owners_see_only_their_own_jobs(make_daemon: MakeDaemon) -> None:
    tokens = {name: f"token-of-{name}-0123456789abcdef" for name in ("ann", "bob", "eve", "root")}
    entries = "".join(
        f"  - {{name: {name}, owner: {name}, role: {role}, token_sha256: "
        f"{hashlib.sha256(tokens[name].encode()).hexdigest()}}}\n"
        for name, role in (
            ("ann", "client"),
            ("bob", "client"),
            ("eve", "viewer"),
            ("root", "admin"),
        )
    )
    daemon = make_daemon(extra=f"tokens:\n{entries}").start()

    def as_user(name: str, body: str) -> dict:  # type: ignore[type-arg]
        head = (
            "import json\nfrom cumulus_client import CumulusClient\n"
            f'client = CumulusClient("{daemon.url}", api_key="{tokens[name]}")\n'
        )
        return last_json(daemon.run(head + body).stdout)

    submit = """
def f():
    return 1

job = client.submit(f, duration=60)
job.result(timeout=30)
print(json.dumps({"job_id": job.job_id}))
"""
    look = """
def attempt(call):
    try:
        return call()
    except Exception as error:
        return type(error).__name__

jobs = [job["job_id"] for job in client.list_jobs()]
print(json.dumps({"jobs": jobs, "get": attempt(lambda: client.get_job_status(OTHER)["job_id"]),
                  "cancel": attempt(lambda: client.cancel_job(OTHER)),
                  "logs": attempt(lambda: "".join(client.attach(OTHER).logs()))}))
"""
    ann = as_user("ann", submit)["job_id"]
    bob = as_user("bob", submit)["job_id"]
    for name, own, other in (("ann", ann, bob), ("bob", bob, ann)):
        seen = as_user(name, f"OTHER = {other!r}\n" + look)
        assert seen["jobs"] == [own]
        assert (seen["get"], seen["cancel"], seen["logs"]) == ("NotFound",) * 3
    viewer = as_user("eve", f"OTHER = {ann!r}\n" + look)
    assert set(viewer["jobs"]) == {ann, bob}
    assert (viewer["get"], viewer["logs"]) == (ann, "")
    assert viewer["cancel"] not in (True, False), "a viewer changes nothing"
    assert set(as_user("root", f"OTHER = {ann!r}\n" + look)["jobs"]) == {ann, bob}
    assert daemon.get("/api/jobs")[0] == 401
    assert daemon.get("/api/jobs", "wrong-token")[0] == 401
    assert [job["job_id"] for job in daemon.get("/api/jobs", tokens["ann"])[1]] == [ann]
    assert daemon.get("/health")[0] == 200
    wrong = daemon.run(
        'from cumulus_client import CumulusClient\nCumulusClient("{URL}", "nope").list_jobs()\n',
        check=False,
    )
    assert wrong.returncode != 0
    assert "NotAuthenticated" in wrong.stderr


def test_http_tells_health_metrics_and_jobs(daemon: Daemon) -> None:
    told = daemon.run(
        HEAD
        + """
def f():
    return 1

job = client.submit(f, duration=60)
job.result(timeout=30)
print(json.dumps({"job_id": job.job_id, "info": client.get_server_info()}))
"""
    )
    job = last_json(told.stdout)
    status, health = daemon.get("/health")
    assert (status, health["status"]) == (200, "healthy")
    assert set(health["parts"].values()) == {"ok"}
    metrics = daemon.get("/metrics")[1]
    for line in (
        r"cumulus_jobs_active 0(\.0)?",
        r'cumulus_jobs_ended_total\{reason="none",state="completed"\} \d+(\.0)?',
        r"cumulus_job_success_ratio [01](\.\d+)?",
        r"cumulus_job_run_seconds_average \d+\.\d+",
        r'cumulus_workers\{state="ready"\} 1(\.0)?',
    ):
        assert re.search(f"^{line}$", metrics, re.M), line
    assert daemon.get("/api/jobs/" + job["job_id"])[1]["status"] == "completed"
    assert job["job_id"] not in [each["job_id"] for each in daemon.get("/api/jobs?active=1")[1]]
    assert daemon.get("/api/jobs/job_nosuch")[0] == 404
    assert job["info"]["chronos_available"] is True
    assert job["info"]["gpu_devices"][0]["name"]


def test_a_taken_port_ends_the_daemon_with_a_clear_message(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", daemon.port))
        taken.listen()
        daemon.start(wait=False)
        assert daemon.process is not None
        assert daemon.process.wait(20) not in (0, None)
    text = daemon.log_text()
    assert str(daemon.port) in text and "in use" in text
    assert "Traceback" not in text


def test_all_faults_of_a_configuration_at_once(tmp_path: Path) -> None:
    config = tmp_path / "bad.yaml"
    config.write_text(
        "listen: ['tcp:0.0.0.0:x']\nplatfrom: {type: local}\njobs: {history_hours: 1}\n"
    )
    done = subprocess.run(
        [str(TWISTD), "-n", "--pidfile=", "cumulusd", "--config", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
        cwd=tmp_path,
    )
    assert done.returncode == 78
    for key in ("listen", "platfrom", "jobs.history_hours"):
        assert key in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_is_ordered_and_jobs_go_on(make_daemon: MakeDaemon, number: int) -> None:
    daemon = make_daemon().start()
    told = daemon.run(
        HEAD
        + """
def f():
    import time
    print("begun")
    time.sleep(3)
    print("over")
    return "survived"

job = client.submit(f, duration=60)
next(iter(job.logs(follow=True)))
print(json.dumps({"job_id": job.job_id}))
"""
    )
    job_id = last_json(told.stdout)["job_id"]
    assert daemon.process is not None
    daemon.process.send_signal(number)
    assert daemon.process.wait(20) == -number
    assert "took too long" not in daemon.log_text()
    daemon.start()
    view = daemon.wait_job(job_id, "ended")
    assert view["status"] == "completed"
    log = daemon.log_text()
    events = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    about = [event for event in events if event.get("job_id") == job_id]
    assert about, "events carry the job id"
    assert all(event.get("time") or event.get("timestamp") for event in about)
    daemon.wait_nothing_left()


def test_a_second_daemon_on_the_same_state_is_refused(make_daemon: MakeDaemon) -> None:
    first = make_daemon().start()
    second = make_daemon()
    second.config.write_text(
        second.config.read_text().replace("state_dir: state", f"state_dir: {first.state_dir}")
    )
    second.start(wait=False)
    assert second.process is not None
    assert second.process.wait(20) not in (0, None)
    assert "Traceback" not in second.log_text()
    assert first.get("/health")[0] == 200


def test_the_job_interpreter_has_no_client() -> None:
    """What the tests above rely on."""
    code = "import importlib.util as u; print(u.find_spec('cumulus_client'))"
    done = subprocess.run([str(JOB_PYTHON), "-I", "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "None"
