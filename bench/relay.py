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
from dataclasses import dataclass, replace

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


@dataclass(frozen=True, kw_only=True)
class Bulk:
    """Output of one job."""

    name: str
    total_bytes: int
    line_bytes: int
    goal_mb_s: float
    goal_ratio: float  #: to the Swarm log API

    def tenth(self) -> "Bulk":
        """For --quick."""
        lines = self.total_bytes // 10 // self.line_bytes
        name = f"a tenth of {self.name}"
        return replace(self, name=name, total_bytes=lines * self.line_bytes)


BULKS = (
    Bulk(
        name="1,000,000 lines of 100 B",
        total_bytes=100_000_000,
        line_bytes=100,
        goal_mb_s=40.0,
        goal_ratio=10.0,
    ),
    Bulk(
        name="200 MB of 16 KiB lines",
        total_bytes=200_000_000 // 16_384 * 16_384,
        line_bytes=16_384,
        goal_mb_s=120.0,
        goal_ratio=4.0,
    ),
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
        for size in sizes(run):
            goals = [at_least(size.goal_mb_s), ratio_at_least(size.goal_ratio)]
            yield not_measured(f"{SWARM}: {size.name}", why, unit="MB/s", goals=goals)
        for case in age_cases(SWARM):
            yield not_measured(case, why, unit="ms", goals=[at_most(AGE_GOAL_MS)])
    elif run.wants(*bulk_cases(run, SWARM, AGENTS), *age_cases(SWARM)):
        yield from run.part(SWARM, on_swarm(run, run.swarm))
    yield from run.part(LOCAL, on_local(run))


def sizes(run: Run) -> list[Bulk]:
    """With --quick a tenth of each."""
    return [bulk.tenth() if run.quick else bulk for bulk in BULKS]


def bulk_cases(run: Run, where: str, whose: str) -> list[str]:
    """Rates, and growth, of all sizes."""
    names = [size.name for size in sizes(run)]
    return [
        *(f"{where}: {name}" for name in names),
        *(f"{where}: memory of {whose}, {name}" for name in names),
    ]


def age_cases(where: str) -> list[str]:
    return [f"{where}: age of a line at 1,000 a second, {what}" for what in AGES]


def on_swarm(run: Run, swarm: KeptSwarm) -> Iterator[Row]:
    with started(KeptDaemon(swarm)) as daemon, CumulusClient(daemon.url, swarm.token) as client:
        assert isinstance(daemon, KeptDaemon)
        growth = Growth([pid_of(daemon), *daemon.agents()])
        for number, size in enumerate(sizes(run)):
            case, memory_case = f"{SWARM}: {size.name}", f"{SWARM}: memory of {AGENTS}, {size.name}"
            if run.wants(case, memory_case):
                until = run.until((0.35, 0.4)[number])
                bulks = beside_log(run, swarm, client, growth, size, (case, memory_case), until)
                yield from run.part(case, bulks)
        if run.wants(*age_cases(SWARM)):
            yield from run.part(age_cases(SWARM)[0], ages_beside_log(run, swarm, client))


def beside_log(
    run: Run,
    swarm: KeptSwarm,
    client: CumulusClient,
    growth: "Growth",
    size: Bulk,
    cases: tuple[str, str],
    until: float,
) -> Iterator[Row]:
    source = file_of(f"say({size.total_bytes}, {size.line_bytes})")
    with bare.BareServices(swarm.cluster.api(), swarm.job_image, source) as services:
        ours, theirs = paired(
            lambda: growth.of(lambda: run_mb_s(client, size)),
            lambda: log_mb_s(services, size),
            rounds=5,
            until=until,
            least=1 if run.quick else 2,
            warm_up=False,
        )
    rates = [rate for rate, _ in ours]
    goals = [at_least(size.goal_mb_s), ratio_at_least(size.goal_ratio)]
    yield measured(cases[0], "MB/s", rates, LOG, theirs, goals=goals)
    yield growth.row(cases[1], ours)


def ages_beside_log(run: Run, swarm: KeptSwarm, client: CumulusClient) -> Iterator[Row]:
    source = file_of(f"tick({TICKS}, {TICK_S})")
    with bare.BareServices(swarm.cluster.api(), swarm.job_image, source) as services:
        aged, aged_log = paired(
            lambda: ages(client),
            lambda: log_ages(services),
            rounds=2,
            until=run.until(0.2),
            least=1,
            warm_up=False,
        )
    yield from age_rows(SWARM, aged, LOG, aged_log)


def on_local(run: Run) -> Iterator[Row]:
    with started(Daemon(run.folder / "relay")) as daemon, CumulusClient(daemon.url) as client:
        growth = Growth([pid_of(daemon)])
        memory = f"{LOCAL}: memory of the daemon"
        for size in sizes(run):
            case, memory_case = f"{LOCAL}: {size.name}", f"{memory}, {size.name}"
            if run.wants(case, memory_case):
                bulks = beside_pipe(run, client, growth, size, (case, memory_case))
                yield from run.part(case, bulks)
        if run.wants(*age_cases(LOCAL)):
            aged = alone(
                lambda: ages(client), rounds=2, until=run.until(0.25), least=1, warm_up=False
            )
            yield from age_rows(LOCAL, aged)
        case = f"{memory}, a stalled reader"
        if run.wants(case):
            total = STALLED_BYTES // 10 if run.quick else STALLED_BYTES
            yield growth.row(case, [growth.of(lambda: print_to_stalled(daemon, client, total))])
        case, memory_case = f"{LOCAL}: {JOBS} jobs print at a time", f"{memory}, {JOBS} jobs print"
        if run.wants(case, memory_case):
            each = JOB_BYTES // 10 if run.quick else JOB_BYTES
            many = growth.of(lambda: many_mb_s(client, each))
            yield measured(case, "MB/s", [many[0]])
            yield growth.row(memory_case, [many])


def beside_pipe(
    run: Run, client: CumulusClient, growth: "Growth", size: Bulk, cases: tuple[str, str]
) -> Iterator[Row]:
    ours, limit = paired(
        lambda: growth.of(lambda: run_mb_s(client, size)),
        lambda: piped_mb_s(run.folder, size.total_bytes, size.line_bytes),
        rounds=5,
        until=run.until(0.25),
    )
    rates = [each for each, _ in ours]
    yield measured(cases[0], "MB/s", rates, PIPE, limit, goals=[at_least(size.goal_mb_s)])
    yield growth.row(cases[1], ours)


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


def run_mb_s(client: CumulusClient, size: Bulk) -> float:
    """As a user sees it."""
    sink, args = Sink(), [size.total_bytes, size.line_bytes]
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(io.StringIO()):
        wanted = client.run(say, gpu_memory=0.5, duration=JOB_S, args=args)
    return sink.rate_mb_s(wanted)


def log_mb_s(services: bare.BareServices, size: Bulk) -> float:
    """The same through the Swarm log API."""
    sink, service = Sink(), services.create()
    for data in services.log(service, LOG_WAIT_S):
        sink.take(data)
        if sink.bytes >= size.total_bytes:
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
