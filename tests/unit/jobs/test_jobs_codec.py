"""Job records on disk: an exact round trip, a pinned format, and clear refusals."""

import json
from collections.abc import Mapping
from typing import Any

import attrs
import golden_files
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from job_values import full_record

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.states import JobState
from cumulusd.jobs import codec, versions
from cumulusd.jobs.model import (
    Checkpoint,
    End,
    EndedAttempt,
    Fate,
    Grant,
    JobRecord,
    JobSpec,
    OutputInfo,
    Phase,
    Placement,
    ResultInfo,
    Wait,
)
from cumulusd.jobs.quick_decode import Odd, decoder

finite = st.floats(allow_nan=False, allow_infinity=False)
texts = st.text(st.characters(), max_size=8)  # lone surrogates too: file names can hold them
json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | finite | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
json_objects = st.dictionaries(texts, json_values, max_size=3)
integers = st.integers(0, 2**63)
specs = st.builds(
    JobSpec,
    package_sha256=texts,
    package_size_bytes=integers,
    gpu_memory=finite,
    duration_s=finite,
    requirements=st.lists(texts, max_size=3).map(tuple),
    setup_timeout_s=finite,
    queue_timeout_s=st.none() | finite,
    priority=st.integers(),
    name=st.none() | texts,
    environment=st.dictionaries(texts, texts, max_size=3),
    cpu_cores=st.none() | finite,
    memory_bytes=st.none() | integers,
    python_version=st.none() | texts,
    idempotency_key=st.none() | texts,
    retries=integers,
    needs_python=st.none() | texts,
    secret_names=st.lists(texts, max_size=3).map(tuple),
)
grants = st.builds(
    Grant,
    partition_id=texts,
    device_id=texts,
    device_name=texts,
    device_index=integers,
    units=integers,
    gpu_memory_bytes=integers,
    tier=texts,
    tier_note=texts,
    folder=texts,
    environment=st.dictionaries(texts, texts, max_size=3),
    mounts=st.lists(st.tuples(texts, texts, st.booleans()), max_size=3).map(tuple),
    lifetime_s=st.none() | finite,
)
ends = st.builds(
    End,
    state=st.sampled_from(JobState),
    reason=st.none() | st.sampled_from(EndReason),
    message=texts,
    exit_code=st.none() | st.integers(-300, 300),
    signal=st.none() | st.integers(1, 64),
    error=st.none() | json_objects,
    result=st.none() | st.builds(ResultInfo, encoding=texts, size_bytes=integers, sha256=texts),
    hint=st.none() | texts,
    log_tail=st.none() | texts,
    outputs=st.lists(
        st.builds(OutputInfo, name=texts, size_bytes=integers, sha256=texts), max_size=3
    ).map(tuple),
    outputs_note=st.none() | texts,
)
checkpoints = st.builds(
    Checkpoint,
    filename=texts,
    path=texts,
    epoch=st.none() | integers,
    step=st.none() | integers,
    framework=st.none() | texts,
    timestamp=finite,
    size_bytes=integers,
    s3_key=st.none() | texts,
)
attempts = st.builds(
    EndedAttempt,
    attempt=integers,
    reason=st.sampled_from(EndReason),
    message=texts,
    node_id=st.none() | texts,
    hostname=st.none() | texts,
    started_at=st.none() | finite,
    ended_at=finite,
)
records = st.builds(
    JobRecord,
    job_id=texts,
    owner=texts,
    spec=specs,
    phase=st.sampled_from(Phase),
    created_at=finite,
    attempt=integers,
    attempts=st.lists(attempts, max_size=3).map(tuple),
    journal_start=integers,
    queued_at=st.none() | finite,
    wait=st.none()
    | st.builds(Wait, reason=st.sampled_from(WaitReason), message=texts, details=json_objects),
    placement=st.none() | st.builds(Placement, node_id=texts, hostname=texts, device_id=texts),
    grant=st.none() | grants,
    fate=st.builds(Fate, drained=st.booleans(), down=st.booleans()),
    stop_reason=st.none() | st.sampled_from(EndReason),
    setup_at=st.none() | finite,
    started_at=st.none() | finite,
    ended_at=st.none() | finite,
    end=st.none() | ends,
    pause_requested=st.booleans(),
    pauses=integers,
    checkpoints=st.lists(checkpoints, max_size=3).map(tuple),
    pinned_node=st.none() | texts,
    ran_s=finite,
    paused_at=st.none() | finite,
)


@settings(max_examples=150, deadline=None)
@given(records)
def test_round_trip_is_exact(record: JobRecord) -> None:
    text = codec.dumps(record)
    assert codec.loads(text) == record
    assert text.isascii()
    assert codec.dumps(codec.loads(text)) == text


@settings(max_examples=150, deadline=None)
@given(records)
def test_the_quick_way_gives_what_the_exact_one_gives(record: JobRecord) -> None:
    value = json.loads(codec.dumps(record))
    del value["version"]
    quick = decoder(JobRecord)(value)
    assert quick == codec._decode_attrs(JobRecord, value, "record") == record
    # 1 equals 1.0 and True: what is taken keeps its type.
    assert codec.dumps(quick) == codec.dumps(record)


