"""Changes of jobs are told to those who listen, and made into views for nobody else."""

from collections.abc import Mapping
from typing import Any

from cumulusd.protocol.procedures import Procedures
from tests.unit.supervisor.world import new_record


class Session:
    def __init__(self) -> None:
        self.heard: set[str] = set()
        self.published: list[tuple[str, Any]] = []

    def is_heard(self, topic: str) -> bool:
        return topic in self.heard

    def publish(self, topic: str, kwargs: Mapping[str, Any]) -> None:
        self.published.append((topic, kwargs))


class Relay:
    views = 0

    def view(self, record: Any) -> dict[str, Any]:
        self.views += 1
        return {"job_id": record.job_id}


def test_a_change_is_viewed_once_for_those_who_listen_and_never_for_nobody() -> None:
    session, relay = Session(), Relay()
    procedures = Procedures(relay, session)  # type: ignore[arg-type]
    record = new_record("j1", 0.0)
    procedures.job_changed(record)
    assert (relay.views, session.published) == (0, [])
    event = {"job": {"job_id": "j1"}}
    session.heard = {"cumulus.job.j1.status"}
    procedures.job_changed(record)
    assert session.published == [("cumulus.job.j1.status", event)]
    session.heard.add("cumulus.jobs")
    procedures.job_changed(record)
    assert session.published[1:] == [("cumulus.jobs", event), ("cumulus.job.j1.status", event)]
    assert relay.views == 2
