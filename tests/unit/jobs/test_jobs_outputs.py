"""The daemon's copies of outputs on disk, and what an EXIT record may say of them."""

import hashlib
import os
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted

from cumulusd.errors import NotFound
from cumulusd.jobs.model import OutputInfo
from cumulusd.jobs.outputs import IncomingOutput, ListedOutput, Outputs, listed_outputs
from cumulusd.jobs.store import StoreFailed
from tests.unit.supervisor.world import run_at_once

DATA = bytes(range(256)) * 50
SHA256 = hashlib.sha256(DATA).hexdigest()
LISTED = ListedOutput(name="../evil/näme", size_bytes=len(DATA), sha256=SHA256)
INFO = OutputInfo(name=LISTED.name, size_bytes=len(DATA), sha256=SHA256)


def hashed(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def an_outputs(tmp_path: Path) -> Outputs:
    return Outputs(tmp_path / "outputs", run_in_thread=run_at_once)


def store(outputs: Outputs, listed: ListedOutput = LISTED, data: bytes = DATA) -> str | None:
    incoming = outputs.incoming("j", listed)
    incoming.open()
    incoming.write(data)
    sha256 = incoming.finish()
    incoming.close()
    return sha256


@pytest_twisted.ensureDeferred
async def test_a_name_leads_nowhere_else_on_our_disk(tmp_path: Path) -> None:
    outputs = an_outputs(tmp_path)
    assert store(outputs) == SHA256
    await outputs.settle("j")
    assert sorted(os.listdir(tmp_path)) == ["outputs"]
    (name,) = os.listdir(tmp_path / "outputs" / "j")
    assert name.isalnum()
    assert await outputs.read("j", INFO, 5, 10) == DATA[5:15]
    assert b"".join(outputs.pieces("j", INFO, 100, 1000)) == DATA[100:]
    again = an_outputs(tmp_path)  # as a daemon that starts anew finds it
    assert (again.known(), again.total_bytes) == (["j"], len(DATA))
    assert again.holds("j") and not again.holds("other")


@pytest_twisted.ensureDeferred
async def test_what_is_not_whole_goes_when_nothing_more_comes(tmp_path: Path) -> None:
    outputs = an_outputs(tmp_path)
    outputs.promise("j", 1 << 40)
    assert outputs.total_bytes == 1 << 40, "what is promised counts"
    store(outputs)
    half = outputs.incoming("j", ListedOutput(name="half", size_bytes=100, sha256=None))
    half.open()
    half.write(b"x" * 50)
    half.close()
    await outputs.settle("j")
    assert outputs.size_bytes("j") == len(DATA)
    assert len(os.listdir(tmp_path / "outputs" / "j")) == 1
    assert await outputs.delete("j") == len(DATA)
    assert await outputs.delete("j") == 0
    assert os.listdir(tmp_path / "outputs") == []
    outputs.promise("none", 100)
    await outputs.settle("none")
    assert not outputs.holds("none")


@pytest_twisted.ensureDeferred
async def test_empty_outputs_are_kept_too(tmp_path: Path) -> None:
    outputs = an_outputs(tmp_path)
    empty = ListedOutput(name="empty", size_bytes=0, sha256=None)
    sha256 = store(outputs, empty, b"")
    await outputs.settle("j")
    assert outputs.holds("j")
    assert sha256 == hashlib.sha256(b"").hexdigest()


def test_one_that_is_here_is_not_fetched_again_and_a_damaged_one_is(tmp_path: Path) -> None:
    outputs = an_outputs(tmp_path)
    store(outputs)
    again = outputs.incoming("j", LISTED)
    again.open()
    assert again.whole_sha256 == SHA256
    (path,) = (tmp_path / "outputs" / "j").iterdir()
    path.write_bytes(b"short")
    cut = outputs.incoming("j", LISTED)
    cut.open()
    assert (cut.whole_sha256, cut.held_bytes) == (None, 0)
    cut.write(b"wrong")
    assert cut.finish() is None, "its hash is another"
    assert cut.held_bytes == 0
    cut.discard()
    assert list((tmp_path / "outputs" / "j").iterdir()) == []


def test_a_close_in_the_middle_leaves_what_is_held(tmp_path: Path) -> None:
    outputs = an_outputs(tmp_path)
    incoming = outputs.incoming("j", LISTED)
    incoming.open()
    incoming.write(DATA[:1000])
    incoming.close()
    incoming.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        incoming.write(b"late")
    after = outputs.incoming("j", LISTED)
    after.open()
    assert (after.held_bytes, after.resumed) == (1000, True)
    after.write(DATA[1000:])
    assert after.finish() == SHA256
    after.close()
    late = outputs.incoming("j", LISTED)
    late.close()
    late.open()  # a thread that began after the stop opens nothing
    with pytest.raises(OSError, match="Bad file descriptor"):
        late.write(b"x")


@pytest_twisted.ensureDeferred
async def test_what_is_gone_or_unreadable_is_told(tmp_path: Path) -> None:
    outputs = an_outputs(tmp_path)
    with pytest.raises(NotFound, match="not kept any more"):
        await outputs.read("j", INFO, 0, 10)
    with pytest.raises(NotFound, match="not kept any more"):
        outputs.pieces("j", INFO, 0, 10)
    store(outputs)
    (path,) = (tmp_path / "outputs" / "j").iterdir()
    path.unlink()
    path.mkdir()
    with pytest.raises(StoreFailed, match="can't be read"):
        await outputs.read("j", INFO, 0, 10)
    with pytest.raises(StoreFailed, match="can't be read"):
        next(outputs.pieces("j", INFO, 0, 10))


@pytest.mark.parametrize(
    ("sha256", "is_here"), [(hashed(b"one"), True), (hashed(b"two"), False), (None, False)]
)
def test_what_an_earlier_attempt_left_is_taken_for_this_ones_by_its_hash_only(
    tmp_path: Path, sha256: str | None, is_here: bool
) -> None:
    (tmp_path / "job").mkdir()
    earlier = IncomingOutput(tmp_path / "job", ListedOutput(name="o", size_bytes=3, sha256=None))
    earlier.open()
    earlier.write(b"one")
    assert earlier.finish() == hashed(b"one")
    earlier.close()
    listed = ListedOutput(name="o", size_bytes=3, sha256=sha256)
    incoming = IncomingOutput(tmp_path / "job", listed)
    incoming.open()
    assert incoming.whole_sha256 == (sha256 if is_here else None)
    assert incoming.held_bytes == 0
    incoming.close()


ENTRY = {"name": "a", "size_bytes": 1, "sha256": None}


def test_what_an_exit_record_lists() -> None:
    assert listed_outputs({}) == ((), None)
    assert listed_outputs({"outputs": None, "outputs_note": "why"}) == ((), "why")
    listed, note = listed_outputs({"outputs": [ENTRY, {**ENTRY, "name": "b", "new": 1}]})
    assert [one.name for one in listed] == ["a", "b"]
    assert note is None


@pytest.mark.parametrize(
    "outputs",
    [
        "a",
        {"a": 1},
        [ENTRY, ENTRY],
        [{**ENTRY, "name": f"{number}"} for number in range(1001)],
        ["a"],
        [{**ENTRY, "name": "/a"}],
        [{**ENTRY, "name": "\ud800"}],
        [{**ENTRY, "name": 5}],
        [{**ENTRY, "size_bytes": -1}],
        [{**ENTRY, "size_bytes": True}],
        [{**ENTRY, "size_bytes": 1.0}],
        [{**ENTRY, "sha256": 5}],
        [{}],
    ],
)
def test_a_list_that_is_none_is_refused_whole(outputs: Any) -> None:
    with pytest.raises(ValueError, match="malformed EXIT record"):
        listed_outputs({"outputs": outputs})


@pytest_twisted.ensureDeferred
async def test_a_stored_output_that_became_shorter_is_not_told_as_whole(tmp_path: Path) -> None:
    outputs = an_outputs(tmp_path)
    store(outputs)
    await outputs.settle("j")
    (path,) = (tmp_path / "outputs" / "j").iterdir()
    os.truncate(path, 1500)
    pieces = outputs.pieces("j", INFO, 0, 1000)
    assert len(next(pieces)) + len(next(pieces)) == 1500
    with pytest.raises(StoreFailed, match="too early"):
        next(pieces)
