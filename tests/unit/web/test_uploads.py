"""Jobs posted over real sockets: to disk as they come, bounded, refused at once, nothing left."""

import base64
import hashlib
import json
import os
from typing import Any

import pytest
import pytest_twisted
import requests
from site_kit import TOKEN, Raw, Server, server
from twisted.internet import endpoints, reactor, task
from twisted.internet.defer import Deferred

from cumulusd.errors import TooMany, Unavailable
from cumulusd.web import bodies, rest

__all__ = ["server"]

CODE = os.urandom(3 << 20)
FORM = "Content-Type: multipart/form-data; boundary=b"
SHA = hashlib.sha256(CODE).hexdigest()


def posted(code: bytes | None, **fields: Any) -> requests.PreparedRequest:
    """The request, made by a library that clients use."""
    files = None if code is None else {"code": ("code.zip", code, "application/zip")}
    request = requests.Request("POST", "http://x/api/jobs", data=fields, files=files)
    return request.prepare()


def as_bytes(
    request: requests.PreparedRequest, *, chunk_bytes: int = 0, token: str = TOKEN
) -> bytes:
    body = request.body
    assert isinstance(body, bytes)
    head = ["POST /api/jobs HTTP/1.1", "Host: x", "Connection: close", token]
    head.append(f"Content-Type: {request.headers['Content-Type']}")
    if not chunk_bytes:
        head.append(f"Content-Length: {len(body)}")
    else:
        head.append("Transfer-Encoding: chunked")
        parts = [body[at : at + chunk_bytes] for at in range(0, len(body), chunk_bytes)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    return "\r\n".join([line for line in head if line] + ["", ""]).encode() + body


def answered(received: bytes) -> tuple[int, Any]:
    top, _, rest = received.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(rest)


@pytest.mark.parametrize("chunk_bytes", [0, 1000, 100_000])
@pytest_twisted.ensureDeferred
async def test_an_old_clients_job_is_taken(server: Server, chunk_bytes: int) -> None:
    request = posted(CODE, job_id="mine", gpu_memory=0.25, duration=60)
    status, body = answered(await server.raw(as_bytes(request, chunk_bytes=chunk_bytes)))
    assert (status, body) == (
        200,
        {"job_id": "mine", "status": "pending", "message": "Job submitted: waits"},
    )
    (upload,) = server.jobs.uploads
    assert bytes(upload.data) == CODE and upload.committed
    spec = {
        "gpu_memory": 0.25,
        "duration_s": 60.0,
        "package": {"sha256": SHA, "size_bytes": len(CODE)},
    }
    assert server.jobs.submitted == [(spec, "mine", [])]


@pytest_twisted.ensureDeferred
async def test_a_job_as_json(server: Server) -> None:
    code = b"PK small"
    value = {"code": base64.b64encode(code).decode(), "duration": 5, "job_id": "mine"}
    body = json.dumps(value).encode()
    line = "POST /api/jobs"
    status, _, answer = await server.ask(
        line, TOKEN, "Content-Type: application/json", f"Content-Length: {len(body)}", body=body
    )
    assert (status, json.loads(answer)["job_id"]) == (200, "mine")
    assert bytes(server.jobs.uploads[0].data) == code
    (spec, _, faults) = server.jobs.submitted[0]
    assert spec["package"]["sha256"] == hashlib.sha256(code).hexdigest() and not faults
    for wrong, key in (
        (b'{"code": "!!"}', "code"),
        (b'{"code": "eA==", "package": {}}', "code"),
        (b"[]", None),
        (b"{", None),
        (b"[" * 100_000, None),
    ):
        status, _, answer = await server.ask(
            line, TOKEN, "Content-Type: application/json", f"Content-Length: {len(wrong)}",
            body=wrong,
        )  # fmt: skip
        faults = json.loads(answer)["details"].get("faults", [])
        assert status == 400 and [fault["key"] for fault in faults] == ([key] if key else [])


@pytest_twisted.ensureDeferred
async def test_a_form_without_code_is_told_with_its_other_faults(server: Server) -> None:
    request = requests.Request(
        "POST", "http://x/api/jobs", files={"gpu_memory": (None, "much"), "colour": (None, "red")}
    ).prepare()
    status, body = answered(await server.raw(as_bytes(request)))
    keys = [fault["key"] for fault in body["details"]["faults"]]
    assert status == 400 and keys == ["colour", "gpu_memory", "code"]
    assert server.jobs.uploads[0].discarded and not server.jobs.uploads[0].committed


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (["Content-Length: 5000000000", FORM], 401),
        (
            [TOKEN, "Content-Length: 500000000", FORM],
            413,
        ),
        ([TOKEN, "Content-Length: 50000000", "Content-Type: application/json"], 413),
        ([TOKEN, "Content-Length: 50", "Content-Type: text/plain"], 400),
        ([TOKEN, "Content-Length: 50"], 400),
        ([TOKEN, "Content-Length: 50", "Content-Type: multipart/form-data"], 400),
        (["Authorization: Bearer viewer", "Content-Length: 50"], 403),
        (["Authorization: Bearer agent", "Content-Length: 50"], 403),
        ([TOKEN, "Transfer-Encoding: chunked", "Content-Type: text/plain"], 400),
    ],
)
@pytest_twisted.ensureDeferred
async def test_what_the_headers_give_away_is_refused_before_a_byte(
    server: Server, head: list[str], status: int
) -> None:
    assert (await server.ask("POST /api/jobs", *head))[0] == status
    assert server.jobs.uploads == []


