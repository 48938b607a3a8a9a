"""The connection to the agent: it comes and goes, and the job never waits for it."""

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from runner_kit import JobFolder, fake_agent, until

from cumulus_runner import agent_socket
from cumulus_runner.agent_socket import AgentSocket
from cumulus_wire.journal import Kind

NewJob = Callable[..., JobFolder]
HELLO = {"t": "hello"}


class Peer:
    """Both ends, in one thread, on a clock that the test sets."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.server = socket.socket(socket.AF_UNIX)
        self.listening = False
        self.agent = AgentSocket(str(path), HELLO, 0.0)
        self.connection: socket.socket | None = None

    def listen(self) -> None:
        self.server.bind(str(self.path))
        self.server.listen()
        self.server.settimeout(5)

    def accept(self) -> None:
        if self.connection is not None:
            self.connection.close()
        self.connection, _ = self.server.accept()
        self.connection.setblocking(False)

    def heard(self) -> list[dict[str, Any]]:
        assert self.connection is not None
        try:
            data = self.connection.recv(1 << 20)
        except BlockingIOError:
            return []
        return [json.loads(line) for line in data.splitlines()]

    def say(self, data: bytes) -> None:
        assert self.connection is not None
        self.connection.sendall(data)

    def close(self) -> None:
        self.agent.close()
        if self.connection is not None:
            self.connection.close()
        self.server.close()


@pytest.fixture
def peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    monkeypatch.chdir(tmp_path)
    made = Peer(Path("s"))
    yield made
    made.close()


def test_it_connects_when_there_is_an_agent(peer: Peer) -> None:
    peer.agent.tick(0.0)
    assert peer.agent.fileno() is None and peer.agent.problem is not None
    peer.listen()
    peer.agent.tick(peer.agent.wake_at())
    peer.accept()
    assert peer.heard() == [HELLO]


def test_a_proof_is_said_at_once_and_on_no_later_connection(peer: Peer) -> None:
    peer.agent.say_proof({"proven": "f"}, 0.0)  # there is no connection
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    assert peer.heard() == [HELLO]
    peer.agent.say_proof({"proven": "g"}, 0.0)
    assert peer.heard() == [{"t": "proof", "proven": "g"}]


def test_where_a_proof_cant_be_said_the_connection_ends(peer: Peer) -> None:
    """What is said on it later, by whoever got at it, can't be taken for one."""
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    end = 0
    while not peer.agent.wants_write:  # the agent reads nothing
        end += 1
        peer.agent.poke(end)
        peer.agent.tick(float(end))
    peer.agent.say_proof({"proven": "f"}, float(end))
    assert peer.agent.fileno() is None and peer.agent.problem == "the agent doesn't read"
    assert peer.connection is not None
    data = b""
    while part := peer.connection.recv(1 << 20):  # to its end
        data += part
    assert b"proof" not in data


def test_pauses_between_attempts_grow_up_to_a_bound(peer: Peer) -> None:
    now, pauses = 0.0, []
    for _ in range(10):
        peer.agent.tick(now)
        pauses.append(peer.agent.wake_at() - now)
        now = peer.agent.wake_at()
    assert pauses[0] == agent_socket.FIRST_PAUSE_S
    assert pauses == sorted(pauses) and pauses[-1] == agent_socket.LONGEST_PAUSE_S


def test_pokes_are_coalesced(peer: Peer) -> None:
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    for offset in range(1, 100):
        peer.agent.poke(offset)
        peer.agent.tick(0.0)
    assert peer.heard() == [HELLO, {"t": "poke", "end": 1}]
    assert peer.agent.wake_at() == agent_socket.SOON_S
    peer.agent.tick(peer.agent.wake_at())
    assert peer.heard() == [{"t": "poke", "end": 99}]
    assert peer.agent.wake_at() == float("inf")


def test_output_in_bulk_is_told_less_often_than_a_line(peer: Peer) -> None:
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    peer.agent.poke(1)
    peer.agent.tick(0.0)
    peer.agent.poke(1 + agent_socket.LITTLE_BYTES)
    assert peer.agent.wake_at() == agent_socket.POKE_INTERVAL_S
    peer.agent.tick(agent_socket.SOON_S)
    assert peer.heard() == [HELLO, {"t": "poke", "end": 1}]
    peer.agent.tick(agent_socket.POKE_INTERVAL_S)
    assert peer.heard() == [{"t": "poke", "end": 1 + agent_socket.LITTLE_BYTES}]


