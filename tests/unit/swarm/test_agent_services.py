"""Every enrolled node has exactly one agent of this daemon's, with a token that only it has."""

from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from agent_pool import IMAGE, IMAGE_ID, Pool, node, secrets_of, task
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, formatEvent, globalLogPublisher

from cumulusd.errors import Conflict, CumulusError, InternalError, NotFound, Unavailable
from cumulusd.identity import Authenticator, Principal, Role
from cumulusd.state_file import StateFile
from cumulusd.swarm import agent_plan, agent_services, labels
from cumulusd.swarm.agent_services import INTERVAL_S, MAX_INTERVAL_S, NOT_YET, AgentServices
from cumulusd.swarm.agent_spec import CA_BUNDLE_FILE, AgentSettings
from cumulusd.swarm.agent_tokens import AgentTokens
from cumulusd.swarm.answers import ServiceInfo

US = "11111111-aaaa"
OTHERS = "22222222-bbbb"
SOMEBODY = ("a" * 64, Principal(name="ann", owner="ann", role=Role.CLIENT))


class Daemon:
    """What of a daemon looks after agents; another on the same `state` is it, restarted."""

    def __init__(
        self, pool: Pool, state: Path, *names: str, instance: str = US, **settings: Any
    ) -> None:
        self.pool = pool
        self.doors = Authenticator([SOMEBODY])
        self.clock = Clock()
        self.told = 0
        self.refusing: Exception | None = None
        tokens = AgentTokens(state, self.doors)
        tokens.load()
        self.agents = AgentServices(
            engine=pool,
            settings=AgentSettings(
                instance_id=instance,
                image=IMAGE,
                url="ws://10.0.0.1:50051",
                worker_root="/var/lib/cumulus",
                **settings,
            ),
            tokens=tokens,
            names=names,
            clock=self.clock,
            enrolled=self.tell,
        )

    async def tell(self) -> None:
        if self.refusing is not None:
            raise self.refusing
        self.told += 1

    def who(self, token: str) -> str | None:
        """The node that the token stands for."""
        found = self.doors.authenticate(token)
        assert found is None or found.role is Role.AGENT
        return None if found is None else found.node_id


@pytest.fixture
def warnings() -> Iterator[list[str]]:
    found: list[str] = []

    def observe(event: LogEvent) -> None:
        if str(event.get("log_namespace", "")).startswith("cumulusd.swarm.agent") and (
            event["log_level"].name in ("warn", "error", "critical")
        ):
            found.append(formatEvent(event))

    globalLogPublisher.addObserver(observe)  # type: ignore[arg-type]
    yield found
    globalLogPublisher.removeObserver(observe)  # type: ignore[arg-type]


@pytest_twisted.ensureDeferred
async def test_configured_nodes_get_label_secret_and_service(tmp_path: Path) -> None:
    pool = Pool(node("n0", "manager"), node("n1", "gpu-1"), node("n2", "gpu-2"))
    daemon = Daemon(pool, tmp_path, "gpu-1", "n2")
    await daemon.agents.reconcile()
    assert [one.labels for one in pool.node_table.values()] == [
        {},
        {labels.WORKER: "true", labels.INSTANCE: US},
        {labels.WORKER: "true", labels.INSTANCE: US},
    ]
    assert sorted(one.name for one in pool.service_table.values()) == [
        "cumulus-agent-n1",
        "cumulus-agent-n2",
    ]
    assert daemon.who(pool.token_of("n1")) == "n1"
    assert daemon.who(pool.token_of("n2")) == "n2"
    assert len(pool.token_of("n1")) >= 40
    assert daemon.told >= 1, "the pool has changed, and nobody was told"


@pytest_twisted.ensureDeferred
async def test_what_is_well_is_left_alone(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path, "gpu-1")
    await daemon.agents.reconcile()
    pool.changes()
    await daemon.agents.reconcile()
    assert pool.changes() == []


