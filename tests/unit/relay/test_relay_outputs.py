"""A job's outputs as its owner asks for them."""

import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet.defer import Deferred

from cumulus_wire.journal import Kind, encode_json
from cumulusd.errors import InvalidArgument, NotEnded, NotFound, TooLarge
from cumulusd.stored_outputs import OUTPUT_CHUNK_BYTES
from tests.unit.relay.test_relay import ANN, BOB, Office
from tests.unit.supervisor.world import RUNNING, SETUP, exit_frame

BIG = bytes(range(256)) * 5000  # five parts


def entry(name: str, data: bytes) -> dict[str, Any]:
    return {"name": name, "size_bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


@pytest_twisted.async_yield_fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    await office.start()
    yield office
    await office.world.stop()


async def ended(office: Office, **files: bytes) -> str:
    job_id = await office.submit()
    for name, data in files.items():
        office.world.files.held[job_id, name] = data
    listed = [entry(name, data) for name, data in files.items()]
    office.world.says(job_id, SETUP, RUNNING, exit_frame(outputs=listed, outputs_note="1 left out"))
    office.world.platform.die(job_id, 0)
    office.world.pass_time(5)
    return job_id


@pytest_twisted.ensureDeferred
async def test_they_are_listed_when_the_job_has_ended(office: Office) -> None:
    job_id = await office.submit()
    with pytest.raises(NotEnded):
        office.relay.outputs(ANN, job_id)
    with pytest.raises(NotEnded):
        await office.relay.output(ANN, job_id, "a", 0, None)
    office.world.says(job_id, SETUP, RUNNING, exit_frame())
    assert office.relay.outputs(ANN, job_id) == {"outputs": [], "note": None}


@pytest_twisted.ensureDeferred
async def test_one_comes_in_parts_at_its_readers_pace(office: Office) -> None:
    job_id = await ended(office, big=BIG, small=b"s")
    listing = office.relay.outputs(ANN, job_id)
    assert listing == {"outputs": [entry("big", BIG), entry("small", b"s")], "note": "1 left out"}
    parts: list[dict[str, Any]] = []
    gate: Deferred[None] = Deferred()

    async def sink(part: Any) -> None:
        parts.append(part)
        await gate

    sending = Deferred.fromCoroutine(office.relay.output(ANN, job_id, "big", 1000, sink))
    assert len(parts) == 1, "nothing is read ahead of the reader"
    gate.callback(None)
    assert await sending == entry("big", BIG)
    assert [part["offset"] for part in parts] == list(range(1000, len(BIG), OUTPUT_CHUNK_BYTES))
    assert b"".join(part["data"] for part in parts) == BIG[1000:]


@pytest_twisted.ensureDeferred
async def test_a_small_one_comes_at_once_a_large_one_does_not(office: Office) -> None:
    job_id = await ended(office, big=BIG, small=b"small")
    answer = await office.relay.output(ANN, job_id, "small", 1, None)
    assert answer == {**entry("small", b"small"), "data": b"mall"}
    with pytest.raises(TooLarge):
        await office.relay.output(ANN, job_id, "big", 0, None)
    with pytest.raises(InvalidArgument):
        await office.relay.output(ANN, job_id, "small", 6, None)


@pytest_twisted.ensureDeferred
async def test_http_reads_pieces_when_it_wants_them(office: Office) -> None:
    job_id = await ended(office, big=BIG)
    info, pieces = office.relay.output_pieces(ANN, job_id, "big")
    assert (info.name, info.size_bytes) == ("big", len(BIG))
    assert b"".join(pieces) == BIG
    _, pieces = office.relay.output_pieces(ANN, job_id, "big", 999)
    assert b"".join(pieces) == BIG[999:]


@pytest_twisted.ensureDeferred
async def test_nobody_else_gets_them(office: Office) -> None:
    job_id = await ended(office, a=b"a")
    with pytest.raises(NotFound):
        office.relay.outputs(BOB, job_id)
    with pytest.raises(NotFound):
        await office.relay.output(BOB, job_id, "a", 0, None)
    with pytest.raises(NotFound):
        office.relay.output_pieces(BOB, job_id, "a")


@pytest_twisted.ensureDeferred
async def test_a_name_that_isnt_there_is_told_with_those_that_are(office: Office) -> None:
    job_id = await ended(office, a=b"a")
    for name in ("b", "../a", "/etc/passwd"):
        with pytest.raises(NotFound, match="it has 'a'") as caught:
            await office.relay.output(ANN, job_id, name, 0, None)
        assert caught.value.job_id == job_id
        assert "1 left out" in str(caught.value)


@pytest_twisted.ensureDeferred
async def test_what_history_took_is_told(office: Office) -> None:
    job_id = await ended(office, a=b"a")
    await office.world.outputs.delete(job_id)
    listing = office.relay.outputs(ANN, job_id)
    assert listing["outputs"] == [entry("a", b"a")]
    assert "not kept any more" in listing["note"]
    with pytest.raises(NotFound, match="not kept any more"):
        await office.relay.output(ANN, job_id, "a", 0, None)
    with pytest.raises(NotFound, match="not kept any more"):
        office.relay.output_pieces(ANN, job_id, "a")


@pytest_twisted.ensureDeferred
async def test_followers_are_not_told_of_progress_twice(office: Office) -> None:
    """Its records are in the journal they follow; a state for each would be much more."""
    progress = {"fraction": 0.5, "message": "half"}
    office.relay._progress = lambda job_id: progress
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING)
    parts: list[Any] = []

    async def sink(part: Any) -> None:
        parts.append(part)

    following = Deferred.fromCoroutine(office.relay.follow(ANN, job_id, 0, sink))
    states = [part for part in parts if part["event"] == "state"]
    assert states[-1]["job"]["progress"] == progress
    progress = {"fraction": 0.6, "message": "more"}
    office.world.says(job_id, encode_json(Kind.PROGRESS, progress, 1))
    assert [part for part in parts if part["event"] == "state"] == states
    assert office.relay.list(ANN, True, 10)[0]["progress"] == progress
    office.world.says(job_id, exit_frame())
    await following


@pytest_twisted.ensureDeferred
async def test_a_download_ends_when_its_job_became_anothers(office: Office) -> None:
    """Owners may choose ids: one that was deleted meanwhile may be somebody else's job now, with an
    output of the same name."""
    job_id = await ended(office, big=BIG)
    parts: list[Any] = []

    async def sink(part: Any) -> None:
        parts.append(part)
        record = office.world.table.get(job_id)
        assert record is not None
        office.world.table.put(attrs.evolve(record, owner=BOB.owner))

    with pytest.raises(NotFound):
        await office.relay.output(ANN, job_id, "big", 0, sink)
    assert len(parts) == 1
