"""What a job prints, on its way to the client.

1,000,000 lines of 100 B and 200 MB of 16 KiB lines, each exact, from the first byte at the client
to the last: `client.run` with a stdout that takes everything. On a Swarm beside its log API,
followed, of a bare service that runs the same function; on the local platform beside the limit, a
pipe whose reader appends to a file. The age of lines at 1,000 a second when they come. And by how
much the memory of daemon and agents grows: while that passes, while a reader has stalled, and with
50 jobs that print at a time.
"""

import contextlib
import io
import statistics
import time
from collections.abc import Callable, Iterator

from bench.parts import bare
from bench.parts.daemons import forget_peak, peak_bytes, pid_of, rss_bytes, started
from bench.parts.errors import BenchError
from bench.parts.output import Sink, Ticks, file_of, piped_mb_s, say, tick
from bench.parts.run import Run, alone, paired
from bench.parts.swarm import KeptDaemon, KeptSwarm
from bench.routing.peers import CALL, Codec, Loop
from bench.routing.peers import Peer as WampPeer
from bench.table import (
    Goal,
    Peer,
    Row,
    at_least,
    at_most,
    measured,
    not_measured,
    ratio_at_least,
)
from cumulus_client import CumulusClient
from cumulus_wire import uris
from tests.e2e.harness import Daemon

