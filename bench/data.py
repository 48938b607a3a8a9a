"""Bulk data: packages there, outputs and results back, on the local platform.

A package with a file that doesn't shrink is timed from the call of `submit` to the acknowledgement,
packing included; an output from the call of `download` to the whole, verified file. Beside both a
bare loop: the same framing and hashing, and nothing else (parts/framing.py). By how much the memory
of client and daemon grows meanwhile. And what a result of 100 MB adds to a job that gives a number.
"""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from bench.parts.daemons import forget_peak, peak_bytes, pid_of, rss_bytes, started
from bench.parts.errors import BenchError
from bench.parts.framing import COMMAND, framed_mb_s
from bench.parts.run import Run, paired
from bench.table import Goal, Peer, Row, at_most, measured, not_measured, ratio_at_least
from cumulus_client import CumulusClient, CumulusError
from cumulus_client.job import CumulusJob
from tests.e2e.harness import Daemon

MIB = 1 << 20
SIZES = (256_000_000, 2_000_000_000)
QUICK_SIZES = (32_000_000,)
RATE_GOAL = ratio_at_least(0.5)
GROWTH_GOAL_MIB = 64.0
RESULT_BYTES = 100_000_000
RESULT_GOAL_S = 1.0
BLOCK_BYTES = 8 << 20
#: What is uploaded is durable when it is acknowledged, what is downloaded needn't be.
BARE_SYNCED = Peer(name="bare loop, fsynced", command=f"{COMMAND}, then fsynced")
BARE = Peer(name="bare loop", command=COMMAND)
LIMITS = f"jobs:\n  package_max_bytes: {4 << 30}\n  outputs_max_bytes: {4 << 30}\n"
_NUMBERS = itertools.count()


def rows(run: Run) -> Iterator[Row]:
    """The rows."""
    with (
        started(Daemon(run.folder / "data", extra=LIMITS), abandon=True) as daemon,
        CumulusClient(daemon.url) as client,
    ):
        if run.wants(result_case(run)):
            yield from run.part("data: results", result_rows(run, client))
        sizes = QUICK_SIZES if run.quick else SIZES
        down = [
            size for size in sizes if run.wants(down_case(size), *memory_cases(down_case(size)))
        ]
        for number, size_bytes in enumerate(down):
            until = run.until(0.4 / (len(down) - number))
            yield from run.part(
                down_case(size_bytes), downloads(run, daemon, client, size_bytes, until)
            )
        up = [size for size in sizes if run.wants(up_case(size), *memory_cases(up_case(size)))]
        if not up:
            return
        holder = client.submit(rest, gpu_memory=1.0, duration=1500)
        while not holder.running():
            time.sleep(0.05)
        for number, size_bytes in enumerate(up):
            until = run.until(0.8 / (len(up) - number))
            yield from run.part(
                up_case(size_bytes), uploads(run, daemon, client, size_bytes, until)
            )


def up_case(size_bytes: int) -> str:
    return f"data: package of {size_bytes / 1e6:,.0f} MB up"


def down_case(size_bytes: int) -> str:
    return f"data: output of {size_bytes / 1e6:,.0f} MB down"


def result_case(run: Run) -> str:
    return f"data: a result of {result_bytes(run) / 1e6:.0f} MB adds"


def result_bytes(run: Run) -> int:
    return RESULT_BYTES // 10 if run.quick else RESULT_BYTES


def memory_cases(case: str) -> list[str]:
    return [f"{case}, memory of {whose}" for whose in ("the daemon", "the client")]


class Memory:
    """The peaks of some processes, beyond what they had at the beginning of each round."""

    def __init__(self, daemon: Daemon) -> None:
        self._pids = {"the daemon": pid_of(daemon), "the client": os.getpid()}
        self._grown: dict[str, list[float]] = {name: [] for name in self._pids}
        self._peaks_mib: dict[str, float] = {}

    def watching(self, work: Callable[[], float]) -> float:
        """What `work` gives."""
        before = {}
        for name, pid in self._pids.items():
            forget_peak(pid)
            before[name] = rss_bytes(pid)
        result = work()
        for name, pid in self._pids.items():
            self._grown[name].append((peak_bytes(pid) - before[name]) / MIB)
            self._peaks_mib[name] = peak_bytes(pid) / MIB
        return result

    def rows(self, case: str) -> Iterator[Row]:
        goals: list[Goal] = [at_most(GROWTH_GOAL_MIB)]
        for name, grown in self._grown.items():
            more = {"peak_mib": self._peaks_mib[name]}
            yield measured(f"{case}, memory of {name}", "MiB more", grown, goals=goals, more=more)


