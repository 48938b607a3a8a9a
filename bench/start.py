"""How long a job takes to begin and to end.

Begin: from `client.run` to the first byte that the function prints, here. On a Swarm beside a bare
replicated service of the same image that runs the same function from a file by `python3 -u`, its
log followed: from before the create to the first byte of the log. `cumulus run` from a shell beside
`ray job submit`, each a process from its start to the function's line.

End: from the function's return, which is its value, to `run()` returning; the peer's is when Swarm
shows its task as over. A share: from the moment at which nobody holds the lock on the job's folder
any more to the moment at which the next job, which waited for that share, is being prepared.

Where the time of a begin goes is told phase by phase: the client's own stamps and the job's
timeline, which is by the same machine's clock.
"""

import contextlib
import io
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from bench.parts import bare, ray
from bench.parts.daemons import ROOT, started
from bench.parts.errors import BenchError
from bench.parts.output import Sink
from bench.parts.run import Run, alone, paired
from bench.parts.swarm import KeptDaemon, KeptSwarm
from bench.table import (
    Peer,
    Row,
    at_most,
    measured,
    not_measured,
    ratio_at_most,
)
from cumulus_client import CumulusClient
from cumulus_client.job import CumulusJob
from cumulus_wire import folder as names
from tests.e2e.harness import Daemon

ROUNDS = 20
BEGIN_GOAL = ratio_at_most(1.10)
RAY_GOAL = ratio_at_most(0.2)
END_GOAL_MS = 30.0
SHARE_GOAL_MS = 50.0
WORD = "hello from the job"
LOG_WAIT_S = 30.0
PROCESS_S = 120.0
#: How often the lock is looked at, in /proc: taking it would be in the agent's way.
LOOK_S = 0.002
#: Phases in their order, and what begins each.
PHASES = (
    ("called", "submitted", "packed, sent, accepted"),
    ("submitted", "preparing", "saved and placed"),
    ("preparing", "launching", "partition and folder made"),
    ("launching", "setup", "container or process started, runner connected"),
    ("setup", "running", "layer proven, package unpacked, code's process started"),
    ("running", "first_byte", "first byte printed and relayed"),
)


def said() -> float:
    """What every side runs: prints a line, and returns when it returns."""
    import time

    print("hello from the job", flush=True)
    return time.time()


@dataclass(frozen=True, kw_only=True)
class Begun:
    """One job's moments, unix seconds."""

    moments: dict[str, float]
    function_ended: float
    returned: float

    def ms(self, begin: str, end: str) -> float:
        return (self.moments[end] - self.moments[begin]) * 1e3

    @property
    def first_byte_ms(self) -> float:
        return self.ms("called", "first_byte")

    @property
    def end_ms(self) -> float:
        return (self.returned - self.function_ended) * 1e3


#: Rows, and what they are of.
BEGINS = (
    "start, {}: first byte",
    "end, {}: run() returns",
    *(f"start, {{}}, of that: {what}" for *_, what in PHASES),
)
SHARES = "end, {}: the share is the next job's"
BY_SHELL = ("start, Swarm: `cumulus run`, first line", "end, Swarm: `cumulus run`, to its exit")


def rows(run: Run) -> Iterator[Row]:
    """The rows: on a Swarm, beside Ray, on the local platform."""
    rounds = 3 if run.quick else ROUNDS
    if run.swarm is None:
        for case, goal in (
            (BEGINS[0], BEGIN_GOAL),
            (BEGINS[1], at_most(END_GOAL_MS)),
            (SHARES, at_most(SHARE_GOAL_MS)),
            (BY_SHELL[0], RAY_GOAL),
        ):
            case = case.format("Swarm")
            yield not_measured(case, run.why_no_swarm, unit="ms", goals=[goal])
    elif run.wants(*of(BEGINS, "Swarm"), SHARES.format("Swarm"), *BY_SHELL):
        yield from run.part("start, Swarm", on_swarm(run, run.swarm, rounds))
    if run.wants(*of(BEGINS, "local"), SHARES.format("local")):
        yield from run.part("start, local", on_local(run, rounds))


def on_local(run: Run, rounds: int) -> Iterator[Row]:
    with started(Daemon(run.folder / "start")) as daemon, CumulusClient(daemon.url) as client:
        if run.wants(*of(BEGINS, "local")):
            found = alone(lambda: begin(client), rounds=rounds, until=run.until(0.5))
            yield from of_jobs("local", found)
        if run.wants(SHARES.format("local")):
            root = daemon.state_dir / "worker"
            yield shares("local", run, client, [root], rounds)


