"""The use cases over the real jobs, in memory and on a test clock."""

import hashlib
import itertools
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from twisted.internet.defer import CancelledError, Deferred

from cumulus_wire.codes import EndReason
from cumulus_wire.journal import FrameParser, Kind, encode, is_rest_missing
from cumulusd.errors import (
    Conflict,
    CumulusError,
    InvalidArgument,
    JobFailed,
    NotAuthorized,
    NotEnded,
    NotFound,
    NoWorkers,
    TooLarge,
    TooMany,
    Unavailable,
)
from cumulusd.following import LATE_OUTPUT_S
from cumulusd.identity import Principal, Role
from cumulusd.jobs import codec
from cumulusd.jobs.model import Phase
from cumulusd.jobs.packages import Packages
from cumulusd.relay import Relay
from cumulusd.spec import SpecLimits, parse_spec
from cumulusd.submissions import SubmitLimits
from tests.unit.supervisor.world import RUNNING, SETUP, World, exit_frame, output, run_at_once

ANN = Principal(name="ann", owner="ann", role=Role.CLIENT)
BOB = Principal(name="bob", owner="bob", role=Role.CLIENT)
EVE = Principal(name="eve", owner="eve", role=Role.VIEWER)
ROOT = Principal(name="root", owner="root", role=Role.ADMIN)
CODE = b"PK code"
SHA = hashlib.sha256(CODE).hexdigest()


class Office:
    """A world with a relay in front."""

    def __init__(self, folder: Path) -> None:
        self.world = World(folder)
        self.packages = Packages(
            folder / "packages", run_in_thread=run_at_once, max_package_bytes=1000
        )
        self.parts = {"store": "ok"}
        self.forgotten: list[str] = []
        self.no_room: CumulusError | None = None
        self.image_python: str | None = None
        self.relay = Relay(
            table=self.world.table,
            journals=self.world.journals,
            packages=self.packages,
            outputs=self.world.outputs,
            supervisor=self.world.supervisor,
            parts=lambda: dict(self.parts),
            clock=self.world.clock,
            wall_clock=self.world.clock.seconds,
            limits=SubmitLimits(
                max_queued=4, max_queued_per_owner=3, spec=SpecLimits(package_max_bytes=1000)
            ),
            platform_name="memory",
            forget=self.forget,
            no_room=lambda: self.no_room,
            image_python=lambda: self.image_python,
        )

    async def forget(self, job_id: str) -> None:
        self.forgotten.append(job_id)

    async def start(self) -> None:
        await self.world.start()
        for who in (ANN, BOB):
            await self.relay.package_put(who, SHA, 0, CODE)
            await self.relay.package_commit(who, SHA, len(CODE))

    async def submit(self, who: Principal = ANN, **spec: Any) -> str:
        view = await self.relay.submit(who, a_spec(**spec))
        self.world.pass_time(0)
        job_id = view["job_id"]
        assert isinstance(job_id, str)
        return job_id


def a_spec(**changes: Any) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "package": {"sha256": SHA, "size_bytes": len(CODE)},
        "gpu_memory": 0.6,
        "duration_s": 60,
    }
    spec.update(changes)
    return {key: value for key, value in spec.items() if value is not ...}


@pytest_twisted.async_yield_fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    await office.start()
    yield office
    await office.world.stop()


class Reader:
    """Follows a job; takes one progressive result at a time when told to."""

    def __init__(
        self,
        office: Office,
        who: Principal,
        job_id: str,
        offset: int = 0,
        tail_bytes: int | None = None,
    ) -> None:
        self.parts: list[Mapping[str, Any]] = []
        self.gate: Deferred[None] | None = None
        self.slow = False
        self.following = Deferred.fromCoroutine(
            office.relay.follow(who, job_id, offset, self._sink, tail_bytes)
        )
        self.end: Mapping[str, Any] | None = None
        self.error: Exception | None = None
        self.following.addCallbacks(self._ended, self._failed)

    async def _sink(self, part: Mapping[str, Any]) -> None:
        self.parts.append(part)
        if self.slow:
            self.gate = Deferred()
            await self.gate

    def _ended(self, end: Mapping[str, Any]) -> None:
        self.end = end

    def _failed(self, failure: Any) -> None:
        self.error = failure.value

    @property
    def states(self) -> list[str]:
        return [part["job"]["phase"] for part in self.parts if part["event"] == "state"]

    @property
    def text(self) -> str:
        data = b"".join(part["frames"] for part in self.parts if part["event"] == "journal")
        records = FrameParser().feed(data)
        return b"".join(r.payload for r in records if r.kind is Kind.STDOUT).decode()


