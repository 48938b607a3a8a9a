"""What the daemon does with nothing to do: 100 workers of 4 devices, no job.

The real daemon process with an engine at the wire and simulated agents (tests/pool). What counts is
its own CPU, all threads, its memory, and what it asks of engine and agents meanwhile, by kind:
whatever polls shows there.
"""

import time
from collections import Counter
from collections.abc import Iterator

from bench.parts.daemons import cpu_s, pid_of
from bench.parts.run import Run
from bench.table import Row, at_most, measured
from tests.pool.rig import running

WORKERS, DEVICES = 100, 4
CPU_GOAL_PERCENT = 0.5
MEMORY_GOAL_MB = 120.0
#: Agents have just come, and what adapts has to have done so.
SETTLE_S, SETTLE_QUICK_S = 30.0, 10.0
WINDOWS = 3
WINDOW_S, WINDOW_QUICK_S = 20.0, 10.0
COUNTED = ("cumulus_router_messages_total", "cumulus_store_commits")


def rows(run: Run) -> Iterator[Row]:
    """The rows."""
    with running(WORKERS, DEVICES, 0) as (pool, _):
        pid = pid_of(pool.daemon)
        time.sleep(SETTLE_QUICK_S if run.quick else SETTLE_S)
        began, (asked, sent), metrics = pool.used(), pool.engine_requests(), pool.daemon.metrics()
        # Shorter where the start took long.
        window_s = WINDOW_QUICK_S if run.quick else min(WINDOW_S, run.left_s / WINDOWS - 1)
        window_s = max(WINDOW_QUICK_S, window_s)
        cpu_percent, memory_mb = [], []
        for _ in range(WINDOWS):
            before_s, begun = cpu_s(pid), time.monotonic()
            time.sleep(window_s)
            cpu_percent.append(100 * (cpu_s(pid) - before_s) / (time.monotonic() - begun))
            memory_mb.append(pool.used().rss_bytes / 1e6)
        ended, (asked_after, sent_after) = pool.used(), pool.engine_requests()
        metrics_after = pool.daemon.metrics()
    case = f"idle, {WORKERS} workers"
    goals = [at_most(CPU_GOAL_PERCENT)]
    yield measured(f"{case}: CPU", "% of a core", cpu_percent, goals=goals)
    yield measured(f"{case}: memory", "MB", memory_mb, goals=[at_most(MEMORY_GOAL_MB)])
    minutes = (ended.at - began.at) / 60
    counted = {
        "written to files, KiB": (ended.written_bytes - began.written_bytes) / 1024,
        "the engine's answers, KiB": (sent_after - sent) / 1024,
        **dict(sorted((Counter(asked_after) - Counter(asked)).items())),
        **{
            key: value - metrics.get(key, 0.0)
            for key, value in metrics_after.items()
            if key.startswith(COUNTED)
        },
    }
    yield measured(
        f"{case}: requests to the engine",
        "a minute",
        [(sum(asked_after.values()) - sum(asked.values())) / minutes],
        more={"a minute": {what: value / minutes for what, value in counted.items()}},
    )
    messages = sum(
        value for key, value in counted.items() if key.startswith("cumulus_router_messages_total")
    )
    yield measured(f"{case}: WAMP messages", "a minute", [messages / minutes])
