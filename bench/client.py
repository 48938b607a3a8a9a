"""What the client itself costs: importing it, as what `import cumulus_client` takes in fresh
processes, and packing a call by source and by value."""

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

from bench.parts.daemons import ROOT
from bench.parts.run import Run, alone
from bench.table import Row, at_most, measured
from cumulus_client.packaging import package_function

ROUNDS = 15
IMPORT_GOAL_MS = 150.0
IMPORT = (
    "import time; begun = time.perf_counter(); import cumulus_client; "
    "print(time.perf_counter() - begun)"
)


def helper(value: Any) -> Any:
    return value


def echo(value: Any) -> Any:
    """What is packed."""
    return helper(value)


def rows(run: Run) -> Iterator[Row]:
    """The rows."""
    rounds = 3 if run.quick else ROUNDS

    def times(measure: Callable[[], float], part: float) -> list[float]:
        return alone(measure, rounds=rounds, until=run.until(part))

    yield measured(
        "import cumulus_client", "ms", times(imported_ms, 0.5), goals=[at_most(IMPORT_GOAL_MS)]
    )
    by_source = times(lambda: took_ms(lambda: package_function(echo, [1])), 0.5)
    yield measured("packing a function", "ms", by_source)
    by_value = times(lambda: took_ms(lambda: package_function(lambda: echo(1))), 1.0)
    yield measured("packing a lambda", "ms", by_value)


def imported_ms() -> float:
    command = [sys.executable, "-c", IMPORT]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return float(done.stdout) * 1e3


def took_ms(call: Callable[[], object]) -> float:
    begun = time.perf_counter()
    call()
    return (time.perf_counter() - begun) * 1e3
