"""How the daemon grows: `script/bench scale [--workers N] [--devices N] [--jobs N] [--history N]`.

The real daemon process, an engine at the wire and simulated agents (tests/pool), once with a tenth
of everything and once with all of it: so many workers, jobs that run and print a line a second,
and jobs of history. What counts is the daemon's own: CPU and memory (all threads), how long it
takes to answer a submit and a listing while all of that runs, how far its event loop is behind
(its own metric), its start. The growth from the one to the other is the last column: 10 is in
proportion, more is what breaks first.

Exits 0 when all goals are met; the last line is one JSON object.
"""

import argparse
import json
import math
import os
import platform
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from bench.pool.client import PoolClient  # noqa: E402
from tests.pool.rig import Pool, running  # noqa: E402

START_GOAL_S = 3.0
SHARE = 0.25  #: of a device, for each job
SAMPLES = 200
LAG = "cumulus_event_loop_lag_seconds"
MIB = 1 << 20

Row = tuple[str, float, str]  # what, how much, unit


def main() -> int:
    """Prints the table; 0 when all goals are met."""
    options = argparse.ArgumentParser(description="The daemon with many workers and jobs.")
    options.add_argument("--workers", type=int, default=1000)
    options.add_argument("--devices", type=int, default=4)
    options.add_argument("--jobs", type=int, default=5000)
    options.add_argument("--history", type=int, default=100_000)
    options.add_argument("--seconds", type=float, default=30.0, help="of measuring, each time")
    options.add_argument("--samples", type=int, default=SAMPLES, help="submits and listings")
    options.add_argument("--once", action="store_true", help="only with all of it")
    chosen = options.parse_args()
    room = int(chosen.workers * chosen.devices / SHARE)
    if chosen.jobs + chosen.samples > room:
        options.error(f"{chosen.workers} workers have room for {room} jobs only")
    print(
        f"{chosen.workers} workers of {chosen.devices} devices, {chosen.jobs} jobs running, "
        f"{chosen.history} of history; Python {platform.python_version()}, Linux "
        f"{platform.release()}, {os.cpu_count()} cores\n"
    )
    small: list[Row] = []
    if not chosen.once:
        small = measured(chosen, 10)
    large = measured(chosen, 1)
    print("| the daemon | a tenth | all | growth | goal |")
    print("|---|---|---|---|---|")
    met = True
    for number, (what, value, unit) in enumerate(large):
        before = small[number][1] if small else math.nan
        growth = f"{value / before:.1f}" if before else "-"
        goal = ""
        if what == "start with the history":
            met = value <= START_GOAL_S
            goal = f"at most {START_GOAL_S:g}: {'met' if met else 'not met'}"
        print(f"| {what}, {unit} | {before:.3g} | {value:.3g} | {growth} | {goal} |")
    print(
        json.dumps(
            {"rows": [dict(zip(("what", "value", "unit"), row, strict=True)) for row in large]}
        )
    )
    return 0 if met else 1


