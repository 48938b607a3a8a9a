"""What requirements add to the second job that has them.

A job (a task) without requirements and one with `six`, whose environment is there from before, by
turns, timed from the call to the value; what they add is the median of the differences between
neighbours. Cumulus on the local platform and on a Swarm; beside it Ray, whose
`runtime_env={"pip": [...]}` is for the same. Every Cumulus job is a process of its own; Ray keeps
processes, so its first task in a new driver, which needs a new one, and its further ones, which
find one idle, are told apart.
"""

import contextlib
import json
import subprocess
import time
from collections.abc import Callable, Iterator

from bench.parts import ray
from bench.parts.daemons import started
from bench.parts.errors import BenchError
from bench.parts.run import Run
from bench.parts.swarm import KeptDaemon
from bench.table import Peer, Row, at_most, measured, not_measured
from cumulus_client import CumulusClient
from tests.e2e.harness import Daemon

ROUNDS = 7
REQUIREMENTS = ["six"]
GOAL_S = 0.15
TASK_S = 360.0
LOCAL, SWARM, RAY = "local platform", "Swarm", "Ray"
FIRST, FURTHER = "first task of a driver", "further task of a driver"

#: without and with requirements, in seconds
Pair = tuple[float, float]


def rows(run: Run) -> Iterator[Row]:
    """The rows."""
    with contextlib.ExitStack() as stack:
        sides: dict[str, Callable[[], list[Pair]]] = {}
        if run.wants(case_of(LOCAL)):
            # With one CPU as its device.
            local = stack.enter_context(started(Daemon(run.folder / "local")))
            sides[LOCAL] = cumulus(stack, local, None)
        if run.swarm is None:
            goals = [at_most(GOAL_S)]
            yield not_measured(case_of(SWARM), run.why_no_swarm, unit="s", goals=goals)
        elif run.wants(case_of(SWARM)):
            swarm = stack.enter_context(started(KeptDaemon(run.swarm)))
            sides[SWARM] = cumulus(stack, swarm, run.swarm.token)
        python, why_no_ray = ray.python()
        if python is not None:
            try:
                sides[RAY] = driver_of(stack.enter_context(ray.node(python)))
            except BenchError as error:
                why_no_ray = str(error).splitlines()[0]
        found: dict[str, list[list[Pair]]] = {name: [] for name in sides}
        until = run.until(1.0)
        for turn in range(3 if run.quick else ROUNDS):
            if turn >= 3 and time.monotonic() >= until:
                break
            for name, measure in sides.items():
                found[name].append(measure())
    ray_pairs = found.pop(RAY, None)
    for name, rounds in found.items():
        pairs = [pair for (pair,) in rounds]
        added = [having - without for without, having in pairs]
        goals = [at_most(GOAL_S)]
        if ray_pairs is None:
            yield measured(case_of(name), "s", added, goals=goals, why_not=why_no_ray)
            continue
        for number, kind in enumerate((FIRST, FURTHER)):
            theirs = [having - without for without, having in (one[number] for one in ray_pairs)]
            peer = Peer(name=f"Ray, {kind}", command=f"{options(True)}, against {options(False)}")
            yield measured(case_of(name), "s", added, peer, theirs, goals=goals, has_ratio=False)


def case_of(side: str) -> str:
    return f"requirements, {side}: they add"


def options(having: bool) -> str:
    given = f'.options(runtime_env={{"pip": {REQUIREMENTS}}})' if having else ""
    return f"ray.get(nothing{given}.remote())"


def cumulus(
    stack: contextlib.ExitStack, daemon: Daemon, token: str | None
) -> Callable[[], list[Pair]]:
    """Two jobs through one client; the environment is there already."""
    client = stack.enter_context(CumulusClient(daemon.url, token))

    def job(requirements: list[str] | None) -> float:
        begun = time.perf_counter()
        client.submit(nothing, gpu_memory=0.5, duration=60, requirements=requirements).result()
        return time.perf_counter() - begun

    job(None)
    job(REQUIREMENTS)
    return lambda: [(job(None), job(REQUIREMENTS))]


def nothing() -> int:
    return 1


def driver_of(node: ray.Node) -> Callable[[], list[Pair]]:
    """Pairs of the first and of a further task of a driver."""

    def driver(requirements: list[str]) -> list[float]:
        done = subprocess.run(
            [node.python, "-c", _DRIVER, node.address, json.dumps(requirements)],
            capture_output=True,
            text=True,
            env=node.environment(),
            timeout=TASK_S,
        )
        if done.returncode:
            raise BenchError(f"Ray's driver failed: {done.stderr}")
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found

    driver([])
    driver(REQUIREMENTS)
    return lambda: list(zip(driver([]), driver(REQUIREMENTS), strict=True))


#: Seconds of the first task and of a further one, without the time to connect.
_DRIVER = """
import json, sys, time
import ray
ray.init(address=sys.argv[1], log_to_driver=False, logging_level="ERROR")
packages = json.loads(sys.argv[2])
options = {"runtime_env": {"pip": packages}} if packages else {}

@ray.remote(num_cpus=1)
def nothing():
    return 1

def task():
    begun = time.perf_counter()
    ray.get(nothing.options(**options).remote())
    return time.perf_counter() - begun

print(json.dumps([task(), task()]))
"""
