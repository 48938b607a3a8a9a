"""Many jobs at once.

200 trivial jobs, submitted at once to 2 workers, until all results are here, beside 200 bare
services of the same image, until Swarm says that all are complete. Both sides ask for all 200 at
once, and nothing waits for a share. Neither side's time has the removal of services and containers
in it: what is left then is removed, and no side begins before the other's is gone. How many submits
a second are acknowledged, each durable in the checkpoint, while no share is free: through the
client, and as bare WAMP calls, beside a loop that commits the same records one by one to SQLite.
And what CPU time one pass of the scheduler takes with 20,000 jobs waiting, beside one with 2,000:
work in proportion to the whole queue would be ten times that.
"""

import asyncio
import contextlib
import io
import sqlite3
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from bench.parts import bare
from bench.parts.daemons import started
from bench.parts.errors import BenchError
from bench.parts.queued import FullPool
from bench.parts.run import Run, paired
from bench.parts.swarm import KeptDaemon, KeptSwarm
from bench.routing.peers import CALL, RESULT, Codec, Loop
from bench.routing.peers import Peer as WampPeer
from bench.table import (
    Goal,
    Peer,
    Row,
    at_least,
    at_most,
    measured,
    not_measured,
    ratio_at_most,
)
from cumulus_client import AsyncCumulusClient, CumulusClient
from cumulus_client.packaging import Package, package_function
from cumulus_wire import uris
from cumulusd.jobs import codec
from cumulusd.jobs.model import JobRecord, JobSpec, Phase
from engines.docker_api import DockerApi
from tests.e2e.harness import Daemon

JOBS = 200
BURST = f"burst: {JOBS} trivial jobs on 2 workers, to all done"
BURST_GOALS = [ratio_at_most(1.15)]
CREATORS = 16
ALL_DONE_S = 180.0
CLEARED_S = 90.0
SUBMITS = 500
IN_FLIGHT = 64
SUBMITS_GOAL_PER_S = 500.0
SUBMITTED = (
    "burst: submits acknowledged, by the client",
    "burst: submits acknowledged, bare calls",
)
WAITING, FEWER_WAITING = 20_000, 2_000
PASS = f"burst: scheduling pass with {WAITING:,} waiting, {{}}"
PASS_GOAL_MS = 5.0
CHANGES = 7
#: Of ten times the queue: noise, and what grows with its logarithm.
GROWTH_GOAL = 1.5
#: Jobs wait behind the one that holds the only device.
QUEUES = "jobs:\n  max_queued: 100000\n  max_queued_per_owner: 100000\n"


def rows(run: Run) -> Iterator[Row]:
    """The rows: last that of a Swarm, which takes what is left of the time."""
    if run.wants(*(PASS.format(kind) for kind in KINDS)):
        yield from run.part("burst: scheduling pass", passes(run))
    if run.wants(*SUBMITTED):
        yield from run.part("burst: submits acknowledged", submits(run))
    if run.wants(BURST):
        if run.swarm is None:
            yield not_measured(BURST, run.why_no_swarm, unit="s", goals=BURST_GOALS)
        else:
            yield from run.part(BURST, burst(run, run.swarm))


# -- the burst


def trivial(number: int) -> int:
    """What each job runs."""
    return number


def burst(run: Run, swarm: KeptSwarm) -> Iterator[Row]:
    """By turns; all begin with an idle Swarm."""
    source = "print(1)\n"

    def jobs() -> float:
        took_s = burst_of_jobs(client)
        wait_cleared(swarm)
        return took_s

    def bare_services() -> float:
        took_s = burst_of_services(services)
        wait_cleared(swarm)
        return took_s

    with (
        started(KeptDaemon(swarm)) as daemon,
        CumulusClient(daemon.url, swarm.token) as client,
        bare.BareServices(swarm.cluster.api(), swarm.job_image, source) as services,
    ):
        # Jobs alone warm up, as a round takes two minutes: both workers have proven the layer then,
        # and read the image, which is the peer's too.
        jobs()
        ours, theirs = paired(
            jobs,
            bare_services,
            rounds=5,
            until=run.until(0.5),
            least=1,
            warm_up=False,
        )
    yield measured(BURST, "s", ours, bare.PEER, theirs, goals=BURST_GOALS)