def measured(chosen: argparse.Namespace, part: int) -> list[Row]:
    """The rows for one part of it all, in the same order always."""
    workers, jobs = max(1, chosen.workers // part), max(1, chosen.jobs // part)
    rows: list[Row] = []
    with running(workers, chosen.devices, chosen.history // part) as (
        pool,
        (answered_s, started_s),
    ):
        rows.append(("start with the history", answered_s, "s"))
        rows.append(("start until all is well", started_s, "s"))
        idle_mib = pool.used().rss_bytes / MIB
        rows.append(("memory without jobs", idle_mib, "MiB"))
        client = PoolClient(pool.daemon.port, pool.daemon.token)
        began = time.monotonic()
        client.submit_many(jobs, run_s=1e9, share=SHARE)
        rows.append(("submits of the running jobs", jobs / (time.monotonic() - began), "1/s"))
        until(lambda: running_jobs(pool) >= jobs, 600.0, "jobs running")
        rows.append(("from the first submit to all running", time.monotonic() - began, "s"))
        rows += steady(pool, jobs, chosen.seconds)
        rows += asked(pool, client, chosen.samples)
        rows.append(("memory a job", (pool.used().rss_bytes / MIB - idle_mib) * 1024 / jobs, "KiB"))
        client.close()
    return rows


def steady(pool: Pool, jobs: int, seconds: float) -> list[Row]:
    """While nothing is asked: what running jobs cost by themselves."""
    before, lag, (requests, sent) = pool.used(), lag_of(pool), pool.engine_requests()
    metrics = pool.daemon.metrics()
    time.sleep(seconds)
    after, lag_after, (requests_after, sent_after) = (
        pool.used(),
        lag_of(pool),
        pool.engine_requests(),
    )
    took_s = after.at - before.at
    now = pool.daemon.metrics()
    return [
        ("CPU, jobs printing a line a second", 100 * (after.cpu_s - before.cpu_s) / took_s, "%"),
        ("CPU a job", 1e6 * (after.cpu_s - before.cpu_s) / took_s / jobs, "µs/s"),
        ("memory", after.rss_bytes / MIB, "MiB"),
        ("written to disk", (after.written_bytes - before.written_bytes) / took_s / 1024, "KiB/s"),
        (
            "journal bytes in",
            grown("cumulus_journal_received_bytes_total", metrics, now) / took_s / 1024,
            "KiB/s",
        ),
        ("WAMP messages", grown("cumulus_router_messages_total", metrics, now) / took_s, "1/s"),
        (
            "engine requests",
            (sum(requests_after.values()) - sum(requests.values())) / took_s,
            "1/s",
        ),
        ("engine answers", (sent_after - sent) / took_s / 1024, "KiB/s"),
        ("event loop late, mean", 1000 * lag_mean(lag, lag_after), "ms"),
        ("event loop late, p99 at most", 1000 * lag_p99(lag, lag_after), "ms"),
    ]


def asked(pool: Pool, client: PoolClient, samples: int) -> list[Row]:
    """While all of that runs: how long a client waits."""
    return [
        ("submit, p50", 1000 * percentile(found := client.submits(samples, SHARE), 0.5), "ms"),
        ("submit, p99", 1000 * percentile(found, 0.99), "ms"),
        ("list of 50, p99", 1000 * percentile(client.lists(samples, limit=50), 0.99), "ms"),
        (
            "list of 1000, p99",
            1000 * percentile(client.lists(samples // 10, limit=1000), 0.99),
            "ms",
        ),
        (
            "list of active, p99",
            1000 * percentile(client.lists(samples // 10, limit=50, active=True), 0.99),
            "ms",
        ),
        ("search, p99", 1000 * percentile(client.searches(samples // 10), 0.99), "ms"),
    ]


def running_jobs(pool: Pool) -> int:
    return int(pool.daemon.metrics().get('cumulus_jobs{state="running"}', 0))


def until(wanted: Callable[[], bool], timeout_s: float, what: str) -> None:
    deadline = time.monotonic() + timeout_s
    while not wanted():
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.25)


def percentile(values: list[float], share: float) -> float:
    """The value that so many of them are at or below."""
    return sorted(values)[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


def grown(name: str, before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """Of a counter, over all its labels."""
    return sum(
        value - before.get(key, 0.0)
        for key, value in after.items()
        if key == name or key.startswith(f"{name}{{")
    )


def lag_of(pool: Pool) -> dict[str, float]:
    return {key: value for key, value in pool.daemon.metrics().items() if key.startswith(LAG)}


def lag_mean(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    count = after[f"{LAG}_count"] - before[f"{LAG}_count"]
    return (after[f"{LAG}_sum"] - before[f"{LAG}_sum"]) / max(1.0, count)


def lag_p99(before: Mapping[str, float], after: Mapping[str, float]) -> float:
    """The bound of the bucket that holds it."""
    count = after[f"{LAG}_count"] - before[f"{LAG}_count"]
    for key, value in after.items():
        if key.startswith(f"{LAG}_bucket") and value - before.get(key, 0.0) >= 0.99 * count:
            return float(key.split('"')[1])
    return math.inf


if __name__ == "__main__":
    sys.exit(main())
