"""HTTP's paths: who may read what, every role against every path; errors as JSON with their job."""

import itertools
import json
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.logger import capturedLogs
from web_relay import TOKENS, Jobs, authenticator, result_of

from cumulusd.metrics import Metrics, MetricsSnapshot
from cumulusd.web.answers import Answer
from cumulusd.web.asked import Head
from cumulusd.web.rest import Rest
from cumulusd.web.routes import ROUTES, Routes


class Asking:
    def __init__(self, tokens: Any = TOKENS) -> None:
        self.jobs = Jobs()
        self.rest = Rest(
            relay=self.jobs,
            authenticator=authenticator(tokens),
            metrics=Metrics(MetricsSnapshot),
            wall_clock=lambda: 1234.5,
            clock=Clock(),
        )

    def answer(
        self, path: str, token: str | None = None, method: str = "GET", **more: Any
    ) -> Answer:
        header = None if token is None else f"Bearer {token}"
        head = Head(method=method, path=path, authorization=header, **more)
        answer = result_of(self.rest.answer(head))
        assert isinstance(answer, Answer)
        return answer

    def __call__(
        self, path: str, token: str | None = None, method: str = "GET", **query: list[str]
    ) -> tuple[int, Any]:
        answer = self.answer(path, token, method, query=query)
        if answer.stream is not None or not answer.body:
            return answer.status, None
        if answer.content_type != "application/json":
            return answer.status, answer.body.decode()
        return answer.status, json.loads(answer.body)


NO_POOL = (409,) * 7  # asked with a provisioning token, and there is nothing to join
#: method and path -> the status for: nobody, a wrong token, ann, bob, admin, viewer, agent
TABLE = {
    "GET /health": (200, 200, 200, 200, 200, 200, 200),
    "GET /health/live": (200, 200, 200, 200, 200, 200, 200),
    "GET /metrics": (401, 401, 403, 403, 200, 200, 403),
    "GET /metrics/workers": (401, 401, 403, 403, 200, 200, 403),
    "GET /api/info": (401, 401, 200, 200, 200, 200, 403),
    "GET /api/workers": (401, 401, 200, 200, 200, 200, 403),
    "GET /api/jobs": (401, 401, 200, 200, 200, 200, 403),
    "GET /api/jobs/": (401, 401, 200, 200, 200, 200, 403),
    "POST /api/jobs": (401, 401, 400, 400, 400, 403, 403),  # no body
    "GET /api/jobs/job_1": (401, 401, 200, 404, 200, 200, 403),
    "GET /api/jobs/job_2": (401, 401, 404, 404, 404, 404, 403),
    "GET /api/jobs/job_1/logs": (401, 401, 200, 404, 200, 200, 403),
    "GET /api/jobs/job_1/logs/": (401, 401, 200, 404, 200, 200, 403),
    "GET /api/jobs/job_2/logs": (401, 401, 404, 404, 404, 404, 403),
    "GET /api/jobs/job_1/results": (401, 401, 200, 404, 200, 200, 403),
    "GET /api/jobs/job_1/outputs": (401, 401, 200, 404, 200, 200, 403),
    "GET /api/jobs/job_1/outputs/a/b é.txt": (401, 401, 200, 404, 200, 200, 403),
    "GET /api/jobs/job_1/outputs/none": (401, 401, 404, 404, 404, 404, 403),
    "POST /api/jobs/job_1/cancel": (401, 401, 409, 404, 409, 403, 403),  # it has ended
    "GET /api/jobs/job_1/checkpoints": (401, 401, 200, 404, 200, 200, 403),
    "POST /api/jobs/job_1/pause": (401, 401, 200, 404, 200, 403, 403),
    "POST /api/jobs/job_1/resume": (401, 401, 200, 404, 200, 403, 403),
    "DELETE /api/jobs/job_1": (401, 401, 200, 404, 200, 403, 403),
    "GET /provision/worker.sh": NO_POOL,
    "GET /provision/manager.sh": NO_POOL,
    "GET /provision/firewall.sh": NO_POOL,
    "POST /provision/join": NO_POOL,
    "POST /provision/enroll": NO_POOL,
    "POST /provision/status": NO_POOL,
    "POST /provision/leave": NO_POOL,
    "GET /provision/images/sha256:1": NO_POOL,
    "GET /api/jobs//logs": (401, 401, 404, 404, 404, 404, 404),
    "GET /api/jobs/job_1//logs": (401, 401, 404, 404, 404, 404, 404),
    "GET /api/jobs/../../health": (401, 401, 404, 404, 404, 404, 404),
    "GET /": (200, 200, 200, 200, 200, 200, 200),
    "GET /page/app.js": (200, 200, 200, 200, 200, 200, 200),
    "GET /page/none.js": (404, 404, 404, 404, 404, 404, 404),
    "GET /page/../page_site.py": (401, 401, 404, 404, 404, 404, 404),
    "GET /anything": (401, 401, 404, 404, 404, 404, 404),
    "GET ": (401, 401, 404, 404, 404, 404, 404),
}
WHO = (None, "wrong", "ann", "bob", "admin", "viewer", "agent")