@pytest_twisted.ensureDeferred
async def test_a_look_at_what_is_well_makes_nothing_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes every few seconds, and nodes may be a thousand."""
    made: list[str] = []
    looked: list[int] = []
    real_service, real_own = agent_services.agent_service, agent_plan.own_secrets

    def agent_service(settings: Any, **of: Any) -> Any:
        made.append(of["node_id"])
        return real_service(settings, **of)

    def own_secrets(*seen: Any) -> Any:
        looked.append(1)
        return real_own(*seen)

    monkeypatch.setattr(agent_services, "agent_service", agent_service)
    monkeypatch.setattr(agent_plan, "own_secrets", own_secrets)
    names = [f"gpu-{number}" for number in range(20)]
    pool = Pool(*(node(f"n{name}", name) for name in names))
    daemon = Daemon(pool, tmp_path, *names)
    await daemon.agents.reconcile()
    assert len(made) == 20
    looked.clear()
    await daemon.agents.reconcile()
    assert len(made) == 20 and len(looked) <= 3
    pool.images[IMAGE] = attrs.evolve(pool.images[IMAGE], image_id="sha256:" + "2" * 64)
    await daemon.agents.reconcile()
    assert len(made) == 40, "another image is another service"


@pytest_twisted.ensureDeferred
async def test_a_restarted_daemon_knows_its_agents(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    await Daemon(pool, tmp_path, "gpu-1").agents.reconcile()
    token = pool.token_of("n1")
    pool.changes()
    again = Daemon(pool, tmp_path, "gpu-1")
    assert again.who(token) == "n1", "agents must get in before the Swarm was looked at"
    await again.agents.reconcile()
    assert pool.changes() == [] and pool.token_of("n1") == token


@pytest_twisted.ensureDeferred
async def test_the_token_stands_nowhere_but_in_the_swarm(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    await Daemon(pool, tmp_path, "gpu-1").agents.reconcile()
    token = pool.token_of("n1")
    for path in tmp_path.iterdir():
        assert token not in path.read_text()
        assert path.stat().st_mode & 0o077 == 0
    assert token not in repr(pool.service_of("n1"))


@pytest_twisted.ensureDeferred
async def test_a_lost_record_rotates_the_token(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    await Daemon(pool, tmp_path, "gpu-1").agents.reconcile()
    before = pool.token_of("n1")
    (tmp_path / "agents.json").unlink()
    again = Daemon(pool, tmp_path)
    assert again.who(before) is None
    await again.agents.reconcile()
    assert pool.token_of("n1") != before and again.who(pool.token_of("n1")) == "n1"
    assert pool.secret_names() == ["cumulus-agent-n1-2"], "the old secret is to be removed"


@pytest_twisted.ensureDeferred
async def test_a_lost_secret_rotates_the_token_and_the_old_one_ends_with_the_service(
    tmp_path: Path,
) -> None:
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path, "gpu-1")
    await daemon.agents.reconcile()
    before = pool.token_of("n1")
    pool.secret_table.clear()
    pool.failing["update_service"] = Unavailable("no quorum")
    await daemon.agents.reconcile()
    assert daemon.who(before) == "n1", "the agent that runs has no other token yet"
    del pool.failing["update_service"]
    await daemon.agents.reconcile()
    assert daemon.who(before) is None
    assert daemon.who(pool.token_of("n1")) == "n1"


@pytest.mark.parametrize("call", ["create_secret", "create_service"])
@pytest_twisted.ensureDeferred
async def test_a_lost_answer_leaves_one_service_with_a_known_token(
    tmp_path: Path, call: str
) -> None:
    pool = Pool(node("n1", "gpu-1"))
    pool.losing.add(call)
    await Daemon(pool, tmp_path, "gpu-1").agents.reconcile()
    pool.losing.clear()
    again = Daemon(pool, tmp_path, "gpu-1")  # and the daemon was killed there
    await again.agents.reconcile()
    assert again.who(pool.token_of("n1")) == "n1"
    assert len(pool.service_table) == 1 and len(pool.secret_table) == 1


@pytest_twisted.ensureDeferred
async def test_a_token_that_cannot_be_written_is_never_given_out(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path, "gpu-1")
    (tmp_path / "agents.json.new").mkdir()
    await daemon.agents.reconcile()
    assert pool.secret_table == {} and pool.service_table == {}
    (tmp_path / "agents.json.new").rmdir()
    await daemon.agents.reconcile()
    assert daemon.who(pool.token_of("n1")) == "n1"


@pytest_twisted.ensureDeferred
async def test_what_was_changed_by_hand_is_mended(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path, "gpu-1")
    await daemon.agents.reconcile()
    service = pool.service_of("n1")
    pool.service_table[service.service_id] = attrs.evolve(service, replicas=0)
    await daemon.agents.reconcile()
    assert pool.service_of("n1").replicas == 1
    pool.service_table.clear()
    await daemon.agents.reconcile()
    assert daemon.who(pool.token_of("n1")) == "n1"


@pytest_twisted.ensureDeferred
async def test_a_new_image_or_bundle_replaces_the_agents(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    await Daemon(pool, tmp_path, "gpu-1", files={CA_BUNDLE_FILE: b"one"}).agents.reconcile()
    (first,) = [one for one in pool.secret_names() if one.startswith("cumulus-file-")]
    token = pool.token_of("n1")
    again = Daemon(pool, tmp_path, "gpu-1", files={CA_BUNDLE_FILE: b"two"})
    pool.images[IMAGE] = attrs.evolve(pool.images[IMAGE], image_id="sha256:" + "2" * 64)
    await again.agents.reconcile()
    spec = pool.service_of("n1").spec["TaskTemplate"]["ContainerSpec"]
    assert spec["Image"] == "sha256:" + "2" * 64
    (second,) = [one for one in pool.secret_names() if one.startswith("cumulus-file-")]
    assert second != first and pool.data[second] == b"two"
    assert {one["SecretName"] for one in secrets_of(pool.service_of("n1"))} >= {second}
    assert pool.token_of("n1") == token, "nothing was wrong with the token"


@pytest_twisted.ensureDeferred
async def test_a_node_without_its_label_or_gone_loses_its_agent(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"), node("n2", "gpu-2"), node("n3", "gpu-3"))
    daemon = Daemon(pool, tmp_path, "gpu-1", "gpu-2", "gpu-3")
    await daemon.agents.reconcile()
    lost = [pool.token_of("n1"), pool.token_of("n2")]
    await pool.update_node("n1", labels={labels.WORKER: None})
    del pool.node_table["n2"]
    await daemon.agents.reconcile()
    assert [one.name for one in pool.service_table.values()] == ["cumulus-agent-n3"]
    assert pool.secret_names() == ["cumulus-agent-n3-1"]
    assert [daemon.who(one) for one in lost] == ["n1", "n2"], "while their containers end"
    await daemon.agents.reconcile()
    assert [daemon.who(one) for one in lost] == [None, None]
    await daemon.agents.reconcile()
    assert labels.WORKER not in pool.node_table["n1"].labels, "the operator's word holds"


@pytest_twisted.ensureDeferred
async def test_what_is_anothers_is_never_touched(tmp_path: Path, warnings: list[str]) -> None:
    pool = Pool(node("n1", "gpu-1"), node("n2", "gpu-2"))
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    other = Daemon(pool, tmp_path / "a", "gpu-1", instance=OTHERS)
    await other.agents.reconcile()
    theirs = dict(pool.service_table), dict(pool.secret_table), pool.node_table["n1"]
    ours = Daemon(pool, tmp_path / "b", "gpu-1", "gpu-2")
    await ours.agents.reconcile()
    assert pool.node_table["n1"] == theirs[2]
    assert theirs[0].items() <= pool.service_table.items()
    assert theirs[1].items() <= pool.secret_table.items()
    assert ours.who(pool.token_of("n2")) == "n2"
    assert "another daemon" in warnings[0] and "docker service rm cumulus-agent-n1" in warnings[0]
    with pytest.raises(Conflict, match="another daemon"):
        await ours.agents.enroll("n1")


@pytest_twisted.ensureDeferred
async def test_a_label_left_by_a_daemon_that_is_gone_is_taken_over(tmp_path: Path) -> None:
    stale = {labels.WORKER: "true", labels.INSTANCE: OTHERS}
    pool = Pool(attrs.evolve(node("n1", "gpu-1"), labels=stale))
    daemon = Daemon(pool, tmp_path)
    await daemon.agents.reconcile()
    assert pool.service_table == {}, "not without having been asked"
    daemon = Daemon(pool, tmp_path, "gpu-1")
    await daemon.agents.reconcile()
    assert daemon.who(pool.token_of("n1")) == "n1"


@pytest_twisted.ensureDeferred
async def test_a_node_labelled_by_hand_is_taken(tmp_path: Path) -> None:
    pool = Pool(attrs.evolve(node("n1", "gpu-1"), labels={labels.WORKER: "true"}))
    daemon = Daemon(pool, tmp_path)
    await daemon.agents.reconcile()
    assert pool.node_table["n1"].labels[labels.INSTANCE] == US
    assert daemon.who(pool.token_of("n1")) == "n1"


@pytest_twisted.ensureDeferred
async def test_a_foreign_secret_of_that_name_is_avoided(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    await pool.create_secret("cumulus-agent-n1-7", b"x", {labels.INSTANCE: OTHERS})
    await Daemon(pool, tmp_path, "gpu-1").agents.reconcile()
    assert pool.secret_names() == ["cumulus-agent-n1-7", "cumulus-agent-n1-8"]


@pytest_twisted.ensureDeferred
async def test_two_nodes_of_one_host_name(tmp_path: Path, warnings: list[str]) -> None:
    """The old self of a worker set up anew is down; two that live are a question."""
    pool = Pool(node("n1", "gpu-1", "down"), node("n2", "gpu-1"))
    await Daemon(pool, tmp_path, "gpu-1").agents.reconcile()
    assert [one.labels[labels.AGENT] for one in pool.service_table.values()] == ["n2"]
    pool = Pool(node("n3", "gpu-1"), node("n4", "gpu-1"))
    await Daemon(pool, tmp_path, "gpu-1").agents.reconcile()
    assert pool.service_table == {}
    assert any("n3, n4" in one and "node ids" in one for one in warnings)


@pytest_twisted.ensureDeferred
async def test_a_node_that_joins_later_is_enrolled_then(
    tmp_path: Path, warnings: list[str]
) -> None:
    pool = Pool(node("n0", "manager"))
    daemon = Daemon(pool, tmp_path, "gpu-1")
    for _ in range(3):
        await daemon.agents.reconcile()
    assert warnings == ["gpu-1 is not in the Swarm yet, and waited for"]
    pool.node_table["n1"] = node("n1", "gpu-1")
    await daemon.agents.reconcile()
    assert daemon.who(pool.token_of("n1")) == "n1"


@pytest_twisted.ensureDeferred
async def test_one_nodes_failure_does_not_stop_the_others(
    tmp_path: Path, warnings: list[str]
) -> None:
    pool = Pool(node("n1", "gpu-1"), node("n2", "gpu-2"))
    pool.failing["create_service cumulus-agent-n1"] = InternalError(
        "refused", details={"platform": "the engine's words"}
    )
    daemon = Daemon(pool, tmp_path, "gpu-1", "gpu-2")
    for _ in range(2):
        await daemon.agents.reconcile()
    assert daemon.who(pool.token_of("n2")) == "n2"
    assert warnings == ["the agent of gpu-1: refused (the engine's words)"], "once is enough"


@pytest_twisted.ensureDeferred
async def test_an_agent_that_does_not_run_is_told_in_swarms_words(
    tmp_path: Path, warnings: list[str]
) -> None:
    pool = Pool(node("n1", "gpu-1"), node("n2", "gpu-2"))
    pool.task_list = [
        task("n1", "rejected", "No such image", "1"),
        task("n1", "rejected", "bind source path does not exist", "2"),
        task("n2", "failed", "task: non-zero exit (1)", "1"),
        task("n2", "running", "", "2"),
    ]
    daemon = Daemon(pool, tmp_path, "gpu-1", "gpu-2")
    await daemon.agents.reconcile()
    assert warnings == [
        "the agent of gpu-1 does not run: rejected: bind source path does not exist"
    ]


@pytest_twisted.ensureDeferred
async def test_enrolling_one_node(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path)
    await daemon.agents.reconcile()
    assert (await daemon.agents.enroll("n1")).hostname == "gpu-1"
    await daemon.agents.reconcile()
    assert daemon.who(pool.token_of("n1")) == "n1"
    with pytest.raises(NotFound, match="no node 'n9'"):
        await daemon.agents.enroll("n9")


@pytest_twisted.ensureDeferred
async def test_the_loop_goes_on_whatever_happens(tmp_path: Path, warnings: list[str]) -> None:
    pool = Pool(node("n1", "gpu-1"))
    pool.failing["nodes"] = Unavailable("can't be reached", hint="is dockerd running?")
    daemon = Daemon(pool, tmp_path, "gpu-1")
    assert daemon.agents.error == NOT_YET
    daemon.agents.start()
    assert daemon.agents.error is not None and "is dockerd running?" in daemon.agents.error
    pool.failing["nodes"] = RuntimeError("a bug")
    daemon.clock.pump([1.0] * 3)
    assert "a bug" in daemon.agents.error
    pool.failing.clear()
    pool.images.clear()
    daemon.clock.pump([1.0] * 2)
    assert f"doesn't have the image {IMAGE}" in daemon.agents.error
    pool.images[IMAGE] = await Pool().image(IMAGE)
    daemon.clock.pump([1.0] * 2)
    assert daemon.agents.error is None
    assert daemon.who(pool.token_of("n1")) == "n1"
    await daemon.agents.stop()
    assert daemon.clock.getDelayedCalls() == []


@pytest_twisted.ensureDeferred
async def test_it_is_not_well_before_the_pool_is_told(tmp_path: Path) -> None:
    """Health says ok only when placing knows the workers: else a submit could be refused."""
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path, "gpu-1")
    daemon.refusing = Unavailable("the nodes can't be asked")
    daemon.agents.start()
    assert daemon.agents.error is not None
    daemon.refusing = None
    daemon.clock.advance(1.0)
    assert daemon.told == 1 and daemon.agents.error is None
    await daemon.agents.stop()


@pytest_twisted.ensureDeferred
async def test_a_nudge_is_a_look_now_and_none_is_lost(tmp_path: Path) -> None:
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path)
    held: Deferred[None] = Deferred()
    looks = 0
    plain = pool.tasks

    async def slow(wanted: Any) -> Any:
        nonlocal looks
        looks += 1
        if looks == 1:
            await held
        return await plain(wanted)

    pool.tasks = slow  # type: ignore[method-assign]
    daemon.agents.start()
    daemon.agents.nudge()  # comes while it looks
    held.callback(None)
    assert looks == 2
    daemon.agents.nudge()
    assert looks == 3
    daemon.clock.advance(MAX_INTERVAL_S)
    assert looks == 4
    await daemon.agents.stop()


@pytest_twisted.ensureDeferred
async def test_looks_are_further_apart_while_nothing_changes_and_close_again_when_something_does(
    tmp_path: Path,
) -> None:
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(pool, tmp_path, "gpu-1")
    looks: list[float] = []
    plain = pool.tasks

    async def counted(wanted: Any) -> Any:
        looks.append(daemon.clock.seconds())
        return await plain(wanted)

    def pauses(seconds: int) -> list[float]:
        looks.clear()
        daemon.clock.pump([1.0] * seconds)
        return [later - sooner for sooner, later in pairwise(looks)]

    pool.tasks = counted  # type: ignore[method-assign]
    daemon.agents.start()
    pauses(30)
    assert pauses(400)[-3:] == [MAX_INTERVAL_S] * 3
    service = pool.service_of("n1")
    pool.service_table[service.service_id] = attrs.evolve(service, replicas=0)
    daemon.agents.nudge()  # as the engine's event of it does
    assert pool.service_of("n1").replicas == 1
    assert pauses(20)[0] == INTERVAL_S
    pauses(400)
    pool.secret_table.clear()  # and of this nobody tells
    daemon.clock.pump([1.0] * int(MAX_INTERVAL_S))
    assert daemon.who(pool.token_of("n1")) == "n1"
    await daemon.agents.stop()


@pytest_twisted.ensureDeferred
async def test_the_tokens_of_many_new_nodes_take_one_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes = 0
    save = StateFile.save

    def counted(self: StateFile, value: Any) -> None:
        nonlocal writes
        writes += 1
        save(self, value)

    monkeypatch.setattr(StateFile, "save", counted)
    pool = Pool(*(node(f"n{number}", f"gpu-{number}") for number in range(20)))
    daemon = Daemon(pool, tmp_path, *(f"gpu-{number}" for number in range(20)))
    await daemon.agents.reconcile()
    assert writes == 1
    assert {daemon.who(pool.token_of(f"n{number}")) for number in range(20)} == {
        f"n{number}" for number in range(20)
    }
    await daemon.agents.reconcile()
    assert writes == 1


def test_a_damaged_file_of_tokens_is_refused(tmp_path: Path) -> None:
    for text in ("", "[]", '{"version": 2}', '{"version": 1, "agents": [{"x": 1}]}'):
        (tmp_path / "agents.json").write_text(text)
        with pytest.raises(CumulusError, match=r"agents\.json"):
            AgentTokens(tmp_path, Authenticator([])).load()


@pytest_twisted.ensureDeferred
async def test_the_service(tmp_path: Path) -> None:
    """What the issue asks of an agent's service, option by option."""
    pool = Pool(node("n1", "gpu-1"))
    daemon = Daemon(
        pool, tmp_path, "gpu-1", options={"job_uid": 1000}, files={CA_BUNDLE_FILE: b"x"}
    )
    await daemon.agents.reconcile()
    service: ServiceInfo = pool.service_of("n1")
    spec: Any = service.spec
    template = spec["TaskTemplate"]
    container = template["ContainerSpec"]
    assert service.name == "cumulus-agent-n1"
    assert service.labels[labels.INSTANCE] == US and service.labels[labels.AGENT] == "n1"
    assert container["Image"] == IMAGE_ID, "by a tag, every task would pull"
    assert container["Init"] is True and container["User"] == "0:0"
    assert container["StopGracePeriod"] >= 10_000_000_000
    assert template["Placement"] == {"Constraints": ["node.id==n1"]}
    assert spec["Mode"] == {"replicated": {"Replicas": 1}}
    assert template["RestartPolicy"]["Condition"] == "any"
    assert template["RestartPolicy"]["Delay"] > 0
    assert not template["RestartPolicy"].get("MaxAttempts")
    assert template["Networks"] == [{"Target": "host"}]
    assert template["LogDriver"]["Options"]["max-size"]
    (bind,) = [one for one in container["Mounts"] if one["Type"] == "bind"]
    assert bind["Source"] == bind["Target"] == "/var/lib/cumulus"
    assert bind["BindOptions"]["Propagation"] == "rprivate" and not bind["ReadOnly"]
    assert not any("docker.sock" in str(one) for one in container["Mounts"])
    environment = dict(one.split("=", 1) for one in container["Env"])
    assert environment["CUMULUS_AGENT_URL"] == "ws://10.0.0.1:50051"
    assert environment["CUMULUS_AGENT_NODE_ID"] == "n1"
    assert environment["CUMULUS_AGENT_HOSTNAME"] == "gpu-1"
    assert environment["CUMULUS_AGENT_TOKEN_FILE"] == "/run/secrets/cumulus_agent_token"
    assert environment["CUMULUS_AGENT_CA_BUNDLE"] == "/run/secrets/cumulus_ca_bundle"
    assert {one["File"]["Name"]: one["File"]["Mode"] for one in container["Secrets"]} == {
        "cumulus_agent_token": 0o400,
        "cumulus_ca_bundle": 0o400,
    }


@pytest_twisted.ensureDeferred
async def test_the_agent_understands_how_it_is_configured(tmp_path: Path) -> None:
    """Daemon and agent name the variables in two places: they must be the same."""
    from cumulusd.agent.settings import read_settings

    pool = Pool(node("n1", "gpu-1"))
    options = {
        "count_cpu_devices": True,
        "package_max_bytes": 1 << 30,
        "job_uid": 1000,
        "job_gid": 1000,
    }
    daemon = Daemon(pool, tmp_path, "gpu-1", options=options)
    await daemon.agents.reconcile()
    container = pool.service_of("n1").spec["TaskTemplate"]["ContainerSpec"]
    environment = dict(one.split("=", 1) for one in container["Env"])
    secret = tmp_path / "token"
    secret.write_text(pool.token_of("n1"))
    settings = read_settings({**environment, "CUMULUS_AGENT_TOKEN_FILE": str(secret)})
    assert daemon.who(settings.token) == settings.node_id == "n1"
    assert str(settings.root) == "/var/lib/cumulus"
    assert settings.options.job_uid == 1000 and settings.options.count_cpu_devices
    assert settings.options.job_python is None, "the daemon's Python means nothing in an image"
