"""Jobs that have ended are kept packed, and come back as they were or not at all."""

import hashlib
import random
from pathlib import Path

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from job_values import full_record, record
from twisted.logger import capturedLogs, formatEvent

from cumulus_wire.states import JobState
from cumulusd.jobs import codec, ended_job, versions
from cumulusd.jobs.by_age import ByAge
from cumulusd.jobs.ended_job import EndedJob
from cumulusd.jobs.model import End, JobRecord, Phase
from cumulusd.jobs.store import Store, StoreDamaged
from cumulusd.jobs.store_file import StoreFile, StoreUnusable, write_new
from cumulusd.jobs.table import UNPACKED, JobTable


def ended(job_id: str = "job-1", at: float = 1.0, owner: str = "ann") -> JobRecord:
    end = End(state=JobState.FAILED, reason=None, message="é\n" * 50, log_tail="x" * 4000)
    return attrs.evolve(
        full_record(), job_id=job_id, owner=owner, phase=Phase.ENDED, created_at=at,
        ended_at=at, end=end,
    )  # fmt: skip


def stored(one: JobRecord) -> bytes:
    value = ended_job.stored(one, codec.dumps(one))
    assert isinstance(value, bytes)
    return value


def test_an_ended_job_comes_back_whole_and_is_found_by_its_head() -> None:
    one = ended()
    value = stored(one)
    assert len(value) < len(codec.dumps(one)) / 4
    loaded = ended_job.load(value)
    assert isinstance(loaded, EndedJob) and not ended_job.is_outdated(value)
    assert loaded.record() == one == ended_job.load_record(value)
    for field in ("job_id", "owner", "name", "state", "created_at", "ended_at", "phase"):
        assert getattr(loaded, field) == getattr(one, field)
    assert loaded.idempotency_key == one.spec.idempotency_key
    assert loaded.stored() == value


def test_what_has_not_ended_stays_text() -> None:
    running = attrs.evolve(full_record(), phase=Phase.RUNNING)
    for one in (record("a"), running, record("b", phase=Phase.ENDED)):
        text = codec.dumps(one)
        assert ended_job.stored(one, text) == text
        assert ended_job.load(text) == one == ended_job.load_record(text.encode())


