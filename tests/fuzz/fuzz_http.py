"""HTTP: its parts in this process, and requests to the daemon, whole, odd and damaged."""

import contextlib
import json
import random
from collections.abc import Sequence
from typing import Any
from urllib.parse import parse_qs

from hypothesis import strategies as st

from cumulusd.errors import CumulusError
from cumulusd.identity import Authenticator, Principal, Role, hash_token
from cumulusd.origins import Origins
from cumulusd.spec import SpecLimits, parse_spec
from cumulusd.web.asked import Asked, Head
from cumulusd.web.job_forms import FIELDS, FILE_FIELD, of_form, of_json
from cumulusd.web.multipart import Form, boundary_of
from cumulusd.web.routes import Routes
from tests.fuzz.fuzz_engine import Kind, Tally, Target
from tests.fuzz.fuzz_inputs import Source
from tests.fuzz.fuzz_stage import Stage
from tests.fuzz.fuzz_values import json_text
from tests.fuzz.fuzz_wire import HttpBatch

_METHODS = (
    "GET",
    "GET",
    "GET",
    "HEAD",
    "POST",
    "POST",
    "DELETE",
    "PUT",
    "OPTIONS",
    "get",
    "X",
    "PRI",
)
_JOB_IDS = ("job_1", "x", "..", "%2e%2e", "a" * 513, "%00", "%ff", "é", "%E2%80%AE", "{job_id}")
_PATHS = (
    *("/health", "/health/live", "/metrics", "/api/info", "/api/workers", "/api/jobs", "/", "//"),
    "/metrics/workers",
    *("/api/jobs/{}", "/api/jobs/{}/logs", "/api/jobs/{}/results", "/api/jobs/{}/outputs"),
    *("/api/jobs/{}/outputs/a/b", "/api/jobs/{}/outputs/..%2f..%2fetc", "/api/jobs/{}/checkpoints"),
    *("/api/jobs/{}/cancel", "/api/jobs/{}/pause", "/api/jobs/{}/resume", "/ws", "/agent"),
    *("/provision/enroll", "/api/jobs/", "*", "http://localhost/health", "/api//jobs", "/%"),
)
_QUERIES = (
    *("", "", "", "?active=1", "?limit=0", "?limit=5&limit=6", "?limit=99999999999999999999"),
    *("?follow=1", "?follow=1&from_offset=-1", "?from_offset=%31", "?follow=yes", "?x=1"),
    *("?active", "?&&;;", "?%ff=%ff", "?active=1#x", "?" + "a=1&" * 300, "?follow=\u0661"),
)
_TYPES = (
    *("application/json", "multipart/form-data; boundary=B", "multipart/form-data", "text/plain"),
    *('multipart/form-data; boundary=""', "multipart/form-data; boundary=" + "b" * 300),
    *('multipart/form-data; boundary="\\"', "application/json; charset=\xff", "", ";;;"),
    *("multipart/form-data; boundary=\xe9", "multipart/form-data; boundary*=utf-8''%0a"),
)
_HEADERS = (
    *("Range: bytes=0-3", "Range: bytes=-0", "Range: bytes=5-1,1-5", "Range: x", "Accept: */*"),
    *("Accept: text/event-stream", "Last-Event-ID: 0", "Last-Event-ID: 99999999999999999999"),
    *(
        "Last-Event-ID: \u0661",
        "Expect: 100-continue",
        "Expect: x",
        "Connection: close",
        "X: " + "y" * 5000,
    ),
    *("Connection: keep-alive, Upgrade", "Upgrade: h2c", "If-None-Match: *", "Cookie: a=b; a=c"),
    *(
        "Content-Encoding: gzip",
        "TE: trailers",
        "Host: [",
        "X-Forwarded-For: 1.1.1.1",
        "A : b",
        " b: c",
    ),
    *("Origin: null", "Origin: http://localhost", "Access-Control-Request-Method: GET"),
    *("Transfer-Encoding: identity", "Transfer-Encoding: gzip, chunked", "Content-Length: +5"),
    *("Content-Length: 5, 5", "Content-Length: -1", "Content-Length: 99999999999999999999"),
)
_PARTS = st.sampled_from(
    (
        b'--B\r\nContent-Disposition: form-data; name="gpu_memory"\r\n\r\n-1\r\n',
        b'--B\r\nContent-Disposition: form-data; name="duration"\r\n\r\n1e999\r\n',
        b'--B\r\nContent-Disposition: form-data; name="code"; filename="c.zip"\r\n\r\nPK\5\6\r\n',
        b'--B\r\nContent-Disposition: form-data; name="requirements"\r\n\r\n[[[[1]]]]\r\n',
        b'--B\r\nContent-Disposition: form-data; name="secrets"\r\n\r\n{"A":"\xff"}\r\n',
        b'--B\r\nContent-Disposition: form-data; name="environment"\r\n\r\n{"A":5}\r\n',
        b'--B\r\nContent-Disposition: form-data; name="x"; name="code"\r\n\r\nx\r\n',
        b"--B\r\nContent-Disposition: form-data\r\nX: y\r\n\r\n\r\n",
        b"--B\r\nX\r\n\r\n\r\n",
        b"--B\r\n" + b"A: b\r\n" * 200 + b"\r\n",
        b"--B--\r\n",
        b"--B--",
        b"\r\n--B--\r\nepilogue",
        b"preamble\r\n",
    )
)
_WORDS = (*sorted(FIELDS), FILE_FIELD, "package", "sha256", "size_bytes")
_FORMS = st.lists(_PARTS, max_size=6).map(b"".join)
_BODIES = _FORMS | json_text(_WORDS) | st.binary(max_size=40)
_FRAMINGS = st.sampled_from(
    ("length", "length", "length", "chunked", "short", "long", "both", "odd")
)


