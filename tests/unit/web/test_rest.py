"""HTTP's paths: who may read what, every role against every path; errors as JSON with their job."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.logger import capturedLogs

from cumulusd.errors import NotFound
from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.metrics import Metrics, MetricsSnapshot
from cumulusd.web.rest import Rest


class Jobs:
    """A relay with one job, of ann's."""

    parts = {"store": "ok", "platform": "ok"}
    broken = False

    def __init__(self) -> None:
        self.asked: list[Any] = []

    def health(self) -> dict[str, str]:
        return dict(self.parts)

    def info(self, who: Principal) -> dict[str, Any]:
        return {"server_version": "1", "owner": who.owner}

    def list(self, who: Principal, active: bool, limit: int) -> list[dict[str, Any]]:
        self.asked.append((who.name, active, limit))
        return [{"job_id": "job_1"}] if who.may_see("ann") else []

    def get(self, who: Principal, job_id: str) -> dict[str, Any]:
        if self.broken:
            raise ZeroDivisionError("secret detail")
        if job_id != "job_1" or not who.may_see("ann"):
            raise NotFound(f"There is no job {job_id}")
        return {"job_id": job_id, "status": "running"}

    def logs(self, who: Principal, job_id: str) -> Iterator[bytes]:
        self.get(who, job_id)
        return iter([b"one\n", b"\xff two"])


TOKENS = [
    (hash_token(name), Principal(name=name, owner=owner, role=role))
    for name, owner, role in (
        ("ann", "ann", Role.CLIENT),
        ("bob", "bob", Role.CLIENT),
        ("admin", "ops", Role.ADMIN),
        ("viewer", "ops", Role.VIEWER),
        ("agent", "cumulusd", Role.AGENT),
    )
]


class Asking:
    def __init__(self, tokens: Any = TOKENS) -> None:
        self.jobs = Jobs()
        self.rest = Rest(
            relay=self.jobs,
            authenticator=Authenticator(tokens),
            metrics=Metrics(MetricsSnapshot),
            wall_clock=lambda: 1234.5,
        )

    def __call__(
        self, path: str, token: str | None = None, method: str = "GET", **query: list[str]
    ) -> tuple[int, Any]:
        header = None if token is None else f"Bearer {token}"
        answer = self.rest.answer(method, path, query, header)
        if answer.content_type != "application/json":
            return answer.status, answer.body.decode()
        return answer.status, json.loads(answer.body)


#: path -> the status for: nobody, a wrong token, ann, bob, admin, viewer, agent
TABLE = {
    "/health": (200, 200, 200, 200, 200, 200, 200),
    "/health/live": (200, 200, 200, 200, 200, 200, 200),
    "/metrics": (401, 401, 403, 403, 200, 200, 403),
    "/api/info": (401, 401, 200, 200, 200, 200, 403),
    "/api/jobs": (401, 401, 200, 200, 200, 200, 403),
    "/api/jobs/": (401, 401, 200, 200, 200, 200, 403),
    "/api/jobs/job_1": (401, 401, 200, 404, 200, 200, 403),
    "/api/jobs/job_2": (401, 401, 404, 404, 404, 404, 403),
    "/api/jobs/job_1/logs": (401, 401, 200, 404, 200, 200, 403),
    "/api/jobs/job_2/logs": (401, 401, 404, 404, 404, 404, 403),
    "/api/jobs//logs": (401, 401, 404, 404, 404, 404, 404),
    "/api/jobs/job_1/logs/": (401, 401, 404, 404, 404, 404, 404),
    "/api/jobs/job_1/results": (401, 401, 404, 404, 404, 404, 404),
    "/api/jobs/../../health": (401, 401, 404, 404, 404, 404, 404),
    "/": (401, 401, 404, 404, 404, 404, 404),
    "/anything": (401, 401, 404, 404, 404, 404, 404),
    "": (401, 401, 404, 404, 404, 404, 404),
}
WHO = (None, "wrong", "ann", "bob", "admin", "viewer", "agent")


