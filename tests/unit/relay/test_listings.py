"""Searching for jobs and looking at workers, each as its asker may."""

from typing import Any

import attrs
import pytest_twisted
from test_relay import ANN, BOB, Office, office

from cumulus_wire.journal import Kind, Record
from cumulusd.identity import Principal, Role
from cumulusd.job_search import Search
from cumulusd.jobs.log_tails import LogTails

__all__ = ["office"]  # the fixture

OPS = Principal(name="ops", owner="ops", role=Role.VIEWER)


def search(**changes: Any) -> Search:
    return attrs.evolve(Search(), **changes)


@pytest_twisted.ensureDeferred
async def test_each_finds_what_it_may_see(office: Office) -> None:
    first = await office.submit(ANN, name="one")
    second = await office.submit(BOB, name="two")
    found = office.relay.search(OPS, search())
    assert [job["job_id"] for job in found["jobs"]] == [second, first]
    assert found["counts"] == {"starting": 1, "pending": 1} and found["next"] is None
    assert found["now"] == office.world.clock.seconds()
    mine = office.relay.search(ANN, search())
    assert [job["job_id"] for job in mine["jobs"]] == [first]
    assert mine["counts"] == {"starting": 1}
    line = office.relay.search(BOB, search(order="queue"))
    assert [job["job_id"] for job in line["jobs"]] == [second]


@pytest_twisted.ensureDeferred
async def test_a_job_that_has_not_ended_is_shown_with_its_last_line(office: Office) -> None:
    job_id = await office.submit(ANN)
    tails = LogTails()
    office.relay._listings._tails = tails
    assert office.relay.search(ANN, search())["jobs"][0]["last_line"] is None
    tails.feed(job_id, Record(Kind.STDOUT, b"epoch 1\nepoch 2\n", 0, 0, 1))
    assert office.relay.search(ANN, search())["jobs"][0]["last_line"] == "epoch 2"


@pytest_twisted.ensureDeferred
async def test_whose_a_partition_is_only_who_may_see_the_job_is_told(office: Office) -> None:
    job_id = await office.submit(ANN)
    (worker,) = office.relay.workers(OPS)
    held = {
        "partition_id": "p1",
        "job_id": job_id,
        "device_id": worker["devices"][0]["device_id"],
        "units": 6000,
        "gpu_memory_bytes": 600,
        "state": "active",
        "remaining_s": 12.5,
    }
    stranger = {**held, "partition_id": "p2", "job_id": "job-of-nobody", "device_id": "gone"}
    office.relay._partitions = lambda node_id: [held, stranger]

    def shown(who: Principal) -> Any:
        return office.relay.workers(who)[0]["devices"][0]["partitions"]

    told = {key: held[key] for key in held if key not in ("job_id", "device_id")}
    assert shown(OPS) == shown(ANN) == [{**told, "job_id": job_id, "owner": ANN.owner}]
    assert shown(BOB) == [{**told, "job_id": None, "owner": None}]
