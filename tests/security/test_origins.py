"""Browsers' pages, asked with raw requests: whose may use the daemon, and under which names."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulusd.config import ConfigError, load_config
from cumulusd.origins import Origins
from tests.e2e.harness import Daemon
from tests.security.daemons import GuardedDaemon, bearer, raw, request, upgrade

FRIEND = "https://dash.example.org"
FOES = ("https://evil.example", "https://dash.example.org:444", "http://dash.example.org", "null")
MakeGuarded = Callable[..., GuardedDaemon]


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Daemon]:
    """Without tokens: everybody's on this machine."""
    daemon = Daemon(
        tmp_path_factory.mktemp("open"),
        extra=f"web: {{allowed_origins: ['{FRIEND}'], host_names: [gpu.lab]}}\n",
    )
    try:
        yield daemon.start()
    finally:
        daemon.stop()


def ask(daemon: Daemon, sent: bytes) -> tuple[int, dict[str, str], bytes]:
    return raw("127.0.0.1", daemon.port, sent)


def cancel(daemon: Daemon, **headers: str) -> int:
    """What is answered to a change of a job that isn't there: 404 where it was let in."""
    return ask(daemon, request("POST", "/api/jobs/job_0/cancel", **headers))[0]


def test_changes_by_pages(opened: Daemon) -> None:
    here = f"127.0.0.1:{opened.port}"
    assert cancel(opened, host=here) == 404, "a program, no page"
    assert cancel(opened, host=here, origin=f"http://{here}") == 404, "its own page"
    assert cancel(opened, host=here, origin=FRIEND) == 404
    for foe in (*FOES, f"http://127.0.0.1:{opened.port + 1}", f"http://localhost:{opened.port}"):
        assert cancel(opened, host=here, origin=foe) == 403, foe
    for method, path, body in (
        ("DELETE", "/api/jobs/job_0", b""),
        ("POST", "/api/jobs", b'{"code_base64": ""}'),
        ("POST", "/provision/enroll", b"{}"),
        ("OPTIONS", "/api/jobs", b""),
    ):
        sent = request(
            method, path, body, host=here, origin=FOES[0], content_type="application/json"
        )
        status, headers, said = ask(opened, sent)
        assert status == 403 and b"web.allowed_origins" in said, (method, path, status)
        assert "access-control-allow-origin" not in headers
    # A body that is refused by its origin is not read: the answer is there before it.
    started = request("POST", "/api/jobs", host=here, origin=FOES[0], expect="100-continue")
    started = started.replace(b"Content-Length: 0", b"Content-Length: 1000000")
    assert ask(opened, started)[0] == 403


def test_who_may_read_answers(opened: Daemon) -> None:
    here = f"127.0.0.1:{opened.port}"
    status, headers, _ = ask(opened, request("GET", "/api/info", host=here, origin=FRIEND))
    assert (status, headers["access-control-allow-origin"]) == (200, FRIEND)
    assert headers["vary"] == "Origin"
    for origin in FOES:
        _, headers, _ = ask(opened, request("GET", "/api/info", host=here, origin=origin))
        assert not [name for name in headers if name.startswith("access-control")], origin
    # Refusals are readable to a friend, too.
    sent = request("POST", "/api/jobs", b"x", host=here, origin=FRIEND, content_type="text/x")
    status, headers, said = ask(opened, sent)
    assert status == 400 and headers["access-control-allow-origin"] == FRIEND, said


def test_preflights(opened: Daemon) -> None:
    here = f"127.0.0.1:{opened.port}"
    wish = {"host": here, "access_control_request_method": "POST"}
    status, headers, _ = ask(opened, request("OPTIONS", "/api/jobs", origin=FRIEND, **wish))
    assert status == 204 and headers["access-control-allow-origin"] == FRIEND
    assert "POST" in headers["access-control-allow-methods"]
    assert "Authorization" in headers["access-control-allow-headers"]
    assert "access-control-allow-credentials" not in headers
    for foe in FOES:
        status, headers, _ = ask(opened, request("OPTIONS", "/api/jobs", origin=foe, **wish))
        assert status == 403 and "access-control-allow-methods" not in headers, foe


def test_names_that_were_made_to_point_here(opened: Daemon) -> None:
    for host in (
        f"127.0.0.1:{opened.port}",
        "localhost",
        "LOCALHOST:1",
        "[::1]:5",
        "gpu.lab:50051",
    ):
        for path in ("/health", "/api/jobs", "/metrics"):
            assert ask(opened, request("GET", path, host=host))[0] == 200, (host, path)
    assert ask(opened, request("GET", "/api/jobs"))[0] == 200, "no browser leaves Host out"
    for host in (
        "evil.example",
        f"evil.example:{opened.port}",
        "localhost.evil.example",
        "a b",
        "[",
    ):
        for path in ("/api/jobs", "/metrics", "/health", "/nothing"):
            status, _, said = ask(opened, request("GET", path, host=host))
            assert status == 403 and b"web.host_names" in said, (host, path, status)
        # The page whose name it is would be of the same origin.
        assert cancel(opened, host=host, origin=f"http://{host}") == 403
        assert ask(opened, upgrade(host=host, origin=f"http://{host}"))[0] == 403
        assert ask(opened, upgrade(host=host))[0] == 403


