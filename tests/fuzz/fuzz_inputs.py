"""Inputs: drawn by hypothesis, or mutations of what was recorded and of the written corpus."""

import os
import random
import re
import shutil
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import seed as hypothesis_seed
from hypothesis.strategies import SearchStrategy

T = TypeVar("T")
CORPUS = Path(__file__).with_name("corpus")
#: No mutation grows beyond it: large inputs have targets of their own.
MAX_BYTES = 64 << 10
#: How long an input is made smaller.
SMALLER_S = 20.0
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_HUGE = (1 << 53, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_DIGITS = re.compile(rb"\d+")
_ESCAPE = re.compile(r"\\x([0-9a-fA-F]{2})|\\(.)")
_ESCAPED = {"r": "\r", "n": "\n", "t": "\t", "0": "\0"}


class Source:
    """Where inputs come from. The same seed and seeds give the same inputs."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self._recorded: dict[str, list[bytes]] = {}
        self._written: dict[str, list[bytes]] = {}
        self._pools: dict[str, deque[bytes]] = {}
        self._drawn = 0

    def seeds(self, *names: str) -> list[bytes]:
        """All that was recorded or written under these names; at least one."""
        found = []
        for name in names:
            if name not in self._written:
                path = CORPUS / f"{name}.txt"
                self._written[name] = read_corpus(path) if path.exists() else []
            found += self._recorded.get(name, []) + self._written[name]
        return found or [b""]

    def add(self, name: str, data: Sequence[bytes]) -> None:
        """More to begin with."""
        self._recorded.setdefault(name, []).extend(data)

    def draw(self, strategy: SearchStrategy[T], count: int) -> list[T]:
        """At most so many values, new ones each time."""
        self._drawn += 1
        found: list[T] = []

        @hypothesis_seed(self.seed * 1_000_003 + self._drawn)
        @settings(
            max_examples=count,
            database=None,
            deadline=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def collect(value: Any) -> None:
            found.append(value)

        collect()
        return found

    def mixed(
        self, strategy: SearchStrategy[bytes], names: Sequence[str], count: int
    ) -> list[bytes]:
        """So many: some drawn, the others mutations of these, of what was drawn before, and of the
        seeds of these names. Drawing costs ten times as much as mutating."""
        drawn = self.draw(strategy, max(1, count // 12))
        pool = self._pools.setdefault(names[0], deque(maxlen=400))
        pool.extend(drawn)
        seeds = self.seeds(*names)
        rest = count - len(drawn)
        old = self.mutations(seeds, rest // 2)
        return drawn + old + self.mutations(list(pool), rest - len(old))

    def scripts(self, lines: SearchStrategy[bytes], name: str, count: int) -> list[bytes]:
        """So many texts of 3 to 40 lines, each of which was drawn, in any order."""
        pool = self._pools.setdefault(name, deque(maxlen=3000))
        pool.extend(self.draw(lines, max(20, count)))
        known = list(pool)
        return [
            b"\n".join(self.random.choices(known, k=self.random.choice((3, 8, 15, 40))))
            for _ in range(count)
        ]

    def mutations(self, pool: Sequence[bytes], count: int) -> list[bytes]:
        """So many; a few of them the seeds themselves."""
        return [self.mutated(pool) for _ in range(count)]

    def mutated(self, pool: Sequence[bytes]) -> bytes:
        """One seed with nought to eight changes."""
        data = self.random.choice(pool)
        for _ in range(self.random.choice((0, 1, 1, 1, 2, 2, 3, 5, 8))):
            data = self._change(data, pool)[:MAX_BYTES]
        return data

    def _change(self, data: bytes, pool: Sequence[bytes]) -> bytes:
        rng = self.random
        at = rng.randrange(len(data) + 1)
        match rng.randrange(11):
            case 0:  # a bit
                if data:
                    at = rng.randrange(len(data))
                    return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
            case 1:  # a byte
                return data[:at] + bytes([rng.randrange(256)]) + data[at + 1 :]
            case 2:  # random bytes between
                return data[:at] + rng.randbytes(rng.randrange(1, 9)) + data[at:]
            case 3:  # cut off
                return data[:at]
            case 4:  # a piece missing
                return data[:at] + data[at + rng.randrange(1, 17) :]
            case 5:  # a piece again
                piece = data[at : at + rng.randrange(1, 65)]
                return data[:at] + piece * rng.choice((2, 3, 50)) + data[at:]
            case 6:  # the end of another
                other = rng.choice(pool)
                return data[:at] + other[rng.randrange(len(other) + 1) :]
            case 7:  # a number of one, two, four or eight bytes
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(_NUMBERS + _HUGE) & ((1 << 8 * size) - 1)
                order: Any = rng.choice(("big", "little"))
                return data[:at] + number.to_bytes(size, order) + data[at + size :]
            case 8:  # another number in digits
                found = list(_DIGITS.finditer(data))
                if found:
                    spot = rng.choice(found)
                    number = rng.choice((*_NUMBERS, *_HUGE, -1, 10**30, 10**400))
                    return data[: spot.start()] + b"%d" % number + data[spot.end() :]
            case 9:  # a piece of another between
                other = rng.choice(pool)
                begin = rng.randrange(len(other) + 1)
                return data[:at] + other[begin : begin + rng.randrange(1, 129)] + data[at:]
            case _:  # odd text
                return data[:at] + rng.choice(_ODD) + data[at:]
        return data


_ODD = (
    b"\0",
    b"\r\n",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\\u0000",
    "\u202e\u2028é🙂".encode(),
    b"[" * 70,
    b"{}",
    b"null",
    b"NaN",
    b"-0.0",
    b"1e999",
    b'"',
    b"../",
    b"%00",
    b"%",
    b";",
)


class MemoryFolder:
    """A folder in memory where there is one: what is tried there need not reach a disk. It is made
    when it is first asked for."""

    def __init__(self) -> None:
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """Where it is."""
        if self._path is None:
            shared = Path("/dev/shm")
            place = shared if shared.is_dir() else None
            self._path = Path(tempfile.mkdtemp(prefix=f"cumulus-fuzz-{os.getpid()}-", dir=place))
        return self._path

    def remove(self) -> None:
        """It and all that is in it."""
        if self._path is not None:
            shutil.rmtree(self._path, ignore_errors=True)
            self._path = None


def read_corpus(path: Path) -> list[bytes]:
    """The inputs of a text file, one a line: `text ...` with \\x.., \\r, \\n and \\\\ escapes,
    `hex ...`, or `repeat N ...` (the escaped text N times). `#` begins a comment line."""
    found = []
    for line in path.read_text().splitlines():
        if not line or line.startswith("#"):
            continue
        form, _, rest = line.partition(" ")
        if form == "hex":
            found.append(bytes.fromhex(rest))
        elif form == "text":
            found.append(_unescaped(rest))
        elif form == "repeat":
            times, _, text = rest.partition(" ")
            found.append(_unescaped(text) * int(times))
        else:
            raise ValueError(f"{path.name}: {line[:60]!r} begins with none of text, hex, repeat")
    return found


def _unescaped(text: str) -> bytes:
    def plain(match: "re.Match[str]") -> str:
        if match[1]:
            return chr(int(match[1], 16))
        return _ESCAPED.get(match[2], match[2])

    pieces, end = [], 0
    for match in _ESCAPE.finditer(text):
        pieces.append(text[end : match.start()].encode())
        pieces.append(plain(match).encode("latin-1"))
        end = match.end()
    return b"".join((*pieces, text[end:].encode()))


def smaller(data: bytes, fails: Callable[[bytes], bool]) -> bytes:
    """As little of `data` as still fails, found by leaving pieces out, in bounded time."""
    ends = time.monotonic() + SMALLER_S
    size = max(1, len(data) // 2)
    while size and time.monotonic() < ends:
        at, cut = 0, False
        while at < len(data) and time.monotonic() < ends:
            less = data[:at] + data[at + size :]
            if fails(less):
                data, cut = less, True
            else:
                at += size
        if not cut or size > len(data):
            size //= 2
    return data
