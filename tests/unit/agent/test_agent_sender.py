"""The journal sender: whoever notices growth, it is sent."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cumulus_wire import folder as names
from cumulus_wire import link as wire
from cumulus_wire.journal import Kind, encode
from cumulusd.agent.journal import Journal
from cumulusd.agent.journal_sender import SWEEPS_TO_WAIT, JournalSender

FRAME = encode(Kind.STDOUT, b"line\n", 1)


class Bench:
    def __init__(self, folder: Path) -> None:
        self.segment = folder / names.JOURNAL / names.segment_name(0)
        self.segment.parent.mkdir()
        self.segment.write_bytes(FRAME)
        self.handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.journal = Journal(self.handle)
        self.woken = 0
        self.sender = JournalSender(wake=self.wake, progress=lambda: None)
        self.sender.add("a", 2, self.journal)
        self.sender.connected()
        assert self.sent() == [
            {"t": "offer", "job": "a", "attempt": 2, "start": 0, "end": len(FRAME)}
        ]
        self.sender.begin("a", 2, 0)

    def wake(self) -> None:
        self.woken += 1

    def append(self) -> None:
        with open(self.segment, "ab") as segment:
            segment.write(FRAME)

    def sent(self) -> list[dict[str, object]]:
        headers = []
        while (message := self.sender.next_message()) is not None:
            headers.append(wire.decode(message)[0])
        return headers


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    made = Bench(tmp_path)
    yield made
    made.journal.close()
    os.close(made.handle)


@pytest.mark.parametrize(
    "notice",
    [
        lambda sender: sender.poke("a"),
        lambda sender: sender.sweep(),
        lambda sender: sender.extent("a"),
        lambda sender: sender.undelivered("a"),
    ],
    ids=["poke", "sweep", "extent", "undelivered"],
)
def test_growth_is_sent_whoever_notices_it(
    bench: Bench, notice: Callable[[JournalSender], object]
) -> None:
    assert [header["offset"] for header in bench.sent()] == [0]
    bench.append()
    woken = bench.woken
    notice(bench.sender)
    bench.sender.sweep()
    assert bench.woken > woken
    assert [header["offset"] for header in bench.sent()] == [len(FRAME)]


def test_what_is_said_of_another_attempt_is_not_for_this_one(bench: Bench) -> None:
    bench.sent()
    bench.append()
    bench.sender.ack("a", 1, 2 * len(FRAME))
    bench.sender.drop("a", 1)
    bench.sender.begin("a", 1, 0)
    assert bench.sender.undelivered("a") is not None
    assert [header["attempt"] for header in bench.sent()] == [2]
    bench.sender.ack("a", 2, 2 * len(FRAME))
    assert bench.sender.undelivered("a") is None


def test_what_was_sent_but_is_not_durable_is_sent_again_on_a_new_connection(bench: Bench) -> None:
    bench.sent()
    bench.sender.disconnected()
    bench.append()
    bench.sender.connected()
    assert [header["t"] for header in bench.sent()] == ["offer"]
    bench.sender.begin("a", 2, 0)
    assert [header["offset"] for header in bench.sent()] == [0]


def test_what_the_daemon_cant_take_stays_and_is_offered_again(bench: Bench) -> None:
    bench.append()
    bench.sender.poke("a")
    bench.sender.hold("a", 2)
    assert bench.sent() == [], "nothing while it has to wait"
    assert bench.sender.undelivered("a") is not None
    offers = []
    for sweep in range(1, 9):
        bench.append()
        bench.sender.sweep()
        offers += [(sweep, header["t"]) for header in bench.sent()]
    assert offers == [(SWEEPS_TO_WAIT, "offer")]
    bench.sender.begin("a", 2, len(FRAME))
    (data,) = bench.sent()
    assert (data["t"], data["offset"]) == ("data", len(FRAME))


@pytest.mark.parametrize("looked_at", ["before the read", "at the read"])
def test_what_a_full_disk_took_back_before_it_was_sent_is_no_damage(
    bench: Bench, looked_at: str
) -> None:
    assert [each["t"] for each in bench.sent()] == ["data"]
    with open(bench.segment, "ab") as segment:
        segment.write(FRAME[:-3])
    bench.sender.poke("a")
    os.truncate(bench.segment, len(FRAME))
    if looked_at == "before the read":
        bench.sender.sweep()
    assert bench.sent() == []
    bench.append()
    bench.sender.poke("a")
    assert [(each["t"], each["offset"]) for each in bench.sent()] == [("data", len(FRAME))]
    os.truncate(bench.segment, len(FRAME))
    bench.append()
    bench.append()
    assert bench.sender.extent("a") == (0, 3 * len(FRAME)), "whole again, and longer"