@settings(max_examples=300, deadline=None)
@given(records, st.data())
def test_the_quick_way_takes_nothing_more_than_the_exact_one(
    record: JobRecord, data: st.DataObject
) -> None:
    value = json.loads(codec.dumps(record))
    del value["version"]
    place = value
    while True:  # some value anywhere in it is changed for another, or its key for another
        keys = list(place) if isinstance(place, dict) else list(range(len(place)))
        if not keys:
            break
        key = data.draw(st.sampled_from(keys))
        if isinstance(place[key], dict | list) and place[key] and data.draw(st.booleans()):
            place = place[key]
            continue
        if isinstance(place, dict) and data.draw(st.booleans()):
            place["surprise" if data.draw(st.booleans()) else "note"] = place.pop(key)
        else:
            place[key] = data.draw(json_values)
        break
    try:
        exact = codec._decode_attrs(JobRecord, value, "record")
    except codec.RecordUnreadable:
        with pytest.raises(Odd):
            decoder(JobRecord)(value)
    else:
        assert decoder(JobRecord)(value) == exact


def test_a_history_is_read_the_quick_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Start-up is bounded by it: nothing that the daemon writes falls back to the exact way."""

    def slow(*arguments: Any) -> Any:
        raise AssertionError("the exact way was taken")

    text = codec.dumps(full_record())
    monkeypatch.setattr(codec, "_decode_attrs", slow)
    assert codec.loads(text) == full_record()


def golden_of(version: int) -> dict[str, Any]:
    golden: dict[str, Any] = json.loads(golden_files.record_path(version).read_text())
    assert golden["version"] == version
    return golden


@pytest.mark.parametrize("version", range(1, versions.VERSION + 1))
def test_a_record_of_every_version_is_read(version: int) -> None:
    """When the file is missing, see `cumulusd.jobs.versions`."""
    record = codec.decode(golden_of(version))
    assert codec.loads(codec.dumps(record)) == record
    for field in ("job_id", "owner", "phase", "created_at", "attempt", "placement", "ended_at"):
        assert getattr(record, field) == getattr(full_record(), field)
    assert record.spec.requirements == full_record().spec.requirements
    assert record.spec.retries == (0 if version < 2 else full_record().spec.retries)
    assert record.end is not None and record.end.result == ResultInfo(
        encoding="json", size_bytes=2, sha256="cd"
    )


def test_the_newest_golden_record_is_written_alike() -> None:
    """When this fails the format has changed: see `cumulusd.jobs.versions`."""
    golden = golden_of(versions.VERSION)
    assert codec.decode(golden) == full_record()
    assert codec.encode(full_record()) == golden


def test_upgrades_are_applied_in_order_from_the_records_own_version_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def first(body: dict[str, Any]) -> dict[str, Any]:
        return {**body, "owner": body["owner"] + ">1"}

    def second(body: dict[str, Any]) -> dict[str, Any]:
        job_id = body.pop("id")
        return {**body, "owner": body["owner"] + ">2", "job_id": job_id}

    monkeypatch.setattr(versions, "UPGRADES", (first, second))
    monkeypatch.setattr(versions, "VERSION", 3)
    old = codec.encode(full_record())
    old["id"] = old.pop("job_id")
    assert codec.decode({**old, "version": 1}).owner == "ann>1>2"
    assert codec.decode({**old, "version": 2}).owner == "ann>2"
    assert codec.decode({**codec.encode(full_record()), "version": 3}).owner == "ann"
    del old["id"]
    with pytest.raises(codec.RecordUnreadable, match="says it has version 2"):
        codec.decode({**old, "version": 2})


def test_every_optional_field_of_the_golden_record_is_set() -> None:
    def unset(value: Any) -> bool:
        if attrs.has(type(value)):
            return any(unset(getattr(value, each.name)) for each in attrs.fields(type(value)))
        return value is None or (isinstance(value, Mapping | tuple) and not value)

    assert not unset(full_record())


def refused(change: dict[str, Any]) -> str:
    with pytest.raises(codec.RecordUnreadable) as caught:
        codec.decode({**codec.encode(full_record()), **change})
    return str(caught.value)


def test_another_version_is_refused_by_name() -> None:
    newer = versions.VERSION + 1
    assert f"version {newer}" in refused({"version": newer})
    assert "version 0" in refused({"version": 0})
    assert "no number" in refused({"version": None})
    assert "no number" in refused({"version": True})


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"surprise": 1}, "surprise"),
        ({"phase": "flying"}, "flying"),
        ({"attempt": "2"}, "record.attempt"),
        ({"attempt": True}, "record.attempt"),
        ({"created_at": "now"}, "record.created_at"),
        ({"spec": []}, "record.spec"),
        ({"placement": {"node_id": "n"}}, "device_id"),
        ({"owner": None}, "record.owner"),
    ],
)
def test_a_fault_names_its_place(change: dict[str, Any], named: str) -> None:
    assert named in refused(change)


def test_a_nested_fault_names_its_place() -> None:
    value = codec.encode(full_record())
    value["grant"]["mounts"] = [["/a", "/b"]]
    with pytest.raises(codec.RecordUnreadable, match=r"record\.grant\.mounts\[0\] has 2 items"):
        codec.decode(value)


def test_a_missing_key_is_refused() -> None:
    value = codec.encode(full_record())
    del value["spec"]["priority"]
    with pytest.raises(codec.RecordUnreadable, match="priority"):
        codec.decode(value)


@pytest.mark.parametrize("text", ["", "{", "[]", "3"])
def test_what_is_no_json_object_is_refused(text: str) -> None:
    with pytest.raises(codec.RecordUnreadable):
        codec.loads(text)


def test_values_that_are_no_json_are_refused_when_written() -> None:
    record = attrs.evolve(
        full_record(), wait=Wait(reason=WaitReason.QUEUED, message="", details={"x": float("nan")})
    )
    with pytest.raises(ValueError, match="JSON"):
        codec.dumps(record)
    record = attrs.evolve(
        full_record(),
        wait=Wait(reason=WaitReason.QUEUED, message="", details={1: 2}),  # type: ignore[dict-item]
    )
    with pytest.raises(TypeError, match="no string"):
        codec.dumps(record)
