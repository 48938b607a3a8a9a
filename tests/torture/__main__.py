"""script/torture [--rounds N] [--seed S]

Makes a Swarm of three real Docker engines. Each round runs a dozen jobs on it, reads them, breaks
daemon, engines, network, manager, agents, runners and readers meanwhile, and compares what is then
there with what must be. Says on stderr how it goes; the last line of stdout is one JSON object of
numbers. Exit code 0: nothing was lost, doubled, wrong or left over.
"""

import argparse
import asyncio
import json
import os
import secrets
import signal
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from engines.cluster import Cluster, ClusterError
from engines.docker_api import DockerError
from engines.kept import archived_image, build_images
from engines.packages import PackageError, install_missing
from tests.torture.finding import COUNTERS
from tests.torture.plan import plan_rounds
from tests.torture.round import RoundRun
from tests.torture.stage import Stage, StageError

ROOT = Path(__file__).resolve().parents[2]
BAD = (*COUNTERS, "leaked_services", "leaked_containers", "leaked_partitions")
#: More evidence than this many rounds' isn't kept on disk.
KEEP_ROUNDS = 20


def say(text: str) -> None:
    print(f"torture: {text}", file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/torture",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, default=8, help="how many rounds (default: 8)")
    parser.add_argument("--seed", type=int, help="the same seed plans the same rounds")
    parser.add_argument("--keep", action="store_true", help="keep the logs of all rounds")
    options = parser.parse_args(arguments)
    if options.rounds < 1:
        parser.error("--rounds takes 1 or more")
    if options.seed is None:
        options.seed = secrets.randbelow(1_000_000)
    return options


@contextmanager
def new_cluster() -> Iterator[tuple[Cluster, dict[str, str]]]:
    """Three engines with the images of this checkout; the images' ids by tag."""
    say("making the images (the first time takes minutes)")
    archives = {tag: archive for tag, (archive, _) in build_images().items()}
    say("starting three engines")
    base = ROOT / "var" / f"torture-{secrets.token_hex(4)}"
    with Cluster.create(base) as cluster:
        names = [node.name for node in cluster.workers]
        for archive in archives.values():
            cluster.load(archive, names)
        yield cluster, {tag: archived_image(archive) for tag, archive in archives.items()}


async def torture(
    cluster: Cluster, images: dict[str, str], seed: int, rounds: int, keep_all: bool
) -> dict[str, int]:
    """Runs the rounds: the numbers. `keep_all`: also the logs of rounds with nothing wrong."""
    totals = {"jobs": 0, "faults": 0, "touched_jobs": 0, **dict.fromkeys(BAD, 0)}
    # In the cluster's folder, which goes with the cluster, whoever is killed.
    folder = cluster.layout.base / "torture"
    stage = Stage(cluster, images, folder)
    kept = 0
    try:
        await stage.start_daemon()
        await stage.wait_usable()
        for plan in plan_rounds(seed, rounds, [node.name for node in cluster.workers]):
            began = time.monotonic()
            keep = ROOT / f"var/torture/seed-{seed}-round-{plan.number}"
            say(f"round {plan.number} of {rounds}, seed {seed}")
            run = RoundRun(stage, plan, folder / f"round-{plan.number}", say, keep)
            try:
                result = await run.run()
            except Exception as error:
                await asyncio.to_thread(stage.keep, keep)
                words = "".join(traceback.format_exception(error))
                raise StageError(f"round {plan.number}, logs in {keep}:\n{words}") from error
            totals["jobs"] += result.jobs
            totals["faults"] += result.faults
            totals["touched_jobs"] += result.touched
            for finding in result.findings:
                totals[finding.counter] += finding.amount
            if (result.findings or keep_all) and kept < KEEP_ROUNDS:
                kept += 1
                await asyncio.to_thread(stage.keep, keep)
            ends = ", ".join(f"{count} {end}" for end, count in sorted(result.ends.items()))
            say(
                f"round {plan.number}: {result.jobs} jobs ({ends}), {result.touched} of them hit, "
                f"{result.attempts} attempts again; "
                f"{', '.join(result.kinds)}; {len(result.findings)} wrong; "
                f"{time.monotonic() - began:.0f} s"
            )
    finally:
        stage.daemon.stop()
    return totals


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)  # what was begun is undone on the way out


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    if os.geteuid() != 0:
        say("this needs root: it makes network namespaces and starts Docker engines")
        return 1
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)
    began = time.monotonic()
    try:
        install_missing()
        with new_cluster() as (cluster, images):
            totals = asyncio.run(
                torture(cluster, images, options.seed, options.rounds, options.keep)
            )
    except KeyboardInterrupt:
        say("interrupted; nothing is left")
        return 130
    except (ClusterError, DockerError, PackageError, StageError) as error:
        say(f"it broke off (seed {options.seed}): {error}")
        return 1
    seconds = round(time.monotonic() - began)
    print(
        json.dumps({**totals, "rounds": options.rounds, "seed": options.seed, "seconds": seconds})
    )
    return int(any(totals[counter] for counter in BAD))


if __name__ == "__main__":
    sys.exit(main())
