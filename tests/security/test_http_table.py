"""Who may do what over HTTP: every route, every role, own and foreign jobs, on the real daemon."""

import json
import re
import urllib.error
import urllib.request
from typing import Any

import pytest

from cumulusd.web.routes import ROUTES
from tests.security.conftest import World

#: JOB is a job of ann's that has ended, LIVE one that runs, SPARE one that may be deleted. 4xx: the
#: role may, and what it asks is refused for what it is (no body; the job has ended).
MATRIX = """
method  path                            none  ann  bob  admin  viewer  agent
GET     /                               200   200  200  200    200     200
GET     /page/app.js                    200   200  200  200    200     200
GET     /health                         200   200  200  200    200     200
GET     /health/live                    200   200  200  200    200     200
GET     /metrics                        401   403  403  200    200     403
GET     /metrics/workers                401   403  403  200    200     403
GET     /api/info                       401   200  200  200    200     403
GET     /api/workers                    401   200  200  200    200     403
GET     /api/jobs                       401   200  200  200    200     403
POST    /api/jobs                       401   400  400  400    403     403
GET     /api/jobs/JOB                   401   200  404  200    200     403
GET     /api/jobs/JOB/results           401   200  404  200    200     403
GET     /api/jobs/JOB/logs              401   200  404  200    200     403
GET     /api/jobs/JOB/logs?follow=1     401   200  404  200    200     403
GET     /api/jobs/JOB/outputs           401   200  404  200    200     403
GET     /api/jobs/JOB/outputs/note.txt  401   200  404  200    200     403
GET     /api/jobs/JOB/checkpoints       401   200  404  200    200     403
POST    /api/jobs/JOB/cancel            401   409  404  409    403     403
POST    /api/jobs/JOB/pause             401   409  404  409    403     403
POST    /api/jobs/JOB/resume            401   409  404  409    403     403
POST    /api/jobs/LIVE/resume           401   409  404  409    403     403
DELETE  /api/jobs/LIVE                  401   409  404  409    403     403
DELETE  /api/jobs/SPARE                 401   200  404  200    403     403
GET     /provision/worker.sh            409   409  409  409    409     409
GET     /provision/manager.sh           409   409  409  409    409     409
GET     /provision/firewall.sh          409   409  409  409    409     409
POST    /provision/join                 409   409  409  409    409     409
POST    /provision/enroll               409   409  409  409    409     409
POST    /provision/status               409   409  409  409    409     409
POST    /provision/leave                409   409  409  409    409     409
GET     /provision/images/IMAGE         409   409  409  409    409     409
"""
#: Open to whoever has a provisioning token, which is none of these: tests/contract/
#: test_provision_routes.py holds who may do what with it. This daemon's platform is local: it has
#: nothing to join.
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")
HEADER, *LINES = [line.split() for line in MATRIX.strip().splitlines()]
COLUMNS = HEADER[2:]
EXPECTED = {
    (method, path): dict(zip(COLUMNS, map(int, statuses), strict=True))
    for method, path, *statuses in LINES
}
NOT_THERE = [
    "/page",
    "/page/a/b.js",
    "/api",
    "/api/jobs/JOB/more",
    "/api/job",
    "/provision",
    "/provision/x",
    "/api//jobs",
    "/x",
]


def ask(world: World, method: str, path: str, token: str | None) -> tuple[int, bytes]:
    request = urllib.request.Request(world.daemon.url + path, method=method)
    if token is not None:
        request.add_header("Authorization", f"Bearer {token}")
    try:
        with urllib.request.urlopen(request, timeout=30) as response:
            return response.status, response.read()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read()


def filled(world: World, path: str, spare: str = "") -> str:
    path = path.replace("JOB", world.ended).replace("LIVE", world.running)
    return path.replace("SPARE", spare)


def _sample(path: str) -> str:
    path = path.replace("{name...}", "note.txt").replace("{name}", "app.js")
    return path.replace("{image_id}", "IMAGE")


def test_every_route_has_its_line() -> None:
    names = r"/api/jobs/(JOB|LIVE|SPARE)"
    lines = {
        (method, re.sub(names, "/api/jobs/{job_id}", path.partition("?")[0]))
        for method, path in EXPECTED
    }
    routes = {(each.method, _sample(each.path)) for each in ROUTES}
    assert lines == routes, "say in MATRIX who may do what there"


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize(("method", "path"), [key for key in EXPECTED if "SPARE" not in key[1]])
def test_the_full_product(world: World, method: str, path: str, column: str) -> None:
    status, body = ask(world, method, filled(world, path), world.tokens[column])
    assert status == EXPECTED[method, path][column], body
    if status in (401, 403, 404):
        assert b"of ann's" not in body
        told = json.loads(body)
        assert told["status"] == status and (told["hint"] or status == 404)


