"""The agent remembers proofs of the OpenCL layer; none that a job's code can have said."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import DEVICE, Runner, World
from twisted.internet.task import Clock

from cumulus_wire.grant import MAX_PROVEN, Tier
from cumulusd.agent.grant_folder import GrantFolders
from cumulusd.agent.layer_proofs import LIFETIME_S, LayerProofs, valid_fingerprint

TIERS = tuple(tier.value for tier in Tier)
ONE, TWO = "1" * 64, "2" * 64


def test_only_whole_fingerprints_are_such() -> None:
    assert valid_fingerprint("0123456789abcdef" * 4)
    for wrong in ("", "a" * 63, "a" * 65, "A" * 64, "a" * 64 + "\n", "g" * 64, None, 7, ["a" * 64]):
        assert not valid_fingerprint(wrong)


def test_a_proof_holds_for_its_lifetime_however_often_it_is_used() -> None:
    clock = Clock()
    proofs = LayerProofs(clock.seconds)
    assert proofs.proven(ONE) is True
    clock.advance(LIFETIME_S - 1)
    proofs.used(ONE)
    assert proofs.known() == [ONE]
    clock.advance(1)
    assert proofs.known() == []
    proofs.used(ONE)  # by a job that was told of it before
    assert proofs.known() == []
    assert proofs.proven(ONE) is True


def test_one_that_is_proven_again_holds_longer_and_is_no_news() -> None:
    clock = Clock()
    proofs = LayerProofs(clock.seconds)
    proofs.proven(ONE)
    clock.advance(LIFETIME_S / 2)
    assert proofs.proven(ONE) is False
    clock.advance(LIFETIME_S / 2)
    assert proofs.known() == [ONE]


def test_those_unused_for_longest_make_room() -> None:
    proofs = LayerProofs(Clock().seconds)
    kinds = [f"{number:064x}" for number in range(MAX_PROVEN)]
    for kind in kinds:
        proofs.proven(kind)
    assert proofs.known() == kinds[::-1]
    proofs.used(kinds[0])
    proofs.proven(ONE)
    assert proofs.known() == [ONE, kinds[0], *kinds[:1:-1]]


def test_all_are_forgotten_at_once() -> None:
    proofs = LayerProofs(Clock().seconds)
    assert proofs.forget() is False
    proofs.proven(ONE)
    assert proofs.forget() is True
    assert proofs.known() == []


# -- the agent


def told(world: World, job_id: str) -> list[str] | None:
    """What the job's runner is told as proven."""
    file = world.root / "grants" / job_id / "grant" / "proven"
    return file.read_text().splitlines() if file.exists() else None


async def prepared(world: World, job_id: str) -> list[str] | None:
    await world.prepare(job_id, units=100)
    return told(world, job_id)


async def heard(world: World, runner: Runner) -> None:
    """The agent has read all that the runner said: it has hung up on a line that is none."""
    runner.say_raw(b"no JSON\n")
    await world.until(lambda: runner.hear() == b"")


def proof(runner: Runner, fingerprint: str, how: str = "proven") -> None:
    runner.say({"t": "proof", how: fingerprint})


@pytest_twisted.ensureDeferred
async def test_what_one_job_proved_the_next_and_those_that_wait_are_told(
    make: Callable[..., World],
) -> None:
    world = await make(tiers=TIERS).start()
    assert await prepared(world, "job-1") == []
    assert await prepared(world, "job-2") == []
    assert await prepared(world, "job-3") == []
    first, third = world.runner(), world.runner("job-3")
    third.connect()  # it has begun, and isn't told any more
    await heard(world, third)
    first.connect()
    proof(first, ONE)
    await world.until(lambda: told(world, "job-2") == [ONE])
    assert (told(world, "job-1"), told(world, "job-3")) == ([], [])
    assert await prepared(world, "job-4") == [ONE]
    mode = (world.root / "grants" / "job-2" / "grant" / "proven").stat().st_mode
    assert mode & 0o777 == 0o644
    second = world.runner("job-2")
    second.connect()
    proof(second, ONE, "remembered")
    await heard(world, second)
    assert await prepared(world, "job-5") == [ONE]
    for runner in (first, second, third):
        runner.close()


@pytest_twisted.ensureDeferred
async def test_what_is_said_after_the_proof_doesnt_count(make: Callable[..., World]) -> None:
    """The code may have got at the runner's own connection."""
    world = await make(tiers=TIERS).start()
    await world.prepare()
    runner = world.runner()
    runner.connect()
    runner.say({"t": "proof"})  # nothing that can be remembered
    proof(runner, ONE)
    await heard(world, runner)
    assert await prepared(world, "job-2") == []
    runner.close()


@pytest_twisted.ensureDeferred
async def test_only_the_first_connection_counts(make: Callable[..., World]) -> None:
    """The code may open one of its own, be it as the runner, before or after the runner is gone."""
    world = await make(tiers=TIERS).start()
    await world.prepare()
    runner, forger, late = world.runner(), world.runner(), world.runner()
    runner.connect()
    forger.connect()
    proof(forger, ONE)
    await heard(world, forger)
    await heard(world, runner)
    late.connect()
    proof(late, TWO)
    await heard(world, late)
    assert await prepared(world, "job-2") == []
    for one in (runner, forger, late):
        one.close()