@pytest_twisted.ensureDeferred
async def test_following_tells_everything_in_order_and_the_end_last(office: Office) -> None:
    job_id = await office.submit()
    reader = Reader(office, ANN, job_id)
    office.world.says(job_id, SETUP, RUNNING, output("one\n"))
    office.world.says(job_id, output("two\n"))
    assert reader.end is None
    office.world.says(job_id, output("three"), exit_frame())
    assert reader.text == "one\ntwo\nthree"
    assert reader.states == ["starting", "running"] or reader.states[-1] == "running"
    assert reader.end is not None and reader.end["event"] == "end"
    assert reader.end["job"]["status"] == "completed"
    offsets = [
        (part["offset"], part["next_offset"]) for part in reader.parts if part["event"] == "journal"
    ]
    assert offsets[0][0] == 0
    assert all(end == begin for (_, end), (begin, _) in itertools.pairwise(offsets))
    late = Reader(office, ANN, job_id, offsets[0][1])
    assert late.end is not None
    assert late.parts[0]["offset"] == offsets[0][1], "attach goes on where it was told to"


@pytest_twisted.ensureDeferred
async def test_a_reader_may_leave_out_all_but_the_end(office: Office) -> None:
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING, *(output(f"line {i}\n") for i in range(400)))
    end_offset = office.relay.get(ANN, job_id)["journal"]["end_offset"]
    whole = Reader(office, ANN, job_id)
    tail = Reader(office, ANN, job_id, 0, tail_bytes=300)
    first = next(part for part in tail.parts if part["event"] == "journal")
    assert 300 <= end_offset - first["offset"] < 400
    assert whole.text.endswith(tail.text) and tail.text.startswith("line 3")
    late = Reader(office, ANN, job_id, end_offset, tail_bytes=300)
    all_of_it = Reader(office, ANN, job_id, 0, tail_bytes=1 << 20)
    assert (late.text, all_of_it.text) == ("", whole.text)
    office.world.says(job_id, output("last"), exit_frame())
    for reader in (whole, tail, late, all_of_it):
        assert reader.text.endswith("last") and reader.end is not None


async def forced_while_away(office: Office) -> tuple[str, Reader]:
    """A job that its user cancelled while its worker was away, and who follows it."""
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING, output("one\n"))
    reader = Reader(office, ANN, job_id)
    office.world.workers.error = Unavailable("the agent is away")
    cancelling = Deferred.fromCoroutine(office.relay.cancel(ANN, job_id))
    office.world.pass_time(4)
    assert (await cancelling)["cancelled"] is True
    assert office.relay.get(ANN, job_id)["status"] == "cancelled", "it is told at once when asked"
    assert reader.end is None
    return job_id, reader


@pytest_twisted.ensureDeferred
async def test_output_that_a_forced_job_left_on_its_worker_comes_before_its_end(
    office: Office,
) -> None:
    job_id, reader = await forced_while_away(office)
    office.world.pass_time(20)
    office.world.workers.error = None
    office.world.says(job_id, output("two\n"), exit_frame("failed", reason="runner_failed"))
    assert reader.text == "one\ntwo\n"
    assert reader.end is not None and reader.end["job"]["status"] == "cancelled"


@pytest_twisted.ensureDeferred
async def test_the_end_comes_when_nothing_is_left_on_the_worker(office: Office) -> None:
    job_id, reader = await forced_while_away(office)
    office.world.workers.error = None
    office.world.platform.die(job_id, 137)
    office.world.pass_time(8)
    assert office.world.record(job_id).phase is Phase.ENDED
    assert reader.end is not None


@pytest_twisted.ensureDeferred
async def test_a_worker_that_stays_away_keeps_no_reader_waiting_for_long(office: Office) -> None:
    job_id, reader = await forced_while_away(office)
    office.world.pass_time(LATE_OUTPUT_S - 6.0, step=0.5)
    assert reader.end is None
    office.world.pass_time(7.0)
    assert reader.end is not None and reader.end["job"]["status"] == "cancelled"
    assert Reader(office, ANN, job_id).end is not None


