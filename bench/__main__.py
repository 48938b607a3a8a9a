"""script/bench [NAME...] [--quick] [--case TEXT]... [--no-swarm] [--document FILE]

Measures Cumulus beside what a user would take instead, always by turns in one run, and prints one
table; without a name all of it, within 25 minutes. What is measured and how stands in
bench/NAME.py. Rows that have a goal say `met` or `not met`. The results are kept in var/bench, as
JSON; `--document` writes the last ones into a document, between its marks, and measures nothing.

Peers are installed at first use, from PyPI, into var/bench-*, which counts as time of the run.
Cases on a Swarm need root: the one that `script/swarm` keeps, or one that is made for this run.
Exit code 0: every goal is met; 1: one isn't; 3: something could not be measured.
"""

import argparse
import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import FrameType
from typing import Any

from bench import plan
from bench.parts import leftovers, ray, swarm
from bench.parts.errors import BenchError
from bench.parts.machine import machine
from bench.parts.run import Run
from bench.report import Report, written_into
from bench.routing.servers import install_crossbar
from bench.table import Met, Row, markdown, not_measured, row_of

ROOT = Path(__file__).parents[1]
FOLDER = ROOT / "var/bench"
USAGE, NOT_MET, NOT_MEASURED = 64, 1, 3
#: For a module that was told to end, to take down what it started.
_END_S = 45.0


