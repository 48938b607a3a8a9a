"""What `cumulus doctor` finds: each fault has a line of its own and says what to do."""

from typing import Any

import pytest

from cumulus_client.doctor import Finding, as_json, client_version, examine, told
from cumulus_client.exceptions import ConnectionFailed, CumulusError, NotAuthenticated, ServerError

DEVICE = {
    "device_id": "uuid-1",
    "index": 0,
    "name": "Card",
    "kind": "gpu",
    "memory_bytes": 8 << 30,
    "units_total": 10_000,
    "units_free": 2_500,
    "tier": "advisory",
}
WORKER = {
    "node_id": "n1",
    "hostname": "one",
    "state": "ready",
    "availability": "active",
    "agent": "present",
    "usable": True,
    "fault": None,
    "discovery_error": None,
    "chronos": {"backend": "libchronos", "fault": None},
    "devices": [DEVICE],
}
INFO = {"server_version": "0.1.7", "owner": "ann", "role": "client"}


class Client:
    """Answers as it is told to."""

    server_url = "http://h:1"

    def __init__(self, info: Any = INFO, workers: Any = (WORKER,)) -> None:
        self._answers = {"info": info, "workers": workers}

    def get_server_info(self) -> dict[str, Any]:
        return dict(self._give("info"))

    def list_workers(self) -> list[dict[str, Any]]:
        return list(self._give("workers"))

    def _give(self, what: str) -> Any:
        answer = self._answers[what]
        if isinstance(answer, CumulusError):
            raise answer
        return answer


def found(client: Client, version: str | None = "0.1.0") -> list[Finding]:
    return list(examine(client, version))


def faults(client: Client, version: str | None = "0.1.0") -> list[Finding]:
    return [one for one in found(client, version) if not one.ok]


def test_all_is_well() -> None:
    findings = found(Client())
    assert all(one.ok for one in findings)
    lines = [line for one in findings for line in told(one)]
    assert lines == [
        "ok     connection    a daemon answers at http://h:1",
        "ok     token         you are ann (client)",
        "ok     version       daemon 0.1.7, this client 0.1.0",
        "ok     workers       1 of 1 can take jobs",
        "ok     one           takes jobs, 1 device, partitions by libchronos",
        "ok     one           device 0: Card (gpu), 8.0 GiB, 25 % free, tier advisory",
    ]
    assert as_json(findings)["ok"] is True


def test_without_a_daemon_nothing_else_is_asked() -> None:
    refused = ConnectionFailed("can't connect to http://h:1", hint="does the daemon run?")
    (fault,) = found(Client(refused))
    assert fault == Finding("connection", False, refused.message, "does the daemon run?")
    assert told(fault)[1].endswith("-> does the daemon run?")
    assert as_json([fault])["ok"] is False


def test_a_token_that_isnt_known_is_no_fault_of_the_connection() -> None:
    wrong = NotAuthenticated("the daemon doesn't know this token", hint="ask for one")
    assert [(one.subject, one.ok) for one in found(Client(wrong))] == [
        ("connection", True),
        ("token", False),
    ]


def test_who_may_only_look_is_told_so() -> None:
    (token,) = (one for one in found(Client({**INFO, "role": "viewer"})) if one.subject == "token")
    assert "submit nothing" in token.said


@pytest.mark.parametrize(("version", "ok"), [("0.1.99", True), ("0.2.0", False), (None, True)])
def test_releases_must_be_the_same(version: str | None, ok: bool) -> None:
    (one,) = (one for one in found(Client(), version) if one.subject == "version")
    assert one.ok is ok
    assert ok or one.advice


def test_the_installed_client_knows_its_version() -> None:
    assert client_version() == "0.1.0"


def test_an_answer_that_fails_is_a_finding() -> None:
    (fault,) = faults(Client(workers=ServerError("it broke (log 12ab)", hint="see the log")))
    assert (fault.subject, fault.said) == ("workers", "it broke (log 12ab)")


def test_a_pool_without_workers() -> None:
    (fault,) = faults(Client(workers=()))
    assert (fault.subject, fault.said) == ("workers", "the pool has no worker")
    assert fault.advice


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": "down", "usable": False}, "the platform says it is down"),
        ({"availability": "drain", "usable": False}, "its availability is drain"),
        ({"agent": "away", "usable": False, "devices": []}, "its agent is away"),
        ({"usable": False, "fault": "its disk is full"}, "its disk is full"),
        ({"devices": [], "discovery_error": "it hangs"}, "it has no devices: it hangs"),
        ({"chronos": {"backend": "builtin", "fault": "it crashed"}}, "libchronos: it crashed"),
        ({"disagreements": ["of 5 units"]}, "ledger and platform disagree: of 5 units"),
        ({"discovery_error": "it hangs"}, "the last look at its drivers failed: it hangs"),
    ],
)
def test_each_fault_of_a_worker_has_its_words_and_advice(
    changes: dict[str, Any], said: str
) -> None:
    other = {**WORKER, "hostname": "two"}
    (fault,) = faults(Client(workers=({**WORKER, **changes}, other)))
    assert (fault.subject, fault.said) == ("one", said)
    assert fault.advice


def test_a_pool_that_takes_nothing_is_a_fault_beside_its_workers() -> None:
    subjects = [one.subject for one in faults(Client(workers=({**WORKER, "devices": []},)))]
    assert subjects == ["workers", "one"]
