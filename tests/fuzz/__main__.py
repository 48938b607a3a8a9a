"""script/fuzz --minutes N [--seed S] | script/fuzz --replay FILE

Feeds the daemon and its parts what nobody should send: WebSocket frames, WAMP messages, HTTP
requests, journal frames, agent frames and zips, drawn by hypothesis or mutated from real traffic,
which is recorded first. What can run in this process does; the rest goes to a real daemon over
loopback. Between rounds the daemon must be healthy, run a real job, and be back at what it took
before. Findings stand in var/fuzz/<time>/. The last line of stdout is one JSON object; exit code 0:
nothing was found in all that time; 1: something was; 130 or 143: it was interrupted before.
"""

import argparse
import json
import os
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from twisted.logger import globalLogBeginner

from tests.fuzz import (
    fuzz_agent,
    fuzz_http,
    fuzz_journal,
    fuzz_wamp,
    fuzz_websocket,
    fuzz_zips,
)
from tests.fuzz.fuzz_engine import Engine, Kind, replay
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_run import Run
from tests.fuzz.fuzz_stage import Stage

ROOT = Path(__file__).resolve().parents[2]


def say(text: str) -> None:
    print(f"fuzz: {text}", file=sys.stderr, flush=True)


def all_kinds(stage: Stage | None) -> list[Kind]:
    """With their shares of the time."""
    return [
        fuzz_websocket.kind(0.2, stage),
        fuzz_wamp.kind(0.24, stage),
        fuzz_http.kind(0.2, stage),
        fuzz_journal.kind(0.1),
        fuzz_agent.kind(0.13, stage),
        fuzz_zips.kind(0.13, stage),
    ]


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="script/fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default: 5)")
    parser.add_argument("--seed", type=int, help="the same seed makes the same inputs")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run a finding's input again")
    parser.add_argument("--keep", action="store_true", help="keep the daemon's folder")
    options = parser.parse_args(arguments)
    if not 0 < options.minutes <= 24 * 60:
        parser.error("--minutes takes a number above 0, up to a day's")
    if options.replay is not None and not options.replay.is_file():
        parser.error(f"--replay: there is no file {options.replay}; findings stand in var/fuzz")
    if options.seed is None:
        options.seed = secrets.randbelow(1_000_000)
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    options = parse(arguments)
    # The parts in this process log what they refuse; whether they log a failure is looked at.
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)
    found = ROOT / "var/fuzz" / time.strftime("%Y%m%d-%H%M%S")
    folder = Path(tempfile.mkdtemp(prefix="cumulus-fuzz-"))
    os.environ["TMPDIR"] = tempfile.tempdir = str(folder)
    stage = Stage(folder / "daemon", say)
    source = Source(options.seed)
    kinds = all_kinds(stage)
    try:
        if options.replay is not None:
            return run_again(options.replay, stage, source, kinds)
        say(f"seed {options.seed}, {options.minutes:g} minutes")
        engine = Engine(kinds, source, found, say, stage.judge)
        run = Run(engine, stage, source, say)

        signals: list[int] = []

        def interrupt(number: int, frame: FrameType | None) -> None:
            if signals:
                raise KeyboardInterrupt
            signals.append(number)
            say("interrupted: ends when what is under way has ended")
            engine.stopped = True

        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, interrupt)
        summary = run.run(options.minutes * 60)
        if engine.findings:
            shutil.copy(stage.daemon.log, found / "cumulusd.log")
        print(json.dumps({**summary, "seed": options.seed}), flush=True)
        # Cut short it shows nothing, but what it found.
        return 1 if engine.findings else 128 + signals[0] if signals else 0
    finally:
        for kind in kinds:
            for target in kind.targets:
                target.close()
        if options.keep:
            say(f"the daemon's folder is {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def run_again(path: Path, stage: Stage, source: Source, kinds: Sequence[Kind]) -> int:
    """One finding's input, against a new daemon."""
    stage.start(source)
    try:
        tally = replay(path, kinds)
        wrong = stage.judge()
        stage.sample()
    finally:
        wrong_at_end = stage.stop()
    for text in (*wrong, *wrong_at_end):
        say(text)
    say(f"{tally.inputs} inputs arrived, {tally.refusals} were refused")
    return int(bool(wrong or wrong_at_end))


if __name__ == "__main__":
    sys.exit(main())