def burst_of_jobs(client: CumulusClient) -> float:
    begun = time.perf_counter()
    with contextlib.redirect_stderr(io.StringIO()):
        found = list(
            client.map(
                trivial,
                range(JOBS),
                max_in_flight=JOBS,
                timeout=ALL_DONE_S,
                gpu_memory=0.01,
                duration=60,
            )
        )
    took_s = time.perf_counter() - begun
    if found != list(range(JOBS)):
        raise BenchError(f"the jobs' values are not theirs: {found}")
    return took_s


def burst_of_services(services: bare.BareServices) -> float:
    begun = time.perf_counter()
    with ThreadPoolExecutor(CREATORS) as pool:
        made = list(pool.map(lambda _: services.create(), range(JOBS)))
    services.wait_all_over(ALL_DONE_S)
    took_s = time.perf_counter() - begun
    with ThreadPoolExecutor(CREATORS) as pool:
        list(pool.map(services.remove, made))
    return took_s


def wait_cleared(swarm: KeptSwarm) -> None:
    """Returns when no job's or bare service's container is left on a worker. Raises BenchError."""
    deadline = time.monotonic() + CLEARED_S
    engines = [swarm.cluster.api(node) for node in swarm.cluster.workers]
    while left := [name for engine in engines for name in containers(engine)]:
        if time.monotonic() > deadline:
            raise BenchError(f"{len(left)} containers are not removed: {left[:5]}")
        time.sleep(0.5)


def containers(engine: DockerApi) -> list[str]:
    """Names of a worker's containers, ended ones too, without the agent's."""
    found = engine.call("GET", "/containers/json", query={"all": "1"})
    names = [str(one["Names"][0]).lstrip("/") for one in found]
    return [name for name in names if not name.startswith("cumulus-agent")]


# -- submits


def submits(run: Run) -> Iterator[Row]:
    """On a local daemon whose one device is held, so that all of them wait."""
    count = SUBMITS // 5 if run.quick else SUBMITS
    package = package_function(trivial, [1])
    with started(Daemon(run.folder / "submits", extra=QUEUES), abandon=True) as daemon:
        with CumulusClient(daemon.url) as client:
            holder = client.submit(hold, gpu_memory=1.0, duration=1500)
            while not holder.running():
                time.sleep(0.05)
        commits = Commits(run.folder / "bare.sqlite3")
        through_client, bare_calls = paired(
            lambda: client_rate(daemon, count),
            lambda: call_rate(daemon, package, count),
            rounds=5,
            until=run.until(0.12),
        )
        committed = [commits.rate(count) for _ in bare_calls]
        commits.close()
        waiting = len(daemon.jobs()) - 1
    more = {"in_flight": IN_FLIGHT, "waiting_at_the_end": waiting}
    peer = Peer(
        name="SQLite alone",
        command="BEGIN IMMEDIATE; INSERT OR REPLACE; COMMIT for each record, WAL, synchronous=FULL",
    )
    goals: list[Goal] = [at_least(SUBMITS_GOAL_PER_S)]
    yield measured(SUBMITTED[0], "/s", through_client, goals=goals, more=more)
    yield measured(SUBMITTED[1], "/s", bare_calls, peer, committed, goals=goals, more=more)


def hold() -> None:
    import time

    time.sleep(1500)


def client_rate(daemon: Daemon, count: int) -> float:
    """Submits a second, packing included."""

    async def submit_all() -> float:
        async with AsyncCumulusClient(daemon.url) as client:
            await client.submit(trivial, args=[1], gpu_memory=1.0, duration=60)
            free = asyncio.Semaphore(IN_FLIGHT)

            async def one() -> None:
                async with free:
                    await client.submit(trivial, args=[1], gpu_memory=1.0, duration=60)

            begun = time.perf_counter()
            await asyncio.gather(*(one() for _ in range(count)))
            return count / (time.perf_counter() - begun)

    return asyncio.run(submit_all())


