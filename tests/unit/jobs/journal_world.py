"""A daemon's journals for tests: on a clock of their own, and what they hold."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from job_values import Threads, result_of
from twisted.internet.task import Clock

from cumulus_wire.journal import Kind, encode, encode_json
from cumulusd.jobs.journals import Journal, Journals

EXIT = encode_json(Kind.EXIT, {"outcome": "completed"}, 5)


def line(text: str, size: int = 0) -> bytes:
    return encode(Kind.STDOUT, text.encode().ljust(size, b"."), 1)


class Daemon:
    """Journals on a clock of their own, made again after a crash."""

    def __init__(self, root: Path, **options: Any) -> None:
        self.root = root
        self.options = {"cap_bytes": 8000, "segment_bytes": 1000} | options
        self.clock: Any = Clock()
        self.threads = Threads()
        self.durable: list[tuple[str, int]] = []
        self.journals = self.make()

    def make(self) -> Journals:
        return Journals(
            self.root,
            clock=self.clock,
            run_in_thread=self.threads,
            on_durable=lambda job_id, offset: self.durable.append((job_id, offset)),
            **self.options,
        )

    def crash(self) -> None:
        """As kill -9: nothing is synced, the descriptors go."""
        for journal in list(self.journals._journals.values()):
            journal.close()
        self.clock, self.threads = Clock(), Threads()
        self.journals = self.make()

    def end(self) -> None:
        result_of(self.journals.stop())


def read_all(
    journal: Journal, max_bytes: int = 300, offset: int = 0
) -> tuple[bytes, list[tuple[int, int]]]:
    """(all frames, the gaps)."""
    data, gaps = b"", []
    while offset < journal.end_offset:
        chunk = journal.read(offset, max_bytes)
        assert chunk.offset == offset
        assert chunk.next_offset > offset
        if chunk.kind == "gap":
            gaps.append((chunk.offset, chunk.next_offset))
            assert [each.kind for each in chunk.records()] == [Kind.GAP]
        else:
            data += chunk.data
            assert chunk.next_offset == offset + len(chunk.data)
            assert chunk.records()[-1].next_offset == chunk.next_offset
        offset = chunk.next_offset
    return data, gaps


def files(daemon: Daemon, job_id: str = "j") -> dict[str, int]:
    return {each.name: each.stat().st_size for each in sorted((daemon.root / job_id).iterdir())}


@contextmanager
def failing(name: str, code: int = errno.EIO) -> Iterator[None]:
    """That function of `os` fails meanwhile, as a disk does."""

    def refuse(*arguments: Any) -> Any:
        raise OSError(code, os.strerror(code))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, refuse)
        yield
