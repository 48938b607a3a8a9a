"""What the client itself costs: `script/bench client`.

Importing it, as the median over fresh processes of what `import cumulus_client` takes in them;
packing a call by source and by value; and a job that is sent an array of 100 MB and gives one back,
on the local platform, beside one that is sent a number: their difference is what the bytes cost.
"""

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402

from cumulus_client import CumulusClient  # noqa: E402
from cumulus_client.packaging import package_function  # noqa: E402
from tests.e2e.harness import Daemon  # noqa: E402

ROUNDS = 15
JOB_ROUNDS = 3
IMPORT_GOAL_S = 0.15
IMPORT = (
    "import time; begun = time.perf_counter(); import cumulus_client; "
    "print(time.perf_counter() - begun)"
)


def helper(value: Any) -> Any:
    return value


def echo(value: Any) -> Any:
    """What the jobs run."""
    return helper(value)


def main() -> None:
    """Prints the table."""
    print("| | s | goal |")
    print("|---|---|---|")
    row("import cumulus_client", [imported() for _ in range(ROUNDS)], IMPORT_GOAL_S)
    row("packing a function", timed(lambda: package_function(echo, [1]), ROUNDS))
    row("packing a lambda", timed(lambda: package_function(lambda: echo(1)), ROUNDS))
    folder = Path(tempfile.mkdtemp(prefix="cumulus-bench-"))
    daemon = Daemon(folder).start()
    try:
        with CumulusClient(daemon.url) as client:
            numbers = np.arange(12_500_000, dtype="f8")

            def job(value: Any) -> None:
                client.run(echo, args=[value], gpu_memory=0.1, duration=120)

            job(1)
            row("a job with a number", timed(lambda: job(1), JOB_ROUNDS))
            row("a job with 100 MB there and back", timed(lambda: job(numbers), JOB_ROUNDS))
    finally:
        daemon.stop()


def imported() -> float:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout)


def timed(call: Callable[[], object], rounds: int) -> list[float]:
    found = []
    for _ in range(rounds):
        begun = time.perf_counter()
        call()
        found.append(time.perf_counter() - begun)
    return found


def row(name: str, values: list[float], goal_s: float | None = None) -> None:
    """Median and, in brackets, quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    goal = ""
    if goal_s is not None:
        goal = f"at most {goal_s:g}: " + ("met" if middle <= goal_s else "not met")
    print(f"| {name} | {middle:.3f} [{low:.3f} {high:.3f}] | {goal} |", flush=True)


if __name__ == "__main__":
    main()
