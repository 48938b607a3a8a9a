"""`python -m tests.sim [--seed N [-v]] [--schedules N] [--first-seed N] [--seconds S]`.

Runs simulated schedules: five to eight jobs each under three faults or more. Real are the parts of
the daemon (all of `cumulusd.jobs`, the agents' port, the Swarm platform, the relay), of the agent
and the runner's journal writer, with real journal files and locks; modelled are the clock, the
network, the engines, threads, the store's disk (SQLite in memory), sockets, and the runner's
own process. `sim_daemon`, `sim_worker`, `sim_runner` and `sim_swarm` say where each line runs.

A seed that fails is printed, with what it violated, and can be run again
with `--seed`. The last line of stdout is one JSON object with counts; the exit code is 0 when
nothing was violated.
"""

import argparse
import json
import sys
import time

from tests.sim.sim_coverage import Coverage
from tests.sim.sim_world import run_seed, temporary_root


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seed", type=int, help="this one only")
    parser.add_argument("--schedules", type=int, default=200)
    parser.add_argument("--first-seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="stop after so long")
    parser.add_argument("--keep-going", type=int, default=5, help="failures to see before the end")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell all that happens")
    options = parser.parse_args()
    seeds = range(options.first_seed, options.first_seed + options.schedules)
    if options.seed is not None:
        seeds = range(options.seed, options.seed + 1)
    say = print if options.verbose else None
    root = temporary_root()
    began = time.perf_counter()
    coverage, failed, done, jobs, steps, simulated_s = Coverage(), [], 0, 0, 0, 0.0
    try:
        for seed in seeds:
            outcome = run_seed(seed, say=say, root=root)
            coverage.add(outcome.coverage)
            done += 1
            jobs += outcome.jobs
            steps += outcome.steps
            simulated_s += outcome.simulated_s
            if outcome.violations:
                failed.append(seed)
                print(f"seed {seed} failed: {outcome.violations[0]}", file=sys.stderr)
                if len(failed) >= options.keep_going:
                    break
            if options.seconds and time.perf_counter() - began > options.seconds:
                break
    finally:
        root.rmdir()
    took_s = time.perf_counter() - began
    print(
        json.dumps(
            {
                "schedules": done,
                "violations": len(failed),
                "failed_seeds": failed,
                "first_seed": seeds[0],
                "jobs": jobs,
                "faults": sum(coverage.faults.values()),
                "faults_by_kind": dict(sorted(coverage.faults.items())),
                "ends": dict(sorted(coverage.ends.items())),
                "crash_points": dict(sorted(coverage.crashes.items())),
                "missing_pairs": [f"{a}+{b}" for a, b in coverage.missing_pairs()],
                "missing_boundaries": coverage.missing_boundaries(),
                "missing_crash_points": coverage.missing_crashes(),
                "steps": steps,
                "simulated_s": round(simulated_s),
                "took_s": round(took_s, 1),
                "ms_per_schedule": round(took_s / max(1, done) * 1000, 1),
            }
        )
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