def _request(
    method: str, path: str, job_id: str, query: str, headers: list[str], kind: str,
    framing: str, body: bytes,
) -> bytes:  # fmt: skip
    lines = [f"{method} {path.replace('{}', job_id)}{query} HTTP/1.1", "Host: localhost"]
    lines += ["Authorization: Bearer {TOKEN}", *headers]
    if kind:
        lines.append(f"Content-Type: {kind}")
    sent = body
    if framing in ("chunked", "both", "odd"):
        lines.append("Transfer-Encoding: chunked")
        size = b"%x;a=b" % len(body) if framing != "odd" else b"0x%x" % len(body)
        sent = (size + b"\r\n" + body + b"\r\n" if body else b"") + b"0\r\nX: trailer\r\n\r\n"
    if framing in ("length", "both", "short", "long"):
        length = len(body) + {"short": -1, "long": 3}.get(framing, 0)
        lines.append(f"Content-Length: {max(0, length)}")
    return "\r\n".join((*lines, "", "")).encode("utf-8", "surrogatepass") + sent


_REQUESTS = st.builds(
    _request,
    st.sampled_from(_METHODS),
    st.sampled_from(_PATHS),
    st.sampled_from(_JOB_IDS),
    st.sampled_from(_QUERIES),
    st.lists(st.sampled_from(_HEADERS), max_size=3),
    st.sampled_from(_TYPES),
    _FRAMINGS,
    _BODIES,
)
_WHOLE = st.builds(
    _request,
    st.sampled_from(("GET", "HEAD", "POST", "DELETE")),
    st.sampled_from(_PATHS[:14]),
    st.sampled_from(_JOB_IDS[:3]),
    st.sampled_from(_QUERIES),
    st.lists(st.sampled_from(_HEADERS[:8]), max_size=2),
    st.just(""),
    st.just("length"),
    st.just(b"") | st.just(b"{}"),
)
_ROLES = ("client", "admin", "viewer", "agent", "")


class Forms(Target):
    """Multipart forms in pieces, and the jobs that forms and JSON make."""

    batch = 400

    def make(self, source: Source, count: int) -> list[bytes]:
        return source.mixed(_BODIES, ("forms", "http"), count)

    def run(self, data: bytes) -> Tally:
        rng = random.Random(data)
        refused = 0
        form = Form("B", FILE_FIELD, FIELDS)
        try:
            at = 0
            while at < len(data):
                size = rng.choice((1, 3, 64, 5000))
                for _ in form.feed(data[at : at + size]):
                    pass
                at += size
            form.end()
            _judged(of_form(form.fields, form.faults).spec)
        except CumulusError:
            refused = 1
        with contextlib.suppress(ValueError, RecursionError):
            value = json.loads(data)
            if isinstance(value, dict):
                try:
                    _judged(of_json(value).spec)
                except CumulusError:
                    refused = 1
        return Tally(1, refused)


