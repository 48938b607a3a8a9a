"""The agent over its lives: restarts, reboots, looks at the drivers, what a dead one left."""

from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from agent_world import DEVICE, DEVICE_ID, PACKAGE, CallFailed, Runner, World, until_runner
from twisted.internet import reactor
from twisted.internet.task import deferLater

from cumulusd.agent.service import AgentService
from cumulusd.errors import CumulusError, InternalError


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
    await world.down()
    world.boot_id, world.now_s = "boot-2", 1.0
    await world.up()
    (partition,) = (await world.router.call("partitions"))["partitions"]
    assert partition["state"] == "draining"
    (entry,) = (await world.router.call("journals"))["journals"]
    assert (entry["job_id"], entry["attempt"], entry["lock_free"]) == ("job-1", 1, True)
    assert (await world.router.call("release", job_id="job-1", attempt=1))["released"] is True


@pytest_twisted.ensureDeferred
async def test_a_failed_look_keeps_what_was_known(make: Callable[..., World]) -> None:
    world = await make(discovery_timeout_s=0.3).start()
    known = (await world.router.call("devices"))["devices"]
    await world.down()
    world.devices(DEVICE, code="exec sleep 600")
    await world.up()
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
    await world.down()
    (world.root / "jobs/job-1/job.json").unlink()
    (world.root / "jobs/job-1/package.zip").write_bytes(b"half")
    await world.up()
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
