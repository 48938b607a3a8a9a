"""The agent end to end: its verbs over a real session."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import DEVICE_ID, PACKAGE, CallFailed, Runner, World, until_runner
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.logger import capturedLogs

from cumulus_runner.code_process import may_be_a_copy
from cumulus_runner.orders import Orders
from cumulus_wire import journal
from cumulusd.agent import agent
from cumulusd.agent.options import AgentOptions
from cumulusd.agent.orders import PrepareOrder
from cumulusd.chronos.ledger import Ledger
from cumulusd.chronos.ledger_file import LedgerFile


@pytest_twisted.ensureDeferred
async def test_devices_are_answered_as_the_protocol_says(make: Callable[..., World]) -> None:
    world = await make().start()
    answer = await world.router.call("devices")
    assert answer == {
        "hostname": "host-1",
        "devices": [
            {
                "device_id": DEVICE_ID,
                "index": 0,
                "name": "Fake card",
                "kind": "gpu",
                "memory_bytes": (16 << 30) - int((16 << 30) * 0.05),
                "units_total": 10_000,
                "units_free": 10_000,
                "tier": "advisory",
                "tier_note": "booked, not enforced",
                "partitions": [],
            }
        ],
        "discovery_error": None,
        "python_version": None,
        "fault": None,
        "chronos": {"backend": "builtin", "fault": None},
    }


@pytest_twisted.ensureDeferred
async def test_prepare_makes_partition_folder_and_package(make: Callable[..., World]) -> None:
    world = await make().start()
    answer = await world.prepare()
    grant = answer["grant"]
    folder = Path(grant["folder"])
    assert folder == world.root / "jobs" / "job-1"
    assert (folder / "package.zip").read_bytes() == PACKAGE
    orders = json.loads((folder / "job.json").read_bytes())
    assert orders["version"] == 1
    assert (orders["job_id"], orders["attempt"]) == ("job-1", 1)
    assert orders["requirements"] == ["six"]
    assert orders["environment"]["A"] == "b"
    assert orders["environment"]["CUMULUS_DEVICE_INDEX"] == "0"  # the grant wins
    assert stat.S_IMODE((folder / "job.json").stat().st_mode) == 0o600
    environments = Path(orders["environments"])
    assert environments.is_dir()
    assert environments.parent.parent == world.root / "owners"  # however the owner is called
    assert [environments, environments] == [Path(one) for one in grant["mounts"][1][:2]]
    assert stat.S_ISSOCK((folder / "agent.sock").stat().st_mode)
    assert answer["devices"][0]["units_free"] == 7500
    (partition,) = (await world.router.call("partitions"))["partitions"]
    assert partition["partition_id"] == grant["partition_id"]
    assert (partition["state"], partition["remaining_s"]) == ("active", 220.0)


@pytest_twisted.ensureDeferred
async def test_a_grants_variables_take_no_interpreter_for_the_code(
    make: Callable[..., World],
) -> None:
    """The container, and so its runner, is started with them: the code runs in a copy of that."""
    world = await make().start()
    grant = (await world.prepare(requirements=[]))["grant"]
    orders = Orders.load(grant["folder"])
    orders.python = None  # as in an image
    assert any(name.startswith("CUDA") for name in orders.environment)
    assert may_be_a_copy(orders, grant["environment"])
    assert not may_be_a_copy(orders, {})


@pytest_twisted.ensureDeferred
async def test_another_attempts_journal_begins_where_it_is_told(
    make: Callable[..., World],
) -> None:
    world = await make().start()
    await world.prepare()
    assert (await world.router.call("release", job_id="job-1", attempt=1))["released"] is True
    world.desk.journals["job-1"] = bytearray(4000)
    world.desk.parsers["job-1"] = journal.FrameParser(4000)
    answer = await world.prepare(attempt=2, journal_start=4000)
    assert answer["grant"]["lifetime_s"] == 340.0
    folder = world.root / "jobs" / "job-1"
    orders = json.loads((folder / "job.json").read_bytes())
    assert (orders["attempt"], orders["journal_start"]) == (2, 4000)
    assert (orders["boot_id"], orders["last_moment_s"]) == ("boot-1", 1340.0)
    (entry,) = (await world.router.call("journals"))["journals"]
    assert (entry["attempt"], entry["start"], entry["end"]) == (2, 4000, 4000)
    runner = world.runner()
    runner.begin = runner.end = 4000
    runner.print(b"again")
    runner.connect(attempt=2)
    runner.poke()
    await world.until(lambda: len(world.desk.records.get("job-1", [])) == 1)
    assert world.desk.records["job-1"][0].offset == 4000
    runner.close()
    # The same after a restart of the agent: it reads where the journal begins from the orders.
    await world.restart()
    (entry,) = (await world.router.call("journals"))["journals"]
    assert (entry["attempt"], entry["start"], entry["end"]) == (2, 4000, runner.end)


@pytest_twisted.ensureDeferred
async def test_prepare_again_returns_the_same_grant_also_after_a_restart(
    make: Callable[..., World],
) -> None:
    world = await make().start()
    first = await world.prepare()
    assert await world.prepare() == first
    await world.down()
    world.desk.packages.clear()  # it needs no package again
    await world.up()
    assert await world.prepare() == first


@pytest_twisted.ensureDeferred
async def test_two_at_once_are_one(make: Callable[..., World]) -> None:
    world = await make().start()
    one, two = (Deferred.fromCoroutine(world.prepare()) for _ in range(2))
    assert await one == await two
    assert (await world.router.call("devices"))["devices"][0]["units_free"] == 7500


@pytest_twisted.ensureDeferred
async def test_every_fault_of_a_call_is_named_at_once(make: Callable[..., World]) -> None:
    world = await make().start()
    with pytest.raises(CallFailed) as caught:
        await world.router.call("prepare", job_id="../etc", attempt=0, extra=1, package={"x": 1})
    assert caught.value.uri == "cumulus.error.invalid_argument"
    faults = {one["key"] for one in caught.value.kwargs["details"]["faults"]}
    assert faults >= {"job_id", "attempt", "extra", "package.x", "package.sha256", "owner"}
    assert caught.value.kwargs["error"] == caught.value.kwargs["message"]
    assert os.listdir(world.root / "jobs") == []


@pytest.mark.parametrize("job_id", ["", ".", "..", "a/b", "a..b", "-a", "x" * 65, "a\0", "ä", 7])
@pytest_twisted.ensureDeferred
async def test_a_job_id_is_never_a_path(make: Callable[..., World], job_id: Any) -> None:
    world = await make().start()
    for verb in ("prepare", "release"):
        with pytest.raises(CallFailed, match="invalid_argument"):
            await world.router.call(verb, job_id=job_id, attempt=1)


@pytest_twisted.ensureDeferred
async def test_what_doesnt_fit_is_refused_with_the_job(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare("job-1", units=9000)
    with pytest.raises(CallFailed) as caught:
        await world.prepare("job-2", units=1001)
    assert caught.value.uri == "cumulus.error.insufficient_resources"
    assert caught.value.kwargs["job_id"] == "job-2"
    with pytest.raises(CallFailed) as caught:
        await world.prepare("job-3", device_id="other")
    assert caught.value.uri == "cumulus.error.not_found"
    with pytest.raises(CallFailed) as caught:
        await world.prepare("job-1", attempt=2, units=1)
    assert caught.value.uri == "cumulus.error.conflict"


@pytest_twisted.ensureDeferred
async def test_without_its_package_nothing_stays(make: Callable[..., World]) -> None:
    world = await make(package_timeout_s=0.5).start()
    for package in ({"sha256": "0" * 64, "size_bytes": 10}, {**world.package, "size_bytes": 7}):
        with pytest.raises(CallFailed) as caught:
            await world.prepare(package=package)
        assert caught.value.uri == "cumulus.error.unavailable"
        assert caught.value.kwargs["job_id"] == "job-1"
        assert os.listdir(world.root / "jobs") == []
        assert (await world.router.call("partitions"))["partitions"] == []
    assert (await world.prepare())["grant"]["units"] == 2500


@pytest_twisted.ensureDeferred
async def test_a_damaged_package_is_not_taken(make: Callable[..., World]) -> None:
    world = await make().start()
    sha256 = world.package["sha256"]
    world.desk.packages[sha256] = b"x" + PACKAGE[1:]
    with pytest.raises(CallFailed, match="arrived damaged"):
        await world.prepare()
    assert os.listdir(world.root / "jobs") == []


@pytest_twisted.ensureDeferred
async def test_a_link_lost_while_fetching_is_made_up_for(make: Callable[..., World]) -> None:
    world = await make().start()
    reads = 0

    async def reading() -> None:
        nonlocal reads
        reads += 1
        if reads == 2:
            assert world.links is not None
            await world.links.stop()
        await deferLater(reactor, 0.01)

    world.desk.reading = reading
    await world.prepare()
    assert reads > 3
    assert (world.root / "jobs/job-1/package.zip").read_bytes() == PACKAGE


@pytest_twisted.ensureDeferred
async def test_release_deletes_the_folder_and_frees_the_share(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare()
    (world.root / "jobs/job-1/scratch").mkdir()
    outside = world.root.parent / "outside"
    outside.write_text("stays")
    (world.root / "jobs/job-1/scratch/link").symlink_to(outside)
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True
    assert answer["devices"][0]["units_free"] == 10_000
    assert os.listdir(world.root / "jobs") == []
    await world.until(lambda: os.listdir(world.root / "trash") == [])  # no share waits for that
    assert outside.read_text() == "stays"
    again = await world.router.call("release", job_id="job-1", attempt=1)
    assert again["released"] is True


@pytest_twisted.ensureDeferred
async def test_a_held_lock_makes_it_drain_and_its_end_is_told(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    try:
        runner.lock()
        answer = await world.router.call("release", job_id="job-1", attempt=1)
        assert answer["released"] is False
        assert "job-1" in answer["reason"]
        assert answer["devices"][0]["units_free"] == 7500
        (partition,) = (await world.router.call("partitions"))["partitions"]
        assert partition["state"] == "draining"
        assert world.desk.free == []
        runner.unlock()
        await world.until(lambda: world.desk.free == ["job-1"])
        answer = await world.router.call("release", job_id="job-1", attempt=1)
        assert answer["released"] is True
    finally:
        runner.close()


async def bye(world: World, runner: Runner) -> None:
    """The runner says it, and is heard."""
    runner.say({"t": "bye"})
    for _ in range(500):
        (entry,) = (await world.router.call("journals"))["journals"]
        if not entry["runner"]:
            return
        await deferLater(world.reactor, 0.01)
    raise AssertionError("the runner's bye was not heard")


@pytest_twisted.ensureDeferred
async def test_a_runner_that_leaves_is_waited_for_and_the_ledger_written_once(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    saved: list[Ledger] = []
    save = LedgerFile.save

    def noted(file: LedgerFile, ledger: Ledger) -> None:
        saved.append(ledger)
        save(file, ledger)

    monkeypatch.setattr(LedgerFile, "save", noted)
    try:
        runner.lock()
        runner.connect()
        await until_runner(world)
        await bye(world, runner)
        released = Deferred.fromCoroutine(world.router.call("release", job_id="job-1", attempt=1))
        await deferLater(world.reactor, 0.05)
        assert not released.called
        runner.unlock()
        answer = await released
        assert answer["released"] is True
        assert answer["devices"][0]["units_free"] == 10_000
        assert [one.partitions for one in saved] == [{}]
    finally:
        runner.close()


@pytest_twisted.ensureDeferred
async def test_a_leaving_runner_that_stays_makes_it_drain(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent, "LEAVE_WAIT_S", 0.1)
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    try:
        runner.lock()
        runner.connect()
        await until_runner(world)
        await bye(world, runner)
        answer = await world.router.call("release", job_id="job-1", attempt=1)
        assert answer["released"] is False
        assert answer["devices"][0]["units_free"] == 7500
        (partition,) = answer["devices"][0]["partitions"]
        assert partition["state"] == "draining"
        runner.unlock()
        await world.until(lambda: world.desk.free == ["job-1"])
    finally:
        runner.close()


@pytest_twisted.ensureDeferred
async def test_an_agent_that_closes_waits_for_no_runner(make: Callable[..., World]) -> None:
    """And the share stays held: the runner was there at the end."""
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    try:
        runner.lock()
        runner.connect()
        await until_runner(world)
        await bye(world, runner)
        unheard = Deferred.fromCoroutine(world.router.call("release", job_id="job-1", attempt=1))
        unheard.addErrback(lambda _: None)
        await deferLater(world.reactor, 0.05)
        await world.stop_agent()
        held = json.loads((world.root / "ledger.json").read_text())["partitions"]
        assert [one["job_id"] for one in held] == ["job-1"]
    finally:
        runner.close()


@pytest_twisted.ensureDeferred
async def test_a_journal_that_isnt_acknowledged_is_kept(make: Callable[..., World]) -> None:
    world = await make(release_wait_s=0.3).start()
    await world.prepare()
    runner = world.runner()
    world.desk.acking = False
    runner.print(b"last words")
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is False
    assert "not yet on the daemon's disk" in answer["reason"]
    assert runner.segments()
    world.desk.acknowledge("job-1", runner.end)
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True


@pytest_twisted.ensureDeferred
async def test_a_release_of_a_session_before_never_undoes_a_later_prepare(
    make: Callable[..., World],
) -> None:
    world = await make(release_wait_s=30.0).start()
    await world.prepare()
    runner = world.runner()
    world.desk.full = lambda job_id: True
    runner.print(b"last words")
    unheard = Deferred.fromCoroutine(world.router.call("release", job_id="job-1", attempt=1))
    unheard.addErrback(lambda _: None)
    # Its effect is seen, so it is under way, and waits for the journal's delivery.
    await world.until(lambda: '"draining"' in (world.root / "ledger.json").read_text())
    await world.stop_daemon()
    await world.start_daemon()
    await world.until(lambda: world.router.session is not None)
    prepared: list[dict[str, Any]] = []
    preparing = Deferred.fromCoroutine(world.prepare())
    preparing.addCallback(prepared.append)
    # One that is asked for later, and needn't wait, is answered: the prepare was taken, and waits.
    await world.router.call("devices")
    assert prepared == [] and runner.segments(), "the release that began before goes first"
    world.desk.full = lambda job_id: False
    await preparing
    assert (world.root / "jobs/job-1/package.zip").read_bytes() == PACKAGE
    assert not (world.root / "jobs/job-1/journal").exists(), "a folder of its own"
    (partition,) = (await world.router.call("partitions"))["partitions"]
    assert partition["state"] == "active"


@pytest_twisted.ensureDeferred
async def test_a_dropped_journal_holds_nothing_up(make: Callable[..., World]) -> None:
    world = await make().start()
    world.desk.unwanted.add("job-1")
    await world.prepare()
    world.runner().print(b"for nobody")
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True


@pytest_twisted.ensureDeferred
async def test_a_torn_last_frame_doesnt_hold_up_the_release(make: Callable[..., World]) -> None:
    world = await make(release_wait_s=5.0).start()
    await world.prepare()
    runner = world.runner()
    runner.print(b"whole")
    whole = runner.end
    runner.append(runner.written[:22])
    await world.until(lambda: len(world.desk.journals["job-1"]) == runner.end)
    assert world.desk.parsers["job-1"].offset == whole
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True


@pytest_twisted.ensureDeferred
async def test_stop_reaches_the_runner(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare()
    stop = {"command": "stop", "reason": "cancelled_by_user", "grace_s": 2}
    assert (await world.router.call("command", job_id="job-1", attempt=1, **stop)) == {
        "taken": False
    }
    runner = world.runner()
    try:
        runner.lock()
        runner.connect()
        await until_runner(world)
        assert (await world.router.call("command", job_id="job-1", attempt=2, **stop)) == {
            "taken": False
        }
        assert (await world.router.call("command", job_id="job-1", attempt=1, **stop)) == {
            "taken": True
        }
        heard: list[bytes] = []
        await world.until(lambda: heard.append(runner.hear() or b"") or heard[-1])
        assert json.loads(heard[-1]) == {
            "t": "stop",
            "reason": "cancelled_by_user",
            "grace_s": 2.0,
        }
        with pytest.raises(CallFailed, match="invalid_argument"):
            await world.router.call(
                "command", job_id="job-1", attempt=1, command="stop", reason="mood", grace_s=1
            )
        with pytest.raises(CallFailed, match="invalid_argument"):
            await world.router.call("command", job_id="job-1", attempt=1, command="dance")
        for wanted in (True, False):
            pause = {"job_id": "job-1", "command": "pause", "wanted": wanted}
            assert await world.router.call("command", attempt=2, **pause) == {"taken": False}
            assert await world.router.call("command", attempt=1, **pause) == {"taken": True}
            heard.clear()
            await world.until(lambda: heard.append(runner.hear() or b"") or heard[-1])
            assert json.loads(heard[-1]) == {"t": "pause", "wanted": wanted}
    finally:
        runner.close()
    await world.until(lambda: world.desk.free == ["job-1"])


@pytest_twisted.ensureDeferred
async def test_journals_tell_extent_lock_and_runner(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    try:
        runner.lock()
        runner.print(b"hello")
        (entry,) = (await world.router.call("journals"))["journals"]
        assert entry == {
            "job_id": "job-1",
            "attempt": 1,
            "start": 0,
            "end": runner.end,
            "lock_free": False,
            "runner": False,
        }
        # Whoever replaces the lock file gains nothing.
        (runner.folder / "lock").unlink()
        (runner.folder / "lock").write_bytes(b"")
        (entry,) = (await world.router.call("journals"))["journals"]
        assert entry["lock_free"] is False
    finally:
        runner.close()


@pytest_twisted.ensureDeferred
async def test_secrets_are_in_a_file_of_their_own_only(make: Callable[..., World]) -> None:
    world = await make().start()
    value = "hunter2-Zq9"
    with capturedLogs() as logs:
        answer = await world.prepare(secrets={"TOKEN": value})
        folder = Path(answer["grant"]["folder"])
        path = folder / "secrets.json"
        assert json.loads(path.read_bytes()) == {"TOKEN": value}
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        orders = json.loads((folder / "job.json").read_bytes())
        assert orders["secrets"] == ["TOKEN"]
        assert "TOKEN" not in orders["environment"]
        path.unlink()  # as the runner does
        assert (await world.prepare(secrets={"TOKEN": value}))["grant"] == answer["grant"]
        assert not path.exists(), "what is prepared isn't prepared again"
        with pytest.raises(CallFailed) as refused:
            await world.prepare("job-2", secrets={"A B": value, "TOKEN": value + "\0"})
    assert value not in json.dumps(answer)
    assert value not in repr(logs) and value not in repr(refused.value)
    holding = {
        str(path)
        for path in world.root.rglob("*")
        if path.is_file() and value.encode() in path.read_bytes()
    }
    assert holding == set()


def test_an_orders_repr_has_no_secrets() -> None:
    arguments = {
        "job_id": "job-1",
        "attempt": 1,
        "owner": "ann",
        "device_id": "d",
        "units": 1,
        "setup_timeout_s": 1.0,
        "duration_s": 1.0,
        "package": {"sha256": "ab" * 32, "size_bytes": 1},
        "secrets": {"TOKEN": "hunter2-Zq9"},
    }
    order = PrepareOrder.read(arguments, AgentOptions())
    assert order.secrets == {"TOKEN": "hunter2-Zq9"}
    assert "hunter2-Zq9" not in repr(order)
