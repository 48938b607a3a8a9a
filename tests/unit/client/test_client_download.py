"""Fetching an output: whole, verified, over lost connections, and nothing left of a failure."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

import cumulus_client._download as download_module
from cumulus_client._download import download, target_of
from cumulus_client.exceptions import ConnectionLost, NotFound, ResultError
from cumulus_wire import uris

DATA = bytes(range(256)) * 40
PART_BYTES = 1000


class Daemon:
    """Serves DATA in parts; the connection breaks after each of `breaks` many parts."""

    def __init__(self, *breaks: int, sha256: str | None = None) -> None:
        self.offsets: list[int] = []
        self._breaks = list(breaks)
        self._sha256 = sha256 or hashlib.sha256(DATA).hexdigest()

    async def call_once(
        self,
        procedure: str,
        kwargs: Mapping[str, Any],
        on_progress: Callable[[dict[str, Any]], None],
    ) -> dict[str, Any]:
        assert procedure == uris.JOB_OUTPUT
        if kwargs["name"] == "none":
            raise NotFound("there is no output 'none'")
        offset = kwargs["offset"]
        self.offsets.append(offset)
        parts = self._breaks.pop(0) if self._breaks else None
        while offset < len(DATA):
            if parts is not None:
                if parts == 0:
                    raise ConnectionLost("cut")
                parts -= 1
            data = DATA[offset : offset + PART_BYTES]
            on_progress({"offset": offset, "data": data})
            offset += len(data)
            await asyncio.sleep(0)
        if parts == 0:
            raise ConnectionLost("cut")
        return {"name": kwargs["name"], "size_bytes": len(DATA), "sha256": self._sha256}


def fetch(daemon: Daemon, name: str, path: Any) -> Path:
    return asyncio.run(download(daemon, "job_1", name, path))


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download_module, "backoff_s", lambda failures: 0.0)


def test_a_file_comes_whole_and_goes_on_where_it_was(tmp_path: Path) -> None:
    target = tmp_path / "model.pt"
    target.write_bytes(b"old")
    daemon = Daemon(3, 0, 4)
    assert fetch(daemon, "deep/model.pt", target) == target
    assert target.read_bytes() == DATA
    assert daemon.offsets == [0, 3000, 3000, 7000]
    assert os.listdir(tmp_path) == ["model.pt"]
    mask = os.umask(0o022)
    os.umask(mask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_name_may_be_as_long_as_names_can_be(tmp_path: Path) -> None:
    name = "n" * 255
    assert fetch(Daemon(), f"deep/{name}", tmp_path).read_bytes() == DATA
    assert os.listdir(tmp_path) == [name]


def test_a_connection_that_only_ever_breaks_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(ConnectionLost):
        fetch(Daemon(*[0] * 100), "a", tmp_path)
    assert os.listdir(tmp_path) == []


def test_what_is_damaged_or_missing_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a"
    target.write_bytes(b"old")
    with pytest.raises(ResultError, match="output 'a' of job job_1 came damaged: 10240 B"):
        fetch(Daemon(sha256="0" * 64), "a", target)
    with pytest.raises(NotFound):
        fetch(Daemon(), "none", target)
    with pytest.raises(FileNotFoundError):
        fetch(Daemon(), "a", tmp_path / "no folder" / "a")
    assert target.read_bytes() == b"old" and os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_told_as_it_is(tmp_path: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    part = tmp_path / "a"

    def always_full(path: Any, mode: str) -> Any:
        os.symlink("/dev/full", path)
        return open("/dev/full", "wb", buffering=0)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(download_module, "open", always_full, raising=False)
        with pytest.raises(OSError, match="No space left"):
            fetch(Daemon(), "a", part)
    assert os.listdir(tmp_path) == []


def test_a_download_that_is_cancelled_leaves_nothing(tmp_path: Path) -> None:
    class Slow(Daemon):
        async def call_once(self, *args: Any) -> dict[str, Any]:
            await asyncio.sleep(60)
            raise AssertionError

    async def main() -> None:
        task = asyncio.ensure_future(download(Slow(), "job_1", "a", tmp_path))
        await asyncio.sleep(0.05)
        assert len(os.listdir(tmp_path)) == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert os.listdir(tmp_path) == []


def test_where_an_output_goes(tmp_path: Path) -> None:
    assert target_of("plots/loss.png", None) == Path("loss.png")
    assert target_of("plots/loss.png", tmp_path) == tmp_path / "loss.png"
    assert target_of("a", tmp_path / "b") == tmp_path / "b"
    for missing in (f"{tmp_path}/none/", tmp_path / "none" / "m"):
        with pytest.raises(FileNotFoundError, match="no folder to download") as caught:
            target_of("a", missing)
        assert caught.value.filename == str(tmp_path / "none")
    for name in ("", "a/..", "a/", "."):
        with pytest.raises(ValueError, match="is no name of a file"):
            target_of(name, None)