MIB = 1 << 20
#: name, bytes in all, bytes a line, goal in MB/s, goal as a multiple of the Swarm log API
BULKS = (
    ("1,000,000 lines of 100 B", 100_000_000, 100, 40.0, 10.0),
    ("200 MB of 16 KiB lines", 200_000_000 // 16_384 * 16_384, 16_384, 120.0, 4.0),
)
SWARM, LOCAL, AGENTS = "relay, Swarm", "relay, local", "daemon and agents"
TICKS, TICK_S = 3000, 0.001
AGES = ("median", "99th percentile")
AGE_GOAL_MS = 5.0
GROWTH_GOAL_MIB = 16.0
JOBS, JOB_BYTES = 50, 2_000_000
STALLED_BYTES = 100_000_000
LOG_WAIT_S = 60.0
JOB_S = 300.0
PIPE = Peer(
    name="pipe to a file", command="python3 -u said.py, its stdout read and appended to a file"
)
LOG = Peer(name="Swarm log API", command=bare.PEER.command)


def rows(run: Run) -> Iterator[Row]:
    """The rows: first those of a Swarm, which take longest."""
    if run.swarm is None:
        why = run.why_no_swarm
        for name, _, _, rate, ratio in BULKS:
            goals = [at_least(rate), ratio_at_least(ratio)]
            yield not_measured(f"{SWARM}: {name}", why, unit="MB/s", goals=goals)
        for case in age_cases(SWARM):
            yield not_measured(case, why, unit="ms", goals=[at_most(AGE_GOAL_MS)])
    elif run.wants(*bulk_cases(run, SWARM, AGENTS), *age_cases(SWARM)):
        yield from on_swarm(run, run.swarm)
    with started(Daemon(run.folder / "relay")) as daemon, CumulusClient(daemon.url) as client:
        yield from on_local(run, daemon, client)


def sizes(run: Run) -> Iterator[tuple[str, int, int, float, float]]:
    """The bulks that are wanted; with --quick a tenth of each."""
    for name, total, line, rate, ratio in BULKS:
        if run.quick:
            yield f"a tenth of {name}", total // 10 // line * line, line, rate, ratio
        else:
            yield name, total, line, rate, ratio


def bulk_cases(run: Run, where: str, whose: str) -> list[str]:
    """Rates, and growth, of all sizes."""
    names = [name for name, *_ in sizes(run)]
    return [
        *(f"{where}: {name}" for name in names),
        *(f"{where}: memory of {whose}, {name}" for name in names),
    ]


def age_cases(where: str) -> list[str]:
    return [f"{where}: age of a line at 1,000 a second, {what}" for what in AGES]


def on_swarm(run: Run, swarm: KeptSwarm) -> Iterator[Row]:
    with started(KeptDaemon(swarm)) as daemon, CumulusClient(daemon.url, swarm.token) as client:
        assert isinstance(daemon, KeptDaemon)
        api, image = swarm.cluster.api(), swarm.job_image
        for number, (name, total, line, rate, ratio) in enumerate(sizes(run)):
            case, memory_case = f"{SWARM}: {name}", f"{SWARM}: memory of {AGENTS}, {name}"
            if not run.wants(case, memory_case):
                continue
            growth = Growth([pid_of(daemon), *daemon.agents()])
            with bare.BareServices(api, image, file_of(f"say({total}, {line})")) as services:
                ours, theirs = paired(
                    lambda: growth.of(lambda: run_mb_s(client, total, line)),  # noqa: B023
                    lambda: log_mb_s(services, total, line),  # noqa: B023
                    rounds=5,
                    until=run.until((0.35, 0.4)[number]),
                    least=1 if run.quick else 2,
                    warm_up=False,
                )
            rates = [rate for rate, _ in ours]
            goals = [at_least(rate), ratio_at_least(ratio)]
            yield measured(case, "MB/s", rates, LOG, theirs, goals=goals)
            yield growth.row(memory_case, ours)
        if not run.wants(*age_cases(SWARM)):
            return
        with bare.BareServices(api, image, file_of(f"tick({TICKS}, {TICK_S})")) as services:
            aged, aged_log = paired(
                lambda: ages(client),
                lambda: log_ages(services),
                rounds=2,
                until=run.until(0.2),
                least=1,
                warm_up=False,
            )
        yield from age_rows(SWARM, aged, LOG, aged_log)


def on_local(run: Run, daemon: Daemon, client: CumulusClient) -> Iterator[Row]:
    growth = Growth([pid_of(daemon)])
    memory = f"{LOCAL}: memory of the daemon"
    for name, total, line, rate, _ in sizes(run):
        case = f"{LOCAL}: {name}"
        if not run.wants(case, f"{memory}, {name}"):
            continue
        ours, limit = paired(
            lambda: growth.of(lambda: run_mb_s(client, total, line)),  # noqa: B023
            lambda: piped_mb_s(run.folder, total, line),  # noqa: B023
            rounds=5,
            until=run.until(0.25),
        )
        rates = [each for each, _ in ours]
        yield measured(case, "MB/s", rates, PIPE, limit, goals=[at_least(rate)])
        yield growth.row(f"{memory}, {name}", ours)
    if run.wants(*age_cases(LOCAL)):
        aged = alone(lambda: ages(client), rounds=2, until=run.until(0.25), least=1, warm_up=False)
        yield from age_rows(LOCAL, aged)
    total = STALLED_BYTES // 10 if run.quick else STALLED_BYTES
    case = f"{memory}, a stalled reader"
    if run.wants(case):
        found = growth.of(lambda: print_to_stalled(daemon, client, total))
        yield growth.row(case, [found])
    case, memory_case = f"{LOCAL}: {JOBS} jobs print at a time", f"{memory}, {JOBS} jobs print"
    if run.wants(case, memory_case):
        size = JOB_BYTES // 10 if run.quick else JOB_BYTES
        many = growth.of(lambda: many_mb_s(client, size))
        yield measured(case, "MB/s", [many[0]])
        yield growth.row(memory_case, [many])


class Growth:
    """By how much the memory of some processes goes beyond what they had before."""

    def __init__(self, pids: list[int]) -> None:
        self._pids = pids

    def of(self, work: Callable[[], float]) -> tuple[float, float]:
        """(what `work` gives, MiB by which their peaks together grew)."""
        for pid in self._pids:
            forget_peak(pid)
        before = sum(rss_bytes(pid) for pid in self._pids)
        result = work()
        return result, (sum(peak_bytes(pid) for pid in self._pids) - before) / MIB

    def row(self, case: str, found: list[tuple[float, float]]) -> Row:
        goals: list[Goal] = [at_most(GROWTH_GOAL_MIB)]
        more = {"rss_mib": [rss_bytes(pid) / MIB for pid in self._pids]}
        return measured(case, "MiB more", [each for _, each in found], goals=goals, more=more)


# -- bulk


def run_mb_s(client: CumulusClient, total_bytes: int, line_bytes: int) -> float:
    """As a user sees it."""
    sink = Sink()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(io.StringIO()):
        wanted = client.run(say, gpu_memory=0.5, duration=JOB_S, args=[total_bytes, line_bytes])
    return sink.rate_mb_s(wanted)


def log_mb_s(services: bare.BareServices, total_bytes: int, line_bytes: int) -> float:
    """The same through the Swarm log API."""
    sink, service = Sink(), services.create()
    wanted = total_bytes // line_bytes * line_bytes
    for data in services.log(service, LOG_WAIT_S):
        sink.take(data)
        if sink.bytes >= wanted:
            break
    services.wait_over(service, LOG_WAIT_S)
    services.remove(service)
    return sink.bytes / 1e6 / max(sink.last_at - sink.first_at, 1e-6)


# -- single lines


def ages(client: CumulusClient) -> list[float]:
    """How old each line was, in ms."""
    sink = Ticks()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(io.StringIO()):
        client.run(tick, gpu_memory=0.5, duration=JOB_S, args=[TICKS, TICK_S])
    return _all_of(sink)


def log_ages(services: bare.BareServices) -> list[float]:
    sink, service = Ticks(), services.create()
    for data in services.log(service, LOG_WAIT_S):
        sink.take(data)
        if len(sink.ages_ms) >= TICKS:
            break
    services.wait_over(service, LOG_WAIT_S)
    services.remove(service)
    return _all_of(sink)


def _all_of(sink: Ticks) -> list[float]:
    if len(sink.ages_ms) != TICKS:
        raise BenchError(f"{len(sink.ages_ms)} of {TICKS} lines came")
    return sink.ages_ms


def age_rows(
    where: str,
    ours: list[list[float]],
    peer: Peer | None = None,
    theirs: list[list[float]] | None = None,
) -> Iterator[Row]:
    """Of each round the median, and what 99 of 100 lines stay under."""
    goals: list[Goal] = [at_most(AGE_GOAL_MS)]
    parts: list[Callable[[list[float]], float]] = [statistics.median, percentile_99]
    for case, part in zip(age_cases(where), parts, strict=True):
        yield measured(
            case,
            "ms",
            [part(each) for each in ours],
            peer,
            [part(each) for each in theirs or ()],
            goals=goals,
        )


def percentile_99(values: list[float]) -> float:
    return statistics.quantiles(values, n=100)[98]


# -- many, and one that doesn't read


def many_mb_s(client: CumulusClient, job_bytes: int) -> float:
    """Jobs that print at a time; what all of them said has to be here."""
    sink = Sink()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(io.StringIO()):
        found = list(
            client.map(
                say,
                [job_bytes] * JOBS,
                [100] * JOBS,
                max_in_flight=JOBS,
                gpu_memory=1 / JOBS,
                duration=JOB_S,
            )
        )
    wanted = sum(int(each["bytes"]) for each in found)
    if sink.bytes != wanted:
        raise BenchError(f"{sink.bytes} of {wanted} bytes of {JOBS} jobs came")
    return sink.bytes / 1e6 / (sink.last_at - sink.first_at)


def print_to_stalled(daemon: Daemon, client: CumulusClient, total_bytes: int) -> float:
    """A job prints while somebody follows it who reads nothing; the job is to end as ever."""
    reader = WampPeer(Loop(), daemon.port, Codec("cbor"), receive_bytes=64 << 10)
    try:
        job = client.submit(say, gpu_memory=0.5, duration=JOB_S, args=[total_bytes, 100])
        attach = {"job_id": job.job_id, "from_offset": 0}
        options = {"receive_progress": True}
        reader.send([CALL, reader.next_request(), options, uris.JOB_ATTACH, [], attach])
        reader.stop_reading()
        begun = time.perf_counter()
        job.result(JOB_S)
        return time.perf_counter() - begun
    finally:
        reader.close()