@pytest_twisted.ensureDeferred
async def test_what_the_daemon_cant_take_is_refused_before_a_byte(server: Server) -> None:
    head = ["Content-Length: 5000", FORM]
    for error in (TooMany("the queue is full"), Unavailable("the disk is full")):
        server.jobs.refusal = error
        status, _, body = await server.ask("POST /api/jobs", TOKEN, *head)
        assert (status, json.loads(body)["code"]) == (error.status, error.code.value)


@pytest_twisted.ensureDeferred
async def test_who_is_refused_while_it_sends_still_gets_the_answer(server: Server) -> None:
    """It sends all of its body before it looks."""
    status, body = answered(await server.raw(as_bytes(posted(CODE * 4, job_id="x"), token="")))
    assert (status, body["code"]) == (401, "not_authenticated")
    assert server.jobs.uploads == []
    server.jobs.package_max_bytes = 1 << 20
    request = as_bytes(posted(CODE * 4, job_id="x"), chunk_bytes=50_000)
    status, body = answered(await server.raw(request))
    assert (status, body["code"]) == (413, "too_large")
    assert server.jobs.uploads[0].discarded


@pytest_twisted.ensureDeferred
async def test_a_malformed_form_is_refused_at_once(server: Server) -> None:
    head = ["Content-Length: 9000000", FORM]
    status, _, body = await server.ask("POST /api/jobs", TOKEN, *head, body=b"--b\r\nno header\r\n")
    assert status == 400 and "malformed" in json.loads(body)["message"]
    assert server.jobs.uploads[0].discarded


@pytest_twisted.ensureDeferred
async def test_what_follows_a_posted_job_is_answered_too(server: Server) -> None:
    first = as_bytes(posted(b"PK", job_id="x")).replace(b"Connection: close\r\n", b"")
    second = f"GET /api/info HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{TOKEN}\r\n\r\n"
    received = await server.raw(first + second.encode())
    assert received.count(b"HTTP/1.1 200") == 2


async def connected(server: Server) -> Any:
    client = endpoints.TCP4ClientEndpoint(reactor, "127.0.0.1", server.port.getHost().port)
    return await endpoints.connectProtocol(client, Raw())


async def until(fact: Any) -> None:
    for _ in range(2000):
        if fact():
            return
        await task.deferLater(reactor, 0.005, lambda: None)
    raise AssertionError("it never came")


@pytest_twisted.ensureDeferred
async def test_an_aborted_upload_leaves_nothing(server: Server) -> None:
    peer = await connected(server)
    peer.transport.write(as_bytes(posted(CODE, job_id="x"))[: 2 << 20])
    await until(lambda: server.jobs.uploads and server.jobs.uploads[0].data)
    peer.transport.abortConnection()
    await peer.closed
    await until(lambda: server.jobs.uploads[0].discarded)
    assert server.jobs.submitted == []


@pytest_twisted.ensureDeferred
async def test_the_sender_waits_while_the_disk_does(server: Server) -> None:
    gates: list[Deferred[None]] = []

    async def disk() -> None:
        gates.append(Deferred())
        await gates[-1]

    server.jobs.package_max_bytes = 1 << 30
    server.jobs.disk = disk
    peer = await connected(server)
    sent = as_bytes(posted(CODE * 10, job_id="x"))
    peer.transport.write(sent)
    await until(lambda: gates)
    for _ in range(50):
        await task.deferLater(reactor, 0.005, lambda: None)
    assert len(peer.transport.dataBuffer) + len(b"".join(peer.transport._tempDataBuffer)) > 0, (
        "what the sockets don't hold is still with the sender"
    )
    server.jobs.disk = None
    gates[0].callback(None)
    await peer.closed
    assert answered(peer.received)[0] == 200
    assert len(server.jobs.uploads[0].data) == len(CODE) * 10


