"""What the daemon does with nothing to do: `script/bench idle [--workers N] [--seconds N]`.

The real daemon process with an engine at the wire and simulated agents (tests/pool), no job. What
counts is its own CPU, all threads, its memory, and what it asks of engine and agents meanwhile, by
kind: whatever polls shows there.

Exits 0 when all goals are met; the last line is one JSON object.
"""

import argparse
import json
import os
import platform
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from tests.pool.rig import running  # noqa: E402

CPU_GOAL = 0.5  #: percent of a core
MEMORY_GOAL_BYTES = 120_000_000
SETTLE_S = 10.0  #: agents have just come


def main() -> int:
    """Prints the table; 0 when all goals are met."""
    options = argparse.ArgumentParser(description="The daemon without a job.")
    options.add_argument("--workers", type=int, default=100)
    options.add_argument("--devices", type=int, default=4)
    options.add_argument("--seconds", type=float, default=60.0)
    chosen = options.parse_args()
    print(
        f"{chosen.workers} workers of {chosen.devices} devices, no job; Python "
        f"{platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} cores\n"
    )
    with running(chosen.workers, chosen.devices, 0) as (pool, _):
        time.sleep(SETTLE_S)
        before, (asked, sent) = pool.used(), pool.engine_requests()
        metrics = pool.daemon.metrics()
        time.sleep(chosen.seconds)
        after, (asked_after, sent_after) = pool.used(), pool.engine_requests()
        metrics_after = pool.daemon.metrics()
    took_s = after.at - before.at
    minutes = took_s / 60
    cpu = 100 * (after.cpu_s - before.cpu_s) / took_s
    rows = [
        ("CPU, % of a core", cpu, f"under {CPU_GOAL:g}", cpu < CPU_GOAL),
        (
            "memory, MB",
            after.rss_bytes / 1e6,
            f"under {MEMORY_GOAL_BYTES / 1e6:g}",
            after.rss_bytes < MEMORY_GOAL_BYTES,
        ),
        ("engine's answers, KiB a minute", (sent_after - sent) / 1024 / minutes, "", None),
        (
            "written to files, KiB a minute",
            (after.written_bytes - before.written_bytes) / 1024 / minutes,
            "",
            None,
        ),
    ]
    rows += [
        (f"{kind}, a minute", (asked_after[kind] - asked.get(kind, 0)) / minutes, "", None)
        for kind in sorted(asked_after)
        if asked_after[kind] > asked.get(kind, 0)
    ]
    rows += [
        (f"{key}, a minute", (value - metrics.get(key, 0.0)) / minutes, "", None)
        for key, value in metrics_after.items()
        if key.startswith(("cumulus_router_messages_total", "cumulus_store_commits"))
    ]
    print("| the daemon | | goal |")
    print("|---|---|---|")
    for what, value, goal, met in rows:
        verdict = "" if met is None else f": {'met' if met else 'not met'}"
        print(f"| {what} | {value:.4g} | {goal}{verdict} |")
    print(json.dumps({"rows": [[what, value, met] for what, value, _, met in rows]}))
    return 0 if all(met is not False for *_, met in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
