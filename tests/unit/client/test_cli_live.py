"""What the live display tells, and that a job's bytes come through it as they are."""

import io
import re
import sys
from pathlib import Path
from typing import Any

import pytest

from cumulus_client._job_stream import Accepted, Ended, Event, Interrupted, Journal, StateChanged
from cumulus_client.cli.displays import PlainDisplay, make_display
from cumulus_client.cli.live import LiveDisplay
from cumulus_client.cli.live_state import LiveState, Told, visible
from cumulus_client.cli.status_area import StatusArea
from cumulus_wire.journal import Kind, Record, encode_json

PLACE = {
    "worker": {"hostname": "gpu-1"},
    "partition": {"units": 2500, "device_name": "A100", "tier_note": "held: by much"},
}


def view(status: str, **more: Any) -> dict[str, Any]:
    return {"job_id": "job_1", "status": status, "created_at": 1000.0, "attempt": 1, **more}


def test_a_jobs_way() -> None:
    state = LiveState(fresh=True)
    assert state.told(1000) == Told("sending the job")
    wait = {
        "reason": "no_free_share",
        "message": "it needs 50%",
        "details": {"position": 2, "waiting": 5},
    }
    state.heard(view("pending", wait=wait), 1000)
    assert state.told(1012) == Told("waiting 12s", ("2 of 5",), "it needs 50%")
    state.heard(view("pending", wait={"reason": "placing", "message": "x"}), 1013)
    assert state.told(1013).what == "making room for it 13s"
    state.heard(view("starting", **PLACE), 1020)
    place = ("gpu-1", "25% of A100", "held")
    assert state.told(1021) == Told("starting 1s", place)
    state.began_setup()
    assert state.told(1021) == Told("setting up 1s", place)
    state.setup_line("Downloading torch (700 MiB)\n")
    assert state.told(1022) == Told(
        "installing requirements 2s", place, "Downloading torch (700 MiB)"
    )
    state.requirements = "requirements: cached"
    running = view("running", started_at=1030.0, duration_s=100.0, **PLACE)
    state.heard(running, 1030)
    assert state.told(1040) == Told("running 10s", ("1m30s left", *place, "requirements: cached"))
    state.progressed({"fraction": 0.4, "message": "epoch\t4\x1b[31m"})
    told = state.told(1040)
    assert (told.bar, told.fraction, told.message) == (True, 0.4, "epoch   4")
    state.progressed({"fraction": None, "message": "?"})
    assert (state.told(1040).bar, state.told(1040).fraction) == (True, None)
    state.lost = True
    assert state.told(1041).what == "connection lost, reconnecting; the job goes on"
    state.heard({**running, "pause_requested": True}, 1042)
    assert state.told(1042).what == "pausing 12s"
    state.heard(view("paused"), 1050)
    assert state.told(1055).what == "paused for 5s; cumulus resume job_1"
    state.heard(view("pending", attempt=2, wait={"reason": "queued"}), 1060)
    assert state.told(1060).what == "waiting to be placed 0s", "nothing of the attempt before"
    state.cancelling = True
    assert state.told(1060).what == "cancelling"


@pytest.mark.parametrize(
    ("fresh", "off_s", "ran"), [(True, 500, "10s"), (True, -500, "10s"), (False, -500, "10s")]
)
def test_a_daemons_clock_that_is_off(fresh: bool, off_s: float, ran: str) -> None:
    state = LiveState(fresh=fresh)
    state.heard(view("pending"), 1000 + off_s)
    state.heard(view("running", started_at=1010.0, duration_s=60.0), 1010 + off_s)
    told = state.told(1020 + off_s)
    assert (told.what, told.facts) == (f"running {ran}", ("50s left",))


def test_what_a_begun_line_shows() -> None:
    assert visible("10%\r20%\r") == "20%"
    assert visible("\x1b[1;31mred\x1b[0m \x1b]0;title\x07\x1b[2Kx\x00y") == "red x y"


