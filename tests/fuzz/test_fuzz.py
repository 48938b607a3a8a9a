"""A short run of `script/fuzz`, every kind in this process, and that it finds what is wrong."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.harness import PYTHON, REPOSITORY
from tests.fuzz import fuzz_engine, fuzz_inputs
from tests.fuzz.__main__ import all_kinds, parse
from tests.fuzz.fuzz_engine import Engine, Kind, Tally, Target
from tests.fuzz.fuzz_inputs import CORPUS, Source, read_corpus
from tests.fuzz.fuzz_stage import Sample, Stage, _fault_of

KINDS = (
    *("websocket_frames", "wamp_messages", "http_requests", "journal_frames", "agent_frames"),
    "zips",
)
SEEDS = (1, 2, 3)
ONE_MIB = 1 << 20


def begin(*arguments: str) -> "subprocess.Popen[str]":
    """`script/fuzz`, its environments being there."""
    return subprocess.Popen(
        [PYTHON, "-P", "-m", "tests.fuzz", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
    )


def nothing() -> list[str]:
    return []


def leftovers() -> list[Path]:
    """This process's folders in memory, which no other test looks at."""
    return list(Path("/dev/shm").glob(f"cumulus-fuzz-{os.getpid()}-*"))


@pytest.mark.timeout(400)
def test_a_short_run_finds_nothing() -> None:
    running = begin("--minutes", "0.4")
    try:
        out, err = running.communicate(timeout=360)
    finally:
        running.kill()
    print(err)  # the seed is there
    summary = json.loads(out.splitlines()[-1])
    assert running.returncode == 0, summary
    assert set(summary["kinds"]) == set(KINDS)
    for counts in (*summary["kinds"].values(), *summary["targets"].values()):
        assert counts["inputs"] > 0, summary
    assert summary["daemon"] == "healthy" and summary["findings"] == 0
    assert summary["memory_mib"]["after"]


@pytest.mark.timeout(200)
def test_ctrl_c_ends_it_with_its_numbers() -> None:
    running = begin("--minutes", "30", "--seed", "5")
    try:
        assert running.stderr is not None
        for line in running.stderr:
            if "the rounds begin" in line:
                break
        time.sleep(3)  # a first batch takes a fraction of a second
        running.send_signal(signal.SIGINT)
        out, err = running.communicate(timeout=120)
    finally:
        running.kill()
    summary = json.loads(out.splitlines()[-1])
    assert running.returncode == 130, err
    assert summary["seed"] == 5 and summary["inputs"] > 0 and "interrupted" in err


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("name", KINDS)
def test_a_part_in_this_process(name: str, seed: int, tmp_path: Path) -> None:
    """The written corpus as it is, then one batch of each target; the same every time."""
    kind = next(each for each in all_kinds(None) if each.name == name)
    said: list[str] = []
    engine = Engine([kind], Source(seed), tmp_path, said.append, nothing)
    try:
        for target in kind.targets:
            for path in sorted(CORPUS.glob("*.txt")):
                for data in read_corpus(path):
                    target.run(data)
        engine.round(0)
    finally:
        for target in kind.targets:
            target.close()
    assert not engine.findings, said
    assert not leftovers()
    assert all(engine.targets[f"{name}/{each.name}"].inputs for each in kind.targets)


class Fussy(Target):
    """Refuses what begins with r; fails at an x, for ever at a y."""

    batch = 64

    def __init__(self, inputs: list[bytes]) -> None:
        super().__init__("fussy")
        self._inputs = inputs

    def make(self, source: Source, count: int) -> list[bytes]:
        return self._inputs

    def run(self, data: bytes) -> Tally:
        if b"x" in data:
            raise ZeroDivisionError("an x")
        while b"y" in data:
            pass
        return Tally(1, int(data.startswith(b"r")))


def fed(folder: Path, target: Target, judge: Any = nothing) -> Engine:
    engine = Engine(
        [Kind(name="kind", share=1.0, targets=[target])], Source(1), folder, print, judge
    )
    engine.round(0)
    return engine


