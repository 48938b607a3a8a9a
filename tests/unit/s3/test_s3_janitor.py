"""What jobs left on S3 is removed when nobody keeps it, and nothing else is."""

from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import pytest_twisted
from twisted.internet import reactor, task

from cumulusd.errors import Unavailable
from cumulusd.s3 import janitor as module
from cumulusd.s3.access import Access
from cumulusd.s3.client import Listing, S3Client
from cumulusd.s3.janitor import SWEEP_INTERVAL_S, Fate, Janitor
from cumulusd.tasks import sleep
from tests.s3_server import BUCKET, REGION, S3Server, s3_server

ACCESS = Access(
    bucket=BUCKET,
    region=REGION,
    endpoint_url="http://127.0.0.1:9",
    prefix="pool/i-1/",
    access_key="key",
    secret_key="hidden",
)


class FakeS3:
    """As S3Client, in memory; `fault` is raised by the next calls."""

    def __init__(self) -> None:
        self.objects: set[str] = set()
        self.parts: set[tuple[str, str]] = set()
        self.faults = 0
        self.page = 2
        self.closed = False

    def _may_fail(self) -> None:
        if self.faults:
            self.faults -= 1
            raise Unavailable("s3://x can't be reached: away")

    async def listing(self, prefix: str, folders: bool = False, page: str | None = None) -> Listing:
        self._may_fail()
        found = sorted(key for key in self.objects if key.startswith(prefix))
        if folders:
            found = sorted({prefix + key[len(prefix) :].split("/")[0] + "/" for key in found})
        begin = int(page or 0)
        part = tuple(found[begin : begin + self.page])
        more = str(begin + self.page) if begin + self.page < len(found) else None
        return Listing(
            keys=() if folders else part, prefixes=part if folders else (), next_page=more
        )

    async def uploads(self, prefix: str) -> list[tuple[str, str]]:
        self._may_fail()
        return sorted(one for one in self.parts if one[0].startswith(prefix))

    async def delete(self, key: str) -> None:
        self._may_fail()
        self.objects.discard(key)

    async def abort(self, key: str, upload_id: str) -> None:
        self._may_fail()
        self.parts.discard((key, upload_id))

    async def close(self) -> None:
        self.closed = True


class World:
    """A janitor, its S3 and what is to become of the jobs."""

    def __init__(self) -> None:
        self.s3 = FakeS3()
        self.clock = task.Clock()
        self.fates: dict[str, Fate] = {}
        self.janitor = Janitor(
            self.s3,  # type: ignore[arg-type]
            ACCESS,
            self.clock,
            lambda job_id: self.fates.get(job_id, Fate.ALL),
        )

    def job(self, job_id: str, fate: Fate = Fate.KEEP) -> None:
        """A job with two checkpoints, their index, and an artifact."""
        self.fates[job_id] = fate
        for place in ("checkpoints/a", "checkpoints/b", "checkpoints/index.json", "artifacts/c"):
            self.s3.objects.add(f"pool/i-1/{job_id}/{place}")

    def left(self, job_id: str) -> list[str]:
        prefix = f"pool/i-1/{job_id}/"
        return sorted(k.removeprefix(prefix) for k in self.s3.objects if k.startswith(prefix))

    def becomes(self, job_id: str, fate: Fate) -> None:
        self.fates[job_id] = fate
        self.janitor.changed(job_id)


@pytest_twisted.async_yield_fixture()
async def world() -> AsyncIterator[World]:
    made = World()
    yield made
    await made.janitor.stop()
    assert made.s3.closed


ALL = ["artifacts/c", "checkpoints/a", "checkpoints/b", "checkpoints/index.json"]


def test_a_cancelled_job_loses_its_checkpoints_a_deleted_one_all(world: World) -> None:
    for job_id in ("job_1", "job_2", "job_10"):
        world.job(job_id)
    world.janitor.start()
    world.becomes("job_1", Fate.CHECKPOINTS)
    assert world.left("job_1") == ["artifacts/c"]
    world.becomes("job_1", Fate.ALL)
    assert world.left("job_1") == []
    world.becomes("job_2", Fate.KEEP)
    assert world.left("job_2") == world.left("job_10") == ALL


def test_a_job_with_very_much_waits_for_others_in_between(world: World) -> None:
    world.job("job_1")
    world.job("job_2")
    world.s3.objects |= {f"pool/i-1/job_1/artifacts/{n:03}" for n in range(100)}
    order: list[str] = []
    world.janitor._client.delete = removing(world.s3, order)  # type: ignore[method-assign]
    world.fates |= {"job_1": Fate.ALL, "job_2": Fate.ALL}
    world.janitor.changed("job_1")
    world.janitor.changed("job_2")
    world.janitor.start()
    assert world.left("job_1") == world.left("job_2") == []
    assert order.index("job_2") < 10 and order[-1] == "job_1" and len(order) == 108


