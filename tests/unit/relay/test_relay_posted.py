"""Jobs as HTTP brings them: ids of the submitter's own, old zips, every fault at once."""

import hashlib
import io
import zipfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from test_relay import ANN, BOB, EVE, Office
from twisted.internet.defer import Deferred

from cumulusd.errors import Conflict, InvalidArgument, NotAuthorized, TooMany, Unavailable
from cumulusd.submissions import MAX_JOB_ID_CHARS


def zipped(**files: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name.replace("_txt", ".txt").replace("_py", ".py"), content)
    return buffer.getvalue()


OLD = zipped(main_py="", requirements_txt="six==1.16\n# no\n")


@pytest_twisted.async_yield_fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    await office.start()
    yield office
    await office.world.stop()


async def posted(
    office: Office, code: bytes = OLD, job_id: Any = None, faults: Any = (), **more: Any
) -> dict[str, Any]:
    upload = office.relay.receive(ANN)
    await upload.write(code)
    sha256, size_bytes = await upload.commit()
    package = {"sha256": sha256, "size_bytes": size_bytes}
    spec = {"gpu_memory": 0.6, "duration_s": 60, "package": package, **more}
    return await office.relay.submit_posted(ANN, spec, job_id, faults)


@pytest_twisted.ensureDeferred
async def test_an_old_zips_requirements_are_the_jobs(office: Office) -> None:
    view = await posted(office, job_id="mine", requirements=["numpy"])
    assert (view["job_id"], view["status"]) == ("mine", "pending")
    record = office.world.table.get("mine")
    assert record is not None and record.spec.requirements == ("six==1.16", "numpy")
    assert record.spec.package_sha256 == hashlib.sha256(OLD).hexdigest()


@pytest_twisted.ensureDeferred
async def test_an_id_can_be_had_once(office: Office) -> None:
    await posted(office, job_id="mine")
    with pytest.raises(Conflict) as refused:
        await posted(office, job_id="mine")
    assert refused.value.job_id == "mine"
    assert (await posted(office))["job_id"].startswith("job_")


@pytest_twisted.ensureDeferred
async def test_two_at_once_get_it_once(office: Office) -> None:
    """The first is being saved while the second asks."""
    gate = office.world.store.gate = Deferred()
    first = Deferred.fromCoroutine(posted(office, job_id="mine"))
    with pytest.raises(Conflict):
        await posted(office, job_id="mine")
    first.addErrback(lambda _: None)
    first.cancel()  # who asked is gone; the job is saved all the same
    with pytest.raises(Conflict):
        await posted(office, job_id="mine")
    office.world.store.gate = None
    gate.callback(None)
    assert office.world.table.get("mine") is not None


@pytest.mark.parametrize(
    "bad", ["", "-x", "_x", "a b", "a.b", "a/b", "é", "x" * (MAX_JOB_ID_CHARS + 1), 7, "a\n"]
)
@pytest_twisted.ensureDeferred
async def test_ids_that_cant_be_taken(office: Office, bad: Any) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await posted(office, job_id=bad)
    assert [fault["key"] for fault in refused.value.details["faults"]] == ["job_id"]


@pytest_twisted.ensureDeferred
async def test_ids_that_old_clients_send(office: Office) -> None:
    for job_id in ("123e4567-e89b-12d3-a456-426614174000", "job_1690000000_abc", "x" * 46):
        assert (await posted(office, job_id=job_id, gpu_memory=0.1))["job_id"] == job_id


@pytest_twisted.ensureDeferred
async def test_every_fault_at_once(office: Office) -> None:
    with pytest.raises(InvalidArgument) as refused:
        await posted(
            office, job_id="no id", faults=[{"key": "x", "message": "y"}], gpu_memory=2, retries=-1
        )
    keys = [fault["key"] for fault in refused.value.details["faults"]]
    assert keys == ["x", "job_id", "gpu_memory", "retries"]
    assert refused.value.job_id is not None
    bad = zipped(main_py="", requirements_txt="--index-url http://x\n")
    with pytest.raises(InvalidArgument, match="not an option"):
        await posted(office, bad)


@pytest_twisted.ensureDeferred
async def test_what_is_refused_before_it_is_uploaded(office: Office) -> None:
    with pytest.raises(NotAuthorized):
        office.relay.receive(EVE)
    office.no_room = Unavailable("the disk is full")
    with pytest.raises(Unavailable):
        office.relay.receive(BOB)
    office.no_room = None
    upload = office.relay.receive(ANN)
    office.no_room = Unavailable("the disk is full")
    with pytest.raises(Unavailable):
        await upload.write(b"more")
    office.no_room = None
    for _ in range(4):
        await posted(office, gpu_memory=1.0)
        office.world.pass_time(0)
    with pytest.raises(TooMany):
        office.relay.receive(ANN)
    office.relay.close()
    with pytest.raises(Unavailable):
        office.relay.receive(BOB)
