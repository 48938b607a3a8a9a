"""What `cumulusd doctor` makes of the advertised address, of Swarm's ports, of the firewall, and of
the running daemon's word."""

import contextlib
import os
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest

from cumulusd import __version__
from cumulusd.config import Config, load_config
from cumulusd.doctor import advertised, ports, running
from cumulusd.doctor.finding import Finding
from cumulusd.doctor.swarm_look import Look
from cumulusd.errors import NotAuthorized, NotFound, Unavailable
from cumulusd.swarm import labels
from cumulusd.swarm.answers import NodeInfo, SwarmInfo
from tests.security.authority import Authority

TOKEN = "ab" * 32


def config_of(folder: Path, url: str, listen: str = "tcp:1", ca: Path | None = None) -> Config:
    path = folder / "cumulusd.yaml"
    named = "" if ca is None else f"advertise_ca: {ca}, "
    path.write_text(
        f"listen: ['{listen}']\n"
        f"platform: {{type: swarm, swarm: {{{named}advertise_url: '{url}'}}}}\n"
        "jobs: {image: 'job:1'}\n"
        f"tokens: [{{name: a, owner: a, role: client, token_sha256: {TOKEN}}}]\n"
    )
    return load_config(path, {})


def examined(config: Config, is_running: bool | None = True) -> list[Finding]:
    swarm = config.platform.swarm
    assert swarm is not None
    return list(advertised.examine(config, swarm, is_running))


@pytest.fixture
def plain() -> Iterator[int]:
    """A port of this machine that is connected to, and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@contextlib.contextmanager
def speaking_tls(certificate: Path, key: Path) -> Iterator[int]:
    """A port on which one connection is greeted with that certificate."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60)

        def greet() -> None:
            peer, _ = server.accept()
            with peer, contextlib.suppress(OSError):
                context.wrap_socket(peer, server_side=True).close()

        greeter = threading.Thread(target=greet)
        greeter.start()
        try:
            yield server.getsockname()[1]
        finally:
            greeter.join(60)


def test_an_address_that_answers(tmp_path: Path, plain: int) -> None:
    loopback, answers = examined(config_of(tmp_path, f"ws://127.0.0.1:{plain}", f"tcp:{plain}"))
    assert loopback.verdict == "warning" and "don't reach it" in loopback.said
    assert answers.verdict == "ok" and "answers from this machine" in answers.said


def test_an_address_that_does_not_answer(tmp_path: Path, plain: int) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
        config = config_of(tmp_path, f"ws://127.0.0.1:{port}", f"tcp:{port}")
        assert examined(config)[-1].verdict == "warning"
        assert examined(config, None)[-1].verdict == "warning"
        assert examined(config, False)[-1].verdict == "not known"


def test_a_name_that_is_nobodys(tmp_path: Path) -> None:
    (found,) = examined(config_of(tmp_path, "ws://nowhere.invalid:50051"))
    assert found.verdict == "fault" and "nowhere.invalid" in found.said


@pytest.mark.parametrize(
    ("listen", "verdict", "words"),
    [
        ("tcp:2", "warning", "no listener has the port"),
        ("tcp:1:interface=127.0.0.1", "warning", "only loopback listens"),
        ("systemd:domain=INET:index=0", None, ""),
        ("tcp:1", None, ""),
    ],
)
def test_who_listens_there(tmp_path: Path, listen: str, verdict: str | None, words: str) -> None:
    found = examined(config_of(tmp_path, "ws://127.0.0.1:1", listen), False)[1:-1]
    assert [one.verdict for one in found] == ([] if verdict is None else [verdict])
    assert all(words in one.said for one in found)


def test_tls_must_be_on_both_sides(tmp_path: Path) -> None:
    _, found, _ = examined(config_of(tmp_path, "wss://127.0.0.1:1"), False)
    assert found.verdict == "fault" and "needs TLS" in found.said


def test_a_certificate_is_judged_as_agents_judge_it(tmp_path: Path) -> None:
    authority, other = Authority(tmp_path / "ca", "root"), Authority(tmp_path / "other", "other")
    certificate, key = authority.issue("daemon")
    for ca, verdict, words in (
        (authority.path, "ok", "that advertise_ca vouch for"),
        (other.path, "fault", "a certificate that agents refuse"),
    ):
        with speaking_tls(certificate, key) as port:
            config = config_of(tmp_path, f"wss://127.0.0.1:{port}", f"tcp:{port}", ca)
            found = examined(config)[-1]
        assert found.verdict == verdict and words in found.said, found


def node(hostname: str, **changes: Any) -> NodeInfo:
    whole = NodeInfo(
        node_id=f"id-{hostname}",
        hostname=hostname,
        state="ready",
        availability="active",
        role="worker",
        labels={labels.WORKER: "true"},
        version=1,
        message="",
        spec={},
        address="127.0.0.1",
    )
    return attrs.evolve(whole, **changes)