@pytest_twisted.ensureDeferred
async def test_a_slow_reader_is_not_read_ahead_of(office: Office) -> None:
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING)
    reader = Reader(office, ANN, job_id)
    reader.slow = True
    for i in range(50):
        office.world.says(job_id, output(f"{i}\n"))
    taken = len(reader.parts)
    assert taken <= 4
    assert reader.gate is not None
    reader.slow = False
    reader.gate.callback(None)
    assert reader.text == "".join(f"{i}\n" for i in range(50))
    reader.following.cancel()


@pytest_twisted.ensureDeferred
async def test_who_is_slow_is_told_at_last_what_a_job_waits_for_by_then(office: Office) -> None:
    await office.submit(gpu_memory=1.0)
    ahead = [await office.submit(gpu_memory=1.0) for _ in range(2)]
    office.world.clock.advance(1)
    job_id = await office.submit(gpu_memory=1.0)
    reader = Reader(office, ANN, job_id)
    reader.slow = True

    def place() -> int:
        return int(reader.parts[-1]["job"]["wait"]["details"]["position"])

    await office.relay.cancel(ANN, ahead[0])
    office.world.clock.advance(1)
    assert reader.gate is not None and place() == 2, "it is being told"
    await office.relay.cancel(ANN, ahead[1])
    office.world.clock.advance(1)  # all who follow are told, once
    reader.slow = False
    reader.gate.callback(None)
    assert place() == 1
    reader.following.cancel()


@pytest_twisted.ensureDeferred
async def test_every_refused_submit_has_a_job_id_and_all_faults(office: Office) -> None:
    cases: list[tuple[Any, type[CumulusError], str]] = [
        (a_spec(gpu_memory=1.5), InvalidArgument, "gpu_memory"),
        (a_spec(gpu_memory=...), InvalidArgument, "gpu_memory: is required"),
        (a_spec(duration_s=0), InvalidArgument, "duration_s"),
        (a_spec(duration_s=1e9), InvalidArgument, "duration_s"),
        (a_spec(surprise=1), InvalidArgument, "surprise"),
        (a_spec(requirements=["--index-url=http://x"]), InvalidArgument, "requirements.0"),
        (a_spec(environment={"A B": "secret"}), InvalidArgument, "environment.A B"),
        (a_spec(environment={"LD_PRELOAD": "x"}), InvalidArgument, "environment.LD_PRELOAD: can't"),
        ("no object", InvalidArgument, "spec"),
        (a_spec(package={"sha256": "0" * 64, "size_bytes": 1}), NotFound, "not uploaded"),
        (a_spec(package={"sha256": "0" * 64, "size_bytes": 1001}), TooLarge, "1001"),
    ]
    for spec, kind, words in cases:
        with pytest.raises(kind) as caught:
            await office.relay.submit(ANN, spec)
        assert caught.value.job_id is not None and caught.value.job_id.startswith("job_")
        assert words in caught.value.message
    with pytest.raises(InvalidArgument) as several:
        await office.relay.submit(ANN, a_spec(gpu_memory=2, duration_s="soon", x=1))
    assert {fault["key"] for fault in several.value.details["faults"]} == {
        "gpu_memory",
        "duration_s",
        "x",
    }
    assert len(office.world.table) == 0


@pytest_twisted.ensureDeferred
async def test_code_of_another_python_is_refused_where_the_workers_is_known(
    office: Office,
) -> None:
    refused = "pickled by Python 3.10, and jobs here run on Python 3.11"
    for agents, image, ok in (
        (None, None, True),  # nobody knows: the runner will say it
        ("3.10.4", None, True),
        ("3.11.7", None, False),
        (None, "3.11.2", False),
        (None, "3.10", True),
    ):
        office.world.workers.python_version, office.image_python = agents, image
        try:
            record = await office.relay.submit(ANN, a_spec(needs_python="3.10"))
        except InvalidArgument as error:
            assert not ok and refused in error.message and error.hint is not None
            assert error.details["python_versions"] == ["3.11"]
        else:
            held = office.world.table.get(record["job_id"])
            assert ok and held is not None and held.spec.needs_python == "3.10"
            await office.relay.cancel(ANN, record["job_id"])
        assert office.relay.workers(ROOT)[0]["python_version"] == (agents or image)
    office.world.workers.python_version = "3.11.7"
    assert (await office.relay.submit(ANN, a_spec(needs_python="3.11")))["job_id"]
    assert (await office.relay.submit(ANN, a_spec()))["job_id"]


