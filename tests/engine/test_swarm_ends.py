"""Each end that a job can have on a real Swarm: what its owner is told; nothing is left."""

import contextlib
import json
import os
import random
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from engines.cluster import Cluster
from tests.e2e.harness import gone_within
from tests.e2e.test_e2e_jobs import HEAD, last_json
from tests.engine.swarm_daemon import SwarmDaemon, on_cluster, processes_with

pytestmark = [pytest.mark.engine, pytest.mark.timeout(300)]

restarts = pytest.mark.leaks(
    "processes", reason="the module's daemon is replaced by a new process; its fixture ends it"
)
#: How long an agent may be away before its jobs are given up.
AGENT_GRACE_S = 30.0
#: What jobs say before they end.
SAID = "said before the end\n"
View = dict[str, Any]


@dataclass(frozen=True)
class Told:
    """What a job's view is to say. Words: each stands in that text."""

    status: str
    reason: str | None
    message: tuple[str, ...]
    hint: tuple[str, ...] = ()  #: whoever's job failed is told what to do
    exit_code: int | None = None
    signal: int | None = None
    tail: str | None = SAID  #: what the log's tail ends with; None: the job said nothing

    def check(self, view: View) -> None:
        end = view["end"]
        assert (view["status"], end["reason"]) == (self.status, self.reason), end
        assert view["job_id"].startswith("job_")
        for word in self.message:
            assert word in end["message"], end
        if self.reason is not None:
            assert end["hint"], f"nobody is told what to do: {end}"
        for word in self.hint:
            assert word in end["hint"], end
        assert (end["exit_code"], end["signal"]) == (self.exit_code, self.signal), end
        if self.tail is None:
            assert end["log_tail"] in ("", None), end
        else:
            assert (end["log_tail"] or "").endswith(self.tail), end


