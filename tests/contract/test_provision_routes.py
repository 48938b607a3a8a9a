"""A machine's way into the pool and out again, on the fake engine: who may do what with a token."""

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.internet import reactor
from twisted.internet.defer import Deferred, DeferredList

from cumulus_wire.codes import EndReason, WaitReason
from cumulus_wire.states import JobState
from cumulusd.errors import Conflict, NotAuthenticated, NotFound, TooMany, Unavailable
from cumulusd.identity import Authenticator
from cumulusd.jobs.model import End, JobRecord, JobSpec, Phase, Wait
from cumulusd.jobs.ports import AgentView, Device
from cumulusd.provisioning import MAX_SMOKE_JOBS, Provisioning
from cumulusd.swarm import enrolment, joining
from cumulusd.swarm.agent_services import AgentServices
from cumulusd.swarm.agent_spec import AgentSettings
from cumulusd.swarm.agent_tokens import AgentTokens
from cumulusd.swarm.engine import Engine
from cumulusd.swarm.enrolment import Enrolment
from cumulusd.swarm.image_reference import ImageBy
from cumulusd.swarm.joining import Joining, JoinSettings
from cumulusd.swarm.trial import Trial
from cumulusd.tasks import sleep, waiting_for
from tests.contract.fake_engine import FakeEngine, Fault

INSTANCE = "i" * 32
MACHINE = "machine-1"


class FakeJobs:
    """Jobs that end as the test says."""

    def __init__(self) -> None:
        self.records: dict[str, JobRecord] = {}
        self.keys: dict[str, str] = {}
        self.there_now: list[str] = []
        self.looks = self.cleared_at = 0
        self.connected: dict[str, AgentView] = {}
        self.raising: Exception | None = None

    async def begin(self, node_id: str, key: str) -> str:
        if self.raising is not None:
            raise self.raising
        if key not in self.keys:
            job_id = self.keys[key] = f"job_{len(self.keys) + 1}"
            spec = JobSpec(
                package_sha256="0" * 64, package_size_bytes=1, gpu_memory=0.0001, duration_s=1
            )
            wait = Wait(reason=WaitReason.QUEUED, message="waiting to be placed")
            self.records[job_id] = JobRecord(
                job_id=job_id,
                owner="provision",
                spec=spec,
                phase=Phase.QUEUED,
                created_at=1.0,
                wait=wait,
                pinned_node=node_id,
            )
        return self.keys[key]

    def record(self, job_id: str) -> JobRecord | None:
        return self.records.get(job_id)

    def agents(self) -> Mapping[str, AgentView]:
        return self.connected

    def running_on(self, node_id: str) -> list[str]:
        return self.there_now

    def clearing_on(self, node_id: str) -> list[str]:
        self.looks += 1
        return ["job_0"] if self.looks < self.cleared_at else []

    # -- for the test

    def connect(self, node_id: str, **values: Any) -> None:
        device = Device(
            device_id="d0",
            index=0,
            name="a device",
            kind="gpu",
            memory_bytes=1 << 30,
            units_total=10_000,
            units_free=10_000,
            tier="advisory",
        )
        known: dict[str, Any] = {"devices": (device,), **values}
        self.connected[node_id] = AgentView(node_id=node_id, hostname="worker1", **known)

    def end(self, job_id: str, state: JobState, reason: EndReason | None = None) -> None:
        end = End(state=state, reason=reason, message="so it ended", hint="mend the driver")
        self.records[job_id] = attrs.evolve(
            self.records[job_id], phase=Phase.ENDED, end=end, wait=None
        )


