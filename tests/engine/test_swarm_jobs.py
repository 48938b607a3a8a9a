"""The jobs of tests/e2e on a real Swarm of three engines, and what only containers can show."""

import json
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from engines.cluster import Cluster
from engines.docker_api import DockerError
from tests.e2e.harness import Daemon, alive, gone_within

# The very tests of the local platform; those that look at process ids are rewritten below.
from tests.e2e.test_e2e_jobs import (  # noqa: F401
    HEAD,
    last_json,
    test_20000_lines_and_a_last_line_without_newline_are_exact,
    test_a_requirement_is_installed_and_shown,
    test_a_share_over_one_is_refused_naming_gpu_memory,
    test_an_exception_arrives_with_its_traceback_and_the_log,
    test_duration_ends_as_timeout,
    test_globals_and_helpers_travel_from_an_unguarded_script,
    test_numpy_and_pyopencl_are_there_without_being_required,
    test_output_streams_in_order_while_the_job_runs,
    test_requirements_that_do_not_resolve_say_why,
    test_run_prints_the_output_live_and_returns_the_result,
    test_three_thirds_fit_together,
)
from tests.engine.swarm_daemon import STRANGER, TOKENS, SwarmDaemon, processes_with
from tests.next_line import next_line

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]


restarts = pytest.mark.leaks(
    "processes", reason="the module's daemon is replaced by a new process; its fixture ends it"
)


def test_cancel_ends_the_container_and_all_in_it_within_a_second(swarm: SwarmDaemon) -> None:
    mark = f"31{random.randrange(10**6):06d}"
    process = swarm.begin(
        HEAD
        + f"""
def tree():
    import subprocess, sys, time
    subprocess.Popen(["sleep", "{mark}"])
    subprocess.Popen([sys.executable, "-c",
        "import signal,time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        "print('ready', flush=True); time.sleep({mark})"], start_new_session=True)
    time.sleep(600)

job = client.submit(tree, duration=900)
for chunk in job.logs(follow=True):
    if "ready" in chunk:
        break
print("READY", flush=True)
time.sleep(0.3)
print("CANCEL", flush=True)
job.cancel()
try:
    job.result(timeout=20)
except RuntimeError as error:
    print("ENDED", type(error).__name__, job.status())
"""
    )
    with process:
        assert process.stdout is not None
        assert next_line(process) == "READY\n"
        pids = [pid for pid in processes_with(mark) if pid != process.pid]
        assert len(pids) == 2
        assert next_line(process) == "CANCEL\n"
        gone_within(pids, 1.0)
        out, err = process.communicate(timeout=30)
    assert "ENDED JobCancelled cancelled" in out, (out, err)
    swarm.wait_nothing_left(30.0)


def test_three_of_0_6_share_two_devices(swarm: SwarmDaemon) -> None:
    done = swarm.run(
        HEAD
        + """
def span():
    import os, socket, time
    began = time.time()
    time.sleep(3)
    return [began, time.time()]

jobs = [client.submit(span, gpu_memory=0.6, duration=60) for _ in range(3)]
for _ in range(300):
    views = [client.get_job_status(job.job_id) for job in jobs]
    if sum(view["status"] == "running" for view in views) == 2:
        break
    time.sleep(0.05)
spans = [job.result(timeout=90) for job in jobs]
ends = [client.get_job_status(job.job_id) for job in jobs]
print(json.dumps({"spans": spans, "waits": [view["wait"] for view in views],
                  "workers": [view["worker"]["hostname"] for view in ends]}))
""",
        timeout_s=120,
    )
    told = last_json(done.stdout)
    waits = [wait for wait in told["waits"] if wait]
    assert [wait["reason"] for wait in waits] == ["no_free_share"]
    assert set(told["workers"]) == {"worker1", "worker2"}
    by_worker: dict[str, list[list[float]]] = {}
    for worker, span in zip(told["workers"], told["spans"], strict=True):
        by_worker.setdefault(worker, []).append(span)
    (twice,) = [sorted(spans) for spans in by_worker.values() if len(spans) == 2]
    assert twice[0][1] <= twice[1][0], "on one device 0.6 and 0.6 never overlap"
    swarm.wait_nothing_left(30.0)


