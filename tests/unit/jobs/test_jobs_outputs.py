"""Outputs on the daemon's disk."""

import hashlib
from pathlib import Path

import pytest

from cumulusd.jobs.outputs import IncomingOutput, ListedOutput


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def store(folder: Path, data: bytes, sha256: str | None) -> None:
    incoming = IncomingOutput(folder, ListedOutput(name="o", size_bytes=len(data), sha256=sha256))
    incoming.open()
    incoming.write(data)
    assert incoming.finish() == hashed(data)
    incoming.close()


@pytest.mark.parametrize(
    ("sha256", "is_here"), [(hashed(b"one"), True), (hashed(b"two"), False), (None, False)]
)
def test_what_an_earlier_attempt_left_is_taken_for_this_ones_by_its_hash_only(
    tmp_path: Path, sha256: str | None, is_here: bool
) -> None:
    (tmp_path / "job").mkdir()
    store(tmp_path / "job", b"one", None)
    listed = ListedOutput(name="o", size_bytes=3, sha256=sha256)
    incoming = IncomingOutput(tmp_path / "job", listed)
    incoming.open()
    assert incoming.whole_sha256 == (sha256 if is_here else None)
    assert incoming.held_bytes == 0
    incoming.close()
