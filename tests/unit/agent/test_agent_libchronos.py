"""The agent's partitions in libchronos, beside its ledger."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytest_twisted
from agent_world import DEVICE, DEVICE_ID, CallFailed, World
from twisted.internet import reactor
from twisted.internet.task import deferLater

from tests.unit.chronos.c_libraries import build


@pytest.fixture(scope="session")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build("libchronos_double", tmp_path_factory.mktemp("libchronos"))


@pytest.fixture
def make_with(
    library: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., World],
) -> Callable[..., World]:
    """Makes a world whose agent has the library, with one device."""
    folder = tmp_path / "double"
    (folder / "locks").mkdir(parents=True)
    (folder / "devices").write_text("1")
    monkeypatch.setenv("CHRONOS_DOUBLE", str(folder))

    def made(backend: str) -> World:
        return make(
            chronos_backend=backend,
            chronos_library=str(library),
            chronos_locks=str(folder / "locks"),
        )

    return made


def locks(tmp_path: Path) -> list[str]:
    """The fraction that each of its locks is of."""
    return sorted(
        line.removeprefix("fraction: ")
        for path in (tmp_path / "double" / "locks").iterdir()
        for line in path.read_text().splitlines()
        if line.startswith("fraction: ")
    )


async def until_devices(world: World, true: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    for _ in range(1500):
        answer = await world.router.call("devices")
        if true(answer):
            return answer
        await deferLater(reactor, 0.01)
    raise AssertionError(answer)


@pytest_twisted.ensureDeferred
async def test_where_it_is_required_a_partition_is_booked_before_it_is_granted(
    make_with: Callable[..., World], tmp_path: Path
) -> None:
    world = await make_with("libchronos").start()
    answer = await until_devices(world, lambda answer: answer["fault"] is None)
    assert answer["chronos"] == {"backend": "libchronos", "fault": None}
    await world.prepare()
    assert locks(tmp_path) == ["0.25"]
    await world.prepare()  # nothing is booked twice
    await world.prepare("job-2")
    assert locks(tmp_path) == ["0.25", "0.25"]
    # Its books end with the agent; the next one makes them anew, from the ledger.
    await world.stop_agent()
    assert locks(tmp_path) == []
    await world.until(lambda: world.router.session is None)
    world.start_agent()
    await world.until(lambda: len(locks(tmp_path)) == 2)
    await world.until(lambda: world.router.session is not None)
    assert (await world.router.call("release", job_id="job-2", attempt=1))["released"] is True
    await world.until(lambda: len(locks(tmp_path)) == 1)


@pytest_twisted.ensureDeferred
async def test_where_it_is_required_its_refusal_fails_the_preparation_by_its_reason(
    make_with: Callable[..., World],
) -> None:
    world = make_with("libchronos")
    # The driver's second device is the first and only one of the ledger's.
    world.devices({**DEVICE, "uuid": None, "ordinal": 1})
    await world.start()
    answer = await until_devices(world, lambda answer: answer["fault"] is None)
    (device,) = answer["devices"]
    with pytest.raises(CallFailed) as caught:
        await world.prepare(device_id=device["device_id"])
    assert caught.value.uri == "cumulus.error.internal"
    assert "libchronos has not booked" in caught.value.kwargs["message"]
    assert "none with index 1" in caught.value.kwargs["message"]
    assert caught.value.kwargs["hint"]
    assert (await world.router.call("partitions"))["partitions"] == []
    assert not list((world.root / "jobs").iterdir())
    assert (await world.router.call("devices"))["chronos"]["fault"] is None


@pytest_twisted.ensureDeferred
async def test_where_it_is_required_and_broken_the_worker_takes_no_job(
    make_with: Callable[..., World], tmp_path: Path
) -> None:
    (tmp_path / "double" / "devices").write_text("0")
    world = await make_with("libchronos").start()
    answer = await until_devices(world, lambda answer: "OpenCL" in str(answer["fault"]))
    assert "libchronos is required here" in answer["fault"]
    assert answer["chronos"]["backend"] == "builtin"


@pytest_twisted.ensureDeferred
async def test_elsewhere_what_it_refuses_is_shown_and_harms_no_job(
    make_with: Callable[..., World], tmp_path: Path
) -> None:
    world = await make_with("auto").start()
    await until_devices(world, lambda answer: answer["chronos"]["backend"] == "libchronos")
    (tmp_path / "double" / "crash").touch()
    grant = (await world.prepare())["grant"]
    assert grant["device_id"] == DEVICE_ID
    answer = await until_devices(world, lambda answer: answer["chronos"]["fault"] is not None)
    assert answer["fault"] is None
    (tmp_path / "double" / "crash").unlink()
    answer = await until_devices(
        world, lambda answer: "not booked" in str(answer["chronos"]["fault"])
    )
    assert grant["partition_id"] in answer["chronos"]["fault"]
    assert (await world.router.call("release", job_id="job-1", attempt=1))["released"] is True
    await until_devices(world, lambda answer: answer["chronos"]["fault"] is None)
    await world.prepare()
    await world.until(lambda: locks(tmp_path) == ["0.25"])


@pytest_twisted.ensureDeferred
async def test_the_library_that_a_worker_was_given_is_taken(
    make_with: Callable[..., World], library: Path, tmp_path: Path
) -> None:
    """Where provision/worker.sh puts it, unless the configuration names another."""
    world = make_with("libchronos")
    world.options["chronos_library"] = None
    given = world.root / "lib" / "libchronos.so"
    given.parent.mkdir(parents=True)
    given.write_bytes(library.read_bytes())
    await world.start()
    await until_devices(world, lambda answer: answer["fault"] is None)
    await world.prepare()
    assert locks(tmp_path) == ["0.25"]
