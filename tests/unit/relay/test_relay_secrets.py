"""Secrets at the daemon's door: what is taken, what is refused, and that no value is ever shown."""

import json
import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import pytest_twisted
from twisted.logger import capturedLogs, formatEvent

from cumulus_wire.states import JobState
from cumulusd.errors import InvalidArgument, Unavailable
from cumulusd.jobs import codec
from cumulusd.jobs.model import End, Phase
from cumulusd.spec import MAX_SECRET_BYTES, MAX_SECRETS, SpecLimits, parse_spec, secret_values
from tests.unit.relay.test_relay import ANN, Office, a_spec
from tests.unit.supervisor.test_job_machine import PLACEMENT
from tests.unit.supervisor.world import RUNNING, SETUP, World, exit_frame, new_record

VALUE = "hunter2-Zq9"


@pytest_twisted.async_yield_fixture
async def office(tmp_path: Path) -> AsyncIterator[Office]:
    office = Office(tmp_path)
    await office.start()
    yield office
    await office.world.stop()


def kept(folder: Path) -> list[str]:
    """What files of secrets there are."""
    return sorted(os.listdir(folder / "secrets"))


def test_a_specification_has_their_names_only() -> None:
    given = a_spec(secrets={"TOKEN": VALUE, "A_KEY": ""})
    spec = parse_spec(given, SpecLimits())
    assert spec.secret_names == ("A_KEY", "TOKEN")
    assert VALUE not in repr(spec)
    assert secret_values(given) == {"TOKEN": VALUE, "A_KEY": ""}
    for nothing in (None, {}):
        assert parse_spec(a_spec(secrets=nothing), SpecLimits()).secret_names == ()
        assert secret_values(a_spec(secrets=nothing)) == {}


@pytest.mark.parametrize(
    ("secrets", "key"),
    [
        ({"LD_PRELOAD": VALUE}, "secrets.LD_PRELOAD"),
        ({"A": VALUE + "\0"}, "secrets.A"),
        ({"A": [VALUE]}, "secrets.A"),
        ({"A": {"b": VALUE}}, "secrets.A"),
        ({"A": VALUE + "\ud800"}, "secrets.A"),
        ({"A": VALUE + "x" * MAX_SECRET_BYTES}, "secrets.A"),
        ({"ENV": VALUE}, "secrets.ENV"),
        ({f"{VALUE} is no name": "TOKEN"}, "secrets"),
        ({VALUE: VALUE}, "secrets"),
        ([VALUE], "secrets"),
        (VALUE, "secrets"),
        ({f"A{n}": VALUE for n in range(MAX_SECRETS + 1)}, "secrets"),
        ({f"A{n}": "x" * 60_000 for n in range(3)}, "secrets"),
    ],
)
def test_what_is_refused_is_told_without_any_value(secrets: Any, key: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_spec(a_spec(secrets=secrets, environment={"ENV": "1"}), SpecLimits())
    faults = refused.value.details["faults"]
    assert [fault["key"] for fault in faults] == [key]
    assert VALUE not in repr(refused.value.as_dict())


@pytest_twisted.ensureDeferred
async def test_they_are_kept_until_the_job_has_ended(office: Office, tmp_path: Path) -> None:
    world = office.world
    with capturedLogs() as logs:
        job_id = await office.submit(secrets={"TOKEN": VALUE}, retries=1)
        assert kept(tmp_path) == [f"{job_id}.json"]
        assert await world.secrets.load(job_id) == {"TOKEN": VALUE}
        world.says(job_id, SETUP, RUNNING)
        assert kept(tmp_path) == [f"{job_id}.json"], "another attempt may need them"
        record = world.record(job_id)
        view = office.relay.get(ANN, job_id)
        world.says(job_id, exit_frame())
        assert world.record(job_id).phase is Phase.ENDING
        assert kept(tmp_path) == []
    assert view["secret_names"] == ["TOKEN"]
    assert record.spec.secret_names == ("TOKEN",)
    for told in (repr(record), codec.dumps(record), json.dumps(view), repr(logs)):
        assert VALUE not in told
    assert not [event for event in logs if VALUE in (formatEvent(event) or "")]


@pytest_twisted.ensureDeferred
async def test_a_repeat_of_the_submit_doesnt_change_them(office: Office) -> None:
    first = await office.submit(secrets={"TOKEN": VALUE}, idempotency_key="k")
    second = await office.submit(secrets={"TOKEN": "another"}, idempotency_key="k")
    assert first == second
    assert await office.world.secrets.load(first) == {"TOKEN": VALUE}


@pytest_twisted.ensureDeferred
async def test_a_job_that_cant_be_saved_leaves_none(office: Office, tmp_path: Path) -> None:
    office.world.store.broken = Unavailable("the disk is full")
    with pytest.raises(Unavailable):
        await office.submit(secrets={"TOKEN": VALUE})
    assert kept(tmp_path) == []


@pytest_twisted.ensureDeferred
async def test_a_job_whose_secrets_cant_be_saved_is_refused(office: Office, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("no folder")
    with pytest.raises(Unavailable) as refused:
        await office.submit(secrets={"TOKEN": VALUE})
    assert refused.value.job_id is not None
    assert not list(office.world.table.all())
    assert VALUE not in repr(refused.value.as_dict())


@pytest_twisted.ensureDeferred
async def test_a_start_keeps_only_those_of_jobs_that_have_not_ended(tmp_path: Path) -> None:
    world = World(tmp_path)
    live = new_record("a", world.clock.seconds(), secret_names=("TOKEN",))
    ended = attrs.evolve(
        live,
        job_id="b",
        phase=Phase.ENDING,
        placement=PLACEMENT,
        end=End(state=JobState.COMPLETED, reason=None, message=""),
    )
    for job_id in ("a", "b", "c"):
        await world.secrets.save(job_id, {"TOKEN": VALUE})
    await world.start([live, ended])
    assert kept(tmp_path) == ["a.json"]
    await world.stop()