def test_what_is_held_is_told_with_what_follows(peer: Peer) -> None:
    peer.listen()
    peer.agent.hold(0.02)
    peer.agent.poke(1)
    peer.agent.tick(0.0)
    peer.accept()
    assert peer.heard() == [HELLO]
    assert peer.agent.wake_at() == 0.02
    peer.agent.poke(2)
    peer.agent.tick(0.01)
    assert peer.heard() == []
    peer.agent.tick(0.02)
    assert peer.heard() == [{"t": "poke", "end": 2}]
    peer.agent.hold(1.0)
    peer.agent.poke(3)
    peer.agent.hold(float("-inf"))
    peer.agent.tick(0.5)
    assert peer.heard() == [{"t": "poke", "end": 3}]


def test_a_new_connection_is_told_where_the_journal_ends(peer: Peer) -> None:
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    peer.agent.poke(5)
    peer.agent.tick(0.0)
    peer.heard()
    assert peer.connection is not None
    peer.connection.close()
    assert peer.agent.receive(1.0) == []
    assert peer.agent.fileno() is None
    peer.agent.tick(peer.agent.wake_at())
    peer.agent.tick(peer.agent.wake_at())
    peer.accept()
    assert peer.heard() == [HELLO, {"t": "poke", "end": 5}]


def test_messages_in_pieces_and_several_at_once(peer: Peer) -> None:
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    peer.say(b'{"t":"a"}\n{"t":')
    assert peer.agent.receive(0.0) == [{"t": "a"}]
    peer.say(b'"b"}\n{"t":"c"}\n')
    assert peer.agent.receive(0.0) == [{"t": "b"}, {"t": "c"}]


@pytest.mark.parametrize("line", [b"nonsense\n", b"[1]\n", b"\xff\n"])
def test_a_peer_that_speaks_something_else_is_dropped(peer: Peer, line: bytes) -> None:
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    peer.say(b'{"t":"a"}\n' + line)
    assert peer.agent.receive(0.0) == [{"t": "a"}]
    assert peer.agent.fileno() is None and "JSON" in str(peer.agent.problem)


def test_an_endless_line_is_bounded(peer: Peer) -> None:
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    for _ in range(5):
        if peer.agent.fileno() is None:
            break
        peer.say(b"x" * 20_000)
        peer.agent.receive(0.0)
    assert peer.agent.fileno() is None and "over" in str(peer.agent.problem)


def test_an_agent_that_reads_nothing_costs_no_memory(peer: Peer) -> None:
    peer.listen()
    peer.agent.tick(0.0)
    peer.accept()
    now = 0.0
    for offset in range(1, 20_000):
        now += agent_socket.POKE_INTERVAL_S
        peer.agent.poke(offset)
        peer.agent.tick(now)
    assert peer.agent.wants_write  # one poke waits, later ones are left to the next
    assert len(peer.agent._outgoing) < 100


def test_the_job_runs_without_an_agent(new_job: NewJob) -> None:
    job = new_job().function("def f(): return 1")
    _, _, err = job.finish(job.start())
    assert job.exit()["outcome"] == "completed" and b"agent isn't connected" in err


def test_the_agent_may_come_late_go_and_come_back(new_job: NewJob) -> None:
    job = new_job().function(
        "import os, time\n"
        "def f():\n"
        "    print('ready')\n"
        "    while not os.path.exists('go'): time.sleep(0.01)\n"
    )
    process = job.start()
    until(job.said(b"ready"), "the job runs")
    with fake_agent(job) as agent:
        assert agent.accept()["t"] == "hello"
        end = job.records()[-1].next_offset
        assert agent.read() == {"t": "poke", "end": end}
    with fake_agent(job) as agent:
        assert agent.accept()["t"] == "hello"
        assert agent.read() == {"t": "poke", "end": end}
        agent.send(b'{"t":"unheard-of"}\n')
        (job.path / "work" / "go").touch()
        ends = []
        while (message := agent.read())["t"] != "bye":
            ends.append(message["end"])
    job.finish(process)
    assert job.exit()["outcome"] == "completed"
    assert ends[-1] == job.records()[-1].next_offset
    assert job.output(Kind.STDOUT) == b"ready\n"