@pytest_twisted.ensureDeferred
async def test_without_a_hello_it_doesnt_count(make: Callable[..., World]) -> None:
    world = await make(tiers=TIERS).start()
    await world.prepare()
    runner = world.runner()
    runner.job_id = "job-of-another"
    runner.connect()
    proof(runner, ONE)
    await world.until(lambda: runner.hear() == b"")
    assert await prepared(world, "job-2") == []
    runner.close()


@pytest.mark.parametrize(
    "line",
    [
        {"proven": "short"},
        {"proven": None},
        {"remembered": 7},
        {"proven": ONE, "remembered": TWO},
        {"proven": ONE + "\n" + TWO},
    ],
    ids=["short", "none", "number", "both", "two"],
)
@pytest_twisted.ensureDeferred
async def test_a_proof_that_is_none_drops_its_connection(
    make: Callable[..., World], line: dict[str, object]
) -> None:
    world = await make(tiers=TIERS).start()
    await world.prepare()
    runner = world.runner()
    runner.connect()
    runner.say({"t": "proof", **line})
    await world.until(lambda: runner.hear() == b"")
    assert await prepared(world, "job-2") == []
    runner.close()


@pytest_twisted.ensureDeferred
async def test_an_agent_that_finds_a_job_there_takes_no_proof_of_it(
    make: Callable[..., World],
) -> None:
    """Its code may have begun while no agent was there."""
    world = await make(tiers=TIERS).start()
    await world.prepare()
    await world.restart()
    runner = world.runner()
    runner.connect()
    proof(runner, ONE)
    await heard(world, runner)
    assert await prepared(world, "job-2") == []
    runner.close()


@pytest_twisted.ensureDeferred
async def test_a_new_agent_knows_of_no_proof(make: Callable[..., World]) -> None:
    world = await make(tiers=TIERS).start()
    await world.prepare()
    runner = world.runner()
    runner.connect()
    proof(runner, ONE)
    await heard(world, runner)
    assert await prepared(world, "job-2") == [ONE]
    await world.restart()
    assert await prepared(world, "job-3") == []
    runner.close()


@pytest_twisted.ensureDeferred
async def test_other_devices_or_none_that_can_be_looked_at_need_a_new_proof(
    make: Callable[..., World],
) -> None:
    world = await make(tiers=TIERS, discovery_interval_s=0.05).start()
    number = 0

    async def prove() -> None:
        nonlocal number
        number += 1
        job_id = f"job-{number}"
        await prepared(world, job_id)
        runner = world.runner(job_id)
        runner.connect()
        proof(runner, ONE)
        await heard(world, runner)
        runner.close()

    await prove()
    assert await prepared(world, "waits") == [ONE]
    # Looked at again, the devices are the same.
    marker = world.root.parent / "looked"
    world.devices(DEVICE, code=f"touch {marker}")
    await world.until(marker.exists)
    assert told(world, "waits") == [ONE]
    world.devices(DEVICE, {**DEVICE, "uuid": "cd" * 16})
    await world.until(lambda: told(world, "waits") == [])
    await prove()
    assert told(world, "waits") == [ONE]
    world.devices(DEVICE, code="exit 3")
    await world.until(lambda: told(world, "waits") == [])


@pytest_twisted.ensureDeferred
async def test_nothing_is_remembered_where_each_job_is_to_prove_it(
    make: Callable[..., World], tmp_path: Path
) -> None:
    world = await make(tiers=TIERS, prove_each_job=True).start()
    assert await prepared(world, "job-1") is None
    runner = world.runner()
    runner.connect()
    proof(runner, ONE)
    await heard(world, runner)
    assert await prepared(world, "job-2") is None
    runner.close()


@pytest_twisted.ensureDeferred
async def test_a_job_without_the_layer_is_told_nothing(make: Callable[..., World]) -> None:
    world = await make().start()
    assert await prepared(world, "job-1") is None


@pytest_twisted.ensureDeferred
async def test_a_job_sees_no_draft_of_what_it_is_told_and_one_that_failed_is_in_nobodys_way(
    make: Callable[..., World], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make(tiers=TIERS).start()
    assert await prepared(world, "job-1") == []
    seen: list[list[str]] = []

    def full(*_: Any, **__: Any) -> None:
        seen.append(sorted(os.listdir(world.root / "grants" / "job-1" / "grant")))
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    trash = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    grants = GrantFolders(world.root, trash)
    try:
        with monkeypatch.context() as patch:
            patch.setattr("cumulusd.agent.grant_folder.os.rename", full)
            with pytest.raises(OSError, match="No space left"):
                grants.tell_proven("job-1", [ONE])
        assert seen == [["opencl", "proven"]]
        grants.tell_proven("job-1", [TWO])
    finally:
        grants.close()
        os.close(trash)
    assert told(world, "job-1") == [TWO]