@pytest.mark.parametrize("path", TABLE)
def test_who_may_read_what(path: str) -> None:
    ask = Asking()
    assert tuple(ask(path, token)[0] for token in WHO) == TABLE[path]


def test_the_table_covers_every_route() -> None:
    assert set(Asking().rest._routes) - set(TABLE) == {
        "/api/jobs/{id}",
        "/api/jobs/{id}/logs",
    }


def test_without_tokens_everybody_is_the_local_admin() -> None:
    ask = Asking(tokens=())
    assert ask("/metrics")[0] == 200
    assert ask("/api/info")[1]["owner"] == "local"
    assert ask("/nothing")[0] == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_only_reading_is_offered(method: str) -> None:
    ask = Asking()
    status, body = ask("/api/jobs/job_1", "ann", method)
    assert (status, body["status"], body["job_id"]) == (405, 405, "job_1")
    assert "cumulus_client" in body["hint"]
    assert ask("/api/jobs", None, method)[0] == 401
    assert ask("/no", "ann", method)[0] == 404
    answer = ask.rest.answer(method, "/api/jobs", {}, "Bearer ann")
    assert answer.headers["Allow"] == "GET, HEAD"


def test_health_tells_which_part_is_not_well() -> None:
    ask = Asking()
    assert ask("/health") == (
        200,
        {"status": "healthy", "timestamp": 1234.5, "parts": ask.jobs.parts},
    )
    ask.jobs.parts = {"store": "ok", "platform": "can't be asked: refused"}
    status, body = ask("/health")
    assert status == 503 and body["status"] == "unhealthy"
    assert body["parts"]["platform"] == "can't be asked: refused"
    assert ask("/health/live")[0] == 200


@pytest.mark.parametrize(
    ("query", "asked"),
    [
        ({}, (False, 1000)),
        ({"active": ["1"]}, (True, 1000)),
        ({"active": ["true"], "limit": ["5"]}, (True, 5)),
        ({"active": ["0"]}, (False, 1000)),
    ],
)
def test_jobs_query(query: Any, asked: tuple[bool, int]) -> None:
    ask = Asking()
    assert ask("/api/jobs", "ann", **query) == (200, [{"job_id": "job_1"}])
    assert ask.jobs.asked == [("ann", *asked)]


def test_every_fault_of_a_query_at_once() -> None:
    query: Any = {"active": ["maybe"], "limit": ["0"], "colour": ["red"]}
    status, body = Asking()("/api/jobs", "ann", **query)
    assert (status, body["code"]) == (400, "invalid_argument")
    assert [fault["key"] for fault in body["details"]["faults"]] == ["active", "limit", "colour"]
    for bad in ("1001", "-1", "x", "9" * 5000, "²"):
        assert Asking()("/api/jobs", "ann", limit=[bad])[0] == 400
    assert Asking()("/api/jobs", "ann", limit=["1", "2"])[0] == 400


def test_an_error_names_its_job() -> None:
    status, body = Asking()("/api/jobs/job_2", "ann")
    assert (status, body["job_id"], body["code"]) == (404, "job_2", "not_found")


def test_an_unknown_error_leaves_as_a_log_id_only() -> None:
    ask = Asking()
    ask.jobs.broken = True
    with capturedLogs() as logged:
        status, body = ask("/api/jobs/job_1", "ann")
    assert (status, body["code"], body["job_id"]) == (500, "internal", "job_1")
    assert "secret detail" not in json.dumps(body)
    (event,) = logged
    assert event["log_id"] == body["details"]["log_id"]
    assert event["job_id"] == "job_1"
    assert event["log_failure"].check(ZeroDivisionError)


def test_unauthenticated_says_how() -> None:
    answer = Asking().rest.answer("GET", "/api/jobs", {}, "Basic eDp5")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_logs_are_read_only_when_they_are_sent() -> None:
    answer = Asking().rest.answer("GET", "/api/jobs/job_1/logs", {}, "Bearer ann")
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.stream is not None
    assert list(answer.stream) == [b"one\n", b"\xff two"]