def test_doctor_finds_each_devices_tier_to_hold(swarm: SwarmDaemon) -> None:
    done = subprocess.run(
        [str(Path(sys.executable).with_name("cumulus")), "doctor", "--gpu"],
        capture_output=True,
        text=True,
        timeout=200,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "CUMULUS_SERVER_URL": swarm.url, "CUMULUS_API_KEY": TOKENS["client"]},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    held = [line for line in done.stdout.splitlines() if "tier opencl: OpenCL held: " in line]
    assert len(held) == 2, done.stdout
    for line in held:
        taken, share = (int(word) for word in line.split() if word.isdecimal() and len(word) > 3)
        assert taken == share, "to the byte"
    swarm.wait_nothing_left(30.0)


def test_a_job_sees_little_and_can_write_less(swarm: SwarmDaemon) -> None:
    done = swarm.run(
        HEAD
        + """
def look():
    import os, pathlib, resource
    def try_write(path):
        try:
            pathlib.Path(path).write_text("x")
            return True
        except OSError:
            return False
    status = dict(line.split(":\\t", 1) for line in open("/proc/self/status") if ":\\t" in line)
    job_dir = os.environ["CUMULUS_JOB_DIR"]
    return {
        "uid": os.getuid(), "caps": int(status["CapEff"], 16), "bound": int(status["CapBnd"], 16),
        "writable": {path: try_write(path) for path in
                     ("/x", "/usr/x", "/etc/x", "/var/lib/cumulus/x", "/var/lib/cumulus/jobs/x",
                      job_dir + "/x")},
        "others": sorted(os.listdir("/var/lib/cumulus")),
        "jobs": os.listdir("/var/lib/cumulus/jobs"),
        "docker": os.path.exists("/var/run/docker.sock"),
        "secrets": os.path.exists("/run/secrets") and os.listdir("/run/secrets"),
        "environment": sorted(k for k in os.environ if "TOKEN" in k or "SECRET" in k),
        "pids_max": [open(p).read().strip() for p in
                     ("/sys/fs/cgroup/pids/pids.max", "/sys/fs/cgroup/pids.max")
                     if os.path.exists(p)],
    }

print(json.dumps(client.run(look, duration=60)))
"""
    )
    told = last_json(done.stdout)
    assert told["uid"] == 1000
    assert (told["caps"], told["bound"]) == (0, 0)
    can = [path for path, could in told["writable"].items() if could]
    assert len(can) == 1 and can[0].startswith("/var/lib/cumulus/jobs/job_")
    assert len(told["jobs"]) == 1, "no other job's folder is in sight"
    assert told["docker"] is False
    assert not told["secrets"]
    assert told["environment"] == []
    assert told["pids_max"] and all(text.isdigit() for text in told["pids_max"])
    swarm.wait_nothing_left(30.0)