@pytest_twisted.ensureDeferred
async def test_what_could_loosen_a_share_is_refused_and_the_rest_is_not(office: Office) -> None:
    protected = {
        "CUDA_VISIBLE_DEVICES",
        "CUDA_DEVICE_MEMORY_LIMIT_0",
        "CUDA_MPS_PINNED_DEVICE_MEM_LIMIT",
        "CUDA_MPS_PIPE_DIRECTORY",
        "NVIDIA_VISIBLE_DEVICES",
        "OPENCL_LAYERS",
        "OPENCL_LAYER_PATH",
        "OCL_ICD_VENDORS",
        "OCL_ICD_FILENAMES",
        "LD_PRELOAD",
        "LD_LIBRARY_PATH",
        "LD_AUDIT",
    }
    with pytest.raises(InvalidArgument) as caught:
        await office.relay.submit(ANN, a_spec(environment=dict.fromkeys(sorted(protected), "1")))
    faults = {fault["key"]: fault["message"] for fault in caught.value.details["faults"]}
    assert set(faults) == {f"environment.{name}" for name in protected}
    assert all("could loosen what holds the job to its share" in text for text in faults.values())
    harmless = {"CUDA_LAUNCH_BLOCKING": "1", "CUDA_CACHE_PATH": "/tmp/c", "LDAP": "x", "A": "b"}
    assert parse_spec(a_spec(environment=harmless), SpecLimits()).environment == harmless


@pytest_twisted.ensureDeferred
async def test_a_faulty_secret_is_not_repeated(office: Office) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await office.relay.submit(ANN, a_spec(environment={"KEY": "s3cret" * 30_000}))
    assert "s3cret" not in str(caught.value.as_dict())


@pytest_twisted.ensureDeferred
async def test_no_workers_is_503_at_once(office: Office) -> None:
    office.world.platform.pool = []
    await office.world.supervisor.placing.refresh()
    with pytest.raises(NoWorkers, match="No GPU workers available") as caught:
        await office.relay.submit(ANN, a_spec())
    assert caught.value.status == 503
    assert caught.value.job_id


@pytest_twisted.ensureDeferred
async def test_a_repeated_submit_is_the_same_job(office: Office) -> None:
    first = await office.submit(idempotency_key="k")
    assert await office.submit(idempotency_key="k") == first
    assert await office.submit(BOB, idempotency_key="k") != first


def a_new_one(code: bytes, **changes: Any) -> dict[str, Any]:
    """A specification whose package isn't there."""
    package = {"sha256": hashlib.sha256(code).hexdigest(), "size_bytes": len(code)}
    return a_spec(**{"package": package, **changes})


@pytest_twisted.ensureDeferred
async def test_a_package_may_come_with_its_job(office: Office) -> None:
    code = b"PK other code"
    with pytest.raises(NotFound, match="was not uploaded"):
        await office.relay.submit(ANN, a_new_one(code))
    view = await office.relay.submit(ANN, a_new_one(code), code=code)
    assert view["job_id"] in office.world.table
    size = len(code)
    assert office.packages.check("ann", hashlib.sha256(code).hexdigest(), size) == (True, size)
    await office.relay.submit(ANN, a_new_one(code))
    with pytest.raises(NotFound):
        await office.relay.submit(BOB, a_new_one(code))


@pytest_twisted.ensureDeferred
async def test_code_that_is_another_is_refused(office: Office) -> None:
    code = b"PK other code"
    for wrong, words in ((code + b"!", "14 bytes"), (code[:-1] + b"!", "SHA-256")):
        with pytest.raises(InvalidArgument, match=words) as caught:
            await office.relay.submit(ANN, a_new_one(code), code=wrong)
        assert caught.value.job_id
        assert caught.value.details["faults"][0]["key"].startswith("package.")
    with pytest.raises(TooLarge, match="comes with its job"):
        await office.relay.submit(ANN, a_new_one(code), code=bytes(600_000))
    assert list(office.world.table.all()) == []


