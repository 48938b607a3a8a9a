"""What all kinds of fuzzing share: targets, the round that feeds them, findings, and counts.

An input is bytes, whatever it stands for, so that any of them can be mutated, kept in a file, made
smaller and run again. A target makes inputs and takes them; it says of each whether it was taken or
refused, and raises `Finding` (or anything the part under test lets out) when something is wrong.
"""

import base64
import json
import random
import signal
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import attrs

from tests.fuzz.fuzz_inputs import Source, smaller

#: Processor time that one input may take in this process.
MAX_CPU_S = 5.0
#: What is said of one finding, and how many are kept of one target.
MAX_WORDS = 4000
#: A batch should take about so long, whatever the machine; and has so many inputs at least.
BATCH_S = (0.4, 1.2)
MIN_BATCH = 16
MAX_KEPT = 20


class Finding(Exception):
    """Something is wrong; the text says what."""


class TooSlow(BaseException):
    """An input takes too long. No `except Exception` of the part under test hides it."""


@attrs.define
class Tally:
    """What became of inputs: those that arrived at the part under test, and nothing else."""

    inputs: int = 0
    refusals: int = 0

    def add(self, other: "Tally") -> None:
        """Counts those too."""
        self.inputs += other.inputs
        self.refusals += other.refusals


class Target:
    """One part of the product, and how it is fed."""

    #: Inputs made and taken at once; a wire target pipelines them.
    batch = 200
    #: The part of its kind's time that it gets, beside the others'.
    weight = 1.0
    #: It talks to the daemon: what goes wrong shows there, after a batch.
    on_wire = False

    def __init__(self, name: str) -> None:
        self.name = name

    def make(self, source: Source, count: int) -> list[bytes]:
        """About so many inputs."""
        raise NotImplementedError

    def run(self, data: bytes) -> Tally:
        """Feeds one input. Raises what is wrong."""
        raise NotImplementedError

    def run_batch(self, batch: Sequence[bytes]) -> Tally:
        """Feeds several at once."""
        tally = Tally()
        for data in batch:
            tally.add(self.run(data))
        return tally

    def close(self) -> None:
        """Frees what it has."""


@attrs.frozen(kw_only=True)
class Kind:
    """Targets that count together, with a share of all the time."""

    name: str
    share: float
    targets: Sequence[Target]


@attrs.define
class Counts:
    """The numbers of one kind."""

    inputs: int = 0
    refusals: int = 0
    findings: int = 0
    seconds: float = 0.0