@pytest.mark.parametrize("request_line", TABLE)
def test_who_may_do_what(request_line: str) -> None:
    ask = Asking()
    method, _, path = request_line.partition(" ")
    assert tuple(ask(path, token, method)[0] for token in WHO) == TABLE[request_line]


def test_the_table_covers_every_route() -> None:
    covered = set()
    for request_line in TABLE:
        method, _, path = request_line.partition(" ")
        found = Routes().find(path)
        if found is not None:
            covered.add((method, found.path))
    assert covered == {(route.method, route.path) for route in ROUTES}


def test_every_route_has_who_answers_it_and_none_is_there_twice() -> None:
    assert {route.name for route in ROUTES} == set(Asking().rest._handlers)
    assert len({(route.method, route.path) for route in ROUTES}) == len(ROUTES)


def test_without_tokens_everybody_is_the_local_admin() -> None:
    ask = Asking(tokens=())
    assert ask("/metrics")[0] == 200
    assert ask("/api/info")[1]["owner"] == "local"
    assert ask("/nothing")[0] == 404


METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS", "BREW")


@pytest.mark.parametrize(("route", "method"), list(itertools.product(ROUTES, METHODS)))
def test_a_method_that_is_not_offered_is_told_which_are(route: Any, method: str) -> None:
    path = route.path.replace("{job_id}", "job_1").replace("{name...}", "a/b")
    found = Routes().find(path)
    assert found is not None and found.path == route.path
    if found.route(method) is not None:
        return
    answer = Asking().answer(path, "admin", method)
    assert answer.status == 405
    offered = answer.headers["Allow"].split(", ")
    assert method not in offered and route.method in offered
    assert ("HEAD" in offered) == ("GET" in offered)
    if route.roles is not None:
        assert Asking().answer(path, None, method).status == 401


def test_405_names_its_job() -> None:
    status, body = Asking()("/api/jobs/job_1", "ann", "PUT")
    assert (status, body["status"], body["job_id"]) == (405, 405, "job_1")
    assert Asking()("/no", "ann", "PUT")[0] == 404


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
    answer = Asking().answer("/api/jobs")
    assert answer.status == 401
    assert answer.headers["WWW-Authenticate"].startswith("Bearer")


def test_logs_are_read_only_when_they_are_sent() -> None:
    answer = Asking().answer("/api/jobs/job_1/logs", "ann")
    assert answer.content_type == "text/plain; charset=utf-8"
    assert answer.stream is not None
    assert list(answer.stream) == [b"one\n", b"\xff two"]


def test_a_result_is_given_as_the_job_left_it() -> None:
    ask = Asking()
    answer = ask.answer("/api/jobs/job_1/results", "ann")
    assert (answer.status, answer.content_type) == (200, "application/json")
    assert answer.stream is not None and b"".join(answer.stream) == b'{"a":1}'
    assert answer.stream_bytes == 7


def test_a_pickled_result_is_not_opened_and_told_so() -> None:
    ask = Asking()
    ask.jobs.encoding = "pickle"
    status, body = ask("/api/jobs/job_1/results", "ann")
    assert (status, body["code"], body["details"]["encoding"]) == (409, "conflict", "pickle")
    assert "never opens" in body["message"] and "cumulus_client" in body["hint"]


def test_a_completed_job_without_a_result_has_none() -> None:
    ask = Asking()
    ask.jobs.has_result = False
    status, body = ask("/api/jobs/job_1/results", "ann")
    assert status == 404 and "/logs" in body["hint"]


def test_what_is_done_to_jobs_is_told_in_the_old_words() -> None:
    ask = Asking()
    assert ask("/api/jobs/job_1/checkpoints", "ann")[1] == [{"filename": "a.pt"}]
    for method, path, key in (
        ("POST", "/pause", "paused"),
        ("POST", "/resume", "resumed"),
        ("DELETE", "", "deleted"),
    ):
        body = ask(f"/api/jobs/job_1{path}", "ann", method)[1]
        assert body[key] is True and body["message"]


def test_a_file_that_a_job_left_is_given_byte_for_byte() -> None:
    answer = Asking().answer("/api/jobs/job_1/outputs/a/b é.txt", "ann")
    assert (answer.status, answer.stream_bytes) == (200, 3)
    assert answer.stream is not None and list(answer.stream) == [b"one"]
    assert answer.content_type == "application/octet-stream"
    assert answer.headers["Content-Disposition"] == "attachment; filename*=UTF-8''b%20%C3%A9.txt"


