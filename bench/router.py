"""The router beside Crossbar: `script/bench router [--quick] [--cases WORD,WORD]`.

The same client, in this process, sends the same bytes to the daemon's router (in a process of its
own, open to all: tests/interop/open_router.py) and to Crossbar (from PyPI, in an environment of its
own: var/bench-crossbar), by turns: round after round, each case with JSON and with CBOR. What
counts is the router's CPU time per operation, all threads of the process, user and kernel; of
Crossbar that of its router worker alone, without its controller. The rate depends on the client
and on what else the machine does, and has no goal.

"Into the router" is a procedure that the router's own process serves: a LocalSession's handler
here, a component within the router worker there, which likewise talks to its router without a
socket. Memory is measured in processes that have done nothing else before.

Exits 0 when all goals are met; the last line is one JSON object.
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from routing.cases import CASES, Case, Idle, Run, Stalled  # noqa: E402
from routing.peers import BenchError, Codec  # noqa: E402
from routing.servers import Crossbar, Cumulusd, Server, install_crossbar  # noqa: E402

ROUNDS = 7
CODECS = ("json", "cbor")
KINDS: tuple[type[Server], ...] = (Cumulusd, Crossbar)
MEMORY = ("memory of an idle session", "growth under a stalled reader")
IDLE_SESSIONS = 3000
STALLED_BYTES = 80_000_000
STALLED_GOAL_BYTES = 2 << 20
MIB = 1 << 20


def main() -> int:
    """Prints the table; 0 when all goals are met."""
    options = argparse.ArgumentParser(description="The router's cost beside Crossbar's.")
    options.add_argument("--quick", action="store_true", help="3 short rounds")
    options.add_argument("--cases", default="", help="rows with one of these words only")
    chosen = options.parse_args()
    words = [word for word in chosen.cases.split(",") if word]
    if not any(wanted(name, words) for name in (*MEMORY, *(case.name for case in CASES))):
        options.error(f"no row has one of the words {', '.join(words)}")
    rounds, part = (3, 3) if chosen.quick else (ROUNDS, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    crossbar = install_crossbar()
    print(
        f"cumulusd {version('cumulus-gpu')} and Crossbar {crossbar}, Python "
        f"{platform.python_version()}, Linux {platform.release()}; medians of {rounds} rounds\n"
    )
    print("| | | cumulusd | Crossbar | ratio | goal | ops/s | Crossbar ops/s |")
    print("|---|---|---|---|---|---|---|---|")
    rows = []
    cases = [case for case in CASES if wanted(case.name, words)]
    if cases:
        with started(KINDS) as servers:
            for case in cases:
                for codec in CODECS:
                    rows.append(cpu_row(case, codec, servers, rounds, part))
    if wanted(MEMORY[0], words):
        rows.append(idle_row(IDLE_SESSIONS // part))
    if wanted(MEMORY[1], words):
        rows.append(stalled_row())
    missed = [f"{row['case']}, {row['codec']}" for row in rows if row["met"] is False]
    print(f"\nmissed: {'; '.join(missed) or 'none'}")
    print(json.dumps({"crossbar": crossbar, "quick": chosen.quick, "missed": missed, "rows": rows}))
    return 1 if missed else 0


def wanted(name: str, words: list[str]) -> bool:
    return not words or any(word in name for word in words)


@contextmanager
def started(kinds: tuple[type[Server], ...]) -> Iterator[list[Server]]:
    servers = [kind() for kind in kinds]
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()


def cpu_row(
    case: Case, codec: str, servers: list[Server], rounds: int, part: int
) -> dict[str, Any]:
    """Rounds by turns; the first of each router is not counted."""
    runs = [case.make(server.port, Codec(codec)) for server in servers]
    count = case.operations // part
    try:
        for run in runs:
            run.operate(count)
        found: list[list[tuple[float, float]]] = [[] for _ in servers]
        for number in range(rounds):
            turn = list(zip(servers, runs, found, strict=True))
            for server, run, results in turn if number % 2 else turn[::-1]:
                results.append(measured(server, run, count))
    finally:
        for run in runs:
            run.close()
    ours, theirs = ([cpu for cpu, _ in results] for results in found)
    ratio = statistics.median(ours) / statistics.median(theirs)
    met = None if case.goal is None else ratio <= case.goal
    rates = [statistics.median(rate for _, rate in results) for results in found]
    goal = "" if case.goal is None else f"at most {case.goal:g}: {'met' if met else 'not met'}"
    print(
        f"| {case.name} | {codec} | {spread(ours)} µs | {spread(theirs)} µs | {ratio:.2f} | {goal} "
        f"| {rates[0]:,.0f} | {rates[1]:,.0f} |",
        flush=True,
    )
    return {
        "case": case.name,
        "codec": codec,
        "cpu_us": round(statistics.median(ours), 2),
        "crossbar_cpu_us": round(statistics.median(theirs), 2),
        "ratio": round(ratio, 3),
        "goal": case.goal,
        "met": met,
        "per_s": round(rates[0]),
        "crossbar_per_s": round(rates[1]),
    }


def measured(server: Server, run: Run, count: int) -> tuple[float, float]:
    """The router's CPU time per operation in µs, and operations per second."""
    cpu_s, begun = server.cpu_s(), time.perf_counter()
    run.operate(count)
    took_s = time.perf_counter() - begun
    return (server.cpu_s() - cpu_s) / count * 1e6, count / took_s