@pytest_twisted.ensureDeferred
async def test_a_disk_that_refuses_ends_the_upload_at_once(server: Server) -> None:
    async def disk() -> None:
        raise Unavailable("the disk is full")

    server.jobs.disk = disk
    peer = await connected(server)
    peer.transport.write(as_bytes(posted(CODE, job_id="x"))[: 2 << 20])
    await peer.closed  # the rest was never sent
    status, body = answered(peer.received)
    assert (status, body["message"]) == (503, "the disk is full")
    assert server.jobs.uploads[0].discarded


@pytest_twisted.ensureDeferred
async def test_a_bug_while_storing_is_told_by_its_log_id_only(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    from twisted.logger import capturedLogs

    async def disk() -> None:
        raise ZeroDivisionError("secret")

    server.jobs.disk = disk
    with capturedLogs() as logged:
        received = await server.raw(as_bytes(posted(CODE, job_id="x")))
    status, body = answered(received)
    assert status == 500 and "secret" not in received.decode()
    assert any(event.get("log_id") == body["details"]["log_id"] for event in logged)


@pytest.mark.parametrize("is_json", [False, True])
@pytest_twisted.ensureDeferred
async def test_a_dripping_upload_is_ended(
    server: Server, monkeypatch: pytest.MonkeyPatch, is_json: bool
) -> None:
    monkeypatch.setattr(bodies, "GRACE_S", 0.1)
    monkeypatch.setattr(bodies, "_LOOK_S", 0.2)
    peer = await connected(server)
    if is_json:
        head = ["POST /api/jobs HTTP/1.1", "Host: x", TOKEN, "Content-Type: application/json"]
        peer.transport.write("\r\n".join([*head, "Content-Length: 1000", "", "{"]).encode())
    else:
        peer.transport.write(as_bytes(posted(CODE, job_id="x"))[:500])
    await peer.closed
    status, body = answered(peer.received)
    assert status == 408 and "500" not in body["code"]
    assert all(upload.discarded for upload in server.jobs.uploads)


@pytest.mark.parametrize(
    "before",
    [
        b'--b\r\nContent-Disposition: form-data; name="unknown"\r\n\r\n',
        b'--b\r\nContent-Disposition: form-data; name="job_id"\r\n\r\nx\r\n--b--\r\n',
    ],
    ids=["a field that is dropped", "behind its end"],
)
@pytest_twisted.ensureDeferred
async def test_what_a_form_says_in_vain_is_bounded_too(server: Server, before: bytes) -> None:
    server.jobs.package_max_bytes = 1 << 20
    body = before + bytes(6 << 20)
    head = ["POST /api/jobs HTTP/1.1", "Host: x", TOKEN, FORM, "Transfer-Encoding: chunked"]
    peer = await connected(server)
    peer.transport.write("\r\n".join([*head, "", ""]).encode())
    peer.transport.write(b"%x\r\n%s\r\n" % (len(body), body))  # and never its end
    await peer.closed
    assert answered(peer.received)[0] == 413
    assert server.jobs.uploads[0].discarded


@pytest_twisted.ensureDeferred
async def test_an_upload_that_stops_is_ended(server: Server) -> None:
    server.site.timeOut = 0.3  # as of those that connect from here on
    peer = await connected(server)
    peer.transport.write(as_bytes(posted(CODE, job_id="x"))[: 1 << 20])
    await peer.closed
    assert server.jobs.uploads[0].discarded and server.jobs.submitted == []


@pytest_twisted.ensureDeferred
async def test_how_many_upload_at_a_time_is_bounded(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rest, "MAX_UPLOADS", 1)
    peer = await connected(server)
    peer.transport.write(as_bytes(posted(CODE, job_id="x"))[:5000])
    await until(lambda: server.jobs.uploads)
    assert answered(await server.raw(as_bytes(posted(b"PK", job_id="y"))))[0] == 429
    peer.transport.abortConnection()
    await peer.closed
    await until(lambda: server.jobs.uploads[0].discarded)
    assert answered(await server.raw(as_bytes(posted(b"PK", job_id="y"))))[0] == 200


@pytest_twisted.ensureDeferred
async def test_expect_continue_is_invited_when_it_is_taken(server: Server) -> None:
    request = as_bytes(posted(b"PK", job_id="y")).replace(
        b"Host: x\r\n", b"Host: x\r\nExpect: 100-continue\r\n"
    )
    received = await server.raw(request)
    assert received.startswith(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 ")
