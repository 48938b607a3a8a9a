"""The agent end to end: its verbs over a real session, its folders, its partitions."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import DEVICE, DEVICE_ID, PACKAGE, CallFailed, Runner, World
from twisted.internet import reactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from cumulus_wire import journal
from cumulusd.agent.job_folder import JobFolder
from cumulusd.agent.service import AgentService
from cumulusd.chronos.ledger_file import LedgerFile
from cumulusd.disk import Disk
from cumulusd.errors import CumulusError, InternalError


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
            }
        ],
        "discovery_error": None,
        "fault": None,
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
    await world.stop_agent()
    await world.until(lambda: world.router.session is None)
    world.start_agent()
    await world.until(lambda: world.router.session is not None)
    (entry,) = (await world.router.call("journals"))["journals"]
    assert (entry["attempt"], entry["start"], entry["end"]) == (2, 4000, runner.end)


@pytest_twisted.ensureDeferred
async def test_prepare_again_returns_the_same_grant_also_after_a_restart(
    make: Callable[..., World],
) -> None:
    world = await make().start()
    first = await world.prepare()
    assert await world.prepare() == first
    await world.stop_agent()
    await world.until(lambda: world.router.session is None)
    world.desk.packages.clear()  # it needs no package again
    world.start_agent()
    await world.until(lambda: world.router.session is not None)
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
    assert os.listdir(world.root / "trash") == []
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
    finally:
        runner.close()
    await world.until(lambda: world.desk.free == ["job-1"])


async def until_runner(world: World) -> None:
    for _ in range(500):
        (entry,) = (await world.router.call("journals"))["journals"]
        if entry["runner"]:
            return
        await deferLater(reactor, 0.01)
    raise AssertionError("the runner's hello was not heard")


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
async def test_expiry_drains_and_keeps_the_share(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare()
    world.now_s += 221
    for _ in range(300):
        (partition,) = (await world.router.call("partitions"))["partitions"]
        if partition["state"] == "draining":
            break
        await deferLater(reactor, 0.01)
    assert (partition["state"], partition["remaining_s"]) == ("draining", 0.0)
    assert (await world.router.call("devices"))["devices"][0]["units_free"] == 7500


@pytest_twisted.ensureDeferred
async def test_after_a_reboot_partitions_are_draining_until_released(
    make: Callable[..., World],
) -> None:
    world = await make().start()
    await world.prepare()
    await world.stop_agent()
    await world.until(lambda: world.router.session is None)
    world.boot_id, world.now_s = "boot-2", 1.0
    world.start_agent()
    await world.until(lambda: world.router.session is not None)
    (partition,) = (await world.router.call("partitions"))["partitions"]
    assert partition["state"] == "draining"
    (entry,) = (await world.router.call("journals"))["journals"]
    assert (entry["job_id"], entry["attempt"], entry["lock_free"]) == ("job-1", 1, True)
    assert (await world.router.call("release", job_id="job-1", attempt=1))["released"] is True


@pytest_twisted.ensureDeferred
async def test_a_failed_look_keeps_what_was_known(make: Callable[..., World]) -> None:
    world = await make(discovery_timeout_s=0.3).start()
    known = (await world.router.call("devices"))["devices"]
    await world.stop_agent()
    await world.until(lambda: world.router.session is None)
    world.devices(DEVICE, code="exec sleep 600")
    world.start_agent()
    await world.until(lambda: world.router.session is not None)
    answer = await world.router.call("devices")
    assert answer["devices"] == known
    assert "no answer within" in answer["discovery_error"]


@pytest_twisted.ensureDeferred
async def test_a_device_that_is_gone_takes_no_more_jobs(make: Callable[..., World]) -> None:
    world = await make(discovery_interval_s=0.2).start()
    world.devices({**DEVICE, "uuid": "cd" * 16})
    for _ in range(300):
        (device,) = (await world.router.call("devices"))["devices"]
        if device["device_id"] != DEVICE_ID:
            break
        await deferLater(reactor, 0.02)
    with pytest.raises(CallFailed, match="doesn't show it now"):
        await world.prepare()


@pytest_twisted.ensureDeferred
async def test_a_job_goes_on_while_daemon_and_agent_come_and_go(
    make: Callable[..., World],
) -> None:
    world = await make().start()
    await world.prepare()
    runner = world.runner()
    try:
        runner.lock()
        runner.connect()
        runner.print(b"1")
        await world.until(lambda: len(world.desk.records["job-1"]) == 1)
        await world.stop_daemon()
        runner.print(b"2")
        await world.start_daemon()
        await world.until(lambda: len(world.desk.records["job-1"]) == 2)
        await world.stop_agent()
        await world.until(lambda: runner.hear() == b"")
        runner.close_socket()
        runner.print(b"3")
        world.start_agent()  # the socket of before lies there still
        runner.connect()
        await world.until(lambda: len(world.desk.records["job-1"]) == 3)
        await world.until(lambda: world.router.session is not None)
        await until_runner(world)
    finally:
        runner.close()
    payloads = [one.payload for one in world.desk.records["job-1"]]
    assert payloads == [b"1", b"2", b"3"]


def service_at(root: Path) -> AgentService:
    return World(reactor, root.parent).make_service(root)


def test_a_ledger_that_cant_be_read_ends_the_start(tmp_path: Path) -> None:
    root = tmp_path / "agent"
    root.mkdir()
    (root / "ledger.json").write_text('{"version": 99}')
    with pytest.raises(InternalError, match="version is 99"):
        service_at(root).startService()


@pytest_twisted.ensureDeferred
async def test_two_agents_dont_share_a_folder(make: Callable[..., World]) -> None:
    world = await make().start()
    with pytest.raises(CumulusError, match="another agent uses"):
        service_at(world.root).startService()


@pytest_twisted.ensureDeferred
async def test_a_wrong_token_is_retried_with_growing_pauses_and_ends_cleanly(
    make: Callable[..., World],
) -> None:
    world = make()
    world.token = "wrong"
    await world.start_daemon()
    world.start_agent()
    await deferLater(reactor, 1.0)
    assert world.router.session is None


@pytest_twisted.ensureDeferred
async def test_a_folder_half_made_by_a_dead_agent_is_made_anew(make: Callable[..., World]) -> None:
    world = await make().start()
    await world.prepare()
    await world.stop_agent()
    await world.until(lambda: world.router.session is None)
    (world.root / "jobs/job-1/job.json").unlink()
    (world.root / "jobs/job-1/package.zip").write_bytes(b"half")
    world.start_agent()
    await world.until(lambda: world.router.session is not None)
    await world.prepare()
    assert (world.root / "jobs/job-1/package.zip").read_bytes() == PACKAGE


@pytest_twisted.ensureDeferred
async def test_paths_longer_than_a_socket_address(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    world = World(reactor, tmp_path)
    world.root = deep / "agent"
    try:
        await world.start()
        await world.prepare("j" * 64)
        runner = Runner(world.root / "jobs" / ("j" * 64), "j" * 64)
        runner.connect()
        await until_runner(world)
        runner.close()
    finally:
        await world.stop()


class TinyDisk:
    """What os.statvfs says."""

    f_frsize, f_files, f_favail = 1, 0, 0

    def __init__(self, f_bavail: int) -> None:
        self.f_bavail = f_bavail


@pytest_twisted.ensureDeferred
async def test_a_full_disk_refuses_new_jobs_and_says_so(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = TinyDisk(1 << 20)
    monkeypatch.setattr(Disk.__init__, "__defaults__", (lambda folder: disk,))
    world = await make(min_free_bytes=1 << 20).start()
    assert (await world.router.call("devices"))["fault"] is None
    with pytest.raises(CallFailed) as caught:
        await world.prepare()  # its package does not fit beside what is to stay free
    assert caught.value.uri == "cumulus.error.insufficient_resources"
    said = caught.value.kwargs
    assert "host-1" in said["message"] and "bytes free" in said["message"]
    assert said["job_id"] == "job-1" and said["hint"]
    assert (await world.router.call("devices"))["fault"] == said["details"]["fault"]
    assert os.listdir(world.root / "jobs") == []
    assert (await world.router.call("partitions"))["partitions"] == []
    disk.f_bavail = 1 << 30
    await world.prepare()
    disk.f_bavail = 0
    await world.prepare()  # it is there already
    assert "0 bytes free" in (await world.router.call("devices"))["fault"]


@pytest_twisted.ensureDeferred
async def test_a_disk_that_fills_while_a_job_is_prepared_leaves_nothing(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make().start()

    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(JobFolder, "write_orders", full)
        with pytest.raises(CallFailed) as caught:
            await world.prepare()
    assert caught.value.uri == "cumulus.error.insufficient_resources"
    assert "No space left" in (await world.router.call("devices"))["fault"]
    assert os.listdir(world.root / "jobs") == []
    assert (await world.router.call("partitions"))["partitions"] == []
    await world.prepare()


@pytest_twisted.ensureDeferred
async def test_what_a_released_job_left_is_deleted_though_the_ledger_cant_be_written(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a full disk it is just this that makes room."""
    world = await make().start()
    await world.prepare()

    save, saves = LedgerFile._save, []

    def full(*arguments: Any) -> None:
        saves.append(arguments)
        if len(saves) > 1:  # there was just room to note that it is on its way out
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "_save", full)
        with pytest.raises(CallFailed):
            await world.router.call("release", job_id="job-1", attempt=1)
        await world.until(lambda: os.listdir(world.root / "trash") == [])
        assert os.listdir(world.root / "jobs") == []
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True