@pytest_twisted.ensureDeferred
async def test_a_repeat_while_its_package_comes_is_the_same_job(office: Office) -> None:
    code, waiting = b"PK other code", []

    def later(work: Any) -> Deferred[Any]:
        waiting.append((held := Deferred[Any](), work))
        return held

    office.packages._run_in_thread = later  # type: ignore[assignment]
    spec = a_new_one(code, idempotency_key="k")
    both = [Deferred.fromCoroutine(office.relay.submit(ANN, spec, code=code)) for _ in range(2)]
    assert len(waiting) == 2 and not any(each.called for each in both)
    for held, work in waiting:
        held.callback(work())
    first, second = [await each for each in both]
    assert first["job_id"] == second["job_id"]
    assert len(list(office.world.table.all())) == 1


@pytest_twisted.ensureDeferred
async def test_jobs_whose_packages_come_with_them_stand_in_line_as_they_were_sent(
    office: Office,
) -> None:
    """Whatever order the disk has them in, and whoever gives up meanwhile."""
    waiting = []

    def later(work: Any) -> Deferred[Any]:
        waiting.append((held := Deferred[Any](), work))
        return held

    office.packages._run_in_thread = later  # type: ignore[assignment]
    codes = [b"first", b"given up", b"third"]
    submits = [
        Deferred.fromCoroutine(
            office.relay.submit(ANN, a_new_one(code, name=code.decode()), code=code)
        )
        for code in codes
    ]
    submits[1].cancel()
    with pytest.raises(CancelledError):
        await submits[1]
    for held, work in reversed(waiting):
        if not held.called:
            held.callback(work())
    names = [(await each)["name"] for each in (submits[0], submits[2])]
    assert names == [record.spec.name for record in office.world.table.all()] == ["first", "third"]


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_closes_while_a_package_comes_takes_no_job(office: Office) -> None:
    code, waiting = b"PK other code", []

    def later(work: Any) -> Deferred[Any]:
        waiting.append((held := Deferred[Any](), work))
        return held

    office.packages._run_in_thread = later  # type: ignore[assignment]
    submit = Deferred.fromCoroutine(office.relay.submit(ANN, a_new_one(code), code=code))
    office.relay.close()
    ((held, work),) = waiting
    held.callback(work())
    with pytest.raises(Unavailable, match="stopping"):
        await submit
    assert list(office.world.table.all()) == []


@pytest_twisted.ensureDeferred
async def test_a_submit_whose_caller_goes_while_it_is_saved_is_one_job(office: Office) -> None:
    """The record gets to disk whoever waits for it: the repeat must find it."""
    disk = office.world.store.gate = Deferred()
    first = Deferred.fromCoroutine(office.relay.submit(ANN, a_spec(idempotency_key="k")))
    first.cancel()
    again = Deferred.fromCoroutine(office.relay.submit(ANN, a_spec(idempotency_key="k")))
    assert not again.called, "it waits for the first, which is being saved"
    disk.callback(None)
    view = await again
    with pytest.raises(CancelledError):
        await first
    assert [record.job_id for record in office.world.table.all()] == [view["job_id"]]
    assert set(office.world.store.saved) == {view["job_id"]}
    office.world.pass_time(0.1)
    assert office.relay.get(ANN, view["job_id"])["status"] == "starting"


@pytest_twisted.ensureDeferred
async def test_a_submit_that_is_refused_by_the_disk_lets_its_repeat_try(office: Office) -> None:
    disk = office.world.store.gate = Deferred()
    first = Deferred.fromCoroutine(office.relay.submit(ANN, a_spec(idempotency_key="k")))
    again = Deferred.fromCoroutine(office.relay.submit(ANN, a_spec(idempotency_key="k")))
    office.world.store.gate = None
    disk.errback(Unavailable("disk full"))
    with pytest.raises(Unavailable):
        await first
    assert (await again)["job_id"] in office.world.table


@pytest_twisted.ensureDeferred
async def test_a_full_disk_refuses_new_jobs_and_packages_and_answers_repeats(
    office: Office,
) -> None:
    first = await office.submit(idempotency_key="k")
    office.no_room = Unavailable("No new jobs are accepted: 3 bytes free", hint="make room")
    with pytest.raises(Unavailable, match="3 bytes free") as caught:
        await office.relay.submit(ANN, a_spec())
    assert (caught.value.status, caught.value.code.value) == (503, "unavailable")
    assert caught.value.job_id and caught.value.hint
    with pytest.raises(Unavailable, match="3 bytes free"):
        await office.relay.package_put(ANN, "0" * 64, 0, b"code")
    with pytest.raises(Unavailable, match="3 bytes free"):
        office.relay.package_check(ANN, "0" * 64, 4)
    assert office.relay.package_check(ANN, SHA, len(CODE))["present"] is True
    assert await office.submit(idempotency_key="k") == first
    office.world.says(first, SETUP, RUNNING, exit_frame())
    office.world.pass_time(1)
    assert office.relay.get(ANN, first)["status"] == "completed", "running jobs go on"
    office.no_room = None
    assert await office.submit() != first