class Site:
    """The use cases on one fake engine, as `wiring_swarm` puts them together."""

    def __init__(self, fake: FakeEngine, client: Engine, state: Path) -> None:
        self.fake, self.swarm = fake, fake.swarm
        self.node_id = list(fake.swarm.nodes)[1]
        self.now = 1_000_000.0
        self.state = state
        self.client = client
        fake.swarm.add_image("agent:1", digests=("agent@sha256:" + "a" * 64,))
        self.jobs = FakeJobs()
        self.make()

    def make(self) -> None:
        """Also a daemon's next life: nothing is kept but what is on disk."""
        self.tokens = Provisioning(self.state, lambda: self.now)
        agent_tokens = AgentTokens(self.state, Authenticator([]))
        agent_tokens.load()
        self.agents = AgentServices(
            engine=self.client,
            settings=AgentSettings(
                instance_id=INSTANCE,
                image="agent:1",
                url="ws://h:1",
                worker_root="/var/lib/cumulus",
            ),
            tokens=agent_tokens,
            names=(),
            clock=reactor,
            enrolled=told,
        )
        self.settings = JoinSettings(
            advertise_url="ws://10.0.0.9:50051",
            worker_root="/var/lib/cumulus",
            images=("job:1", "agent:1"),
            image_by=ImageBy.DIGEST,
            deny=("10.0.0.0/24",),
            chronos_source="https://example.org/chronos.tar.gz",
            remote_api_port=2376,
        )
        shared: dict[str, Any] = {
            "provisioning": self.tokens,
            "engine": self.client,
            "run_in_thread": at_once,
        }
        self.joining = Joining(settings=self.settings, clock=reactor, **shared)
        self.enrolment = Enrolment(agents=self.agents, jobs=self.jobs, clock=reactor, **shared)
        self.trial = Trial(instance_id=INSTANCE, agents=self.agents, jobs=self.jobs, **shared)

    def token(self, stage: str = "open") -> str:
        """A token whose machine has come so far, by the book alone."""
        secret, made = self.tokens.create(lifetime_s=3600)
        if stage in ("bound", "redeemed", "left"):
            self.tokens.bind(secret, MACHINE, "worker1")
        if stage in ("redeemed", "left"):
            self.tokens.redeem(secret, self.node_id)
            self.tokens.rotated(made.token_id)
        if stage == "left":
            self.tokens.leaving(made.token_id)
        if stage == "expired":
            self.now += 3601
        if stage == "revoked":
            self.tokens.revoke(made.token_id)
        return secret

    def labels(self) -> dict[str, str]:
        found: dict[str, str] = self.swarm.nodes[self.node_id]["Spec"]["Labels"]
        return found

    def availability(self) -> str:
        return str(self.swarm.nodes[self.node_id]["Spec"]["Availability"])

    async def status(self, secret: str, retry: bool = False) -> tuple[str, str | None]:
        told = await self.trial.status(secret, self.node_id, retry)
        assert told["message"]
        return told["state"], told["job_id"]


async def at_once(function: Callable[[], Any]) -> Any:
    return function()


async def told() -> None:
    pass


@pytest.fixture
def world(fake: FakeEngine, client: Engine, tmp_path: Path) -> Site:
    return Site(fake, client, tmp_path)


async def until(true: Callable[[], bool]) -> None:
    for _ in range(3000):
        if true():
            return
        await sleep(reactor, 0.01)
    raise AssertionError("it never became true")


async def fetch(site: Site, secret: str, image_id: str) -> bytes:
    pieces: list[bytes] = []

    async def send(data: bytes) -> None:
        pieces.append(data)

    await (await site.joining.image(secret, image_id))(send)
    return b"".join(pieces)


@pytest_twisted.ensureDeferred
async def test_the_whole_way(world: Site) -> None:
    secret, node = world.token(), world.node_id
    told = await world.joining.join(secret, MACHINE, "worker1")
    job, agent = (world.swarm.images[name]["Id"] for name in ("job:1", "agent:1"))
    assert told == {
        "swarm": {
            "join_token": "SWMTKN-1-worker-0",
            "manager_addresses": ["10.0.0.1:2377"],
            "swarm_id": "swarm1",
        },
        "daemon": {"addresses": ["10.0.0.9:50051"], "url": "ws://10.0.0.9:50051"},
        "worker_root": "/var/lib/cumulus",
        "images": [
            {"name": "job:1", "id": job, "size_bytes": 0, "registry_reference": None},
            {
                "name": "agent:1",
                "id": agent,
                "size_bytes": 0,
                "registry_reference": "agent@sha256:" + "a" * 64,
            },
        ],
        "deny": ["10.0.0.0/24"],
        "agent_options": {"count_cpu_devices": False},
        "units_per_device": 10_000,
        "chronos": {"source": "https://example.org/chronos.tar.gz", "sha256": None},
        "remote_api": {"port": 2376},
    }
    world.swarm.archives[job] = b"tar" * 1_000_000
    assert await fetch(world, secret, job) == b"tar" * 1_000_000

    enrolled = await world.enrolment.enroll(secret, node)
    assert enrolled == {"node_id": node, "hostname": "worker1", "enrolled": True}
    assert world.swarm.worker_token == "SWMTKN-1-worker-1", "what it joined by opens nothing now"
    assert world.labels() == {"cumulus.worker": "true", "cumulus.instance": INSTANCE}

    assert await world.status(secret) == ("agent", None)
    world.jobs.connect(node)
    assert await world.status(secret) == ("smoke", "job_1")
    assert await world.status(secret) == ("smoke", "job_1")
    world.jobs.end("job_1", JobState.COMPLETED)
    assert await world.status(secret) == ("ready", "job_1")
    world.make()  # the daemon starts anew, and the job has left its history
    world.jobs.records.clear()
    assert await world.status(secret) == ("ready", "job_1")

    await world.agents.reconcile()
    assert len(world.swarm.services) == 1
    left = await world.enrolment.leave(secret, node, False)
    assert left == {"node_id": node, "state": "left"}
    assert world.labels() == {} and not world.swarm.services
    with pytest.raises(Conflict, match="has left"):
        await world.status(secret)
    world.swarm.node_down(node)
    for _ in range(2):
        removed = await world.enrolment.leave(secret, node, False)
        assert removed == {"node_id": node, "state": "removed"}
    assert node not in world.swarm.nodes
    assert world.swarm.rotations == 1


