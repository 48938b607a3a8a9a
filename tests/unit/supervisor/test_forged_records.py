"""Records that a job forged: its journal is written as its own user, so it may hold anything."""

import json
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import Kind, Record, encode, encode_json
from cumulusd.jobs.codec import encode as record_as_json
from cumulusd.jobs.progress import ProgressBoard
from cumulusd.protocol.codec import CODECS
from cumulusd.protocol.messages import wamp
from tests.unit.supervisor.world import BEGIN_US, RUNNING, SETUP, World

JSON_KINDS = (Kind.STATUS, Kind.PROGRESS, Kind.ERROR, Kind.EXIT, Kind.CHECKPOINT)
WORDS = st.sampled_from(
    [
        "phase",
        "setup",
        "running",
        "outcome",
        "completed",
        "paused",
        "failed",
        "reason",
        "message",
        "result",
        "encoding",
        "size_bytes",
        "sha256",
        "outputs",
        "outputs_note",
        "name",
        "run_s",
        "fraction",
        "checkpoints",
        "filename",
        "path",
        "timestamp",
        "exit_code",
        "signal",
        "hint",
    ]
)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=12,
)


async def heard(folder: Path, kind: Kind, payload: bytes) -> World:
    world = World(folder)
    await world.start()
    await world.submit("j1")
    world.pass_time(1)
    world.says("j1", SETUP, RUNNING)
    world.says("j1", encode(kind, payload, BEGIN_US))  # the link is dropped for what this raises
    world.pass_time(1)
    return world


@pytest.mark.parametrize("kind", JSON_KINDS)
@pytest_twisted.ensureDeferred
async def test_json_that_is_too_deep_or_none_ends_its_own_job_only(
    tmp_path: Path, kind: Kind
) -> None:
    for number, payload in enumerate((b'{"a":' + b"[" * 100_000, b"[" * 100_000, b"5", b"{")):
        folder = tmp_path / str(number)
        folder.mkdir()
        world = await heard(folder, kind, payload)
        end = world.record("j1").end
        if kind is not Kind.ERROR:  # which is looked at with the EXIT that follows it
            assert end is not None
            assert end.reason is EndReason.JOURNAL_CORRUPT
        await world.stop()


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_no_record_is_more_than_its_jobs_end(tmp_path_factory: Any, kind: Kind) -> None:
    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.dictionaries(WORDS, VALUES, max_size=10))
    def hear(value: dict[str, Any]) -> None:
        async def work() -> None:
            folder = tmp_path_factory.mktemp("forged")
            world = await heard(folder, kind, json.dumps(value).encode())
            await world.stop()

        results: list[Any] = []
        Deferred.fromCoroutine(work()).addBoth(results.append)
        assert results == [None], "all of it happens at once"

    hear()


@pytest.mark.parametrize("odd", ["\udcff", "\0"], ids=["half a character", "NUL"])
@pytest_twisted.ensureDeferred
async def test_what_a_job_says_can_be_told_in_every_serialisation(tmp_path: Path, odd: str) -> None:
    world = World(tmp_path)
    await world.start()
    await world.submit("j1")
    world.pass_time(1)
    world.says("j1", SETUP, RUNNING)
    checkpoint = {"filename": odd, "path": odd, "framework": odd, "s3_key": odd}
    world.says("j1", encode_json(Kind.CHECKPOINT, {"checkpoints": [checkpoint]}))
    world.says("j1", encode_json(Kind.ERROR, {"type": odd, "message": odd, odd: odd}))
    result = {"encoding": odd, "size_bytes": 1, "sha256": odd}
    said = {"outcome": "failed", "reason": "user_error", "message": odd, "hint": odd}
    world.says("j1", encode_json(Kind.EXIT, {**said, "result": result, "outputs_note": odd}))
    world.pass_time(1)
    record = world.record("j1")
    assert record.end is not None and record.end.outputs_note and record.checkpoints
    for codec in CODECS.values():
        codec.encode(wamp.Result(1, kwargs={"record": record_as_json(record)}))
    await world.stop()


def test_what_a_job_says_of_its_progress_can_be_told() -> None:
    board = ProgressBoard(Clock(), lambda job_id: None)
    record = Record(Kind.PROGRESS, b'{"message": "\\udcff"}', 0, 0, 1)
    board.feed("j1", record)
    assert board.of("j1") == {"fraction": None, "message": "?"}
    board.stop()


HUGE = "1" + "0" * 400
RESULT = '"encoding": "json", "sha256": ""'


@pytest.mark.parametrize("number", [HUGE, "Infinity", "NaN", "1e999", "-" + HUGE])
@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.EXIT, '{"outcome": "completed", "exit_code": NUMBER}'),
        (Kind.EXIT, '{"outcome": "completed", "result": {"size_bytes": NUMBER, RESULT}}'),
        (Kind.EXIT, '{"outcome": "completed", "outputs": [{"name": "a", "size_bytes": NUMBER}]}'),
        (Kind.EXIT, '{"outcome": "paused", "run_s": NUMBER}'),
        (Kind.CHECKPOINT, '{"checkpoints": [{"filename": "a", "path": "b", "timestamp": NUMBER}]}'),
        (Kind.PROGRESS, '{"fraction": NUMBER}'),
    ],
)
@pytest_twisted.ensureDeferred
async def test_a_number_that_is_none_ends_its_own_job_only(
    tmp_path: Path, kind: Kind, text: str, number: str
) -> None:
    payload = text.replace("NUMBER", number).replace("RESULT", RESULT)
    world = await heard(tmp_path, kind, payload.encode())
    end = world.record("j1").end
    if kind is Kind.EXIT:
        assert end is not None and end.reason is EndReason.JOURNAL_CORRUPT
    else:  # the code's own word, which counts for nothing
        assert end is None
    for codec in CODECS.values():
        codec.encode(wamp.Result(1, kwargs={"record": record_as_json(world.record("j1"))}))
    await world.stop()
