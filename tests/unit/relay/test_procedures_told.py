"""Changes of jobs are told to those who listen, and made into views for nobody else; what a job is
followed by keeps nothing of its submit."""

import gc
from collections.abc import Mapping
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from cumulus_wire import uris
from cumulusd.identity import ANONYMOUS, Principal
from cumulusd.protocol.local_session import LocalSession
from cumulusd.protocol.messages import Message, wamp
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


class Wire:
    """Grants every registration; notes what else is sent."""

    def __init__(self) -> None:
        self.session = LocalSession(1, wire=self, clock=Clock())  # type: ignore[arg-type]
        self.registered: dict[str, int] = {}
        self.sent: list[Message] = []

    def route(self, session_id: int, message: Message) -> None:
        if isinstance(message, wamp.Register):
            self.registered[message.procedure] = number = len(self.registered) + 1
            self.session.receive(wamp.Registered(message.request, number))
        else:
            self.sent.append(message)

    def principal_of(self, session_id: int) -> Principal:
        return ANONYMOUS

    def is_in_flight(self, callee_id: int, invocation: int) -> bool:
        return True

    async def drained(self, session_id: int) -> None:
        pass


class Accepting(Relay):
    """Takes every job, whose following has no end."""

    def __init__(self) -> None:
        self.taken: list[int] = []
        self.saved: Deferred[None] = Deferred()

    async def submit(self, who: Principal, spec: Any, *, code: bytes | None) -> dict[str, Any]:
        assert code is not None
        await self.saved
        self.taken.append(len(code))
        return {"job_id": "j1"}

    async def follow(self, *args: Any) -> dict[str, Any]:
        return await Deferred()


class Watched(bytes):
    """Says when nobody has it any more."""

    gone = False

    def __del__(self) -> None:
        Watched.gone = True


def test_a_job_that_is_followed_keeps_no_package_in_memory() -> None:
    wire, relay = Wire(), Accepting()
    Procedures(relay, wire.session).register()  # type: ignore[arg-type]
    Watched.gone = False
    wire.session.receive(
        wamp.Invocation(
            1,
            wire.registered[uris.JOB_SUBMIT],
            kwargs={"spec": {}, "code": Watched(b"code")},
            receive_progress=True,
            caller=2,
        )
    )
    assert not Watched.gone
    relay.saved.callback(None)
    gc.collect()
    assert relay.taken == [4] and [message.progress for message in wire.sent] == [True]
    assert Watched.gone
    wire.session.receive(wamp.Interrupt(1))
    assert len(wire.sent) == 2, "it is answered"