#: What a stolen token does at each stage: for its own machine and node, and for others. "-": not
#: authenticated; "x": refused for what it is; "ok": it is done.
MATRIX = """
stage     join  join-other  image  enroll  enroll-other  status  status-other  leave  leave-other
open      ok    ok          x      ok      ok            x       x             x      x
bound     ok    x           ok     ok      ok            x       x             x      x
redeemed  ok    x           ok     ok      x             ok      x             ok     x
left      x     x           x      x       x             x       x             ok     x
expired   -     -           -      -       -             -       -             -      -
revoked   -     -           -      -       -             -       -             -      -
unknown   -     -           -      -       -             -       -             -      -
"""
HEADER, *LINES = [line.split() for line in MATRIX.strip().splitlines()]
CASES = [
    (line[0], action, expected)
    for line in LINES
    for action, expected in zip(HEADER[1:], line[1:], strict=True)
]


@pytest.mark.parametrize(("stage", "action", "expected"), CASES)
@pytest_twisted.ensureDeferred
async def test_who_may_do_what_with_a_token(
    world: Site, stage: str, action: str, expected: str
) -> None:
    secret = "cpt_nobody-has-this" if stage == "unknown" else world.token(stage)
    other = next(iter(world.swarm.nodes)) if action.endswith("-other") else world.node_id
    machine = "machine-2" if action.endswith("-other") else MACHINE
    image_id = world.swarm.images["job:1"]["Id"]
    world.swarm.archives[image_id] = b"tar"
    actions: dict[str, Callable[[], Awaitable[Any]]] = {
        "join": lambda: world.joining.join(secret, machine, "worker1"),
        "image": lambda: fetch(world, secret, image_id),
        "enroll": lambda: world.enrolment.enroll(secret, other),
        "status": lambda: world.trial.status(secret, other, False),
        "leave": lambda: world.enrolment.leave(secret, other, False),
    }
    before = {node: dict(one["Spec"]["Labels"]) for node, one in world.swarm.nodes.items()}
    act = actions[action.partition("-")[0]]
    if expected == "ok":
        answer = await act()
        if action == "join":
            token = answer["swarm"]["join_token"]
            assert (token is None) == (stage == "redeemed"), "told until a node redeemed it"
        return
    with pytest.raises(NotAuthenticated if expected == "-" else Conflict) as caught:
        await act()
    assert caught.value.hint and secret not in str(caught.value.as_dict())
    after = {node: dict(one["Spec"]["Labels"]) for node, one in world.swarm.nodes.items()}
    assert after == before and world.swarm.rotations == 0


@pytest_twisted.ensureDeferred
async def test_only_images_that_workers_need(world: Site) -> None:
    other = world.swarm.add_image("secret:1")
    world.swarm.archives[other] = b"tar"
    for image_id in (other, "secret:1", "sha256:" + "f" * 64, "../job:1"):
        with pytest.raises(NotFound):
            await world.joining.image(world.token("bound"), image_id)


