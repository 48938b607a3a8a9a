"""What the agent makes for a grant: files that a job can't change, and mounts of nothing else."""

import errno
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import pytest_twisted
from agent_world import DEVICE, CallFailed, World

from cumulus_wire.grant import OPENCL_USAGE_BYTES, Tier
from cumulusd.agent import offers
from cumulusd.agent.job_folder import JobFolder
from cumulusd.agent.settings import SettingsError, read_settings

TIERS = tuple(tier.value for tier in Tier)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest_twisted.ensureDeferred
async def test_the_opencl_tier_has_its_folders_beside_the_jobs(make: Callable[..., World]) -> None:
    world = await make(tiers=TIERS).start()
    (device,) = (await world.router.call("devices"))["devices"]
    assert (device["tier"], device["tier_note"]) == ("opencl", "enforced in OpenCL")
    umask = os.umask(0o077)
    try:
        answer = (await world.prepare())["grant"]
    finally:
        os.umask(umask)
    assert answer["tier"] == "opencl"
    assert answer["tier_note"].startswith("enforced in OpenCL: ")
    place = world.root / "grants" / "job-1"
    assert answer["mounts"][-2:] == [
        [str(place / "grant"), "/run/cumulus/grant", True],
        [str(place / "usage"), "/run/cumulus/usage", False],
    ]
    assert (mode(place), mode(place / "grant"), mode(place / "usage")) == (0o711, 0o755, 0o755)
    fields = dict(
        line.split("=", 1) for line in (place / "grant" / "opencl").read_text().splitlines()
    )
    assert fields == {
        "version": "1",
        "quota_bytes": str(answer["gpu_memory_bytes"]),
        # now, set-up, duration, and the graces of partition and start
        "expires_boottime_s": str(1000 + 60 + 100 + 60 + 120 + 1),
        "device_uuid": DEVICE["uuid"],
        "usage_file": "/run/cumulus/usage/opencl",
    }
    assert mode(place / "grant" / "opencl") == 0o644
    assert (place / "usage" / "opencl").read_bytes() == bytes(OPENCL_USAGE_BYTES)
    assert (place / "usage" / "opencl").stat().st_blocks * 512 >= OPENCL_USAGE_BYTES
    assert mode(place / "usage" / "opencl") == 0o666
    assert mode(place / "answer.json") == 0o600
    orders = json.loads((world.root / "jobs" / "job-1" / "job.json").read_bytes())
    assert (orders["tier"], orders["opencl_layer"]) == ("opencl", True)
    assert (await world.router.call("release", job_id="job-1", attempt=1))["released"] is True
    assert os.listdir(world.root / "grants") == []


@pytest_twisted.ensureDeferred
async def test_a_grant_stays_as_it_was_made_whatever_the_worker_offers_later(
    make: Callable[..., World],
) -> None:
    world = await make(tiers=TIERS).start()
    first = await world.prepare()
    await world.down()
    world.options = {}
    await world.up()
    again = await world.prepare()
    assert again["grant"] == first["grant"]
    assert (world.root / "grants" / "job-1" / "grant" / "opencl").is_file()
    other = (await world.prepare("job-2"))["grant"]
    assert (other["tier"], len(other["mounts"])) == ("advisory", 3)
    assert os.listdir(world.root / "grants" / "job-2" / "grant") == []


@pytest_twisted.ensureDeferred
async def test_a_torn_answer_is_made_again(make: Callable[..., World]) -> None:
    world = await make(tiers=TIERS).start()
    first = await world.prepare()
    (world.root / "grants" / "job-1" / "answer.json").write_text("{")
    assert (await world.prepare())["grant"] == first["grant"]
    assert json.loads((world.root / "grants" / "job-1" / "answer.json").read_text())


@pytest_twisted.ensureDeferred
async def test_grants_of_no_job_are_deleted_at_the_start(make: Callable[..., World]) -> None:
    world = make()
    (world.root / "grants" / "job-9" / "usage").mkdir(parents=True)
    await world.start()
    await world.until(lambda: os.listdir(world.root / "trash") == [])
    assert os.listdir(world.root / "grants") == []


@pytest_twisted.ensureDeferred
async def test_a_failed_prepare_leaves_no_grant(
    make: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = await make(tiers=TIERS).start()
    made = []

    def broken(*arguments: object) -> None:
        made.append(os.listdir(world.root / "grants"))
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(JobFolder, "write_orders", broken)
    with pytest.raises(CallFailed):
        await world.prepare()
    assert made == [["job-1"]]
    assert os.listdir(world.root / "grants") == []


def test_what_a_worker_offers_is_what_its_operator_installed(tmp_path: Path) -> None:
    found = offers.look(tmp_path, TIERS)
    assert (found.tiers, found.mps_pipes, found.hami_library) == (frozenset(Tier), None, None)
    pipes = tmp_path / "mps" / "pipe"
    pipes.mkdir(parents=True)
    library = tmp_path / "hami" / "libvgpu.so"
    library.parent.mkdir()
    library.touch()
    (tmp_path / "mps" / "shm").mkdir()
    found = offers.look(tmp_path, ("mps",))
    assert (found.mps_pipes, found.hami_library) == (None, None), "nobody serves; an empty file"
    os.mkfifo(pipes / "control")
    library.write_bytes(b"\x7fELF")
    found = offers.look(tmp_path, ("mps",))
    assert found.tiers == {Tier.MPS}
    assert (found.mps_pipes, found.mps_shared_memory) == (str(pipes), str(tmp_path / "mps/shm"))
    assert found.hami_library == str(library)


def test_tiers_are_an_option_of_the_agents(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("a-token")
    environment = {
        "CUMULUS_AGENT_URL": "ws://h:1",
        "CUMULUS_AGENT_NODE_ID": "n",
        "CUMULUS_AGENT_HOSTNAME": "h",
        "CUMULUS_AGENT_TOKEN_FILE": str(tmp_path / "token"),
        "CUMULUS_AGENT_ROOT": str(tmp_path),
    }
    options = {**environment, "CUMULUS_AGENT_OPTIONS": '{"tiers": ["opencl", "mig"]}'}
    assert read_settings(options).options.tiers == ("opencl", "mig")
    with pytest.raises(SettingsError, match="tiers must be a list of some of mig, mps"):
        read_settings({**environment, "CUMULUS_AGENT_OPTIONS": '{"tiers": ["cuda"]}'})