INFO = SwarmInfo(name="m", engine_version="1", is_manager=True, node_id="id-here", error="")


def test_swarms_ports(monkeypatch: pytest.MonkeyPatch, plain: int) -> None:
    monkeypatch.setattr(ports, "GOSSIP_PORT", plain)
    look = Look(name="x", info=INFO, nodes=[node("here"), node("other"), node("d", state="down")])
    answer, udp = ports.swarm_ports(look)
    assert answer.verdict == "ok" and "1 of 1 other node(s)" in answer.said
    assert udp.verdict == "not known" and "4789/udp" in udp.said
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        monkeypatch.setattr(ports, "GOSSIP_PORT", closed.getsockname()[1])
        answer, _ = ports.swarm_ports(look)
    assert answer.verdict == "warning" and "other (127.0.0.1:" in answer.said
    assert "refused" in answer.said
    assert list(ports.swarm_ports(Look(name="x", info=INFO, nodes=[node("here")]))) == []
    assert list(ports.swarm_ports(Look(name="x"))) == []


@pytest.mark.parametrize(
    ("code", "verdict"), [(0, "ok"), (1, "warning"), (2, "not known")], ids=["on", "off", "broken"]
)
@pytest.mark.skipif(os.geteuid() != 0, reason="only root may ask")
def test_the_firewall_of_this_machine(tmp_path: Path, code: int, verdict: str) -> None:
    script = tmp_path / "firewall.sh"
    script.write_text(f"#!/bin/sh\n[ $1 = status ] || exit 9\necho some words >&2\nexit {code}\n")
    script.chmod(0o755)
    look = Look(name="x", info=INFO, nodes=[node("here")])
    (found,) = ports.firewall(look, [tmp_path / "none.sh", script])
    assert found.verdict == verdict
    assert "some words" in found.said or code != 2


def test_the_firewall_of_others(tmp_path: Path) -> None:
    (others,) = ports.firewall(Look(name="x", info=INFO, nodes=[node("other")]), [])
    assert others.verdict == "not known" and others.advice is not None
    no_workers = Look(name="x", info=INFO, nodes=[node("here", labels={})])
    assert list(ports.firewall(no_workers, [])) == []


STATUS = {"version": __version__, "pid": 7, "parts": {"store": "ok"}, "open_files_limit": 9}


def of_daemon(tmp_path: Path, word: running.Running) -> list[Finding]:
    return list(running.examine(config_of(tmp_path, "ws://127.0.0.1:1"), word))


def test_a_daemon_and_its_parts(tmp_path: Path) -> None:
    (well,) = of_daemon(tmp_path, running.Running(is_there=True, status=STATUS))
    assert well.verdict == "ok" and "process 7" in well.said
    ill = {**STATUS, "version": "0.0.1", "parts": {"engine": "it is away", "store": "ok"}}
    old, part = of_daemon(tmp_path, running.Running(is_there=True, status=ill))
    assert old.verdict == "warning" and "0.0.1" in old.said
    assert part.verdict == "fault" and "its part engine isn't well: it is away" in part.said


@pytest.mark.parametrize(
    ("error", "verdict"),
    [
        (NotAuthorized("may not", hint="be root"), "not known"),
        (NotFound("nothing at /status"), "warning"),
        (Unavailable("no whole answer"), "fault"),
    ],
    ids=["rights", "older", "trouble"],
)
def test_a_daemon_that_gives_no_word(tmp_path: Path, error: Any, verdict: str) -> None:
    (found,) = of_daemon(tmp_path, running.Running(is_there=None, error=error))
    assert found.verdict == verdict


def worker(**changes: Any) -> dict[str, Any]:
    return {
        "node_id": "n",
        "hostname": "gpu",
        "agent": "present",
        "usable": True,
        "fault": None,
        "discovery_error": None,
        "disagreements": [],
        "devices": [{}],
        **changes,
    }


def test_the_pool_in_the_words_of_the_clients_doctor() -> None:
    def told(*workers: dict[str, Any]) -> list[tuple[str, str, str]]:
        return [(one.subject, one.verdict, one.said) for one in running.pool(list(workers))]

    assert list(running.pool(None)) == []
    assert told() == [("workers", "fault", "the pool has no worker")]
    assert told(worker()) == [("workers", "ok", "1 of 1 can take jobs")]
    assert told(worker(usable=False, agent="away")) == [
        ("workers", "fault", "none of 1 can take jobs")
    ]
    assert told(worker(), worker(devices=[], discovery_error="no driver"))[1:] == [
        ("gpu", "fault", "it has no devices: no driver")
    ]
    assert told(worker(disagreements=["job j has no reservation"]))[1:] == [
        ("gpu", "fault", "ledger and platform disagree: job j has no reservation")
    ]