def test_two_names_at_once(opened: Daemon) -> None:
    sent = request("GET", "/api/jobs", host="localhost")
    for double in (
        b"Host: evil.example\r\nHost: localhost",
        b"Host: localhost\r\nHost: evil.example",
    ):
        status, _, _ = ask(opened, sent.replace(b"host: localhost", double))
        assert status in (400, 403)


def test_websockets(opened: Daemon) -> None:
    here = f"localhost:{opened.port}"
    assert ask(opened, upgrade(host=here))[0] == 101
    assert ask(opened, upgrade(host=here, origin=f"http://{here}"))[0] == 101
    assert ask(opened, upgrade(host=here, origin=FRIEND))[0] == 101
    for foe in FOES:
        # Autobahn's own word for `null` is 400.
        assert ask(opened, upgrade(host=here, origin=foe))[0] in (400, 403), foe
    for origin in (f"http://{here}", FRIEND, FOES[0]):
        assert ask(opened, upgrade("/agent", host=here, origin=origin))[0] == 403


def test_with_tokens_any_name_is_good(make_guarded: MakeGuarded) -> None:
    daemon = make_guarded().start()
    told = {"host": "gpu.example.org", "authorization": bearer("client")}
    assert ask(daemon, request("GET", "/api/jobs", **told))[0] == 200
    assert cancel(daemon, **told) == 404
    assert cancel(daemon, origin="http://gpu.example.org", **told) == 404
    assert cancel(daemon, origin="http://gpu.example.org:8080", **told) == 403, "another port"
    assert cancel(daemon, origin="null", **told) == 403
    assert ask(daemon, upgrade(host="gpu.example.org", origin="http://gpu.example.org"))[0] == 101
    assert ask(daemon, upgrade(host="gpu.example.org", origin="http://evil"))[0] == 403


def test_a_plain_token_from_outside(make_guarded: MakeGuarded, outside: str) -> None:
    daemon = make_guarded(f"tcp:{{port}}:interface={outside}").start()
    host = f"{outside}:{daemon.second_port}"
    for role in ("client", "admin"):
        for method, path in (("GET", "/api/jobs"), ("POST", "/api/jobs"), ("GET", "/metrics")):
            sent = request(method, path, host=host, authorization=bearer(role))
            status, _, said = raw(outside, daemon.second_port, sent)
            assert status == 401 and b"allow_plain_tokens" in said, (role, path, status)
    # Who brought none isn't asked to send one where others read it.
    _, _, said = raw(outside, daemon.second_port, request("GET", "/api/jobs", host=host))
    assert b"A token is needed" in said and b"allow_plain_tokens" in said and b"Bearer" not in said
    agent = upgrade("/agent", host=host, authorization=bearer("client"))
    assert raw(outside, daemon.second_port, agent)[0] == 401
    assert raw(outside, daemon.second_port, request("GET", "/health", host=host))[0] == 200
    local = request("GET", "/api/jobs", host=host, authorization=bearer("client"))
    assert ask(daemon, local)[0] == 200, "loopback is this machine's"
    log = daemon.log_text()
    assert "tokens that come from them are refused" in log, "warned of at the start"
    assert bearer("client").split()[1] not in log and bearer("admin").split()[1] not in log


@pytest.mark.parametrize(
    ("section", "word"),
    [
        ("allowed_origins: ['null']", "null"),
        ("allowed_origins: ['*']", "origin"),
        ("allowed_origins: ['https://a.example/path']", "more than scheme"),
        ("allowed_origins: ['file:///x']", "origin"),
        ("host_names: ['http://a']", "host name"),
        ("host_names: ['a:80']", "host name"),
    ],
)
def test_a_wrong_configuration(tmp_path: Path, section: str, word: str) -> None:
    path = tmp_path / "cumulusd.yaml"
    path.write_text(f"web:\n  {section}\n")
    with pytest.raises(ConfigError, match=word):
        load_config(path, {})


def test_the_rule_for_what_is_no_header_of_a_browser() -> None:
    origins = Origins(is_open=lambda: False)
    for junk in (
        "",
        "http://",
        "http://a:x",
        "javascript:x",
        "http://a@b",
        "\x00",
        "http://[",
        "*",
    ):
        assert origins.refuses("POST", junk, ["b"]) is not None, junk
        assert not origins.is_allowed(junk)
    assert origins.refuses("GET", "http://evil", ["b"]) is None, "the browser keeps the answer"