def say(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/bench",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(plan.PARTS))
    parser.add_argument("--quick", action="store_true", help="fewer and smaller rounds")
    parser.add_argument(
        "--case",
        dest="cases",
        default=[],
        action="append",
        metavar="TEXT",
        help="only rows that have this in their name (or another --case)",
    )
    parser.add_argument("--no-swarm", action="store_true", help="start and use none")
    parser.add_argument("--seconds", type=float, default=plan.TOTAL_S, help="for all of it (1500)")
    parser.add_argument(
        "--document",
        type=Path,
        metavar="FILE",
        help="measure nothing: write the last run's table into this document",
    )
    parser.add_argument("--module", help=argparse.SUPPRESS)  # one of them, in this process
    parser.add_argument("--rows-to", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    try:
        options.names = plan.chosen(options.names)
    except KeyError as error:
        parser.error(f"no bench/{error.args[0]}.py; there are {', '.join(plan.PARTS)}")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse(arguments)
    signal.signal(signal.SIGTERM, _leave)  # what was begun is undone on the way out
    leftovers.adopt_orphans()
    # What is measured has its bytecode, as it has once installed.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if options.module:
        return measure(options)
    if options.document:
        return write_into(options.document)
    return measure_all(options, list(sys.argv[1:] if arguments is None else arguments))


def write_into(document: Path) -> int:
    """The last run's table."""
    newest = FOLDER / "latest.json"
    try:
        page = Report.load(newest).page()
        document.write_text(written_into(document.read_text(), page))
    except FileNotFoundError as error:
        print(f"bench: {error.filename} is not there; each run makes {newest}", file=sys.stderr)
        return 2
    return 0


# -- one module, in a process of its own


def measure(options: argparse.Namespace) -> int:
    """Its rows go to the file, each as soon as it is there."""
    leftovers.end_with_parent(signal.SIGTERM)
    kept, why = (None, "--no-swarm") if options.no_swarm else swarm.kept()
    module = importlib.import_module(f"bench.{options.module}")
    with open(options.rows_to, "a") as file:
        run = Run(
            seconds=options.seconds,
            folder=options.folder,
            quick=options.quick,
            swarm=kept,
            why_no_swarm=why,
            words=tuple(options.cases),
        )
        for row in module.rows(run):
            if not run.wants(row.case):
                continue
            file.write(json.dumps(row.as_json()) + "\n")
            file.flush()
            say(f"{' | '.join(cell for cell in row.cells() if cell)} ({run.left_s:.0f} s left)")
    return 0


# -- all of them


def measure_all(options: argparse.Namespace, words: list[str]) -> int:
    began_at, begun = time.time(), time.monotonic()
    FOLDER.mkdir(parents=True, exist_ok=True)
    for place in (Path(tempfile.gettempdir()), FOLDER):
        leftovers.sweep(place)
    found_machine = machine()
    rows: list[Row] = []
    interrupted = False
    try:
        _run_modules(options, begun, rows, found_machine)
    except KeyboardInterrupt:
        interrupted = True
    report = Report(
        began_at=began_at,
        took_s=time.monotonic() - begun,
        machine=found_machine,
        options=words,
        rows=rows,
    )
    path = report.save(FOLDER)
    print(markdown(rows))
    print(f"\n{report.summary()}; {path.relative_to(ROOT)}", flush=True)
    if interrupted:
        return 130
    met = [row.met for row in rows]
    if Met.NO in met:
        return NOT_MET
    return NOT_MEASURED if Met.UNKNOWN in met or any(row.why_not for row in rows) else 0


def _run_modules(
    options: argparse.Namespace, begun: float, rows: list[Row], found_machine: dict[str, Any]
) -> None:
    """Adds what they found, each when it is done; and to the machine, what engines it has."""
    to_come = list(options.names)
    on_swarm = [name for name in to_come if name in plan.ON_SWARM]
    with contextlib.ExitStack() as stack:
        prepare(to_come, has_swarm=not options.no_swarm)
        if on_swarm and not options.no_swarm:
            why = stack.enter_context(swarm.held())
            if why:
                say(f"no Swarm: {why}")
            elif (kept := swarm.kept()[0]) is not None:
                found_machine["engine"] = kept.version()
        while to_come:
            if to_come[0] not in plan.ON_SWARM:
                stack.close()  # its engines would only be in the way
            left_s = plan.usable_s(options.seconds) - (time.monotonic() - begun)
            seconds = plan.share_s(to_come[0], to_come, left_s)
            rows += run_module(to_come.pop(0), seconds, options)


def prepare(names: list[str], *, has_swarm: bool) -> None:
    """Installs the peers before any module's time begins. One that can't be is told of by its
    module."""
    if "requirements" in names or ("start" in names and has_swarm):
        ray.python()
    if "router" in names:
        try:
            install_crossbar()
        except BenchError as error:
            say(str(error))


def run_module(name: str, seconds: float, options: argparse.Namespace) -> list[Row]:
    """Its rows; what it could not measure is a row too."""
    say(f"{name}, within {seconds:.0f} s")
    ours = leftovers.below()  # the Swarm that is held
    prefix = leftovers.prefix()
    with (
        tempfile.TemporaryDirectory(prefix=prefix, ignore_cleanup_errors=True) as temporary,
        tempfile.TemporaryDirectory(prefix=prefix, dir=FOLDER) as folder,
        tempfile.NamedTemporaryFile("r", prefix="rows-", dir=folder) as file,
    ):
        child = subprocess.Popen(
            [
                *(sys.executable, "-m", "bench", "--module", name, "--rows-to", file.name),
                *("--folder", folder, "--seconds", str(seconds)),
                *(word for case in options.cases for word in ("--case", case)),
                *(["--quick"] * options.quick + ["--no-swarm"] * options.no_swarm),
            ],
            cwd=ROOT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "TMPDIR": temporary},
            start_new_session=True,
        )
        fault = ""
        try:
            if child.wait(seconds + plan.GRACE_S):
                fault = f"bench/{name}.py failed ({child.returncode}); it said why on stderr"
        except subprocess.TimeoutExpired:
            fault = f"it was not done after {seconds + plan.GRACE_S:.0f} s"
        except KeyboardInterrupt:
            say("interrupted: taking down what runs; what is not in the table was not measured")
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            raise
        finally:
            end(child)
            if left := leftovers.end_below(os.getpid(), ours):
                say(f"{name}: it had left {len(left)} processes")
        rows = [row_of(json.loads(line)) for line in file]
    if fault:
        say(f"{name}: {fault}")
        rows.append(not_measured(f"{name}: the rest", fault))
    return rows


def end(child: "subprocess.Popen[bytes]") -> None:
    """Lets it take down what it started; then it goes."""
    if child.poll() is None:
        child.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            child.wait(_END_S)
    child.kill()
    child.wait()


def _leave(number: int, _: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"bench: {error}")