def test_what_is_found_is_counted_once_kept_made_smaller_and_replayed(tmp_path: Path) -> None:
    target = Fussy([b"good", b"refused", b"some x in it", b"xx"])
    engine = fed(tmp_path, target)
    counts = engine.counts["kind"]
    assert (counts.inputs, counts.refusals, counts.findings) == (4, 1, 2)
    (kept,) = tmp_path.iterdir()
    value = json.loads(kept.read_text())
    assert "ZeroDivisionError: an x" in value["error"] and value["input_text"] == "b'x'"
    with pytest.raises(ZeroDivisionError):
        fuzz_engine.replay(kept, [Kind(name="kind", share=1.0, targets=[target])])


def test_what_takes_for_ever_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fuzz_engine, "MAX_CPU_S", 0.2)
    engine = fed(tmp_path, Fussy([b"good", b"a y in it"]))
    assert engine.findings == 1
    (kept,) = tmp_path.iterdir()
    assert "TooSlow: over 0.2 s" in json.loads(kept.read_text())["error"]


class Talking(Fussy):
    """What it does is seen in a log only."""

    on_wire = True

    def __init__(self, log: list[str]) -> None:
        super().__init__([b"a", b"b", b"bad", b"c"])
        self._log = log

    def run(self, data: bytes) -> Tally:
        if data == b"bad":
            self._log.append("Traceback")
        return Tally(1)


def test_what_the_log_tells_is_traced_to_its_input(tmp_path: Path) -> None:
    log: list[str] = []

    def judge() -> list[str]:
        found = list(log)
        log.clear()
        return found

    engine = fed(tmp_path, Talking(log), judge)
    assert engine.findings == 1
    (kept,) = tmp_path.iterdir()
    assert json.loads(kept.read_text())["input_text"] == "b'bad'"


@pytest.mark.parametrize(
    ("line", "is_fault"),
    [
        (b'{"level":"info","message":"fine"}', False),
        (b'{"level":"error","message":"the link is dropped"}', False),
        (b'{"level":"critical","message":"no"}', True),
        (b'{"level":"error","message":"no","traceback":"Traceback"}', True),
        (b'{"level":"error","message":"Unhandled error in Deferred"}', True),
        (b"Segmentation fault", True),
    ],
)
def test_lines_of_the_log_that_must_not_be_there(line: bytes, is_fault: bool) -> None:
    assert (_fault_of(line) is not None) is is_fault


@pytest.mark.parametrize(
    ("sizes", "is_fault"),
    [
        ([90] * 20, False),
        ([90, 100] * 10, False),
        ([90] * 19 + [140], True),  # the end is too far from the beginning
        (list(range(90, 130, 2)), True),  # it grows and grows
        ([110, *range(80, 118, 2)], True),  # from a beginning that was larger
    ],
)
def test_memory_that_grows_is_found(tmp_path: Path, sizes: list[int], is_fault: bool) -> None:
    stage = Stage(tmp_path, print)
    stage.warm_up = 0
    stage.samples = [
        Sample(rss_bytes=size * ONE_MIB, descriptors=9, children=0, sessions={}) for size in sizes
    ]
    assert bool(stage.memory_faults()) is is_fault


def test_the_same_seed_makes_the_same_inputs() -> None:
    def made(seed: int) -> list[bytes]:
        kind = next(each for each in all_kinds(None) if each.name == "agent_frames")
        return kind.targets[0].make(Source(seed), 60)

    assert made(7) == made(7) != made(8)


def test_a_corpus_is_read_as_it_says(tmp_path: Path) -> None:
    path = tmp_path / "corpus.txt"
    path.write_text("# comment\n\ntext a\\x00\\r\\n\\\\é\nhex 00ff\nrepeat 3 [\n")
    assert read_corpus(path) == [b"a\0\r\n\\\xc3\xa9", b"\0\xff", b"[[["]
    path.write_text("neither\n")
    with pytest.raises(ValueError, match="neither"):
        read_corpus(path)


def test_a_finding_becomes_small(monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytes(range(256)) * 4
    assert (
        fuzz_inputs.smaller(data, lambda less: b"\x07" in less and b"\x09" in less) == b"\x07\x09"
    )


def test_a_finding_that_is_not_there_is_told_before_anything_starts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(["--replay", str(tmp_path / "gone.json")])
    told = capsys.readouterr().err
    assert ended.value.code == 2 and "gone.json" in told and "var/fuzz" in told