def removing(s3: FakeS3, order: list[str]) -> Any:
    real = s3.delete

    async def delete(key: str) -> None:
        order.append(key.split("/")[2])
        await real(key)

    return delete


def test_unfinished_uploads_go_too(world: World) -> None:
    world.job("job_1")
    world.s3.parts = {("pool/i-1/job_1/checkpoints/x", "u1"), ("pool/i-1/job_2/y", "u2")}
    world.janitor.start()
    world.becomes("job_1", Fate.ALL)
    assert world.s3.parts == {("pool/i-1/job_2/y", "u2")}


def test_what_events_missed_is_found_at_the_start_and_every_hour(world: World) -> None:
    world.job("job_1")
    world.job("job_2", Fate.CHECKPOINTS)
    world.job("job_3", Fate.ALL)
    others = {"pool/i-2/job_3/checkpoints/a", "pool/i-1/.notes/x", "else"}
    world.s3.objects |= others
    world.janitor.start()
    assert world.left("job_1") == ALL
    assert world.left("job_2") == ["artifacts/c"]
    assert world.left("job_3") == []
    assert others <= world.s3.objects, "another daemon's, and what isn't named as a job is"
    world.fates["job_1"] = Fate.ALL
    world.clock.advance(SWEEP_INTERVAL_S - 1)
    assert world.left("job_1") == ALL
    world.clock.advance(1)
    assert world.left("job_1") == []


def test_an_s3_that_is_away_is_tried_again_and_the_line_goes_on(world: World) -> None:
    for job_id in ("job_1", "job_2"):
        world.job(job_id)
    world.janitor.start()
    world.s3.faults = 2
    world.becomes("job_1", Fate.ALL)
    assert world.left("job_1") == ALL
    world.becomes("job_2", Fate.ALL)
    for _ in range(5):
        world.clock.advance(2.0)
    assert world.left("job_1") == world.left("job_2") == []


def test_after_some_tries_it_is_left_to_the_next_look(world: World) -> None:
    world.job("job_1")
    world.janitor.start()
    world.s3.faults = 10_000
    world.becomes("job_1", Fate.ALL)
    for _ in range(20):
        world.clock.advance(60.0)
    world.s3.faults = 0
    for _ in range(5):
        world.clock.advance(60.0)
    assert world.left("job_1") == ALL, "it isn't tried for ever"
    world.clock.advance(SWEEP_INTERVAL_S)
    assert world.left("job_1") == []


def test_a_look_that_fails_isn_t_the_last(world: World) -> None:
    world.job("job_1", Fate.ALL)
    world.s3.faults = 1
    world.janitor.start()
    assert world.left("job_1") == ALL
    world.clock.advance(SWEEP_INTERVAL_S)
    assert world.left("job_1") == []


def test_the_line_is_bounded(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    world.s3.faults = 10_000
    world.janitor.start()
    for number in range(10):
        world.job(f"job_{number}")
        world.becomes(f"job_{number}", Fate.ALL)
    assert len(world.janitor._waiting) <= 3


def test_the_key_is_in_no_repr_and_a_job_with_its_own_gets_none() -> None:
    assert "hidden" not in repr(ACCESS)
    given = ACCESS.variables(["PATH", "MY_AWS_THING"])
    assert given == {
        "CUMULUS_S3_BUCKET": BUCKET,
        "CUMULUS_S3_REGION": REGION,
        "CUMULUS_S3_PREFIX": "pool/i-1/",
        "AWS_DEFAULT_REGION": REGION,
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "hidden",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    }
    assert ACCESS.variables(["AWS_PROFILE"]) == {} == ACCESS.variables(["CUMULUS_S3_BUCKET"])


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


@pytest_twisted.ensureDeferred
async def test_on_a_real_server(running: S3Server) -> None:
    access = Access(
        bucket=BUCKET,
        region=REGION,
        endpoint_url=running.url,
        prefix="pool/i-1/",
        access_key=running.access_key,
        secret_key=running.secret_key,
    )
    fates = {"job_2": Fate.KEEP, "job_3": Fate.CHECKPOINTS}
    peer: Any = running.client()
    for job_id in ("job_1", "job_2", "job_3"):
        for place in ("checkpoints/ckpt_0_1.pt", "artifacts/a b"):
            key = access.job_prefix(job_id) + place
            peer.put_object(Bucket=BUCKET, Key=key, Body=b"x")
    peer.close()
    janitor = Janitor(
        S3Client(access, reactor), access, reactor, lambda job_id: fates.get(job_id, Fate.ALL)
    )
    janitor.start()
    kept = [
        "pool/i-1/job_2/artifacts/a b",
        "pool/i-1/job_2/checkpoints/ckpt_0_1.pt",
        "pool/i-1/job_3/artifacts/a b",
    ]
    for _ in range(300):
        await sleep(reactor, 0.1)
        if running.keys() == kept:
            break
    await janitor.stop()
    assert running.keys() == kept