def on_swarm(run: Run, swarm: KeptSwarm, rounds: int) -> Iterator[Row]:
    with started(KeptDaemon(swarm)) as daemon, CumulusClient(daemon.url, swarm.token) as client:
        if run.wants(*of(BEGINS, "Swarm")):
            yield from run.part("start, Swarm", beside_bare(run, swarm, client, rounds))
        if run.wants(SHARES.format("Swarm")):
            roots = [swarm.cluster.layout.worker_root(node) for node in swarm.cluster.workers]
            yield shares("Swarm", run, client, roots, rounds)
        if run.wants(*BY_SHELL):
            yield from run.part("start beside Ray", beside_ray(run, daemon, swarm.token, rounds))


def of(cases: Iterable[str], where: str) -> list[str]:
    return [case.format(where) for case in cases]


def of_jobs(where: str, found: list[Begun]) -> Iterator[Row]:
    """Rows without a peer: the first byte, its phases, the end."""
    first = [one.first_byte_ms for one in found]
    yield measured(f"start, {where}: first byte", "ms", first)
    yield from phases(where, found)
    ends = [one.end_ms for one in found]
    yield measured(f"end, {where}: run() returns", "ms", ends, goals=[at_most(END_GOAL_MS)])


def phases(where: str, found: list[Begun]) -> Iterator[Row]:
    """Where the time goes."""
    for begin, end, what in PHASES:
        yield measured(
            f"start, {where}, of that: {what}", "ms", [one.ms(begin, end) for one in found]
        )


# -- ours


def begin(client: CumulusClient) -> Begun:
    """One job, as a user's `run` has it."""
    sink = Sink()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(io.StringIO()):
        called = time.time()
        function_ended = client.run(said, gpu_memory=0.5, duration=60)
        returned = time.time()
    if sink.bytes != len(WORD) + 1:
        raise BenchError(f"the job printed {sink.bytes} bytes")
    newest = client.list_jobs(limit=1)[0]["job_id"]
    view = client.get_job_status(newest)
    moments = {"called": called, "first_byte": sink.first_at, "submitted": view["created_at"]}
    for moment in view["timeline"]:
        moments.setdefault(moment["phase"], moment["at"])
    return Begun(moments=moments, function_ended=function_ended, returned=returned)


# -- a bare service


def beside_bare(run: Run, swarm: KeptSwarm, client: CumulusClient, rounds: int) -> Iterator[Row]:
    with bare.BareServices(swarm.cluster.api(), swarm.job_image, file_source()) as services:
        ours, theirs = paired(
            lambda: begin(client),
            lambda: begin_bare(services),
            rounds=rounds,
            until=run.until(0.35),
        )
    yield measured(
        "start, Swarm: first byte",
        "ms",
        [one.first_byte_ms for one in ours],
        bare.PEER,
        [first_ms for first_ms, _ in theirs],
        goals=[BEGIN_GOAL],
    )
    yield from phases("Swarm", ours)
    yield measured(
        "end, Swarm: run() returns",
        "ms",
        [one.end_ms for one in ours],
        Peer(name="GET /tasks", command="the bare service's task polled until it is over"),
        [end_ms for _, end_ms in theirs],
        goals=[at_most(END_GOAL_MS)],
    )


def begin_bare(services: bare.BareServices) -> tuple[float, float]:
    """(ms to the first byte of the log, ms from the function's return to the task's end shown)."""
    called = time.time()
    service = services.create()
    first_at, text = 0.0, b""
    for data in services.log(service, LOG_WAIT_S):
        first_at = first_at or time.time()
        text += data
        if text.count(b"\n") == 2:  # the line, and when it returned
            break
    over_at = services.wait_over(service, LOG_WAIT_S)
    services.remove(service)
    function_ended = float(text.split(b"\n")[1])
    return (first_at - called) * 1e3, (over_at - function_ended) * 1e3


def file_source(end: str = "print(repr(said()), flush=True)") -> str:
    """The same function in a file, which runs it."""
    own = Path(__file__).read_text()
    start = own.index("def said()")
    return f"{own[start : own.index('@dataclass', start)]}\n{end}\n"


# -- Ray


