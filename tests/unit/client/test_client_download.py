"""Downloads: what stands in the target when, and what is done about a lost connection."""

import asyncio
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from cumulus_client import _download
from cumulus_client._download import download, target_of
from cumulus_client.exceptions import ConnectionLost, NotFound, ResultError

DATA = bytes(range(256)) * 1000
ABOUT = {"name": "a", "size_bytes": len(DATA), "sha256": hashlib.sha256(DATA).hexdigest()}
PART = 1000

Progress = Callable[[dict[str, Any]], None]


class Daemon:
    """Answers from `DATA`; `parts` limits each call, whose connection is then lost."""

    def __init__(self, *parts: int | None) -> None:
        self.parts = list(parts)
        self.offsets: list[int] = []
        self.about: dict[str, Any] = dict(ABOUT)
        self.data = DATA
        self.before_each: Callable[[], None] = lambda: None

    async def call_once(
        self, procedure: str, kwargs: Mapping[str, Any], on_progress: Progress
    ) -> dict[str, Any]:
        assert procedure == "cumulus.job.output"
        offset = kwargs["offset"]
        self.offsets.append(offset)
        left = self.parts.pop(0) if self.parts else None
        while offset < len(self.data):
            if left == 0:
                raise ConnectionLost("the connection broke")
            self.before_each()
            part = self.data[offset : offset + PART]
            on_progress({"offset": offset, "data": part})
            offset += len(part)
            left = None if left is None else left - 1
            await asyncio.sleep(0)
        return self.about


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_download, "backoff_s", lambda failures: 0.0)


def fetch(daemon: Daemon, path: Path | None) -> Path:
    return asyncio.run(download(daemon, "job-1", "sub/a", path))


def test_it_goes_on_where_it_was(tmp_path: Path) -> None:
    daemon = Daemon(3, 0, 10)
    path = fetch(daemon, tmp_path / "here")
    assert path.read_bytes() == DATA
    assert daemon.offsets == [0, 3000, 3000, 13_000]
    assert os.listdir(tmp_path) == ["here"]


def test_nothing_stands_there_before_it_is_whole(tmp_path: Path) -> None:
    daemon, target = Daemon(), tmp_path / "here"
    target.write_bytes(b"what was there before")
    seen = []
    daemon.before_each = lambda: seen.append(target.read_bytes())
    fetch(daemon, target)
    assert set(seen) == {b"what was there before"}
    assert target.read_bytes() == DATA


@pytest.mark.parametrize("change", [{"sha256": "0" * 64}, {"size_bytes": len(DATA) + 1}])
def test_what_came_damaged_is_not_kept(tmp_path: Path, change: dict[str, Any]) -> None:
    daemon = Daemon()
    daemon.about.update(change)
    with pytest.raises(ResultError, match="came damaged") as caught:
        fetch(daemon, tmp_path / "here")
    assert caught.value.job_id == "job-1"
    assert os.listdir(tmp_path) == []


def test_connections_that_bring_nothing_end_it(tmp_path: Path) -> None:
    daemon = Daemon(*[0] * 100)
    with pytest.raises(ConnectionLost):
        fetch(daemon, tmp_path / "here")
    assert len(daemon.offsets) == _download.MAX_FRUITLESS + 1
    assert os.listdir(tmp_path) == []


def test_the_daemons_refusal_leaves_nothing(tmp_path: Path) -> None:
    class Refusing(Daemon):
        async def call_once(self, *arguments: Any) -> dict[str, Any]:
            raise NotFound("there is no such output")

    with pytest.raises(NotFound):
        fetch(Refusing(), tmp_path / "here")
    assert os.listdir(tmp_path) == []


def test_a_full_disk_ends_it_with_its_own_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_open = open

    def full(path: Any, mode: str) -> Any:
        assert mode == "xb"
        real_open(path, mode).close()
        return real_open("/dev/full", "wb", buffering=0)

    monkeypatch.setattr(_download, "open", full, raising=False)
    with pytest.raises(OSError, match="No space left"):
        fetch(Daemon(), tmp_path / "here")
    assert os.listdir(tmp_path) == []


def test_who_gives_up_leaves_nothing(tmp_path: Path) -> None:
    async def give_up() -> None:
        daemon = Daemon()
        task = asyncio.ensure_future(download(daemon, "job-1", "a", tmp_path / "here"))
        while not daemon.offsets:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(give_up())
    assert os.listdir(tmp_path) == []


def test_where_it_goes(tmp_path: Path) -> None:
    assert target_of("sub/model.bin", None) == Path("model.bin")
    assert target_of("sub/model.bin", tmp_path) == tmp_path / "model.bin"
    assert target_of("sub/model.bin", tmp_path / "m") == tmp_path / "m"
    for name in ("", "..", "a/..", "a/"):
        with pytest.raises(ValueError, match="no name"):
            target_of(name, None)