@given(st.data())
def test_no_flipped_bit_and_no_cut_goes_unseen(data: st.DataObject) -> None:
    value = bytearray(stored(ended()))
    if data.draw(st.booleans()):
        value[data.draw(st.integers(0, len(value) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    else:
        del value[data.draw(st.integers(0, len(value) - 1)) :]
    with pytest.raises(codec.RecordUnreadable):
        ended_job.load(bytes(value))


def test_the_dictionary_of_format_1_is_what_it_was() -> None:
    """Another one makes every record of before unreadable."""
    digest = hashlib.sha256(ended_job._DICTIONARY).hexdigest()
    assert digest == "f362eb40c73ed0bb7dc83ace8d66fd154eecb3513f3cd9fb198704014f750328"


def test_a_newer_daemons_record_is_refused_and_an_older_ones_upgraded_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.sqlite3"
    write_new(path, "id", [ended()])

    def load() -> list[JobRecord | EndedJob]:
        file = StoreFile(path)
        connection = file.connect()
        try:
            file.check_and_upgrade(connection)
            return file.read(connection)[1]
        finally:
            connection.close()

    def moved(body: dict[str, object]) -> dict[str, object]:
        return {**body, "owner": "bob"}

    before = versions.VERSION
    with monkeypatch.context() as later:
        later.setattr(versions, "VERSION", before + 1)
        later.setattr(versions, "UPGRADES", (*versions.UPGRADES, moved))
        later.setattr(ended_job, "_HEAD_NOW", b"[%d," % (before + 1))
        (found,) = load()
        assert isinstance(found, EndedJob) and found.owner == found.record().owner == "bob"
        (again,) = load()
        assert again == found
    with pytest.raises(StoreUnusable, match="written by a newer version of cumulusd") as refused:
        load()
    assert not isinstance(refused.value, StoreDamaged)


def test_records_of_an_older_version_are_read_where_the_disk_has_no_room_for_newer_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "jobs.sqlite3"
    write_new(path, "id", [ended()])
    long_name = random.Random(0).randbytes(20_000).hex()

    def load(max_pages: int) -> list[JobRecord | EndedJob]:
        file = StoreFile(path)
        connection = file.connect()
        try:
            connection.execute(f"PRAGMA max_page_count = {max_pages}").fetchall()
            file.check_and_upgrade(connection)
            return file.read(connection)[1]
        finally:
            connection.close()

    before = versions.VERSION
    monkeypatch.setattr(versions, "VERSION", before + 1)
    longer = (*versions.UPGRADES, lambda body: {**body, "owner": long_name})
    monkeypatch.setattr(versions, "UPGRADES", longer)
    monkeypatch.setattr(ended_job, "_HEAD_NOW", b"[%d," % (before + 1))
    with capturedLogs() as logs:
        (found,) = load(1)  # no more than there are
    assert found.owner == long_name
    (told,) = (formatEvent(event) for event in logs)
    assert "1 record(s)" in told and str(path) in told and "full" in told
    with capturedLogs() as logs:
        assert load(1 << 20) == [found]  # from then on in the file
        assert load(1) == [found]
    assert logs == []


def test_a_store_with_a_damaged_ended_job_is_not_started_on(tmp_path: Path) -> None:
    path = tmp_path / "jobs.sqlite3"
    write_new(path, "id", [ended("sound"), ended("torn")])
    connection = StoreFile(path).connect()
    value = bytearray(stored(ended("torn")))
    value[-3] ^= 1
    connection.execute("UPDATE jobs SET record = ? WHERE job_id = 'torn'", (bytes(value),))
    connection.close()
    store = Store(path, lambda function, *arguments: function(*arguments))
    with pytest.raises(StoreDamaged, match=r"record of job torn .* its checksum is wrong"):
        store.load()


def test_the_table_gives_records_whole_and_holds_few_of_them() -> None:
    table = JobTable()
    count = UNPACKED + 10
    told: list[str] = []
    table.watch(lambda before, after: told.append(f"{before and before.phase} {after.phase}"))
    for number in range(count):
        table.put(record(f"j{number}", created_at=float(number)))
        table.put(ended(f"j{number}", float(number)))
    assert told[:2] == ["None queued", "queued ended"]
    assert all(isinstance(one, EndedJob) for one in table.all())
    assert len(table._unpacked) == UNPACKED
    for number in (0, count - 1, 0):
        assert table.get(f"j{number}") == ended(f"j{number}", float(number))
    assert len(table._unpacked) == UNPACKED
    assert table.owner("j3") == "ann" and table.owner("never") is None
    table.forget("j0")
    assert table.get("j0") is None and len(table) == count - 1 == table.ended_count


def test_a_table_of_a_restart_is_as_the_one_before() -> None:
    one, again = JobTable(), JobTable()
    for number in range(20):
        job = ended(f"j{number}", float(number % 7), owner=f"owner{number % 3}")
        one.put(job)
        again.put_history([EndedJob.of(job, codec.dumps(job))])
    for owner in (None, "owner1"):
        for until in (None, 3.0):
            assert list(one.newest(owner, until)) == list(again.newest(owner, until))
    assert one.oldest_ends() == again.oldest_ends()
    key = full_record().spec.idempotency_key
    assert key is not None
    assert one.by_key("owner1", key) == again.by_key("owner1", key) is not None
    for job_id in one.oldest_ends():
        one.forget(job_id)
        again.forget(job_id)
    assert list(one.newest()) == [] == list(again.newest("owner1"))
    assert again.by_key("owner1", key) is None


def test_states_are_counted_by_owner() -> None:
    table = JobTable()
    for number, phase in enumerate((Phase.QUEUED, Phase.RUNNING, Phase.RUNNING)):
        table.put(record(f"j{number}", phase=phase, owner="bob" if number else "ann"))
    assert table.counts(lambda owner: True) == {JobState.PENDING: 1, JobState.RUNNING: 2}
    assert table.counts(lambda owner: owner == "ann") == {JobState.PENDING: 1}
    table.put(record("j0", phase=Phase.RUNNING, owner="ann"))
    end = End(state=JobState.COMPLETED, reason=None, message="")
    table.put(record("j1", phase=Phase.ENDING, owner="bob", end=end))
    assert table.counts(lambda owner: True) == {JobState.RUNNING: 2}
    assert [one.job_id for one in table.newest_live()] == ["j2", "j1", "j0"]
    table.put(record("j1", phase=Phase.ENDED, owner="bob", end=end))
    for job_id in ("j0", "j1", "j2"):
        table.forget(job_id)
    assert table.counts(lambda owner: True) == {} and list(table.newest_live()) == []


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4), st.sampled_from("ab")), unique=True),
    st.none() | st.floats(-1, 5),
)
def test_jobs_are_in_the_order_of_their_age(
    jobs: list[tuple[int, int, str]], until: float | None
) -> None:
    order = ByAge()
    known: dict[str, tuple[float, str]] = {}
    for number, at, owner in jobs:
        job_id = f"j{number}"
        if job_id in known:
            before = known.pop(job_id)
            order.remove(before[1], (before[0], job_id))
        else:
            known[job_id] = (float(at), owner)
            order.add(owner, (float(at), job_id))
    for owner in (None, "a", "b"):
        expected = sorted(
            (at, job_id)
            for job_id, (at, whose) in known.items()
            if owner in (None, whose) and (until is None or at <= until)
        )
        assert list(order.newest(owner, until)) == [job_id for _, job_id in reversed(expected)]
    assert len(order) == len(known)
