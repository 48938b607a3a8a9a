"""The log that peers can't flood, on a test clock."""

from typing import Any

from twisted.internet.task import Clock
from twisted.logger import Logger, formatEvent

from cumulusd.protocol import bounded_log
from cumulusd.protocol.bounded_log import BoundedLog


class Lines:
    """A bounded log, and what it wrote."""

    def __init__(self, lines_per_minute: int = 3) -> None:
        self.clock = Clock()
        self.events: list[dict[str, Any]] = []
        self.log = BoundedLog(
            self.clock, Logger(observer=self.events.append), lines_per_minute=lines_per_minute
        )

    def say(self, source: str = "192.0.2.1", sort: str = "violation") -> None:
        self.log.warn(sort, source, "{what} of {source}", what=sort, source=source)

    @property
    def texts(self) -> list[str]:
        return [formatEvent(event) for event in self.events]


def test_the_first_lines_of_a_minute_are_written_and_the_rest_is_told_in_one() -> None:
    lines = Lines()
    for _ in range(100):
        lines.say()
    assert lines.texts == ["violation of 192.0.2.1"] * 3
    lines.clock.advance(60)
    assert len(lines.events) == 4
    last = lines.events[-1]
    assert (last["count"], last["sort"], last["source"]) == (97, "violation", "192.0.2.1")
    assert last["log_level"].name == "warn"
    lines.clock.advance(600)
    assert len(lines.events) == 4  # and only once
    assert not lines.clock.getDelayedCalls()


def test_sorts_and_sources_have_their_own_lines() -> None:
    lines = Lines()
    for _ in range(5):
        lines.say()
        lines.say("192.0.2.2")
        lines.say(sort="not_authorized")
    assert len(lines.events) == 9
    lines.log.close()
    assert sorted(event["count"] for event in lines.events[9:]) == [2, 2, 2]


def test_the_next_minute_begins_anew() -> None:
    lines = Lines()
    for _ in range(3):
        lines.say()
    lines.clock.advance(60)
    for _ in range(3):
        lines.say()
    assert lines.texts == ["violation of 192.0.2.1"] * 6
    assert not lines.clock.getDelayedCalls()


def test_many_sources_are_bounded_and_none_is_silent() -> None:
    lines = Lines(lines_per_minute=2)
    sources = bounded_log.MAX_SOURCES * 10
    for number in range(sources):
        for _ in range(3):
            lines.say(f"2001:db8:0:{number:x}::/64")
    lines.clock.advance(60)
    written = [event for event in lines.events if "count" not in event]
    told = [event for event in lines.events if "count" in event]
    assert len(lines.events) <= 3 * (bounded_log.MAX_SOURCES + 1)
    assert len(written) + sum(event["count"] for event in told) == 3 * sources
    assert bounded_log.OTHERS in {event["source"] for event in told}


def test_closing_tells_what_was_withheld_and_leaves_no_timer() -> None:
    lines = Lines(lines_per_minute=1)
    for _ in range(4):
        lines.say()
    lines.log.close()
    assert lines.events[-1]["count"] == 3
    assert not lines.clock.getDelayedCalls()
    lines.log.close()
    assert len(lines.events) == 2


def test_a_failure_keeps_its_traceback() -> None:
    lines = Lines(lines_per_minute=1)
    for _ in range(2):
        try:
            raise RuntimeError("broken")
        except RuntimeError:
            lines.log.failure("internal", "192.0.2.1", "it failed")
    assert len(lines.events) == 1
    assert "broken" in str(lines.events[0]["log_failure"].value)
    lines.log.close()