def file_of(folder: Path, size_bytes: int) -> Path:
    """One that doesn't shrink."""
    path, block = folder / "data.bin", os.urandom(BLOCK_BYTES)
    with open(path, "wb", buffering=0) as file:
        for offset in range(0, size_bytes, BLOCK_BYTES):
            file.write(block[: size_bytes - offset])
    return path


# -- up


def uploads(
    run: Run, daemon: Daemon, client: CumulusClient, size_bytes: int, until: float
) -> Iterator[Row]:
    """No share is free, so that the worker doesn't fetch what was uploaded meanwhile."""
    case = up_case(size_bytes)
    source, memory = file_of(run.folder, size_bytes), Memory(daemon)

    def upload_mb_s() -> float:
        begun = time.perf_counter()
        # Another argument each time: a package that is known is not sent.
        files = {"data.bin": source}
        job = client.submit(
            number_of, args=[next(_NUMBERS)], gpu_memory=1.0, duration=60, files=files
        )
        took_s = time.perf_counter() - begun
        job.cancel()
        # Not when history would take it: the next round needs the disk.
        for package in (daemon.state_dir / "packages").glob("*.zip"):
            if package.stat().st_size > size_bytes:
                package.unlink()
        return size_bytes / 1e6 / took_s

    try:
        ours, theirs = paired(
            lambda: memory.watching(upload_mb_s),
            lambda: framed_mb_s(source, run.folder / "taken.bin", sync=True),
            rounds=5,
            until=until,
            least=1,
            warm_up=False,
        )
    except CumulusError as error:
        yield not_measured(case, f"refused: {error}", unit="MB/s", goals=[RATE_GOAL])
        return
    finally:
        source.unlink()
    yield measured(case, "MB/s", ours, BARE_SYNCED, theirs, goals=[RATE_GOAL])
    yield from memory.rows(case)


def number_of(number: int) -> int:
    return number


def rest() -> None:
    import time

    time.sleep(1500)


# -- down


def leave(size_bytes: int, block_bytes: int) -> None:
    """Leaves a file to be downloaded."""
    import os

    block = os.urandom(block_bytes)
    with open(os.path.join(os.environ["CUMULUS_OUTPUT_DIR"], "left.bin"), "wb") as file:
        for offset in range(0, size_bytes, block_bytes):
            file.write(block[: size_bytes - offset])


def downloads(
    run: Run, daemon: Daemon, client: CumulusClient, size_bytes: int, until: float
) -> Iterator[Row]:
    case = down_case(size_bytes)
    job = client.submit(leave, args=[size_bytes, BLOCK_BYTES], gpu_memory=1.0, duration=300)
    if job.wait(300) != "completed":
        raise BenchError(f"the job that leaves a file has ended as {job.view()['end']}")
    memory = Memory(daemon)
    source = download(job, run.folder / "first.bin", size_bytes)
    try:
        ours, theirs = paired(
            lambda: memory.watching(
                lambda: download_mb_s(job, run.folder / "again.bin", size_bytes)
            ),
            lambda: framed_mb_s(source, run.folder / "taken.bin", sync=False),
            rounds=5,
            until=until,
            least=1,
            warm_up=False,
        )
    finally:
        source.unlink()
    yield measured(case, "MB/s", ours, BARE, theirs, goals=[RATE_GOAL])
    yield from memory.rows(case)
    client.delete_job(job.job_id)


def download(job: CumulusJob, path: Path, size_bytes: int) -> Path:
    found = job.download("left.bin", path)
    if found.stat().st_size != size_bytes:
        raise BenchError(f"{found.stat().st_size} of {size_bytes} bytes were downloaded")
    return found


def download_mb_s(job: CumulusJob, path: Path, size_bytes: int) -> float:
    begun = time.perf_counter()
    download(job, path, size_bytes)
    took_s = time.perf_counter() - begun
    path.unlink()
    return size_bytes / 1e6 / took_s


# -- results


def large(size_bytes: int) -> bytes:
    return b"r" * size_bytes


def result_rows(run: Run, client: CumulusClient) -> Iterator[Row]:
    """The difference between neighbours, so that the job's own time falls out."""

    def run_s(size_bytes: int) -> float:
        begun = time.perf_counter()
        found = client.submit(large, args=[size_bytes], gpu_memory=1.0, duration=60).result(120)
        took_s = time.perf_counter() - begun
        if len(found) != size_bytes:
            raise BenchError(f"the result has {len(found)} of {size_bytes} bytes")
        return took_s

    size_bytes = result_bytes(run)
    having, without = paired(
        lambda: run_s(size_bytes), lambda: run_s(1), rounds=5, until=run.until(0.15)
    )
    added = [a - b for a, b in zip(having, without, strict=True)]
    more = {"with_s": having, "without_s": without}
    yield measured(result_case(run), "s", added, goals=[at_most(RESULT_GOAL_S)], more=more)