class Engine:
    """Feeds kinds by turns and keeps what was found."""

    def __init__(
        self,
        kinds: Sequence[Kind],
        source: Source,
        folder: Path,
        say: Callable[[str], None],
        judge: Callable[[], list[str]],
    ) -> None:
        """`judge`: what the daemon's log holds since the last call that must not be there."""
        self.kinds = {kind.name: kind for kind in kinds}
        self.counts = {kind.name: Counts() for kind in kinds}
        self.targets: dict[str, Counts] = {}
        self._source = source
        self._folder = folder
        self._say = say
        self._judge = judge
        self._sizes: dict[str, int] = {}  #: of the next batch, by target
        self._kept: dict[str, int] = {}
        self._seen: set[str] = set()
        self.stopped = False

    @property
    def inputs(self) -> int:
        """All that arrived."""
        return sum(counts.inputs for counts in self.counts.values())

    @property
    def findings(self) -> int:
        """All that is wrong."""
        return sum(counts.findings for counts in self.counts.values())

    def round(self, seconds: float) -> None:
        """Gives each target its share of so many seconds, at least one batch."""
        for kind in self.kinds.values():
            weights = sum(target.weight for target in kind.targets)
            for target in kind.targets:
                if self.stopped:
                    return
                self._feed(kind, target, seconds * kind.share * target.weight / weights)

    def _feed(self, kind: Kind, target: Target, seconds: float) -> None:
        counts = self.counts[kind.name]
        mine = self.targets.setdefault(f"{kind.name}/{target.name}", Counts())
        began = time.monotonic()
        size = self._sizes.get(target.name, max(min(target.batch, MIN_BATCH), target.batch // 4))
        while not self.stopped:
            batch_began = time.monotonic()
            batch = target.make(self._source, size)
            tally = self._run(kind, target, batch)
            size = _next_size(size, target.batch, time.monotonic() - batch_began)
            for each in (counts, mine):
                each.inputs += tally.inputs
                each.refusals += tally.refusals
            if time.monotonic() - began >= seconds:
                break
        took_s = time.monotonic() - began
        self._sizes[target.name] = size
        counts.seconds += took_s
        mine.seconds += took_s

    def _run(self, kind: Kind, target: Target, batch: Sequence[bytes]) -> Tally:
        if not target.on_wire:
            tally = Tally()
            for data in batch:
                if self.stopped:
                    break
                try:
                    with bounded():
                        tally.add(target.run(data))
                except KeyboardInterrupt:
                    raise
                except BaseException as error:
                    tally.inputs += 1
                    self._found(kind, target, data, error)
            return tally
        try:
            tally = target.run_batch(batch)
        except KeyboardInterrupt:
            raise
        except Exception as error:
            self._found(kind, target, batch[0], error, among=batch)
            tally = Tally(len(batch))
        wrong = self._judge()
        if wrong:
            self._found_in_log(kind, target, batch, wrong)
        return tally

    def _found_in_log(
        self, kind: Kind, target: Target, batch: Sequence[bytes], wrong: list[str]
    ) -> None:
        """Finds which input of a batch it was, one by one."""
        for data in batch:
            try:
                target.run_batch([data])
            except Exception as error:
                self._found(kind, target, data, error)
            again = self._judge()
            if again:
                self._found(kind, target, data, Finding("\n".join(again)))
                return
        self._found(kind, target, batch[0], Finding("\n".join(wrong)), among=batch)

    def _found(
        self,
        kind: Kind,
        target: Target,
        data: bytes,
        error: BaseException,
        among: Sequence[bytes] = (),
    ) -> None:
        mark = _mark(target.name, error)
        counts = self.counts[kind.name]
        counts.findings += 1
        if mark in self._seen or self._kept.get(target.name, 0) >= MAX_KEPT:
            return
        self._seen.add(mark)
        self._kept[target.name] = self._kept.get(target.name, 0) + 1
        if not target.on_wire:
            data = smaller(data, lambda less: _fails_alike(target, less, mark))
        words = "".join(traceback.format_exception(error))[-MAX_WORDS:]
        path = self._folder / f"{kind.name}-{target.name}-{len(self._seen)}.json"
        self._folder.mkdir(parents=True, exist_ok=True)
        value = {
            "kind": kind.name,
            "target": target.name,
            "seed": self._source.seed,
            "error": words,
            "input": base64.b64encode(data).decode(),
            "input_text": repr(data[:2000]),
            "among": [base64.b64encode(each).decode() for each in among],
        }
        path.write_text(json.dumps(value, indent=1))
        self._say(f"FOUND {kind.name}/{target.name}: {words.strip().splitlines()[-1][:300]}")
        self._say(f"  replay it: script/fuzz --replay {path}")

    def note(self, kind: str, words: str) -> None:
        """A finding that no single input stands for."""
        self.counts.setdefault(kind, Counts()).findings += 1
        self._folder.mkdir(parents=True, exist_ok=True)
        with open(self._folder / "findings.txt", "a") as file:
            file.write(f"{kind}: {words}\n")
        self._say(f"FOUND {kind}: {words[:1000]}")


def replay(path: Path, kinds: Sequence[Kind]) -> Tally:
    """Runs the inputs of a kept finding again. Raises what they raise."""
    value: Mapping[str, Any] = json.loads(path.read_text())
    kind = next(kind for kind in kinds if kind.name == value["kind"])
    target = next(each for each in kind.targets if each.name == value["target"])
    inputs = [base64.b64decode(text) for text in value["among"] or [value["input"]]]
    with bounded(60.0):
        return target.run_batch(inputs)


@contextmanager
def bounded(cpu_s: float | None = None) -> Iterator[None]:
    """Raises TooSlow in what takes more processor time (MAX_CPU_S)."""
    most_s = MAX_CPU_S if cpu_s is None else cpu_s

    def too_slow(number: int, frame: FrameType | None) -> None:
        raise TooSlow(f"over {most_s:g} s of processor time")

    before = signal.signal(signal.SIGVTALRM, too_slow)
    signal.setitimer(signal.ITIMER_VIRTUAL, most_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def _next_size(size: int, most: int, took_s: float) -> int:
    if took_s < BATCH_S[0]:
        return min(most, size * 2)
    return max(min(most, MIN_BATCH), size // 2) if took_s > BATCH_S[1] else size


def _mark(name: str, error: BaseException) -> str:
    """What tells one fault from another: where it was raised, or what was said."""
    frames = traceback.extract_tb(error.__traceback__)
    last = frames[-1] if frames else None
    where = f"{last.filename}:{last.lineno}" if last is not None else ""
    said = str(error)[:200] if isinstance(error, Finding) else ""
    return f"{name} {type(error).__name__} {where} {said}"


def _fails_alike(target: Target, data: bytes, mark: str) -> bool:
    try:
        with bounded():
            target.run(data)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return _mark(target.name, error) == mark
    return False


def seeded(seed: int, *names: object) -> random.Random:
    """A generator of its own for each name, the same for the same seed."""
    return random.Random(f"{seed} {' '.join(map(str, names))}")