class Heads(Target):
    """Paths, queries and header values, one a line."""

    batch = 400

    def make(self, source: Source, count: int) -> list[bytes]:
        text = st.one_of(*(st.sampled_from(each) for each in (_PATHS, _QUERIES, _TYPES, _HEADERS)))
        lines = st.lists(text, max_size=5).map(
            lambda found: "\n".join(found).encode("utf-8", "surrogatepass")
        )
        return source.mixed(lines, ("heads", "http", "handshakes"), count)

    def run(self, data: bytes) -> Tally:
        refused = 0
        routes = Routes()
        for line in data.decode("utf-8", "replace").splitlines()[:20]:
            value = line.partition(": ")[2] or line
            _AUTHENTICATOR.authenticate_header(value)
            for origins in _ORIGINS:
                refused |= origins.refuses("POST", value, [value, line]) is not None
                origins.may_use(value, value.removeprefix("http://"))
            routes.find(value)
            try:
                boundary_of(value)
                _ask(value)
            except CumulusError:
                refused = 1
        return Tally(1, refused)


class Wired(Target):
    """Requests to the daemon by every role; one a connection, or several whole ones in a row."""

    on_wire = True
    batch = 96
    weight = 4.0

    def __init__(self, name: str, stage: Stage, pipelined: bool) -> None:
        super().__init__(name)
        self._stage = stage
        self._pipelined = pipelined

    def make(self, source: Source, count: int) -> list[bytes]:
        if self._pipelined:
            return source.draw(_WHOLE, count)
        return source.mixed(_REQUESTS, ("http", "handshakes"), count)

    def run_batch(self, batch: Sequence[bytes]) -> Tally:
        requests = [self._with_token(data) for data in batch]
        at_once = 8 if self._pipelined else 1
        connections = [requests[at : at + at_once] for at in range(0, len(requests), at_once)]
        return HttpBatch(self._stage).run(connections)

    def run(self, data: bytes) -> Tally:
        return self.run_batch([data])

    def _with_token(self, data: bytes) -> bytes:
        role = _ROLES[sum(data) % len(_ROLES)]
        token = self._stage.token(role) if role else "none"
        return data.replace(b"{TOKEN}", token.encode())


def kind(share: float, stage: Stage | None) -> Kind:
    """All of it; without a stage what runs in this process."""
    targets: list[Target] = [Forms("forms"), Heads("heads")]
    if stage is not None:
        targets += [Wired("requests", stage, False), Wired("pipelined", stage, True)]
    return Kind(name="http_requests", share=share, targets=targets)


_WHO = Principal(name="ann", owner="ann", role=Role.CLIENT)
_AUTHENTICATOR = Authenticator([(hash_token("a token"), _WHO)])
_ORIGINS = (
    Origins(is_open=lambda: True, host_names=["cumulus.example"]),
    Origins(is_open=lambda: False, allowed=["https://page.example"]),
)
_SPEC_LIMITS = SpecLimits(
    max_duration_s=1e6, package_max_bytes=1 << 20, default_queue_timeout_s=None
)


def _judged(spec: dict[str, Any]) -> None:
    parse_spec({"package": {"sha256": "a" * 64, "size_bytes": 9}, **spec}, _SPEC_LIMITS)


def _ask(query: str) -> None:
    """As a route asks its query. Raises CumulusError."""
    read = parse_qs(query.partition("?")[2], keep_blank_values=True)
    head = Head(method="GET", path="/", query=read)
    known = ("active", "limit", "follow", "from_offset")
    asked = Asked(who=_WHO, head=head, parameters={}, known=known)
    asked.flag("active")
    asked.flag("follow")
    asked.number("limit", 1, 1000)
    asked.number("from_offset", 0, 1 << 62)
    asked.check_query()