@pytest_twisted.ensureDeferred
async def test_images_on_their_way_are_bounded_and_others_wait_their_turn(
    world: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MAX_DOWNLOADS", 1)
    monkeypatch.setattr(joining, "MAX_WAITING", 2)
    image_id = world.swarm.images["job:1"]["Id"]
    world.swarm.archives[image_id] = b"tar"
    secret = world.token("bound")
    held: Deferred[None] = Deferred()
    sending = 0

    async def send(data: bytes) -> None:
        nonlocal sending
        sending += 1
        assert sending == 1
        await waiting_for(held)
        await sleep(reactor, 0.01)
        sending -= 1

    async def get() -> None:
        await (await world.joining.image(secret, image_id))(send)

    tasks = [Deferred.fromCoroutine(get()) for _ in range(3)]
    await until(lambda: sending == 1 and world.joining._waiting == 2)
    with pytest.raises(TooMany):
        await world.joining.image(secret, image_id)
    tasks[1].cancel()
    held.callback(None)
    await DeferredList(tasks, consumeErrors=True)
    assert (world.joining._waiting, world.joining._downloads) == (0, 0)
    assert await fetch(world, secret, image_id) == b"tar"


@pytest_twisted.ensureDeferred
async def test_one_token_leaves_room_for_others(world: Site) -> None:
    """Who reads slowly, or opens many connections, keeps no other machine from its image."""
    image_id = world.swarm.images["job:1"]["Id"]
    world.swarm.archives[image_id] = b"tar"
    greedy, other = world.token("bound"), world.token("bound")
    held: Deferred[None] = Deferred()
    sending = 0

    async def send(data: bytes) -> None:
        nonlocal sending
        sending += 1
        await waiting_for(held)

    async def get() -> None:
        await (await world.joining.image(greedy, image_id))(send)

    tasks = [Deferred.fromCoroutine(get()) for _ in range(joining.MAX_OF_ONE)]
    await until(lambda: sending == joining.MAX_OF_ONE)
    with pytest.raises(TooMany, match="by the provisioning token"):
        await world.joining.image(greedy, image_id)
    assert await fetch(world, other, image_id) == b"tar"
    held.callback(None)
    await DeferredList(tasks, consumeErrors=True)
    assert await fetch(world, greedy, image_id) == b"tar"


@pytest_twisted.ensureDeferred
async def test_a_turn_that_never_comes_is_not_waited_for_longer(
    world: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joining, "MAX_DOWNLOADS", 0)
    monkeypatch.setattr(joining, "TURN_S", 0.1)
    with pytest.raises(TooMany):
        await world.joining.image(world.token("bound"), world.swarm.images["job:1"]["Id"])


@pytest_twisted.ensureDeferred
async def test_an_engine_waits_for_a_slow_reader(world: Site) -> None:
    image_id = world.swarm.images["job:1"]["Id"]
    world.swarm.archives[image_id] = data = bytes(range(256)) * 65_536
    got: list[bytes] = []

    async def send(piece: bytes) -> None:
        got.append(piece)
        if len(got) % 16 == 0:
            await sleep(reactor, 0.001)

    await (await world.joining.image(world.token("bound"), image_id))(send)
    assert b"".join(got) == data


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        (Fault("/get", "answer", 404, "No such image"), NotFound),
        (Fault("/get", "cut"), Unavailable),
    ],
)
@pytest_twisted.ensureDeferred
async def test_an_image_that_breaks_off(world: Site, fault: Fault, error: type[Exception]) -> None:
    image_id = world.swarm.images["job:1"]["Id"]
    world.swarm.archives[image_id] = b"tar"
    secret = world.token("bound")
    world.fake.faults.append(fault)
    with pytest.raises(error):
        await fetch(world, secret, image_id)
    assert await fetch(world, secret, image_id) == b"tar"


@pytest_twisted.ensureDeferred
async def test_a_reader_that_leaves_ends_the_download(world: Site) -> None:
    image_id = world.swarm.images["job:1"]["Id"]
    world.swarm.archives[image_id] = b"tar" * 5_000_000
    came: Deferred[None] = Deferred()

    async def send(data: bytes) -> None:
        if not came.called:
            came.callback(None)
        await Deferred()

    task = Deferred.fromCoroutine((await world.joining.image(world.token("bound"), image_id))(send))
    await came
    await sleep(reactor, 0)
    task.cancel()
    await DeferredList([task], consumeErrors=True)
    assert world.joining._downloads == 0


