"""The daemon and peers that don't read, don't stop, or don't make sense."""

import json
import re
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

from tests.e2e.harness import Daemon
from tests.e2e.test_e2e_readers import run
from tests.raw_websocket import HANDSHAKE, RawPeer, frame

MIB = 1 << 20
MakeDaemon = Callable[..., Daemon]


def metrics(daemon: Daemon) -> dict[str, float]:
    """Each series of /metrics with its value."""
    _, text = daemon.get("/metrics")
    found = re.findall(r"^([a-z_]+(?:\{[^}]*\})?) ([-+.e\d]+)$", text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def refused(daemon: Daemon, reason: str) -> float:
    return metrics(daemon)[f'cumulus_router_refusals_total{{reason="{reason}"}}']


def resident_bytes(daemon: Daemon) -> int:
    assert daemon.process is not None
    status = Path(f"/proc/{daemon.process.pid}/status").read_text()
    return int(next(re.finditer(r"VmRSS:\s+(\d+) kB", status))[1]) * 1024


def attach(peer: RawPeer, job_id: str) -> None:
    options = {"receive_progress": True}
    peer.tell([48, 1, options, "cumulus.job.attach", [], {"job_id": job_id}])


def test_a_reader_of_80_mb_that_stalls_holds_its_journal_up_and_little_else(
    make_daemon: MakeDaemon,
) -> None:
    daemon = make_daemon(extra="router: {slow_peer_timeout_s: 8}\n").start()
    job_id = run(
        daemon,
        """
def much():
    import sys
    line = "x" * 16_383 + "\\n"
    for _ in range(5_000):
        sys.stdout.write(line)
""",
        "much",
    )
    # Read once, so that what reading takes is there.
    with urllib.request.urlopen(f"{daemon.url}/api/jobs/{job_id}/logs", timeout=60) as response:
        assert sum(len(part) for part in iter(lambda: response.read(MIB), b"")) == 5_000 * 16_384
    with RawPeer(daemon.port) as reader:
        reader.hurry()
        reader.join()
        attach(reader, job_id)
        reader.wait(lambda: len(reader.received) > 20 * MIB, 60.0)
    with RawPeer(daemon.port) as stalled:
        stalled.join()
        base = resident_bytes(daemon)
        attach(stalled, job_id)
        most, queued = 0, 0.0
        deadline = time.monotonic() + 4.0
        while time.monotonic() < deadline:
            most = max(most, resident_bytes(daemon))
            queued = max(queued, metrics(daemon)["cumulus_router_queued_bytes"])
            time.sleep(0.1)
        assert most - base < 2 * MIB
        assert MIB // 2 < queued < 2.5 * MIB
        # Others notice nothing; and who takes nothing for long is closed, and nothing stays.
        assert daemon.get("/health")[0] == 200
        deadline = time.monotonic() + 30.0
        while not refused(daemon, "slow_peer"):
            assert time.monotonic() < deadline
            time.sleep(0.2)
        assert metrics(daemon)["cumulus_router_queued_bytes"] == 0
    assert "too slow: it took nothing for 8 s" in daemon.log_text()


def test_whatever_comes_the_log_grows_at_a_bounded_rate(make_daemon: MakeDaemon) -> None:
    daemon = make_daemon(extra="router: {log_lines_per_minute: 5}\n").start()
    for _ in range(60):
        with RawPeer(daemon.port) as stranger:
            stranger.open()
            stranger.tell([1, "elsewhere", {"roles": {"caller": {}}}])
            stranger.wait(lambda: b"no_such_realm" in stranger.received)
        with RawPeer(daemon.port) as garbler:
            garbler.join()
            garbler.send(frame(b"no JSON at all"))
            garbler.wait(lambda: b"protocol_violation" in garbler.received)
        for path in (b"/agent", b"/ws"):
            with RawPeer(daemon.port) as page:
                page.send(HANDSHAKE.replace(b"/ws", path).replace(b"wamp.2.json", b"chat"))
                page.wait(lambda: page.opened)
    with RawPeer(daemon.port) as client:
        client.join()
        for request in range(1, 61):
            client.tell([64, request, {}, "some.procedure"])
        client.wait(lambda: client.received.count(b"wamp.error.not_authorized") == 60)
    assert (refused(daemon, "realm"), refused(daemon, "violation")) == (60, 60)
    assert refused(daemon, "not_authorized") == 60
    assert (refused(daemon, "agent_link"), refused(daemon, "handshake")) == (60, 60)
    daemon.stop()
    lines = [json.loads(line) for line in daemon.log_text().splitlines() if line.startswith("{")]
    for sort in ("realm", "violation", "not_authorized", "agent_link", "handshake"):
        told = [line for line in lines if line.get("sort") == sort]
        assert sum(line["count"] for line in told) >= 30
        written = 60 - sum(line["count"] for line in told)
        assert written % 5 == 0 and written <= 20  # five in each minute that it took
    # Of the 301 connections nothing else told on its own, Autobahn least of all.
    assert len(lines) <= 6 * 20 + 60
    assert not [line for line in lines if "WebSocketServer" in line["namespace"]]


def test_a_flood_of_connections_leaves_the_daemon_its_files(make_daemon: MakeDaemon) -> None:
    """With 200 open files at most, 300 connections: the daemon still runs jobs."""
    daemon = make_daemon()
    daemon.command_prefix = ("prlimit", "--nofile=200:200")
    daemon.start()
    before = len(list(Path(f"/proc/{daemon_pid(daemon)}/fd").iterdir()))
    peers = []
    try:
        for _ in range(300):
            peers.append(RawPeer(daemon.port))
        deadline = time.monotonic() + 30.0
        while sum(peer.read() for peer in peers) < 150 + before - 20:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        opened = len(list(Path(f"/proc/{daemon_pid(daemon)}/fd").iterdir()))
        assert opened <= 160
    finally:
        for peer in peers:
            peer.close()
    daemon.wait_healthy()
    assert refused(daemon, "open_files") >= 150
    run(daemon, "\ndef small():\n    print('fine')\n", "small")
    text = daemon.log_text()
    assert "150 of 200 open files are in use" in text
    assert "EMFILE" not in text and "Too many open files" not in text


def daemon_pid(daemon: Daemon) -> int:
    assert daemon.process is not None
    return daemon.process.pid