def test_a_job_reaches_neither_daemon_nor_manager_nor_another_job(swarm: SwarmDaemon) -> None:
    layout = swarm.cluster.layout
    targets = [
        [layout.bridge_address, swarm.port],
        [layout.manager.address, 2377],
        *[[node.address, port] for node in layout.nodes for port in (7946, 2377)],
    ]
    done = swarm.run(
        HEAD
        + f"""
TARGETS = {targets!r}

def serve():
    import socket, time
    address = socket.gethostbyname(socket.gethostname())
    server = socket.create_server(("0.0.0.0", 7777))
    print("ADDRESS", address, flush=True)
    server.settimeout(25)
    try:
        server.accept()
        return "somebody came"
    except TimeoutError:
        return "nobody came"

def reach(targets):
    import socket
    found = []
    for host, port in targets:
        try:
            socket.create_connection((host, port), timeout=1.5).close()
            found.append([host, port])
        except OSError:
            pass
    return found

# Both on one device, so on one worker: the nearest that two jobs can be.
server = client.submit(serve, gpu_memory=0.3, duration=60)
log = ""
for chunk in server.logs(follow=True):
    log += chunk
    if "ADDRESS" in log and log.endswith("\\n"):
        break
address = log.split()[-1]
worker = client.get_job_status(server.job_id)["worker"]["hostname"]
job = client.submit(reach, args=[TARGETS + [[address, 7777]]], gpu_memory=0.3, duration=60)
reached = job.result(timeout=50)
print(json.dumps({{"reached": reached, "served": server.result(timeout=60), "address": address,
                  "same": client.get_job_status(job.job_id)["worker"]["hostname"] == worker}}))
""",
        timeout_s=120,
    )
    told = last_json(done.stdout)
    assert told["same"], "the two jobs were neighbours"
    assert told["address"].count(".") == 3 and not told["address"].startswith("127.")
    assert (told["reached"], told["served"]) == ([], "nobody came")
    swarm.wait_nothing_left(30.0)


@restarts
def test_a_killed_daemon_loses_and_doubles_no_line(swarm: SwarmDaemon) -> None:
    process = swarm.begin(
        HEAD
        + """
def talk():
    import time
    for i in range(80):
        print("line", i)
        time.sleep(0.05)
    return "done"

print("RESULT", client.run(talk, duration=60))
"""
    )
    with process:
        assert process.stdout is not None
        lines = [next_line(process) for _ in range(10)]
        swarm.kill()
        time.sleep(1.0)
        swarm.start()
        out, err = process.communicate(timeout=90)
    text = "".join(lines) + out
    assert text == "".join(f"line {i}\n" for i in range(80)) + "RESULT done\n", err
    swarm.wait_nothing_left(30.0)


@restarts
def test_a_job_ends_on_time_with_the_daemon_dead(swarm: SwarmDaemon) -> None:
    mark = f"32{random.randrange(10**6):06d}"
    told = swarm.run(
        HEAD
        + f"""
def long():
    import subprocess
    process = subprocess.Popen(["sleep", "{mark}"])
    print("begun", flush=True)
    process.wait()

job = client.submit(long, duration=3)
next(iter(job.logs(follow=True)))
print(json.dumps({{"job_id": job.job_id}}))
"""
    )
    job_id = last_json(told.stdout)["job_id"]
    swarm.kill()
    time.sleep(0.2)
    pids = processes_with(f"sleep {mark}")
    assert pids
    gone_within(pids, 8.0)
    swarm.start()
    view = swarm.wait_job(job_id, "ended", timeout_s=60)
    assert (view["status"], view["end"]["reason"]) == ("timeout", "duration_exceeded")
    swarm.wait_nothing_left(30.0)


def test_a_worker_without_its_agent_queues_and_takes_up_again(swarm: SwarmDaemon) -> None:
    api = swarm.cluster.api()
    agents = [s for s in api.call("GET", "/services") if "cumulus.agent" in s["Spec"]["Labels"]]
    assert len(agents) == 2
    # Their containers are stopped on the nodes; Swarm starts them anew after its delay.
    for node in swarm.cluster.layout.workers:
        engine = swarm.cluster.api(node)
        for container in engine.call("GET", "/containers/json"):
            if any("cumulus-agent-" in name for name in container["Names"]):
                engine.call("POST", f"/containers/{container['Id']}/kill")
    time.sleep(0.5)
    done = swarm.run(
        HEAD
        + """
def f():
    return "taken"

job = client.submit(f, duration=60)
waits = set()
while job.status() == "pending":
    wait = client.get_job_status(job.job_id)["wait"]
    waits.add(wait and wait["reason"])
    time.sleep(0.05)
print(json.dumps({"waits": sorted(filter(None, waits)), "result": job.result(timeout=90)}))
""",
        timeout_s=120,
    )
    told = last_json(done.stdout)
    assert told["result"] == "taken"
    assert "agent_away" in told["waits"]
    swarm.wait_usable()
    swarm.wait_nothing_left(30.0)