class FakeTerminal(io.TextIOWrapper):
    """A terminal that keeps what was written to it."""

    def __init__(self) -> None:
        self.raw_bytes = io.BytesIO()
        super().__init__(self.raw_bytes, encoding="utf-8", newline="")

    def isatty(self) -> bool:
        return True

    def text(self) -> str:
        self.flush()
        return self.raw_bytes.getvalue().decode()


def drawn(told: Told, begun: list[str], monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = FakeTerminal()
    StatusArea(terminal).draw(told, begun)
    return re.sub(r"\x1b\[[0-9;]*[mJA]", "", terminal.text()).replace("\r", "")


def test_the_status_is_cut_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    told = Told("running 1s", ("x" * 200, "end"), bar=True, fraction=0.5, message="m" * 200)
    rows = drawn(told, ["b" * 200], monkeypatch).split("\n")
    assert len(rows) == 3 and max(map(len, rows)) == 79, rows
    assert rows[0].endswith("…") and rows[1].endswith("…") and rows[2].endswith("…")
    assert "50% mmm" in rows[2] and "━" in rows[2]
    assert "%" not in drawn(Told("running 1s", bar=True, message="so far"), [], monkeypatch)


def output(kind: Kind, payload: bytes) -> Event:
    return Journal(records=[Record(kind, payload, 0, 0, 1)])


def json_record(kind: Kind, value: dict[str, Any]) -> Event:
    payload = encode_json(kind, value)[20:]
    return Journal(records=[Record(kind, payload, 0, 0, 1)])


def test_the_jobs_bytes_come_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = FakeTerminal()
    display = LiveDisplay(StatusArea(terminal), terminal, terminal, fresh=True)
    chunks = [b"one\ntw", b"o\n\xff\xfe\n", b"10%\r20%\r", b"\n", b"x" * 20_000, b"y\n", b"rest"]
    events: list[Event] = [
        Accepted(job=view("pending", wait={"reason": "no_free_share", "message": "busy"})),
        StateChanged(job=view("running", started_at=1.0, **PLACE)),
        json_record(Kind.STATUS, {"phase": "running", "requirements": 1, "cached": True}),
        json_record(Kind.PROGRESS, {"fraction": 0.5, "message": "half"}),
        Interrupted(reason="cut"),
        *(output(Kind.STDOUT, chunk) for chunk in chunks),
        Ended(job=view("completed", started_at=1.0, completed_at=3.0, **PLACE)),
    ]
    with display.running():
        for event in events:
            display.event(event)
    terminal.flush()
    written = terminal.raw_bytes.getvalue()
    # The status is whatever stands between a `\r\x1b[J` and the next one.
    assert b"".join(chunks) in re.sub(rb"\r\x1b\[J[^\r]*\r(?=\r\x1b\[J)|\r\x1b\[J", b"", written)
    assert written.endswith(b"rest\n[cumulus] completed after 2.0 s on gpu-1, 25% of A100\n")
    assert b"half" not in written.rpartition(b"[cumulus] completed")[2]
    assert written.count(b"[cumulus] ") == 2, "accepted and its end; the rest has passed"


def test_without_rich_there_are_lines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    with open(tmp_path / "out", "w") as out:
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", FakeTerminal())
        assert type(make_display(quiet=False, fresh=True)) is LiveDisplay
        assert type(make_display(quiet=True, fresh=True)) is PlainDisplay
        monkeypatch.setitem(sys.modules, "rich.console", None)
        for name in ("live", "status_area"):
            monkeypatch.delitem(sys.modules, f"cumulus_client.cli.{name}")
        assert type(make_display(quiet=False, fresh=True)) is PlainDisplay


def test_a_muted_live_display_writes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = FakeTerminal()
    display = LiveDisplay(StatusArea(terminal), terminal, terminal, fresh=True)
    with display.running():
        display.event(Accepted(job=view("pending")))
        display.mute()
        before = terminal.text()
        display.event(output(Kind.STDOUT, b"x\n"))
        display.event(Ended(job=view("cancelled")))
    assert terminal.text() == before
