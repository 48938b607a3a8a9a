"""Large packages lie where their bytes are, and are the same zip from there."""

import gc
import hashlib
import io
import os
import tempfile
import weakref
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from cumulus_client import _package_bytes, _package_zip
from cumulus_client._package_bytes import PackedBytes
from cumulus_client._package_zip import Contents
from cumulus_client.exceptions import PackagingError

MANIFEST = {"version": 1}


def packed(contents: Contents) -> PackedBytes:
    data = contents.zipped(MANIFEST)
    assert isinstance(data, PackedBytes)
    return data


def noise(path: Path, size_bytes: int = 3 << 20) -> bytes:
    data = os.urandom(size_bytes)
    path.write_bytes(data)
    return data


def in_steps(data: PackedBytes, step_bytes: int) -> bytes:
    return b"".join(
        data.read(offset, step_bytes) for offset in range(0, data.size_bytes, step_bytes)
    )


@pytest.mark.parametrize("step_bytes", [9_973, 1 << 20, 1 << 26])
def test_it_is_one_zip_in_whatever_steps_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step_bytes: int
) -> None:
    monkeypatch.setattr(_package_bytes, "IN_MEMORY_BYTES", 64 << 10)
    first, second = noise(tmp_path / "first"), noise(tmp_path / "second", (2 << 20) + 1)
    given = os.urandom(2 << 20)
    # Shrinks, to more than is kept in memory.
    mixed = b"".join(os.urandom(1000) + bytes(1000) for _ in range(1500))
    contents = Contents("x")
    contents.add_file("a/first", tmp_path / "first")
    contents.add("b/given", given)
    contents.add("c/mixed", mixed)
    contents.add("d/small", b"small")
    contents.add_file("e/second", tmp_path / "second")
    data = packed(contents)
    whole = in_steps(data, step_bytes)
    assert len(whole) == data.size_bytes
    assert hashlib.sha256(whole).hexdigest() == data.sha256
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None
        assert archive.read("a/first") == first and archive.read("e/second") == second
        assert archive.read("b/given") == given and archive.read("c/mixed") == mixed
        assert archive.read("d/small") == b"small"
    assert data.read(data.size_bytes, 10) == b""
    again = contents.zipped(MANIFEST)
    assert isinstance(again, PackedBytes) and again.sha256 == data.sha256


def test_a_file_that_does_not_shrink_is_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spooled = 0
    real = tempfile.SpooledTemporaryFile.write

    def write(file: Any, data: bytes) -> int:
        nonlocal spooled
        spooled += len(data)
        return real(file, data)

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", write)
    noise(tmp_path / "large", 5 << 20)
    contents = Contents("x")
    contents.add_file("large", tmp_path / "large")
    assert packed(contents).size_bytes > 5 << 20
    assert 0 < spooled < 1000


def test_its_temporary_file_goes_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_package_bytes, "IN_MEMORY_BYTES", 1000)
    contents = Contents("x")
    contents.add("some", os.urandom(2 << 20))
    data = packed(contents)
    spool = data._spool
    assert in_steps(data, 100_003) and not spool.closed
    gone = weakref.ref(data)
    del data
    gc.collect()
    assert gone() is None and spool.closed


def rewritten(path: Path) -> None:
    noise(path)
    os.utime(path, (1, 1))


def shortened(path: Path) -> None:
    os.truncate(path, 100)


@pytest.mark.parametrize("change", [rewritten, shortened])
def test_a_file_that_changes_after_it_was_packed_is_told(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    noise(tmp_path / "large")
    contents = Contents("x")
    contents.add_file("large", tmp_path / "large")
    data = packed(contents)
    change(tmp_path / "large")
    with pytest.raises(PackagingError, match="large' was changed while the job was being submit"):
        data.read(1 << 20, 1 << 20)
    (tmp_path / "large").unlink()
    with pytest.raises(PackagingError, match="large' can't be read: No such file"):
        data.read(1 << 20, 1 << 20)


def test_a_file_that_changes_while_it_is_packed_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large"
    noise(path)
    real = _package_bytes.PackageWriter.write

    def write(writer: Any, data: bytes) -> int:
        if len(data) == 1 << 20:
            rewritten(path)
        return real(writer, data)

    monkeypatch.setattr(_package_bytes.PackageWriter, "write", write)
    contents = Contents("x")
    contents.add_file("large", path)
    with pytest.raises(PackagingError, match="large' was changed while the job was being submit"):
        contents.zipped(MANIFEST)


def test_a_file_that_gives_less_than_its_size_is_told(tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(b"12345678")

    class Short(io.FileIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(3)

    with Short(path) as file:
        whole = _package_zip._OpenFile(path, file)
        for offset, size in ((0, 8), (0, 4), (4, 4)):
            with pytest.raises(PackagingError, match="large' was changed"):
                whole.read(offset, size)


def test_a_full_temporary_folder_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "write", full)
    contents = Contents("x")
    contents.add("some", os.urandom(2 << 20))
    with pytest.raises(PackagingError, match=r"temporary file.*No space left.*\n?.*TMPDIR") as told:
        contents.zipped(MANIFEST)
    assert tempfile.gettempdir() in str(told.value)