@pytest_twisted.ensureDeferred
async def test_the_manager_lacks_an_image(world: Site) -> None:
    del world.swarm.images["agent:1"]
    with pytest.raises(NotFound, match="agent:1"):
        await world.joining.join(world.token(), MACHINE, "worker1")


# -- the join token


@pytest_twisted.ensureDeferred
async def test_the_join_token_changes_once_a_redeemed_token(world: Site) -> None:
    secret = world.token("bound")
    for _ in range(3):
        await world.enrolment.enroll(secret, world.node_id)
    await world.enrolment.sweep()
    assert world.swarm.rotations == 1


@pytest_twisted.ensureDeferred
async def test_somebody_else_changed_the_swarm_meanwhile(world: Site) -> None:
    words = "rpc error: code = Unknown desc = update out of sequence"
    world.fake.faults += [Fault("/swarm/update", "answer", 500, words)] * 2
    await world.enrolment.enroll(world.token("bound"), world.node_id)
    assert world.swarm.rotations == 1


@pytest_twisted.ensureDeferred
async def test_a_token_that_could_not_be_changed_is_at_the_next_chance(world: Site) -> None:
    secret = world.token("bound")
    world.fake.faults.append(Fault("/swarm/update", "answer", 503, "no quorum"))
    with pytest.raises(Unavailable):
        await world.enrolment.enroll(secret, world.node_id)
    assert world.swarm.rotations == 0
    world.make()  # the daemon died before it tried again
    await world.enrolment.sweep()
    assert world.swarm.rotations == 1


@pytest_twisted.ensureDeferred
async def test_two_at_once_change_it_and_both_are_enrolled(world: Site) -> None:
    other = world.swarm.add_node("worker2")
    first, second = world.token("bound"), world.tokens.create(lifetime_s=60)[0]
    tasks = [
        Deferred.fromCoroutine(world.enrolment.enroll(secret, node))
        for secret, node in ((first, world.node_id), (second, other))
    ]
    for task in tasks:
        assert (await task)["enrolled"]
    assert 1 <= world.swarm.rotations <= 2
    assert all(one.rotated_at is not None for one in world.tokens.tokens())


@pytest.mark.parametrize("how", ["revoked", "expired"])
@pytest_twisted.ensureDeferred
async def test_a_thief_that_only_asked_to_join_knows_no_valid_join_token(
    world: Site, how: str
) -> None:
    secret = world.token()
    await world.joining.join(secret, MACHINE, "worker1")
    await world.enrolment.sweep()
    assert world.swarm.rotations == 0, "it may be on its way"
    if how == "revoked":
        world.tokens.revoke(world.tokens.tokens()[0].token_id)
    else:
        world.now += 3601
    world.fake.faults.append(Fault("/swarm/update", "answer", 503, "no quorum"))
    await world.enrolment.sweep()
    assert world.swarm.rotations == 0
    world.make()
    for _ in range(2):
        await world.enrolment.sweep()
    assert world.swarm.rotations == 1