@pytest.fixture(scope="module")
def swarm(
    cluster: Cluster,
    cluster_images: dict[str, str],
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[SwarmDaemon]:
    """One daemon for this module, on the session's cluster, that gives workers up sooner."""
    made = SwarmDaemon(tmp_path_factory.mktemp("ends"), cluster, cluster_images)
    configure(made, agent_grace_s=AGENT_GRACE_S, jobs={"package_max_bytes": 4 << 20})
    with on_cluster(made):
        yield made


def configure(daemon: SwarmDaemon, jobs: Mapping[str, Any] | None = None, **more: Any) -> None:
    """For its next start."""
    config = json.loads(daemon.config.read_text())
    config["jobs"].update(jobs or {})
    daemon.config.write_text(json.dumps({**config, **more}))


def begin(daemon: SwarmDaemon, code: str, **options: Any) -> str:
    """Submits a function `f` with that body: the job's id."""
    body = "".join(f"    {line}\n" for line in code.strip().splitlines())
    given = "".join(f", {name}={value!r}" for name, value in {"duration": 60, **options}.items())
    done = daemon.run(
        HEAD
        + f"def f():\n    import os, sys, time\n{body}\n"
        + f'print(json.dumps({{"job_id": client.submit(f{given}).job_id}}))\n'
    )
    return str(last_json(done.stdout)["job_id"])


def cancel(daemon: SwarmDaemon, job_id: str) -> None:
    daemon.run(HEAD + f"client.cancel_job({job_id!r})\n")


def ended(daemon: SwarmDaemon, job_id: str, timeout_s: float = 90.0) -> View:
    daemon.wait_job(job_id, "ended", timeout_s=timeout_s)
    return one(daemon, job_id)


def one(daemon: SwarmDaemon, job_id: str) -> View:
    """With its log's tail, which listings leave out."""
    status, view = daemon.get(f"/api/jobs/{job_id}")
    assert status == 200
    return dict(view)


def until(wanted: Callable[[], Any], what: str, timeout_s: float = 60.0) -> Any:
    """What `wanted` gives, once that is true."""
    deadline = time.monotonic() + timeout_s
    while not (found := wanted()):
        assert time.monotonic() < deadline, f"not {what} within {timeout_s:g} s"
        time.sleep(0.05)
    return found


def running(daemon: SwarmDaemon, job_id: str) -> str:
    """Waits until it has said something; the worker's name."""
    view = daemon.wait_job(job_id, "running", timeout_s=60)
    until(lambda: "\n" in daemon.get(f"/api/jobs/{job_id}/logs")[1], "talking")
    return str(view["worker"]["hostname"])


def container_of(daemon: SwarmDaemon, worker: str, name: str) -> str | None:
    """The id of the worker's container with that in its name, while it runs."""
    for container in daemon.cluster.api(worker).call("GET", "/containers/json"):
        if any(name in each for each in container["Names"]):
            return str(container["Id"])
    return None


# --- of the job's own making --------------------------------------------------------------------

OWN = {
    "success": Told("completed", None, ("completed",), exit_code=0),
    "exception": Told("failed", "user_error", ("ValueError: boom",), exit_code=1),
    "exit": Told("failed", "exit_code", ("exit code 3",), exit_code=3),
    "signal": Told("failed", "signalled", ("signal 11", "SIGSEGV"), signal=11),
    "memory": Told("failed", "out_of_memory", ("out of memory",), ("memory_bytes",), signal=9),
    "memory_child": Told(
        "failed", "user_error", ("CalledProcessError",), ("want of memory",), exit_code=1
    ),
    "pids": Told("failed", "process_limit", ("can't start new thread",), ("fewer",), exit_code=1),
    "disk": Told("failed", "disk_full", ("No space left on device",), ("less",), exit_code=1),
    "result": Told("failed", "result_invalid", ("lock",), ("plain data",), exit_code=1, tail=None),
    "requirements": Told("failed", "requirements_failed", ("numpy==99.99",), tail=None),
    "duration": Told("timeout", "duration_exceeded", ("4 s",), ("duration",), signal=15),
    "corrupt": Told("failed", "package_invalid", ("no whole zip file",), tail=None),
    "outside": Told("failed", "package_invalid", ("forbidden path", ".."), tail=None),
    "absolute": Told("failed", "package_invalid", ("forbidden path",), tail=None),
    "link": Told("failed", "package_invalid", ("no plain file",), tail=None),
    "bomb": Told("failed", "package_invalid", ("unpacks to",), tail=None),
    "no_script": Told("failed", "entry_point_missing", ("script.py",), tail=None),
    "no_function": Told("failed", "entry_point_missing", ("no_such",), exit_code=1, tail=None),
}


@pytest.fixture(scope="module")
def own(swarm: SwarmDaemon) -> dict[str, Any]:
    """All of those jobs, run side by side: their ended views by name, and what was `refused`."""
    done = swarm.run(Path(__file__).with_name("ends_jobs.py").read_text(), timeout_s=120)
    told = last_json(done.stdout)
    views = {name: ended(swarm, job_id, 120) for name, job_id in told["ids"].items()}
    swarm.wait_nothing_left(60.0)
    return {**views, "refused": told["refused"]}


@pytest.mark.parametrize("name", OWN)
def test_an_end_of_the_jobs_own_making(own: dict[str, Any], name: str) -> None:
    OWN[name].check(own[name])


def test_an_exception_comes_with_its_traceback(own: dict[str, Any]) -> None:
    error = own["exception"]["end"]["error"]
    assert (error["type"], error["message"]) == ("ValueError", "boom")
    assert 'raise ValueError("boom")' in error["traceback"]


def test_a_package_that_is_too_large_is_refused(own: dict[str, Any]) -> None:
    refused = own["refused"]
    assert refused["status"] == 413 and refused["hint"], refused
    assert str(4 << 20) in refused["message"]


def test_http_tells_an_end_as_wamp_does(swarm: SwarmDaemon, own: dict[str, Any]) -> None:
    view = own["signal"]
    done = swarm.run(HEAD + f"print(json.dumps(client.get_job_status({view['job_id']!r})))\n")
    assert last_json(done.stdout) == swarm.get(f"/api/jobs/{view['job_id']}")[1] == view


# --- on request, and on time --------------------------------------------------------------------


def test_cancelled_while_pending_starting_and_running(swarm: SwarmDaemon) -> None:
    talk = "print('said before the end', flush=True)\ntime.sleep(600)"
    # Its packets are dropped on their way: the installer waits.
    wheel = f"http://{swarm.cluster.layout.manager.address}:2377/never-1-py3-none-any.whl"
    starting = begin(swarm, "pass", gpu_memory=1.0, requirements=[f"never @ {wheel}"])
    busy = begin(swarm, talk, gpu_memory=1.0)
    pending = begin(swarm, "pass", gpu_memory=1.0)
    running(swarm, busy)
    swarm.wait_job(starting, "starting")
    until(lambda: swarm.job(starting)["journal"]["end_offset"] > 0, "setting up")
    assert swarm.job(pending)["wait"]["reason"] == "no_free_share"
    for job_id in (pending, starting, busy):
        cancel(swarm, job_id)
    for job_id, number, tail in ((pending, None, None), (starting, None, None), (busy, 15, SAID)):
        by_user = Told("cancelled", "cancelled_by_user", ("cancel",), signal=number, tail=tail)
        by_user.check(ended(swarm, job_id))
    swarm.wait_nothing_left(60.0)


@pytest.mark.slow
@restarts
def test_the_duration_holds_with_daemon_and_agent_dead(swarm: SwarmDaemon) -> None:
    mark = f"33{random.randrange(10**6):06d}"
    talk = f"print('said before the end', flush=True)\nos.system('sleep {mark}')"
    job_id = begin(swarm, talk, duration=8)
    worker = running(swarm, job_id)
    engine = swarm.cluster.api(worker)
    agent = container_of(swarm, worker, "cumulus-agent-")
    assert agent is not None
    swarm.kill()
    engine.call("POST", f"/containers/{agent}/pause")  # or the Swarm would start it anew
    try:
        pids = processes_with(f"sleep {mark}")
        assert pids, "it runs on without them"
        gone_within(pids, 20.0)
    finally:
        engine.call("POST", f"/containers/{agent}/unpause")
        swarm.start()
    Told("timeout", "duration_exceeded", ("8 s",), ("duration",), signal=15).check(
        ended(swarm, job_id)
    )
    swarm.wait_usable()
    swarm.wait_nothing_left(60.0)


#: Ignores TERM; a child has left its session and parent and ignores it too; a kernel never ends.
CLINGING = """
import pyopencl as cl, signal
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.execvp("sleep", ["sleep", "MARK"])
    os._exit(0)
os.wait()
context = cl.create_some_context(interactive=False)
queue = cl.CommandQueue(context)
go = cl.Buffer(context, cl.mem_flags.READ_WRITE, 4)
cl.enqueue_fill_buffer(queue, go, bytes(4), 0, 4)
code = "__kernel void spin(__global volatile int *go) { while (!go[0]) {} }"
cl.Program(context, code).build().spin(queue, (1,), None, go)
queue.flush()
print("said before the end", flush=True)
queue.finish()
"""


@restarts
def test_a_container_is_gone_within_5_s_of_its_time_whatever_is_in_it(swarm: SwarmDaemon) -> None:
    mark = f"34{random.randrange(10**6):06d}"
    duration_s = 20
    job_id = begin(swarm, CLINGING.replace("MARK", mark), duration=duration_s)
    worker = running(swarm, job_id)
    ends_at = one(swarm, job_id)["started_at"] + duration_s
    engine = swarm.cluster.api(worker)
    agent = container_of(swarm, worker, "cumulus-agent-")
    assert agent is not None
    swarm.kill()
    engine.call("POST", f"/containers/{agent}/pause")  # or the Swarm would start it anew
    try:
        assert processes_with(f"sleep {mark}"), "it runs on without them"
        name = f"cumulus-job-{job_id}"
        until(lambda: container_of(swarm, worker, name) is None, "gone", duration_s + 30.0)
        assert time.time() < ends_at + 5.0
        assert not processes_with(f"sleep {mark}")
    finally:
        engine.call("POST", f"/containers/{agent}/unpause")
        swarm.start()
    Told("timeout", "duration_exceeded", ("20 s",), ("duration",), signal=9).check(
        ended(swarm, job_id)
    )
    swarm.wait_usable()
    swarm.wait_nothing_left(60.0)


# --- what is refused or can't start -------------------------------------------------------------


@pytest.mark.slow
@restarts
@pytest.mark.parametrize(
    ("image", "told"),
    [
        (
            "sha256:" + "0" * 64,
            Told("failed", "image_missing", ("No such image",), ("image",), tail=None),
        ),
        (
            "tiny",
            Told("failed", "launch_failed", ("python",), ("image",), exit_code=127, tail=None),
        ),
    ],
    ids=["image missing", "runner can't start"],
)
def test_what_keeps_a_container_from_starting(
    swarm: SwarmDaemon, cluster_images: dict[str, str], engine_image: str, image: str, told: Told
) -> None:
    swarm.stop()
    configure(swarm, jobs={"image": engine_image if image == "tiny" else image})
    try:
        swarm.start()
        swarm.wait_usable()
        told.check(ended(swarm, begin(swarm, "pass")))
        swarm.wait_nothing_left(60.0)
    finally:
        swarm.stop()
        configure(swarm, jobs={"image": cluster_images["cumulus-job:latest"]})
        swarm.start()
        swarm.wait_usable()


def test_a_partition_that_a_worker_cannot_prepare(swarm: SwarmDaemon) -> None:
    # Where the agents write their ledgers anew there is something else.
    places = [
        swarm.cluster.layout.worker_root(node) / "ledger.json.new"
        for node in swarm.cluster.layout.workers
    ]
    for place in places:
        place.mkdir()
    try:
        view = ended(swarm, begin(swarm, "pass"))
    finally:
        for place in places:
            place.rmdir()
    Told(
        "failed", "partition_failed", ("could not prepare", "ledger"), ("agent",), tail=None
    ).check(view)
    swarm.wait_nothing_left(60.0)


# --- the worker's -------------------------------------------------------------------------------

TALK = "print('said before the end', flush=True)\ntime.sleep(600)"


@pytest.mark.slow
def test_lost_with_its_worker(swarm: SwarmDaemon) -> None:
    """One engine is killed, the other is cut off for 20 s: both jobs end by name."""
    cluster = swarm.cluster
    jobs = [begin(swarm, TALK, gpu_memory=1.0, duration=900) for _ in range(2)]
    where = [running(swarm, job_id) for job_id in jobs]
    assert set(where) == {"worker1", "worker2"}
    cluster.kill(where[0])
    cluster.cut(where[1])
    try:
        time.sleep(20.0)  # the length of the cut, as it is defined
    finally:
        cluster.mend(where[1])
    try:
        cut_off = ended(swarm, jobs[1], 120)
        swarm.wait_job(jobs[0], "ending", "ended", timeout_s=120)
        killed = one(swarm, jobs[0])
        Told("failed", "worker_lost", (where[0],), ("again",)).check(killed)
        Told("failed", "worker_lost", (where[1],), ("again",), signal=15).check(cut_off)
    finally:
        cluster.start(where[0])
        cluster.wait_ready()
    assert ended(swarm, jobs[0])["end"] == killed["end"], "an end never changes"
    swarm.wait_usable(timeout_s=90)
    swarm.wait_nothing_left(60.0)


def test_ended_by_its_workers_drain(swarm: SwarmDaemon) -> None:
    job_id = begin(swarm, TALK, duration=900)
    worker = running(swarm, job_id)
    swarm.cluster.update_node(worker, Availability="drain")
    try:
        view = ended(swarm, job_id)
    finally:
        swarm.cluster.update_node(worker, Availability="active")
    Told("failed", "worker_drained", (worker, "drain"), ("again",), signal=15).check(view)
    swarm.wait_usable()
    swarm.wait_nothing_left(60.0)


def test_a_killed_runner(swarm: SwarmDaemon) -> None:
    job_id = begin(swarm, TALK, duration=900)
    worker = running(swarm, job_id)
    for pid in processes_with(f"cumulus_runner/__main__.py /var/lib/cumulus/jobs/{job_id}"):
        with contextlib.suppress(ProcessLookupError):  # the container's first takes it along
            os.kill(pid, signal.SIGKILL)
    view = ended(swarm, job_id)
    Told("failed", "runner_failed", (worker, "137"), ("again",), exit_code=137).check(view)
    swarm.wait_nothing_left(60.0)


# --- what does a job no harm --------------------------------------------------------------------


def kill_agents(swarm: SwarmDaemon) -> None:
    for node in swarm.cluster.workers:
        agent = container_of(swarm, node.name, "cumulus-agent-")
        assert agent is not None
        swarm.cluster.api(node).call("POST", f"/containers/{agent}/kill")


def restart_the_manager(swarm: SwarmDaemon) -> None:
    swarm.cluster.kill("manager")
    swarm.cluster.start("manager")
    swarm.cluster.wait_ready()


def change_the_nodes(swarm: SwarmDaemon) -> None:
    """As an operator may, by a label: SwarmKit then looks anew at all that runs there."""
    for value in ("1", None):
        for node in swarm.cluster.workers:
            swarm.cluster.update_node(node.name, Labels={"rack": value})
        time.sleep(2.0)  # what a Swarm makes of it takes that long to reach a container


def kill_the_daemon(swarm: SwarmDaemon) -> None:
    swarm.kill()
    swarm.start()


@pytest.mark.slow
@restarts
@pytest.mark.parametrize(
    "harm", [kill_agents, restart_the_manager, change_the_nodes, kill_the_daemon]
)
def test_jobs_are_not_harmed(swarm: SwarmDaemon, harm: Callable[[SwarmDaemon], None]) -> None:
    count = "for i in range(100):\n    print('line', i, flush=True)\n    time.sleep(0.1)\nreturn i"
    jobs = [begin(swarm, count, gpu_memory=share) for share in (1.0, 0.5, 0.5)]
    for job_id in jobs:
        running(swarm, job_id)
    harm(swarm)
    for job_id in jobs:
        view = ended(swarm, job_id)
        Told("completed", None, ("completed",), exit_code=0, tail="line 99\n").check(view)
        assert view["attempt"] == 1
    done = swarm.run(
        HEAD
        + "print(json.dumps({'logs': [''.join(client.attach(job_id).logs()) "
        + f"for job_id in {jobs!r}]}}))\n"
    )
    wanted = "".join(f"line {i}\n" for i in range(100))
    assert last_json(done.stdout)["logs"] == [wanted] * 3
    swarm.wait_usable(timeout_s=90)
    swarm.wait_nothing_left(60.0)