def test_a_long_name_is_no_other_outputs_name(monkeypatch: pytest.MonkeyPatch) -> None:
    longest = "/".join(["d" * 200, "a" * 200, "x" * 110])
    ask, asked = Asking(), []
    found = ask.jobs.output_pieces

    def noted(who: Any, job_id: str, name: str) -> Any:
        asked.append(name)
        return found(who, job_id, "a/b é.txt")

    monkeypatch.setattr(ask.jobs, "output_pieces", noted)
    assert ask.answer(f"/api/jobs/job_1/outputs/{longest}", "ann").status == 200
    assert ask.answer(f"/api/jobs/job_1/outputs/{longest}y", "ann").status == 404
    assert asked == [longest]


def test_a_running_job_is_cancelled() -> None:
    ask = Asking()
    ask.jobs.status = "running"
    status, body = ask("/api/jobs/job_1/cancel", "ann", "POST")
    assert (status, body["cancelled"], body["message"]) == (200, True, "Job cancelled")


def events(answer: Answer) -> list[str]:
    sent: list[bytes] = []

    async def send(data: bytes) -> None:
        sent.append(data)

    assert answer.events is not None
    result_of(answer.events(send))
    return b"".join(sent).decode().strip().split("\n\n")


@pytest.mark.parametrize("how", [{"query": {"follow": ["1"]}}, {"accept": "text/event-stream"}])
def test_a_followed_log_is_events_in_order(how: Any) -> None:
    ask = Asking()
    answer = ask.answer("/api/jobs/job_1/logs", "ann", **how)
    assert (answer.status, answer.content_type) == (200, "text/event-stream")
    told = events(answer)
    assert told[0] == "retry: 2000"
    assert told[1].startswith('event: state\ndata: {"job":')
    log = [json.loads(text.split("data: ")[1]) for text in told if "event: log" in text]
    assert log == [
        {"stream": "stdout", "offset": log[0]["offset"], "time": 1.0, "text": "one\n"},
        {"stream": "stderr", "offset": log[1]["offset"], "time": 2.0, "base64": "/wo="},
    ]
    assert "event: progress" in told[4]
    assert told[5] == f"id: {len(ask.jobs.frames)}", "who comes back needs nothing of it again"
    assert told[6].startswith("event: end")


def test_a_follower_goes_on_behind_its_last_event() -> None:
    ask = Asking()
    first = events(ask.answer("/api/jobs/job_1/logs", "ann", query={"follow": ["1"]}))
    seen = next(text for text in first if "one" in text).partition("\n")[0].removeprefix("id: ")
    for more in ({"last_event_id": seen}, {"query": {"from_offset": [seen]}}):
        again = ask.answer("/api/jobs/job_1/logs", "ann", accept="text/event-stream", **more)
        assert events(again)[2:] == first[3:]
    done = str(len(ask.jobs.frames))
    over = ask.answer("/api/jobs/job_1/logs", "ann", accept="text/event-stream", last_event_id=done)
    assert over.status == 204, "an EventSource then comes back no more"


def test_a_follower_whose_offset_is_void_is_told_a_gap() -> None:
    ask = Asking()
    answer = ask.answer(
        "/api/jobs/job_1/logs", "ann", query={"follow": ["1"], "from_offset": ["99999"]}
    )
    told = events(answer)
    assert told[1] == 'id: 0\nevent: gap\ndata: {"from":0,"to":null,"void_to":99999}'
    assert "event: end" in told[-1]


def test_what_fails_while_following_is_an_event() -> None:
    ask = Asking()
    answer = ask.answer("/api/jobs/job_1/logs", "ann", query={"follow": ["1"]})
    ask.jobs.broken = True
    with capturedLogs() as logged:
        told = events(answer)
    assert told[-1].startswith('event: error\ndata: {"error":') and "secret" not in told[-1]
    assert logged[0]["log_failure"].check(ZeroDivisionError)


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("/api/jobs/job_1/logs", {"follow": ["2"]}),
        ("/api/jobs/job_1/logs", {"from_offset": ["5"]}),
        ("/api/jobs/job_1/logs", {"follow": ["1"], "from_offset": ["-5"]}),
        ("/api/jobs/job_1/logs", {"follow": ["1", "1"]}),
        ("/api/jobs/job_1", {"x": ["1"]}),
    ],
)
def test_a_wrong_query_is_refused(path: str, query: dict[str, list[str]]) -> None:
    status, body = Asking()(path, "ann", **query)
    assert status == 400 and body["details"]["faults"]