def kill_one(swarm: SwarmDaemon, chance: random.Random) -> str | None:
    """Kills a job's container that runs, as somebody else might; the job's id."""
    node = chance.choice(swarm.cluster.layout.workers)
    api = swarm.cluster.api(node)
    running = [
        one
        for one in api.call("GET", "/containers/json")
        if "cumulus.job" in one["Labels"] and one["State"] == "running"
    ]
    if not running:
        return None
    container = chance.choice(running)
    try:
        api.call("POST", f"/containers/{container['Id']}/kill")
    except DockerError:
        return None  # it has ended by itself just now
    return str(container["Labels"]["cumulus.job"])


def test_200_random_jobs_leave_ledger_and_swarm_agreed(swarm: SwarmDaemon) -> None:
    seed = random.randrange(10**6)
    process = swarm.begin(
        HEAD
        + f"""
import random
chance = random.Random({seed})

def work(kind, pause):
    import sys, time
    print(kind, flush=True)
    time.sleep(pause)
    if kind == "raise":
        raise ValueError(kind)
    if kind == "exit":
        sys.exit(3)
    return kind

jobs = []
for i in range(200):
    kind = chance.choice(["return", "return", "raise", "exit", "cancel"])
    share = chance.choice([0.03, 0.05, 0.1, 0.1, 0.25, 0.5])
    job = client.submit(work, args=[kind, chance.random() * 0.4], gpu_memory=share, duration=120)
    jobs.append((kind, job))
    if kind == "cancel" and chance.random() < 0.5:
        job.cancel()
for kind, job in jobs:
    if kind == "cancel":
        try:
            job.cancel()
        except RuntimeError:
            pass  # it has ended already
ends = []
for kind, job in jobs:
    try:
        job.result(timeout=240)
    except RuntimeError:
        pass
    ends.append([kind, job.job_id, job.status()])
print(json.dumps(ends))
"""
    )
    chance = random.Random(seed)
    killed: set[str | None] = set()
    worst: dict[str, int] = {}
    with process:
        while process.poll() is None:
            for worker, units in swarm.reserved_units().items():
                worst[worker] = max(worst.get(worker, 0), units)
            for worker, partitions in swarm.partitions().items():
                held = sum(partition["units"] for partition in partitions)
                assert held <= 10_000, f"{worker} (seed {seed})"
            if chance.random() < 0.2:
                killed.add(kill_one(swarm, chance))
            time.sleep(0.2)
        out, err = process.communicate(timeout=10)
    assert process.returncode == 0, f"seed {seed}: {err}\n{swarm.log_text()[-5000:]}"
    allowed = {
        "return": {"completed"},
        "raise": {"failed"},
        "exit": {"failed"},
        "cancel": {"cancelled", "completed"},
    }
    for kind, job_id, status in json.loads(out.strip().splitlines()[-1]):
        ends = allowed[kind] | ({"failed"} if job_id in killed else set())
        assert status in ends, f"seed {seed}: a {kind} job is {status}"
    assert killed - {None}, f"seed {seed}: nothing was killed"
    assert all(0 < units <= 10_000 for units in worst.values()), (seed, worst)
    swarm.wait_nothing_left(60.0)
    assert swarm.reserved_units() == {"worker1": 0, "worker2": 0}
    assert all(partitions == [] for partitions in swarm.partitions().values())
    text = swarm.get("/metrics", TOKENS["admin"])[1]
    told = dict(re.findall(r'cumulus_share_disagreements\{worker="(\w+)"\} (\S+)', text))
    assert told == {"worker1": "0.0", "worker2": "0.0"}, f"seed {seed}: {swarm.log_text()[-3000:]}"