def spread(values: list[float]) -> str:
    """Median and, in brackets, quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.1f} [{low:.1f} {high:.1f}]"


def idle_row(sessions: int) -> dict[str, Any]:
    """What a session that is open costs, of `sessions`."""
    found = []
    with started(KINDS) as servers:
        for server in servers:
            run = Idle(server.port, Codec("cbor"))
            run.operate(100)  # what is made once
            before = server.rss_bytes()
            run.operate(sessions)
            found.append((server.rss_bytes() - before) / sessions)
            run.close()
        base = [server.rss_bytes() for server in servers]
    ours, theirs = (value / 1024 for value in found)
    print(
        f"| memory of an idle session, of {sessions:,} | cbor | {ours:.1f} KiB | {theirs:.1f} KiB "
        f"| {ours / theirs:.2f} | | | |",
        flush=True,
    )
    return {
        "case": MEMORY[0],
        "codec": "cbor",
        "kib": round(ours, 1),
        "crossbar_kib": round(theirs, 1),
        "sessions": sessions,
        "rss_after_mib": [round(each / MIB) for each in base],
        "met": None,
    }


def stalled_row() -> dict[str, Any]:
    """The peak's growth while a subscriber takes nothing of 80 MB."""
    found = []
    events = STALLED_BYTES // Stalled.size_bytes
    with started(KINDS) as servers:
        for server in servers:
            run = Stalled(server.port, Codec("cbor"))
            run.operate(100, window=1)  # what publishing takes while the reader reads
            run.stall()
            server.forget_peak()
            before = server.rss_bytes()
            run.operate(events)
            found.append(server.peak_bytes() - before)
            run.close()
    ours, theirs = found
    met = ours < STALLED_GOAL_BYTES
    print(
        f"| growth under a stalled reader of {STALLED_BYTES / 1e6:.0f} MB | cbor "
        f"| {ours / MIB:.2f} MiB | {theirs / MIB:.2f} MiB | | "
        f"under {STALLED_GOAL_BYTES / MIB:g} MiB: {'met' if met else 'not met'} | | |",
        flush=True,
    )
    return {
        "case": MEMORY[1],
        "codec": "cbor",
        "mib": round(ours / MIB, 2),
        "crossbar_mib": round(theirs / MIB, 2),
        "goal_mib": STALLED_GOAL_BYTES / MIB,
        "met": met,
    }


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"script/bench router: {error}")
    except KeyboardInterrupt:
        print(
            "script/bench router: interrupted: what is not above was not measured", file=sys.stderr
        )
        sys.exit(130)