@pytest_twisted.ensureDeferred
async def test_a_cancel_is_answered_when_it_is_on_disk(office: Office) -> None:
    """A daemon that is killed after the answer knows of it when it is back."""
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING)
    disk = office.world.store.gate = Deferred()
    answer = Deferred.fromCoroutine(office.relay.cancel(ANN, job_id))
    office.world.says(job_id, output("still there"))
    assert not answer.called
    disk.callback(None)
    assert (await answer)["cancelled"] is True
    assert office.world.store.saved[job_id].stop_reason is EndReason.CANCELLED_BY_USER


@pytest_twisted.ensureDeferred
async def test_a_cancel_that_the_jobs_own_end_forestalls_says_so(office: Office) -> None:
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING)
    disk = office.world.store.gate = Deferred()
    office.world.says(job_id, exit_frame())
    answer = Deferred.fromCoroutine(office.relay.cancel(ANN, job_id))
    assert not answer.called
    disk.callback(None)
    with pytest.raises(Conflict, match="completed"):
        await answer


@pytest_twisted.ensureDeferred
async def test_the_queue_is_bounded_per_owner_and_in_all(office: Office) -> None:
    for _ in range(4):  # one runs, three wait
        await office.submit()
    with pytest.raises(TooMany, match="of ann"):
        await office.submit()
    await office.submit(BOB)
    with pytest.raises(TooMany, match="4 jobs wait"):
        await office.submit(BOB)


@pytest_twisted.ensureDeferred
async def test_owners_see_their_own(office: Office) -> None:
    ann, bob = await office.submit(ANN, gpu_memory=0.1), await office.submit(BOB, gpu_memory=0.1)
    relay = office.relay
    assert [job["job_id"] for job in relay.list(ANN, False, 10)] == [ann]
    assert {job["job_id"] for job in relay.list(EVE, False, 10)} == {ann, bob}
    with pytest.raises(NotFound):
        relay.get(ANN, bob)
    with pytest.raises(NotFound):
        await relay.cancel(ANN, bob)
    with pytest.raises(NotFound):
        await relay.result(ANN, bob, None)
    assert Reader(office, ANN, bob).error.__class__ is NotFound
    with pytest.raises(NotAuthorized):
        await relay.cancel(EVE, ann)
    with pytest.raises(NotAuthorized):
        await relay.submit(EVE, a_spec())
    assert relay.owns(ROOT, ann) and not relay.owns(BOB, ann)


@pytest_twisted.ensureDeferred
async def test_the_result_is_put_together_and_checked(office: Office) -> None:
    job_id = await office.submit()
    relay = office.relay
    with pytest.raises(NotEnded):
        await relay.result(ANN, job_id, None)
    value = b'{"answer": 42}'
    info = {
        "encoding": "json",
        "size_bytes": len(value),
        "sha256": hashlib.sha256(value).hexdigest(),
    }
    halves = [encode(Kind.RESULT, part) for part in (value[:5], value[5:])]
    office.world.says(job_id, SETUP, RUNNING, *halves, exit_frame(result=info))
    assert await relay.result(ANN, job_id, None) == {**info, "data": value}
    parts: list[Mapping[str, Any]] = []

    async def sink(part: Mapping[str, Any]) -> None:
        parts.append(part)

    assert await relay.result(ANN, job_id, sink) == info
    assert [part["offset"] for part in parts] == [0, 5]
    assert b"".join(part["data"] for part in parts) == value
    with pytest.raises(Conflict, match="completed"):
        await relay.cancel(ANN, job_id)


@pytest.mark.parametrize("retries", [-1, 101, 1.5, True, "1"])
@pytest_twisted.ensureDeferred
async def test_retries_are_a_whole_number_from_0_to_100(office: Office, retries: Any) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await office.submit(retries=retries)
    assert [fault["key"] for fault in caught.value.details["faults"]] == ["retries"]