def beside_ray(run: Run, daemon: Daemon, token: str, rounds: int) -> Iterator[Row]:
    """Each is started from a shell, and is over when its process is."""
    case, whole_case = BY_SHELL
    python, why = ray.python()
    if python is None:
        yield not_measured(case, why, unit="ms", goals=[RAY_GOAL])
        return
    script = run.folder / "said.py"
    script.write_text(file_source("said()"))
    variables = {**os.environ, "CUMULUS_API_KEY": token, "CUMULUS_SERVER_URL": daemon.url}
    cumulus = [str(Path(sys.executable).with_name("cumulus")), "run", str(script)]
    with ray.node(python, dashboard=True) as node:
        submit = node.command("job", "submit", "--address", node.dashboard, "--")
        submit += ["python3", "-u", str(script)]
        ours, theirs = paired(
            lambda: first_line_ms(cumulus, variables),
            lambda: first_line_ms(submit, node.environment()),
            rounds=max(3, rounds // 3),
            until=run.until(0.6),
        )
        shown = f"ray {shlex.join(submit[1:]).replace(str(run.folder), '.')}"
        shown += ", on the node that ray start --head --num-cpus=2 made"
        peer = Peer(name=f"ray job submit, {node.version}", command=shown)
    yield measured(
        case,
        "ms",
        [first for first, _ in ours],
        peer,
        [first for first, _ in theirs],
        goals=[RAY_GOAL],
    )
    yield measured(
        whole_case,
        "ms",
        [whole for _, whole in ours],
        peer,
        [whole for _, whole in theirs],
    )


def first_line_ms(command: list[str], variables: dict[str, str]) -> tuple[float, float]:
    """(ms to the function's line on its stdout, ms to the process's end)."""
    begun = time.perf_counter()
    first = None
    with subprocess.Popen(
        command,
        cwd=ROOT,
        env=variables,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    ) as process:
        assert process.stdout is not None
        watchdog = threading.Timer(PROCESS_S, process.kill)
        watchdog.start()
        said_all = b""
        for line in process.stdout:
            said_all += line
            if first is None and line.strip() == WORD.encode():
                first = (time.perf_counter() - begun) * 1e3
        code = process.wait()
        watchdog.cancel()
    if code or first is None:
        raise BenchError(f"{shlex.join(command)} gave {code}: {said_all[-2000:]!r}")
    return first, (time.perf_counter() - begun) * 1e3


# -- shares


def rest(seconds: float) -> float:
    """What holds a share."""
    import time

    time.sleep(seconds)
    return time.time()


def shares(where: str, run: Run, client: CumulusClient, roots: list[Path], rounds: int) -> Row:
    """Every device is held; one more job waits for whichever comes free first."""
    found = alone(
        lambda: handed_on_ms(client, roots),
        rounds=max(3, rounds // 2),
        until=run.until(0.4),
        warm_up=False,
    )
    case = SHARES.format(where)
    return measured(case, "ms", found, goals=[at_most(SHARE_GOAL_MS)])


def handed_on_ms(client: CumulusClient, roots: list[Path]) -> float:
    """From the lock being free to the next job being prepared."""
    held = [
        client.submit(rest, args=[1.5 if number == 0 else 6.0], gpu_memory=1.0, duration=60)
        for number in range(len(roots))
    ]
    first = held[0]
    while not first.running():
        time.sleep(0.02)
    following = client.submit(said, gpu_memory=1.0, duration=60)
    free_at = lock_free_at(first, roots)
    following.result(60.0)
    timeline = following.view()["timeline"]
    prepared_at = next(one["at"] for one in timeline if one["phase"] == "preparing")
    for job in held[1:]:
        job.cancel()
        job.wait(60.0)
    return float(prepared_at - free_at) * 1e3


def lock_free_at(job: CumulusJob, roots: list[Path]) -> float:
    """The moment, unix, at which nobody was seen to hold the lock of the job's folder."""
    places = [root / "jobs" / job.job_id / names.LOCK for root in roots]
    lock = next((place for place in places if place.exists()), None)
    if lock is None:
        raise BenchError(f"there is no folder of {job.job_id} in {roots}")
    inode = str(lock.stat().st_ino)
    deadline = time.monotonic() + 60.0
    while is_locked(inode):
        if time.monotonic() > deadline:
            raise BenchError(f"{lock} is held for ever")
        time.sleep(LOOK_S)
    return time.time()


def is_locked(inode: str) -> bool:
    """By /proc/locks."""
    for line in Path("/proc/locks").read_text().splitlines():
        words = line.split()
        if "FLOCK" in words and any(word.endswith(f":{inode}") for word in words):
            return True
    return False