def test_an_unhealthy_node_leaves_the_pool_by_swarms_own_word(swarm: SwarmDaemon) -> None:
    cluster = swarm.cluster
    cluster.kill("worker2")
    try:
        swarm.wait_usable(workers=1, timeout_s=60)
        done = swarm.run(
            HEAD
            + """
def where():
    return 1

jobs = [client.submit(where, gpu_memory=0.5, duration=60) for _ in range(3)]
for job in jobs:
    job.result(timeout=90)
print(json.dumps([client.get_job_status(job.job_id)["worker"]["hostname"] for job in jobs]))
""",
            timeout_s=120,
        )
        assert json.loads(done.stdout.strip().splitlines()[-1]) == ["worker1"] * 3
    finally:
        cluster.start("worker2")
        cluster.wait_ready()
    swarm.wait_usable(timeout_s=90)
    swarm.wait_nothing_left(30.0)


def test_the_container_s_own_log_shows_the_job(swarm: SwarmDaemon) -> None:
    """Requirement 15.5: the result as JSON on the container's stdout."""
    done = swarm.run(
        HEAD
        + """
def speak():
    import time
    print("words", flush=True)
    time.sleep(3)
    return {"answer": 42}

job = client.submit(speak, duration=60)
next(iter(job.logs(follow=True)))
print(job.job_id, flush=True)
print(job.result(timeout=30))
"""
    )
    assert "{'answer': 42}" in done.stdout
    swarm.wait_nothing_left(30.0)