@pytest_twisted.ensureDeferred
async def test_the_last_output_stands_in_the_end_but_not_in_listings(office: Office) -> None:
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING, output("last words\n"))
    office.world.says(job_id, exit_frame("failed", reason="exit_code", exit_code=3))
    end = office.relay.get(ANN, job_id)["end"]
    assert (end["log_tail"], end["exit_code"]) == ("last words\n", 3)
    assert end["hint"]
    (listed,) = office.relay.list(ANN, False, 10)
    assert listed["end"] == {**end, "log_tail": None, "outputs": None}


@pytest_twisted.ensureDeferred
async def test_the_result_is_that_of_the_last_attempt(office: Office) -> None:
    job_id = await office.submit(retries=1)
    world, value = office.world, b"7"
    world.says(job_id, SETUP, RUNNING, encode(Kind.RESULT, b"killed in the middle"))
    world.platform.die(job_id, 137)
    world.pass_time(3)
    assert world.record(job_id).attempt == 2
    info = {"encoding": "json", "size_bytes": 1, "sha256": hashlib.sha256(value).hexdigest()}
    world.says(job_id, SETUP, RUNNING, encode(Kind.RESULT, value), exit_frame(result=info))
    assert await office.relay.result(ANN, job_id, None) == {**info, "data": value}
    (over,) = office.relay.get(ANN, job_id)["attempts"]
    assert (over["attempt"], over["reason"]) == (1, "runner_failed")
    assert over["worker"] == {"node_id": "n1", "hostname": "one"}


async def lost_with_its_power(office: Office) -> tuple[str, int, int]:
    """A job, the offset up to which a reader was shown its first attempt, and where the second one
    begins: before it, since the daemon lost the rest with its power, and the worker too."""
    job_id = await office.submit(retries=1)
    world = office.world
    world.says(job_id, SETUP, RUNNING, output("one\n"))
    begin = world.journals.open(job_id).end_offset
    world.platform.die(job_id, 137)
    world.pass_time(3)
    assert (world.record(job_id).attempt, world.record(job_id).journal_start) == (2, begin)
    return job_id, begin + 150, begin


@pytest_twisted.ensureDeferred
async def test_an_offset_inside_of_another_attempts_record_is_answered_with_its_begin(
    office: Office,
) -> None:
    job_id, shown, begin = await lost_with_its_power(office)
    reader = Reader(office, ANN, job_id, shown)
    assert reader.error is None, "what is behind its end may come again"
    office.world.says(job_id, SETUP, RUNNING, output("x" * 500))
    error = reader.error
    assert isinstance(error, InvalidArgument) and "is inside a record" in error.message
    assert error.details["continue_from"] == begin and str(begin) in (error.hint or "")
    again = Reader(office, ANN, job_id, begin)
    frames = b"".join(part["frames"] for part in again.parts if part["event"] == "journal")
    assert frames == SETUP + RUNNING + output("x" * 500)


@pytest_twisted.ensureDeferred
async def test_an_offset_behind_the_end_of_an_ended_job_is_told(office: Office) -> None:
    job_id, shown, begin = await lost_with_its_power(office)
    office.world.says(job_id, SETUP, exit_frame("failed", reason="user_error"))
    office.world.platform.die(job_id, 0)
    office.world.pass_time(3)
    end = office.world.journals.open(job_id).end_offset
    error = Reader(office, ANN, job_id, max(shown, end + 1)).error
    assert isinstance(error, InvalidArgument) and f"is behind its end, {end}" in error.message
    assert error.details["continue_from"] == begin
    assert Reader(office, ANN, job_id, end).end is not None


@pytest_twisted.ensureDeferred
async def test_a_failed_job_has_no_result_but_says_why(office: Office) -> None:
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING, exit_frame("failed", reason="exit_code", exit_code=3))
    with pytest.raises(JobFailed) as caught:
        await office.relay.result(ANN, job_id, None)
    assert caught.value.details["job"]["end"]["exit_code"] == 3


@pytest_twisted.ensureDeferred
async def test_a_closing_daemon_takes_no_jobs_and_says_so(office: Office) -> None:
    assert set(office.relay.health().values()) == {"ok"}
    office.relay.close()
    with pytest.raises(Unavailable, match="stopping"):
        await office.relay.submit(ANN, a_spec())
    assert office.relay.health()["accepting"] != "ok"