def call_rate(daemon: Daemon, package: Package, count: int) -> float:
    """The same as WAMP calls whose frames were made before."""
    codec_ = Codec("cbor")
    loop = Loop()
    peer = WampPeer(loop, daemon.port, codec_)
    frames = [peer.codec.frame(submit_call(peer.next_request(), package)) for _ in range(count)]
    sent = 0

    def send_next() -> None:
        nonlocal sent
        if sent < count:
            peer.send_frame(frames[sent])
            sent += 1

    def answered(payload: bytes) -> None:
        if codec_.kind(payload) != RESULT:
            raise BenchError(f"a submit was refused: {codec_.loads(payload)!r:.500}")
        send_next()

    peer.on_message = answered
    begun = time.perf_counter()
    for _ in range(IN_FLIGHT):
        send_next()
    loop.run_until(lambda: peer.received >= count)
    took_s = time.perf_counter() - begun
    peer.close()
    return count / took_s


def submit_call(request: int, package: Package) -> list[Any]:
    spec = {
        "name": "trivial",
        "gpu_memory": 1.0,
        "duration_s": 60.0,
        "package": {"sha256": package.sha256, "size_bytes": package.size_bytes},
        "idempotency_key": uuid.uuid4().hex,
    }
    return [CALL, request, {}, uris.JOB_SUBMIT, [], {"spec": spec, "follow": False}]


class Commits:
    """The checkpoint's own file format, without the daemon."""

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("CREATE TABLE jobs (job_id TEXT PRIMARY KEY, record TEXT NOT NULL)")
        self._number = 0

    def rate(self, count: int) -> float:
        """Commits a second."""
        texts = [(f"job_{self._number + n:012}", self._record(n)) for n in range(count)]
        self._number += count
        begun = time.perf_counter()
        for pair in texts:
            self._database.execute("BEGIN IMMEDIATE")
            self._database.execute("INSERT OR REPLACE INTO jobs VALUES (?, ?)", pair)
            self._database.execute("COMMIT")
        return count / (time.perf_counter() - begun)

    def close(self) -> None:
        self._database.close()

    def _record(self, number: int) -> str:
        spec = JobSpec(
            package_sha256="ab" * 32, package_size_bytes=1000, gpu_memory=1.0, duration_s=60.0
        )
        return codec.dumps(
            JobRecord(
                job_id=f"job_{self._number + number:012}",
                owner="local",
                spec=spec,
                phase=Phase.QUEUED,
                created_at=time.time(),
            )
        )


# -- scheduling passes


def passes(run: Run) -> Iterator[Row]:
    """The slowest pass of each change, with 20,000 and with 2,000 jobs waiting: the least of a few
    changes, for caches that others used meanwhile count in CPU time too."""
    many, fewer = FullPool(WAITING), FullPool(FEWER_WAITING)
    peer = Peer(
        name=f"with {FEWER_WAITING:,} waiting",
        command=f"the same pass, {FEWER_WAITING:,} jobs in the queue",
    )
    for kind, change in KINDS.items():

        def slowest_ms(pool: FullPool, change: Callable[[FullPool], list[float]] = change) -> float:
            return min(max(change(pool)) for _ in range(CHANGES)) * 1e3

        ours, theirs = paired(
            lambda: slowest_ms(many),  # of this turn
            lambda: slowest_ms(fewer),
            rounds=3 if run.quick else 15,
            until=run.until(0.12),
        )
        yield measured(
            PASS.format(kind),
            "ms",
            ours,
            peer,
            theirs,
            goals=[at_most(PASS_GOAL_MS), ratio_at_most(GROWTH_GOAL)],
        )


def submitted(pool: FullPool) -> list[float]:
    pool.submit()
    return pool.settle()


def freed(pool: FullPool) -> list[float]:
    placed = pool.placed
    pool.end_one()
    took = pool.settle()
    if pool.placed == placed:
        raise BenchError("a share came free, and no job was placed")
    return took


#: What changed, and how it is made to.
KINDS: dict[str, Callable[[FullPool], list[float]]] = {
    "nothing changed": FullPool.tick,
    "a job was submitted": submitted,
    "a share came free": freed,
}