@pytest_twisted.ensureDeferred
async def test_who_is_revoked_while_it_asks_is_told_nothing(
    world: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret, made = world.tokens.create(lifetime_s=60)
    join_info = world.client.join_info

    async def revoked_meanwhile() -> Any:
        told = await join_info()
        world.tokens.revoke(made.token_id)
        return told

    monkeypatch.setattr(world.client, "join_info", revoked_meanwhile)
    with pytest.raises(NotAuthenticated):
        await world.joining.join(secret, MACHINE, "worker1")


@pytest_twisted.ensureDeferred
async def test_a_stolen_token_makes_no_other_machines_worker_leave(world: Site) -> None:
    await world.enrolment.enroll(world.token("bound"), world.node_id)
    stolen = world.token()
    await world.joining.join(stolen, "machine-2", "worker1")
    for act in (
        lambda: world.enrolment.enroll(stolen, world.node_id),
        lambda: world.enrolment.leave(stolen, world.node_id, True),
        lambda: world.trial.status(stolen, world.node_id, True),
    ):
        with pytest.raises(Conflict):
            await act()
    assert world.labels() and world.availability() == "active"


# -- the job that tries it


@pytest_twisted.ensureDeferred
async def test_a_worker_that_fails_its_job_says_why_and_may_try_again(world: Site) -> None:
    secret = world.token("bound")
    await world.enrolment.enroll(secret, world.node_id)
    world.jobs.connect(world.node_id)
    assert await world.status(secret) == ("smoke", "job_1")
    assert await world.status(secret, retry=True) == ("smoke", "job_1"), "it is under way"
    world.jobs.end("job_1", JobState.FAILED, EndReason.PARTITION_FAILED)
    told = await world.trial.status(secret, world.node_id, False)
    assert told["state"] == "failed" and told["job_id"] == "job_1"
    for word in ("partition_failed", "so it ended", "Mend the driver", "retry"):
        assert word in told["message"]
    world.make()
    assert await world.status(secret, retry=True) == ("smoke", "job_2")
    world.jobs.end("job_2", JobState.COMPLETED)
    assert await world.status(secret) == ("ready", "job_2")


@pytest_twisted.ensureDeferred
async def test_a_job_that_was_begun_before_a_crash_is_the_same_one(world: Site) -> None:
    secret = world.token("redeemed")
    await world.agents.enroll(world.node_id)
    world.jobs.connect(world.node_id)
    (token,) = world.tokens.tokens()
    begun = await world.jobs.begin(world.node_id, f"provision-{token.token_id}-1")
    assert await world.status(secret) == ("smoke", begun)
    assert len(world.jobs.records) == 1


@pytest_twisted.ensureDeferred
async def test_tries_are_bounded(world: Site) -> None:
    secret = world.token("redeemed")
    await world.agents.enroll(world.node_id)
    world.jobs.connect(world.node_id)
    (token,) = world.tokens.tokens()
    world.tokens.smoked(token.token_id, [f"job_{n}" for n in range(MAX_SMOKE_JOBS)])
    assert (await world.status(secret))[0] == "failed"
    assert not world.jobs.records


@pytest_twisted.ensureDeferred
async def test_a_daemon_that_takes_no_job_now_is_asked_again(world: Site) -> None:
    secret = world.token("redeemed")
    await world.agents.enroll(world.node_id)
    world.jobs.connect(world.node_id)
    world.jobs.raising = Unavailable("the disk is full")
    assert await world.status(secret) == ("agent", None)
    world.jobs.raising = None
    assert await world.status(secret) == ("smoke", "job_1")


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({"state": "down"}, "joining"),
        ({"labels": {}}, "failed"),
        ({"labels": {"cumulus.worker": "true", "cumulus.instance": "another"}}, "failed"),
        ({"availability": "drain"}, "failed"),
        ({"agent": None}, "agent"),
        ({"devices": ()}, "agent"),
        ({"devices": (), "discovery_error": "no driver"}, "failed"),
        ({"fault": "its disk is full"}, "agent"),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_keeps_it_from_being_tried(
    world: Site, change: dict[str, Any], state: str
) -> None:
    secret = world.token("redeemed")
    await world.agents.enroll(world.node_id)
    node = world.swarm.nodes[world.node_id]
    if "state" in change:
        world.swarm.node_down(world.node_id)
    node["Spec"]["Labels"] = change.get("labels", node["Spec"]["Labels"])
    node["Spec"]["Availability"] = change.get("availability", "active")
    if "agent" not in change:
        told = {key: change[key] for key in change if key in _AGENT}
        world.jobs.connect(world.node_id, **told)
    assert (await world.status(secret))[0] == state
    assert not world.jobs.records


_AGENT = ("devices", "discovery_error", "fault")


# -- leaving


@pytest_twisted.ensureDeferred
async def test_a_worker_with_jobs_leaves_when_they_have_ended_or_are_made_to(world: Site) -> None:
    secret = world.token("bound")
    await world.enrolment.enroll(secret, world.node_id)
    world.jobs.there_now = [f"job_{n}" for n in range(25)]
    with pytest.raises(Conflict, match=r"25 job\(s\) are on it \(job_0, .* and 5 more\)") as caught:
        await world.enrolment.leave(secret, world.node_id, False)
    assert caught.value.details["count"] == 25 and len(caught.value.details["jobs"]) == 20
    assert world.availability() == "pause", "it gets no new ones"
    assert world.labels()["cumulus.worker"] == "true"
    left = await world.enrolment.leave(secret, world.node_id, True)
    assert left["state"] == "left"
    assert world.availability() == "drain" and world.labels() == {}


@pytest_twisted.ensureDeferred
async def test_a_worker_is_cleared_of_ended_jobs_before_its_agent_goes(
    world: Site,
) -> None:
    secret = world.token("bound")
    await world.enrolment.enroll(secret, world.node_id)
    world.jobs.cleared_at = 3
    await world.enrolment.leave(secret, world.node_id, False)
    assert world.jobs.looks == 3 and world.labels() == {}


@pytest_twisted.ensureDeferred
async def test_a_worker_that_is_never_cleared_leaves_all_the_same(
    world: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrolment, "CLEARING_S", 0.5)
    secret = world.token("bound")
    await world.enrolment.enroll(secret, world.node_id)
    world.jobs.cleared_at = 1_000_000
    left = await world.enrolment.leave(secret, world.node_id, False)
    assert left["state"] == "left" and world.labels() == {}


@pytest_twisted.ensureDeferred
async def test_the_daemon_removes_by_itself_who_has_left(world: Site) -> None:
    secret = world.token("bound")
    await world.enrolment.enroll(secret, world.node_id)
    await world.enrolment.leave(secret, world.node_id, False)
    await world.enrolment.sweep()
    assert world.node_id in world.swarm.nodes, "it has not left the Swarm yet"
    world.swarm.node_down(world.node_id)
    world.make()
    await world.enrolment.sweep()
    assert world.node_id not in world.swarm.nodes


@pytest_twisted.ensureDeferred
async def test_who_was_let_go_and_stayed_comes_back_by_a_new_token(world: Site) -> None:
    secret = world.token("bound")
    await world.enrolment.enroll(secret, world.node_id)
    await world.enrolment.leave(secret, world.node_id, False)
    assert world.availability() == "pause"
    await world.enrolment.enroll(world.tokens.create(lifetime_s=60)[0], world.node_id)
    assert world.availability() == "active" and "cumulus.worker" in world.labels()


@pytest_twisted.ensureDeferred
async def test_a_node_that_an_operator_paused_stays_so(world: Site) -> None:
    world.swarm.nodes[world.node_id]["Spec"]["Availability"] = "pause"
    await world.enrolment.enroll(world.token("bound"), world.node_id)
    assert world.availability() == "pause"


@pytest.mark.parametrize(
    ("url", "addresses"),
    [
        ("ws://10.0.0.9:50051", ["10.0.0.9:50051"]),
        ("wss://[fd00::9]:50051", ["[fd00::9]:50051"]),
        ("ws://localhost:50051", ["127.0.0.1:50051"]),
    ],
)
@pytest_twisted.ensureDeferred
async def test_the_daemons_addresses(world: Site, url: str, addresses: list[str]) -> None:
    world.joining._settings = attrs.evolve(world.settings, advertise_url=url)
    told = await world.joining.join(world.token(), MACHINE, "worker1")
    assert told["daemon"] == {"addresses": addresses, "url": url}


@pytest_twisted.ensureDeferred
async def test_addresses_that_the_operator_names_come_first(world: Site) -> None:
    world.joining._settings = attrs.evolve(
        world.settings,
        daemon_addresses=("192.0.2.1:40051",),
        manager_addresses=("192.0.2.1:42377",),
    )
    told = await world.joining.join(world.token(), MACHINE, "worker1")
    assert told["daemon"]["addresses"] == ["192.0.2.1:40051"]
    assert told["swarm"]["manager_addresses"] == ["192.0.2.1:42377"]


@pytest_twisted.ensureDeferred
async def test_a_node_that_is_only_down_is_not_removed(world: Site) -> None:
    await world.enrolment.enroll(world.token("bound"), world.node_id)
    world.swarm.node_down(world.node_id)
    await world.enrolment.sweep()
    assert world.node_id in world.swarm.nodes


@pytest_twisted.ensureDeferred
async def test_another_daemons_worker_is_left_alone(world: Site) -> None:
    secret = world.token("redeemed")
    theirs = {"cumulus.worker": "true", "cumulus.instance": "another"}
    world.swarm.nodes[world.node_id]["Spec"]["Labels"] = dict(theirs)
    await world.enrolment.leave(secret, world.node_id, False)
    assert world.labels() == theirs
