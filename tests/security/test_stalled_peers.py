"""What a peer that doesn't read costs the router, measured from outside in its process's memory."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.raw_websocket import RawPeer, frame

REPOSITORY = Path(__file__).parents[2]
MIB = 1 << 20
PIECE_BYTES = 256 * 1024
PIECES = 320  #: 80 MB in all
EVENT_BYTES = 64 * 1024
EVENTS = 1280
MOST_GROWN_BYTES = 2 * MIB


class OpenRouter:
    """The daemon's router and transport in a process of its own."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.interop.open_router"],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            env={**os.environ, "MALLOC_TRIM_THRESHOLD_": "65536", "PYTHONUNBUFFERED": "1"},
        )
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline().rpartition(b":")[2])

    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmRSS"))
        return int(line.split()[1]) * 1024

    def most_resident_bytes(self, for_s: float) -> int:
        """The most that it has within that time."""
        deadline, most = time.monotonic() + for_s, 0
        while time.monotonic() < deadline:
            most = max(most, self.resident_bytes())
            time.sleep(0.02)
        return most

    def joined(self) -> RawPeer:
        peer = RawPeer(self.port)
        peer.join()
        return peer

    def close(self) -> None:
        self.process.terminate()
        self.process.wait(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@pytest.fixture
def router() -> Iterator[OpenRouter]:
    """Warm: it has streamed and published before, so that what is measured is the peers'."""
    router = OpenRouter()
    try:
        with router.joined() as reader, router.joined() as writer:
            reader.tell([32, 1, {}, "warm.up"])
            reader.wait(lambda: b"[33," in reader.received)
            reader.hurry()
            stream(reader, 2, pieces=20)
            reader.wait(
                lambda: b"[50,2,{},[]" in reader.received or b"[50,2,{}]" in reader.received
            )
            reader.received = b""
            for _ in range(20):
                writer.tell([16, 1, {}, "warm.up", ["x" * PIECE_BYTES]])
                reader.wait(lambda: len(reader.received) > PIECE_BYTES)
                reader.received = b""
        time.sleep(0.3)
        yield router
    finally:
        router.close()


def stream(peer: RawPeer, request: int, pieces: int = PIECES) -> None:
    options = {"receive_progress": True}
    kwargs = {"size_bytes": PIECE_BYTES, "count": pieces}
    peer.tell([48, request, options, "bench.stream", [], kwargs])


def test_80_mb_of_progressive_results(router: OpenRouter) -> None:
    base = router.resident_bytes()
    with router.joined() as stalled:
        stream(stalled, 1)
        assert router.most_resident_bytes(3.0) - base < MOST_GROWN_BYTES
        # It goes on for who reads again.
        assert stalled.received == b""
        stalled.hurry()
        total = 0
        deadline = time.monotonic() + 60
        while total < 16 * MIB and time.monotonic() < deadline:
            stalled.read()
            total, stalled.received = total + len(stalled.received), b""
            time.sleep(0.001)
        assert total >= 16 * MIB


def test_80_mb_of_progressive_results_of_a_remote_callee(router: OpenRouter) -> None:
    """The callee is read from no faster than its caller reads, and others notice nothing."""
    base = router.resident_bytes()
    with router.joined() as callee, router.joined() as stalled, router.joined() as other:
        callee.tell([64, 1, {}, "some.stream"])
        callee.wait(lambda: b"[65," in callee.received)
        stalled.tell([48, 1, {"receive_progress": True}, "some.stream"])
        callee.received = b""
        callee.wait(lambda: b"[68," in callee.received)
        invocation = callee.messages()[0][1]
        piece = frame(b'[70,%d,{"progress":true},["%s"]]' % (invocation, b"x" * PIECE_BYTES))
        unsent: list[int] = []
        sending = threading.Thread(
            target=lambda: unsent.append(callee.send_all(piece * PIECES, timeout_s=2.0))
        )
        sending.start()
        most = router.most_resident_bytes(3.0)
        sending.join()
        assert most - base < MOST_GROWN_BYTES
        assert unsent[0] > PIECES * PIECE_BYTES // 2  # the kernel's buffers take some MB
        stream(other, 1, pieces=1)
        other.wait(lambda: b"[50,1,{}" in other.received)


def test_80_mb_of_events_and_the_subscriber_is_told_what_it_missed(router: OpenRouter) -> None:
    base = router.resident_bytes()
    with router.joined() as stalled, router.joined() as publisher:
        stalled.tell([32, 1, {}, "some.topic"])
        stalled.wait(lambda: b"[33," in stalled.received)
        stalled.received = b""
        most = 0
        for number in range(EVENTS):
            message = [
                16,
                number + 1,
                {"acknowledge": True},
                "some.topic",
                [number, "x" * EVENT_BYTES],
            ]
            assert publisher.tell(message)
            publisher.wait(lambda: b"[17," in publisher.received)
            publisher.received = b""
            most = max(most, router.resident_bytes())
        assert max(most, router.most_resident_bytes(1.0)) - base < MOST_GROWN_BYTES
        stalled.hurry()
        stalled.wait(lambda: b"[%d," % (EVENTS - 1) in stalled.received, 30.0)
        stalled.wait(lambda: len(stalled.messages()[-1]) > 3, 10.0)
        events = stalled.messages()
        dropped = sum(details.get("x_cumulus_dropped", 0) for _, _, _, details, _ in events)
        assert 0 < len(events) < EVENTS
        assert len(events) + dropped == EVENTS
        # Each gap is told by the event behind it, and the newest event always comes.
        expected = 0
        for _, _, _, details, (number, _) in events:
            assert number == expected + details.get("x_cumulus_dropped", 0)
            expected = number + 1
        assert expected == EVENTS


def test_20_mb_of_pings_and_of_pieces(router: OpenRouter) -> None:
    base = router.resident_bytes()
    with router.joined() as pinging, router.joined() as halfway:
        halfway.send_all(frame(b"x" * MIB, length=2 * MIB - 1000))
        pinging.send_all(frame(b"?" * 125, 9) * 160_000, timeout_s=30.0)
        grown = router.most_resident_bytes(0.5) - base
        assert grown < MOST_GROWN_BYTES + MIB  # and half of a message of 2 MiB