@pytest_twisted.ensureDeferred
async def test_an_agent_starts_though_the_ledger_cant_be_written(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Partitions of an earlier boot are marked as soon as the disk takes it."""
    world = await make().start()
    await world.prepare()
    await world.stop_agent()
    world.boot_id = "boot-2"

    def full(*arguments: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "_save", full)
        joined = world.router.joined
        world.start_agent()
        await world.until(lambda: world.router.joined > joined)

    async def state() -> str:
        (one,) = (await world.router.call("partitions"))["partitions"]
        return str(one["state"])

    for _ in range(100):
        if await state() == "draining":
            break
        await deferLater(world.reactor, 0.1)
    assert await state() == "draining"


@pytest_twisted.ensureDeferred
async def test_what_is_left_of_a_failed_prepare_is_deleted_though_the_ledger_cant_be_written(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make().start()
    save, saves = LedgerFile._save, []

    def full(*arguments: Any) -> None:
        saves.append(arguments)
        if len(saves) > 1:  # there was just room for the partition
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*arguments)

    def no_room(*arguments: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(LedgerFile, "_save", full)
        patch.setattr(JobFolder, "write_orders", no_room)
        with pytest.raises(CallFailed):
            await world.prepare()
        await world.until(lambda: os.listdir(world.root / "trash") == [])
        assert os.listdir(world.root / "jobs") == []
    answer = await world.router.call("release", job_id="job-1", attempt=1)
    assert answer["released"] is True
    assert (await world.router.call("partitions"))["partitions"] == []