@pytest_twisted.ensureDeferred
async def test_logs_are_the_output_that_is_kept_with_gaps_told(office: Office) -> None:
    job_id = await office.submit()
    with pytest.raises(NotFound):
        office.relay.logs(BOB, job_id)
    assert list(office.relay.logs(ANN, job_id)) == []
    noise = encode(Kind.SETUP, b"installing", 1)
    office.world.says(job_id, SETUP, noise, RUNNING, output("one\n"), output("two"))
    office.world.says(job_id, encode(Kind.STDERR, b"\xff\x00", 1))
    assert b"".join(office.relay.logs(ANN, job_id)) == b"one\ntwo\xff\x00"
    reading = office.relay.logs(EVE, job_id)
    office.world.says(job_id, output("later"), exit_frame())
    assert b"".join(reading) == b"one\ntwo\xff\x00", "what there was when it was asked for"
    office.world.pass_time(1)
    assert office.relay.get(ANN, job_id)["journal"]["pruned"] is False
    end = office.relay.get(ANN, job_id)["journal"]["end_offset"]
    await office.world.journals.prune(job_id, 0, keep_result=True)
    view = office.relay.get(ANN, job_id)
    assert view["status"] == "completed" and view["completed_at"] is not None
    assert view["journal"] == {
        "start_offset": end - len(exit_frame()),
        "end_offset": end,
        "pruned": True,
    }
    (told,) = [part for part in office.relay.logs(ANN, job_id) if part]
    assert str(view["journal"]["start_offset"]).encode() in told
    reader = Reader(office, ANN, job_id)
    assert [part["event"] for part in reader.parts] == ["gap", "journal"]
    assert reader.end is not None


@pytest_twisted.ensureDeferred
async def test_logs_tell_where_a_worker_was_given_up(office: Office) -> None:
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING, output("one\n"))
    await office.world.journals.open(job_id).seal(1, given_up_from=0, time_us=1)
    assert b"".join(office.relay.logs(ANN, job_id)) == (
        b"one\n\n[more output of attempt 1 may be missing here: its worker was given up]\n"
    )
    reader = Reader(office, ANN, job_id)
    frames = b"".join(part["frames"] for part in reader.parts if part["event"] == "journal")
    assert is_rest_missing(FrameParser().feed(frames)[-1]), "followers get it in its place"


@pytest_twisted.ensureDeferred
async def test_a_result_outlives_its_jobs_output_and_says_when_it_is_gone(office: Office) -> None:
    value = b"[1, 2]"
    info = {"encoding": "json", "size_bytes": 6, "sha256": hashlib.sha256(value).hexdigest()}
    job_id = await office.submit()
    office.world.says(job_id, SETUP, RUNNING, output("x" * 9000), encode(Kind.RESULT, value, 1))
    office.world.says(job_id, exit_frame(result=info))
    office.world.pass_time(1)
    await office.world.journals.prune(job_id, 0, keep_result=True)
    assert (await office.relay.result(ANN, job_id, None))["data"] == value
    await office.world.journals.prune(job_id, 0, keep_result=False)
    with pytest.raises(NotFound, match="not kept any more") as caught:
        await office.relay.result(ANN, job_id, None)
    assert caught.value.job_id == job_id and caught.value.hint
    assert office.relay.get(ANN, job_id)["end"]["result"] == info


@pytest_twisted.ensureDeferred
async def test_an_idempotency_key_holds_over_a_restart(tmp_path: Path) -> None:
    first = Office(tmp_path)
    await first.start()
    running = await first.submit(idempotency_key="k1")
    over = await first.submit(BOB, gpu_memory=0.1, idempotency_key="k2")
    first.world.says(running, SETUP)  # else it starts, and the other's container stays meanwhile
    first.world.says(over, SETUP, RUNNING, exit_frame())
    first.world.platform.die(over, 0)
    first.world.pass_time(1)
    assert first.relay.get(BOB, over)["phase"] == "ended"
    saved = [codec.loads(codec.dumps(record)) for record in first.world.store.saved.values()]
    await first.world.stop()
    again = Office(tmp_path)
    await again.world.start(saved)
    assert await again.submit(idempotency_key="k1") == running
    assert await again.submit(BOB, idempotency_key="k2") == over
    assert await again.submit(idempotency_key="k2") not in (running, over)
    assert len(again.world.table) == 3
    await again.world.stop()