@pytest.mark.parametrize("column", COLUMNS)
def test_what_may_delete_a_job(world: World, column: str) -> None:
    expected = EXPECTED["DELETE", "/api/jobs/SPARE"][column]
    # Who may takes one that nobody else is to find.
    spare = world.spare.pop() if expected == 200 else world.ended
    status, body = ask(world, "DELETE", f"/api/jobs/{spare}", world.tokens[column])
    assert status == expected, body
    still, _ = ask(world, "GET", f"/api/jobs/{spare}", world.tokens["ann"])
    assert still == (404 if expected == 200 else 200)


@pytest.mark.parametrize("column", COLUMNS)
def test_other_methods(world: World, column: str) -> None:
    """HEAD is as GET; any other is told as not offered to who may do something there, to nobody
    else."""
    offered: dict[str, dict[str, dict[str, int]]] = {}
    for (method, path), row in EXPECTED.items():
        path = re.sub("LIVE|SPARE", "JOB", path.partition("?")[0])
        offered.setdefault(path, {})[method] = row
    for path, rows in offered.items():
        may = {row[column] for row in rows.values()} - {401, 403} != set()
        for method in set(METHODS) - set(rows):
            status, _ = ask(world, method, filled(world, path), world.tokens[column])
            if method == "HEAD" and "GET" in rows:
                assert status == rows["GET"][column], (method, path)
            elif may:
                assert status == 405, (method, path)
            else:
                assert status == (401 if column == "none" else 403), (method, path)


@pytest.mark.parametrize("path", NOT_THERE)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_what_is_not_there_tells_nothing_to_nobody(world: World, method: str, path: str) -> None:
    target = filled(world, path)
    assert ask(world, method, target, None)[0] == 401
    assert ask(world, method, target, "guessed-token-guessed")[0] == 401
    assert ask(world, method, target, world.tokens["admin"])[0] == 404


@pytest.mark.parametrize("token", ["", "x", "ann", "guessed-token-guessed", "a" * 5000, "ÿ"])
def test_a_token_that_nobody_has(world: World, token: str) -> None:
    for method, path in EXPECTED:
        if path == "/" or path.startswith(("/health", "/page/", "/provision/")):
            continue
        status, _ = ask(world, method, filled(world, path, world.ended), token)
        assert status == 401, (method, path)


@pytest.mark.parametrize(
    "header",
    ["{}", "Basic {}", "bearer", "Bearer", "Bearer {} x", "Bearer x {}", "Token {}", "Bearer,{}"],
)
def test_a_header_that_is_no_bearer_token(world: World, header: str) -> None:
    request = urllib.request.Request(world.daemon.url + "/api/jobs")
    request.add_header("Authorization", header.format(world.tokens["ann"]))
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    with refused.value:
        assert refused.value.code == 401


def test_a_listing_shows_ones_own(world: World) -> None:
    seen: dict[str, Any] = {}
    for column in ("ann", "bob", "admin", "viewer"):
        seen[column] = json.loads(ask(world, "GET", "/api/jobs", world.tokens[column])[1])
    ids = {column: {job["job_id"] for job in jobs} for column, jobs in seen.items()}
    assert {world.ended, world.running} <= ids["ann"]
    assert ids["bob"] == set()
    assert ids["admin"] == ids["viewer"] == ids["ann"]


def test_a_foreign_job_and_none_look_the_same(world: World) -> None:
    """Also where somebody could ask for one by an id of its own."""
    for path in ("", "/results", "/logs", "/logs?follow=1", "/outputs", "/outputs/note.txt"):
        foreign = ask(world, "GET", f"/api/jobs/{world.ended}{path}", world.tokens["bob"])
        missing = ask(world, "GET", f"/api/jobs/job_0{path}", world.tokens["bob"])
        assert foreign[0] == missing[0] == 404
        assert foreign[1].replace(world.ended.encode(), b"job_0") == missing[1]


@pytest.mark.parametrize("column", ["none", *COLUMNS])
@pytest.mark.parametrize("path", ["/ws", "/agent"])
def test_a_websocket_is_no_way_round(world: World, path: str, column: str) -> None:
    """A plain request there is nothing; /agent opens for agents alone."""
    assert ask(world, "GET", path, world.tokens[column])[0] in (400, 404, 426)
    request = urllib.request.Request(world.daemon.url + path)
    headers = {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": "AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": "wamp.2.json" if path == "/ws" else "cumulus.agent.1",
    }
    if world.tokens[column] is not None:
        headers["Authorization"] = f"Bearer {world.tokens[column]}"
    status = upgrade(world, path, {**dict(request.header_items()), **headers})
    if path == "/ws":
        assert status == 101, "who it is is asked by WAMP"
    else:
        assert status == {"none": 401, "agent": 101}.get(column, 403)


def upgrade(world: World, path: str, headers: dict[str, str]) -> int:
    import http.client

    connection = http.client.HTTPConnection("127.0.0.1", world.daemon.port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        return connection.getresponse().status
    finally:
        connection.close()
