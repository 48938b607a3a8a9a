"""What requirements add to the second job that has them: `script/bench requirements`.

A job (a task) without requirements and one with `six`, whose environment is there from before, by
turns, timed from the call to the value; a row's cost is the median of the differences between
neighbours. Cumulus on the local platform, and on a Swarm if `script/swarm up` keeps one; beside it
Ray (in an environment of its own, var/bench-ray), whose `runtime_env={"pip": [...]}` is for the
same. Every Cumulus job is a process of its own; Ray keeps processes, so its first task in a new
driver, which needs a new one, and its further ones, which find one idle, are told apart.
"""

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from cumulus_client import CumulusClient  # noqa: E402
from tests.e2e.harness import Daemon, free_port  # noqa: E402

ROUNDS = 7
REQUIREMENTS = ["six"]
GOAL_S = 0.15
RAY_FOLDER = ROOT / "var/bench-ray"
RAY_REQUIREMENT = "ray[default]>=2.9"
RAY_START_S = 180.0
TASK_S = 180.0

Pair = tuple[float, float]


def main() -> None:
    """Prints the table."""
    with contextlib.ExitStack() as stack:
        rows: dict[str, tuple[Callable[[], list[Pair]], list[list[Pair]]]] = {}
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="cumulus-bench-"))
        # With one CPU as its device.
        daemon = stack.enter_context(started(Daemon(Path(folder))))
        rows["Cumulus, local platform: a job"] = (cumulus(stack, daemon, None), [])
        swarm, why_no_swarm = kept_swarm()
        if swarm is not None:
            stack.enter_context(started(swarm))
            token = (ROOT / "var/swarm/client.token").read_text().strip()
            rows["Cumulus, Swarm: a job"] = (cumulus(stack, swarm, token), [])
        python, why_no_ray = ray_python()
        if python is not None:
            name, driver = ray(stack, python)
            rows[name] = (driver, [])
        for _ in range(ROUNDS):
            for measure, found in rows.values():
                found.append(measure())
    table({name: found for name, (_, found) in rows.items()})
    for why in (why_no_swarm, why_no_ray):
        if why:
            print(f"\n{why}")


def table(rows: dict[str, list[list[Pair]]]) -> None:
    """Median and, in brackets, quartiles, in seconds."""
    print("| | without, s | with requirements, second use, s | they add, s | goal |")
    print("|---|---|---|---|---|")
    for name, rounds in rows.items():
        kinds = [name]
        if name.startswith("Ray"):
            kinds = [f"{name}: the first task of a driver", f"{name}: a further task of it"]
        for number, kind in enumerate(kinds):
            pairs = [found[number] for found in rounds]
            added = [having - without for without, having in pairs]
            goal = ""
            if not name.startswith("Ray"):
                met = statistics.median(added) <= GOAL_S
                goal = f"at most {GOAL_S:g}: " + ("met" if met else "not met")
            cells = [spread([pair[side] for pair in pairs]) for side in (0, 1)]
            print(f"| {kind} | {cells[0]} | {cells[1]} | {spread(added)} | {goal} |")


def spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return f"{middle:.3f} [{low:.3f} {high:.3f}]"


# -- Cumulus


class SwarmDaemon(Daemon):
    """One for the Swarm that `script/swarm` keeps."""

    def __init__(self) -> None:
        self.folder = ROOT / "var/swarm"
        self.port = 50051
        self.url = f"http://127.0.0.1:{self.port}"
        self.config = self.folder / "cumulusd.yaml"
        self.log = self.folder / "bench.log"
        self.environment = {}
        self.process = None


def kept_swarm() -> tuple[Daemon | None, str]:
    """The daemon for it; or why there is none."""
    asked = subprocess.run(
        [ROOT / "script/swarm", "status", "--json"], capture_output=True, text=True, timeout=60
    )
    if os.geteuid() != 0 or asked.returncode or not (ROOT / "var/swarm/cumulusd.yaml").exists():
        return None, "Swarm wasn't measured: `script/swarm up` first, as root."
    return SwarmDaemon(), ""


@contextlib.contextmanager
def started(daemon: Daemon) -> Iterator[Daemon]:
    try:
        yield daemon.start()
    finally:
        daemon.stop()


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


# -- Ray


def ray_python() -> tuple[Path | None, str]:
    """The interpreter that has Ray, installed if need be; or why there is none."""
    python = RAY_FOLDER / "bin/python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", RAY_FOLDER], check=True, timeout=300)
    look = [python, "-c", "import ray"]
    if subprocess.run(look, capture_output=True, timeout=120).returncode:
        print(f"installing {RAY_REQUIREMENT} into {RAY_FOLDER}", file=sys.stderr)
        done = subprocess.run(
            [python, "-m", "pip", "install", "--quiet", RAY_REQUIREMENT],
            capture_output=True,
            text=True,
            timeout=900,
        )
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
            return None, f"Ray wasn't measured, it can't be installed here: {said[0]}"
    return python, ""


def ray(stack: contextlib.ExitStack, python: Path) -> tuple[str, Callable[[], list[Pair]]]:
    """Starts a node of its own; pairs of the first and of a further task of a driver."""
    folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="ray-"))
    address = f"127.0.0.1:{free_port()}"
    environment = {**os.environ, "RAY_USAGE_STATS_ENABLED": "0"}
    with open(Path(folder) / "log", "wb") as log:
        node = subprocess.Popen(
            [
                *(python.with_name("ray"), "start", "--head", "--block", "--disable-usage-stats"),
                *("--include-dashboard=false", "--num-cpus=2", f"--temp-dir={folder}"),
                *("--node-ip-address=127.0.0.1", f"--port={address.rpartition(':')[2]}"),
            ],
            stdout=log,
            stderr=log,
            env=environment,
            start_new_session=True,
        )
    stack.callback(end_group, node)

    def driver(requirements: list[str]) -> list[float]:
        done = subprocess.run(
            [python, "-c", _DRIVER, address, json.dumps(requirements)],
            capture_output=True,
            text=True,
            env=environment,
            timeout=RAY_START_S + TASK_S,
        )
        if done.returncode:
            raise SystemExit(f"Ray's driver failed: {done.stderr}")
        found: list[float] = json.loads(done.stdout.splitlines()[-1])
        return found

    wait_for(node, address, Path(folder) / "log")
    driver([])
    driver(REQUIREMENTS)
    version = subprocess.check_output(
        [python, "-c", "import ray; print(ray.__version__)"], text=True, timeout=120
    ).strip()
    return f"Ray {version}", lambda: list(zip(driver([]), driver(REQUIREMENTS), strict=True))


def wait_for(node: "subprocess.Popen[bytes]", address: str, log: Path) -> None:
    """Returns when the node takes connections."""
    import socket

    until = time.monotonic() + RAY_START_S
    host, _, port = address.partition(":")
    while time.monotonic() < until:
        if node.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1.0):
            return
        time.sleep(0.2)
    raise SystemExit(f"Ray doesn't start: {log.read_text(errors='replace')[-4000:]}")


def end_group(node: "subprocess.Popen[bytes]") -> None:
    """Ends it and all that it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(node.pid, signal.SIGTERM)
    try:
        node.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(node.pid, signal.SIGKILL)
        node.wait(30)


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


if __name__ == "__main__":
    main()
