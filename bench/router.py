"""The router beside Crossbar.

The same client, in this process, sends the same bytes to the daemon's router (in a process of its
own, open to all: tests/interop/open_router.py) and to Crossbar (from PyPI, in an environment of its
own: var/bench-crossbar), by turns: round after round, each case with JSON and with CBOR. What
counts is the router's CPU time per operation, all threads of the process, user and kernel; of
Crossbar that of its router worker alone, without its controller. The rate depends on the client
and on what else the machine does, and has no goal.

"Into the router" is a procedure that the router's own process serves: a LocalSession's handler
here, a component within the router worker there, which likewise talks to its router without a
socket. Memory is measured in processes that have done nothing else before.
"""

import resource
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager

from bench.parts.run import Run, paired
from bench.routing import cases
from bench.routing.peers import Codec
from bench.routing.servers import Crossbar, Cumulusd, Server, install_crossbar
from bench.table import Peer, Row, at_most, measured, ratio_at_most

ROUNDS = 7
CODECS = ("json", "cbor")
IDLE_SESSIONS = 3000
STALLED_BYTES = 80_000_000
STALLED_GOAL_MIB = 2.0
MIB = 1 << 20
COMMAND = "crossbar start --cbdir NODE --loglevel=warn, its config as in bench/routing/servers.py"

#: CPU time per operation in µs, and operations per second
Cost = tuple[float, float]


def rows(run: Run) -> Iterator[Row]:
    """The rows."""
    rounds, part = (3, 3) if run.quick else (ROUNDS, 1)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    version = install_crossbar()
    peer = Peer(name=f"Crossbar {version}", command=COMMAND)
    wanted = [
        (case, codec)
        for case in cases.CASES
        for codec in CODECS
        if run.wants(f"router: {case.name}, {codec}")
    ]
    with started() as (ours, theirs):
        for number, (case, codec) in enumerate(wanted):
            until = run.until(0.8 / (len(wanted) - number))
            yield cpu_row(case, codec, (ours, theirs), peer, rounds, part, until)
    if run.wants("router: memory of an idle session"):
        yield idle_row(IDLE_SESSIONS // part, peer)
    if run.wants("router: growth under a stalled reader"):
        yield stalled_row(peer)


@contextmanager
def started() -> Iterator[tuple[Server, Server]]:
    servers = (Cumulusd(), Crossbar())
    try:
        for server in servers:
            server.start()
        yield servers
    finally:
        for server in servers:
            server.stop()


def cpu_row(
    case: cases.Case,
    codec: str,
    servers: tuple[Server, Server],
    peer: Peer,
    rounds: int,
    part: int,
    until: float,
) -> Row:
    """Rounds by turns; the first of each router is not counted."""
    runs = [case.make(server.port, Codec(codec)) for server in servers]
    count = case.operations // part

    def cost(number: int) -> Cost:
        return measured_cost(servers[number], runs[number], count)

    try:
        ours, theirs = paired(lambda: cost(0), lambda: cost(1), rounds=rounds, until=until)
    finally:
        for one in runs:
            one.close()
    return measured(
        f"router: {case.name}, {codec}",
        "µs",
        [cpu_us for cpu_us, _ in ours],
        peer,
        [cpu_us for cpu_us, _ in theirs],
        goals=[] if case.goal is None else [ratio_at_most(case.goal)],
        more={
            "per_s": statistics.median(rate for _, rate in ours),
            "peer_per_s": statistics.median(rate for _, rate in theirs),
        },
    )


def measured_cost(server: Server, one: cases.Run, count: int) -> Cost:
    cpu_s, begun = server.cpu_s(), time.perf_counter()
    one.operate(count)
    took_s = time.perf_counter() - begun
    return (server.cpu_s() - cpu_s) / count * 1e6, count / took_s


def idle_row(sessions: int, peer: Peer) -> Row:
    """What a session that is open costs, of `sessions`."""
    found = []
    with started() as servers:
        for server in servers:
            run = cases.Idle(server.port, Codec("cbor"))
            run.operate(100)  # what is made once
            before = server.rss_bytes()
            run.operate(sessions)
            found.append((server.rss_bytes() - before) / sessions / 1024)
            run.close()
        base = [server.rss_bytes() / MIB for server in servers]
    case = f"router: memory of an idle session, of {sessions:,}"
    return measured(case, "KiB", found[:1], peer, found[1:], more={"rss_after_mib": base})


def stalled_row(peer: Peer) -> Row:
    """The peak's growth while a subscriber takes nothing of 80 MB."""
    found = []
    events = STALLED_BYTES // cases.Stalled.size_bytes
    with started() as servers:
        for server in servers:
            run = cases.Stalled(server.port, Codec("cbor"))
            run.operate(100, window=1)  # what publishing takes while the reader reads
            run.stall()
            server.forget_peak()
            before = server.rss_bytes()
            run.operate(events)
            found.append((server.peak_bytes() - before) / MIB)
            run.close()
    case = f"router: growth under a stalled reader of {STALLED_BYTES / 1e6:.0f} MB"
    return measured(case, "MiB", found[:1], peer, found[1:], goals=[at_most(STALLED_GOAL_MIB)])