def test_nobody_without_a_token_gets_in(swarm: SwarmDaemon) -> None:
    assert Daemon.get(swarm, "/api/jobs")[0] == 401
    assert Daemon.get(swarm, "/api/jobs", TOKENS["client"])[0] == 200
    host = swarm.cluster.layout.bridge_address
    done = subprocess.run(
        ["curl", "-s", "-m", "5", "-o", "/dev/null", "-w", "%{http_code}", "-X", "POST",
         f"http://{host}:{swarm.port}/provision/enroll", "-d", "{}"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert done.stdout.startswith("4"), done.stdout


def test_two_owners_see_only_their_own_jobs(swarm: SwarmDaemon) -> None:
    told = swarm.run(
        HEAD
        + f"""
def f():
    return 1

other = CumulusClient("{{URL}}", {STRANGER!r})
mine, theirs = client.submit(f, duration=60), other.submit(f, duration=60)
assert mine.result(timeout=60) == theirs.result(timeout=60) == 1
seen = []
for who, foreign in ((client, theirs), (other, mine)):
    try:
        who.get_job_status(foreign.job_id)
        seen.append("seen")
    except Exception as error:
        seen.append(type(error).__name__)
ids = [job["job_id"] for job in other.list_jobs()]
print(json.dumps({{"seen": seen, "theirs": ids == [theirs.job_id]}}))
"""
    )
    assert last_json(told.stdout) == {"seen": ["NotFound", "NotFound"], "theirs": True}
    swarm.wait_nothing_left(30.0)


def test_a_swarm_without_enrolled_workers_gives_503(
    cluster: Cluster, cluster_images: dict[str, str], tmp_path: Path
) -> None:
    daemon = SwarmDaemon(tmp_path / "none", cluster, cluster_images, enroll=False)
    try:
        daemon.start()
        done = daemon.run(
            HEAD
            + """
def f():
    return 1

try:
    client.run(f, duration=60)
except Exception as error:
    print(json.dumps({"text": str(error), "status": error.status, "job_id": error.job_id}))
"""
        )
    finally:
        daemon.stop()
    told = last_json(done.stdout)
    assert told["status"] == 503 and "No GPU workers available" in told["text"]
    assert told["job_id"].startswith("job_")


def test_a_cancelled_containers_share_is_free_only_when_its_lock_is(swarm: SwarmDaemon) -> None:
    process = swarm.begin(
        HEAD
        + """
def hold():
    import time
    print("holding", flush=True)
    time.sleep(600)

def quick():
    return "at last"

import os
held = [client.submit(hold, gpu_memory=1.0, duration=900) for _ in range(2)]
for job in held:
    next(iter(job.logs(follow=True)))
where = client.get_job_status(held[0].job_id)["worker"]["hostname"]
third = client.submit(quick, gpu_memory=1.0, duration=60)
print(json.dumps([held[0].job_id, where, third.job_id]), flush=True)
while not os.path.exists("frozen"):
    time.sleep(0.05)
held[0].cancel()
print(third.result(timeout=200), flush=True)
held[1].cancel()
"""
    )
    with process:
        assert process.stdout is not None
        first, worker, third = json.loads(next_line(process))
        engine = swarm.cluster.api(worker)
        (frozen,) = [
            container["Id"]
            for container in engine.call("GET", "/containers/json")
            if any(first in name for name in container["Names"])
        ]
        pids = processes_with(f"jobs/{first}")  # its init, its runner, the code
        assert len(pids) >= 2
        # Frozen before the cancel can reach it: its runner can't end anything.
        engine.call("POST", f"/containers/{frozen}/pause")
        (swarm.folder / "frozen").touch()
        looks, deadline = 0, time.monotonic() + 60
        while True:
            held = [each["job_id"] for each in swarm.partitions()[worker]]
            waiting = swarm.job(third)["status"] == "pending"
            if not any(alive(pid) for pid in pids):
                break
            assert held == [first], "its processes are there, so its share is not free"
            assert waiting
            looks += 1
            assert time.monotonic() < deadline, "Swarm's stop did not end the container"
            time.sleep(0.1)
        assert looks >= 10, "it was there for a while after the cancel"
        assert swarm.job(first)["status"] == "cancelled"
        out, err = process.communicate(timeout=120)
    assert out.strip() == "at last", err
    swarm.wait_nothing_left(60.0)


def test_a_share_is_the_next_jobs_before_swarm_tells_the_end_of_its_container(
    swarm: SwarmDaemon,
) -> None:
    done = swarm.run(
        HEAD
        + """
def hold(seconds):
    import time
    time.sleep(seconds)
    return seconds

def moments(job):
    return {one["phase"]: one["at"] for one in job.view()["timeline"]}

held = [client.submit(hold, args=[s], gpu_memory=1.0, duration=900) for s in (1.0, 600.0)]
while not all(job.running() for job in held):
    time.sleep(0.05)
third = client.submit(hold, args=[0.0], gpu_memory=1.0, duration=60)
assert third.result(timeout=200) == 0.0
held[1].cancel()
while "ended" not in moments(held[0]) or "ended" not in moments(third):
    time.sleep(0.05)
print(json.dumps([moments(held[0]), moments(third)]))
""",
        timeout_s=250.0,
    )
    first, third = json.loads(done.stdout)
    assert first["ending"] <= third["preparing"] < first["ended"]
    # Swarm's own sum has it begun behind the task before it.
    assert third["setup"] > first["ending"]
    swarm.wait_nothing_left(60.0)


def test_code_by_value_runs_or_is_refused_before_it_is_queued(swarm: SwarmDaemon) -> None:
    done = swarm.run(
        HEAD
        + """
from cumulus_client import InvalidArgument, JobFailed
class Own(ValueError):
    pass
def fails():
    raise Own("in the container")
here = "{}.{}".format(*sys.version_info[:2])
(theirs,) = {worker["python_version"] for worker in client.list_workers()}
before = len(client.list_jobs())
try:
    scale = 3
    value = client.run(lambda x: x * scale, args=[2], gpu_memory=0.1, duration=60)
    same = value == 6
except InvalidArgument as error:
    same = f"pickled by Python {here}" in str(error) and len(client.list_jobs()) == before
try:
    client.run(fails, gpu_memory=0.1, duration=60)
except JobFailed as error:
    cause = [type(error.__cause__) is Own, "user_script.py" in error.remote_traceback]
print(json.dumps({"theirs": theirs, "ok": same, "cause": cause}))
"""
    )
    told = last_json(done.stdout)
    assert told["theirs"] is not None, "the image's label says it"
    assert told["ok"] and told["cause"] == [True, True]
    swarm.wait_nothing_left(30.0)
