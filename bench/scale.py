"""How the daemon grows: 1,000 workers of 4 devices, 5,000 running jobs that print a line a second,
100,000 jobs of history.

The real daemon process, an engine at the wire and simulated agents (tests/pool), once with a tenth
of everything and once with all of it. What counts is the daemon's own: its start, CPU and memory
(all threads), what it asks and writes, how long it takes to answer a submit and a listing while all
of that runs, how far its event loop is behind (its own metric). The peer is the tenth: a ratio of
10 is growth in proportion, what has more breaks first.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from bench.parts.errors import BenchError
from bench.parts.run import Run
from bench.pool.client import PoolClient
from bench.table import Goal, Peer, Row, at_most, measured
from tests.pool.rig import Pool, Used, running

SHARE = 0.25  #: of a device, for each job
STARTS = 3
START_GOAL_S = 3.0
STEADY_S, STEADY_QUICK_S = 20.0, 10.0
SAMPLES, SAMPLES_QUICK = 200, 50
ALL_RUN_S = 300.0
LAG = "cumulus_event_loop_lag_seconds"
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Size:
    """Of a pool and what it does."""

    workers: int
    devices: int
    jobs: int
    history: int

    def tenth(self) -> "Size":
        return Size(
            workers=self.workers // 10,
            devices=self.devices,
            jobs=self.jobs // 10,
            history=self.history // 10,
        )

    def __str__(self) -> str:
        return (
            f"{self.workers:,} workers of {self.devices} devices, {self.jobs:,} running jobs, "
            f"{self.history:,} jobs of history"
        )


FULL = Size(workers=1000, devices=4, jobs=5000, history=100_000)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """One thing that was measured of a size."""

    what: str
    unit: str
    values: list[float]
    goals: list[Goal] = field(default_factory=list)


def rows(run: Run) -> Iterator[Row]:
    """The rows: the tenth runs first, and they come as those of all of it do."""
    size = FULL.tenth() if run.quick else FULL
    steady_s, samples = (STEADY_QUICK_S, SAMPLES_QUICK) if run.quick else (STEADY_S, SAMPLES)
    small = {each.what: each.values for each in figures(size.tenth(), steady_s / 2, samples)}
    peer = Peer(name="a tenth of it", command=f"the same daemon with {size.tenth()}")
    for each in figures(size, steady_s, samples):
        yield measured(
            f"scale: {each.what}",
            each.unit,
            each.values,
            peer,
            small[each.what],
            goals=each.goals,
            more={"size": str(size)},
            # Of what polls, a short window may hold none.
            has_ratio=all(small[each.what]),
        )


def figures(size: Size, steady_s: float, samples: int) -> Iterator[Figure]:
    """Of one pool, each as soon as it is there, in the same order always."""
    with running(size.workers, size.devices, size.history, starts=STARTS) as (pool, starts):
        yield Figure(
            what="start with all of the history, until it answers",
            unit="s",
            values=starts,
            goals=[at_most(START_GOAL_S)],
        )
        idle_bytes = pool.used().rss_bytes
        yield one("memory with the history and no running job", "MiB", idle_bytes / MIB)
        client = PoolClient(pool.daemon.port, pool.daemon.token)
        begun = time.monotonic()
        client.submit_many(size.jobs, run_s=1e9, share=SHARE)
        yield one("submits of the jobs that run", "/s", size.jobs / (time.monotonic() - begun))
        client.close()  # nobody answers the daemon's pings for it from here on
        until(lambda: running_jobs(pool) >= size.jobs, ALL_RUN_S, f"{size.jobs:,} jobs running")
        yield one("from the first submit to all running", "s", time.monotonic() - begun)
        yield from steady(pool, size.jobs, steady_s)
        client = PoolClient(pool.daemon.port, pool.daemon.token)
        yield from asked(client, samples)
        client.close()
        grown_bytes = pool.used().rss_bytes - idle_bytes
        yield one("memory of a running job", "KiB", grown_bytes / 1024 / size.jobs)


def one(what: str, unit: str, value: float) -> Figure:
    return Figure(what=what, unit=unit, values=[value])


def steady(pool: Pool, jobs: int, seconds: float) -> Iterator[Figure]:
    """While nothing is asked: what running jobs cost by themselves."""
    metrics, before, (requests, sent) = pool.daemon.metrics(), pool.used(), pool.engine_requests()
    time.sleep(seconds)
    after, (requests_after, sent_after) = pool.used(), pool.engine_requests()
    now = pool.daemon.metrics()
    took_s = after.at - before.at
    cpu = (after.cpu_s - before.cpu_s) / took_s

    def rate(name: str) -> float:
        return grown(name, metrics, now) / took_s

    yield one("CPU while all print a line a second", "% of a core", 100 * cpu)
    yield one("CPU of a job", "µs a second", 1e6 * cpu / jobs)
    yield one("memory while all run", "MiB", after.rss_bytes / MIB)
    yield one("written to files", "KiB/s", written(before, after) / took_s / 1024)
    received = rate("cumulus_journal_received_bytes_total")
    yield one("journal bytes in", "KiB/s", received / 1024)
    yield one("WAMP messages", "/s", rate("cumulus_router_messages_total"))
    asked_engine = sum(requests_after.values()) - sum(requests.values())
    yield one("requests to the engine", "/s", asked_engine / took_s)
    yield one("the engine's answers", "KiB/s", (sent_after - sent) / took_s / 1024)
    yield one("event loop is late, mean", "ms", 1000 * lag_mean(metrics, now))
    yield one("event loop is late, 99th percentile at most", "ms", 1000 * lag_p99(metrics, now))


def asked(client: PoolClient, samples: int) -> Iterator[Figure]:
    """While all of that runs: how long a client waits."""
    few = max(1, samples // 10)
    submitted = client.submits(samples, SHARE)
    yield one("submit, median", "ms", 1000 * statistics.median(submitted))
    yield one("submit, 99th percentile", "ms", 1000 * percentile(submitted, 0.99))
    for what, took in (
        ("list of 50", client.lists(samples, limit=50)),
        ("list of 1,000", client.lists(few, limit=1000)),
        ("list of 50 that are active", client.lists(few, limit=50, active=True)),
        ("search for 50", client.searches(few)),
    ):
        yield one(f"{what}, 99th percentile", "ms", 1000 * percentile(took, 0.99))


def running_jobs(pool: Pool) -> int:
    return int(pool.daemon.metrics().get('cumulus_jobs{state="running"}', 0))


def until(wanted: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Returns when it is so. Raises BenchError."""
    deadline = time.monotonic() + timeout_s
    while not wanted():
        if time.monotonic() > deadline:
            raise BenchError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.25)


def percentile(values: list[float], share: float) -> float:
    """The value that so many of them are at or below."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def written(before: Used, after: Used) -> int:
    return after.written_bytes - before.written_bytes


def grown(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Of a counter, over all its labels."""
    return sum(
        value - before.get(key, 0.0)
        for key, value in after.items()
        if key == name or key.startswith(f"{name}{{")
    )


def lag_mean(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """In seconds."""
    count = after[f"{LAG}_count"] - before[f"{LAG}_count"]
    return (after[f"{LAG}_sum"] - before[f"{LAG}_sum"]) / max(1.0, count)


def lag_p99(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The bound of the bucket that holds it, in seconds."""
    count = after[f"{LAG}_count"] - before[f"{LAG}_count"]
    for key, value in after.items():
        if key.startswith(f"{LAG}_bucket") and value - before.get(key, 0.0) >= 0.99 * count:
            return float(key.split('"')[1])
    return math.inf
