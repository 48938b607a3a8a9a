"""The log as journald takes it, and a level that is set while it is written."""

import io
import os
from pathlib import Path
from typing import Any

import pytest
from twisted.logger import Logger
from twisted.python.failure import Failure

from cumulusd.log import (
    JOURNAL_STREAM,
    MAX_JOURNAL_LINE_BYTES,
    LevelFilter,
    log_observer,
)


def written(emit: Any, level: "str | LevelFilter" = "debug") -> list[str]:
    stream = io.StringIO()
    emit(Logger(namespace="cumulusd.thing", observer=log_observer(stream, "journal", level)))
    return stream.getvalue().splitlines()


@pytest.mark.parametrize(
    ("level", "mark"),
    [("debug", 7), ("info", 6), ("warn", 4), ("error", 3), ("critical", 2)],
)
def test_a_line_begins_with_its_priority_and_has_no_time(level: str, mark: int) -> None:
    lines = written(lambda log: getattr(log, level)("{job_id} waits", job_id="job_1"))
    assert lines == [f"<{mark}>cumulusd.thing job_1 waits job_id=job_1"]


def test_one_event_is_one_line() -> None:
    (line,) = written(lambda log: log.info("{said}", said="a\n<2>forged\r\x85b"))
    assert line.startswith("<6>cumulusd.thing a\\n<2>forged")


def test_every_line_of_a_traceback_has_the_level_and_its_indent() -> None:
    def emit(log: Logger) -> None:
        try:
            raise ValueError("boom")
        except ValueError:
            log.failure("it went wrong", Failure())

    head, *traceback = written(emit)
    assert head.startswith("<2>cumulusd.thing it went wrong: ValueError: boom")
    assert all(line.startswith("<2>    ") for line in traceback)
    assert traceback[-1].endswith("ValueError: boom")
    assert any('raise ValueError("boom")' in line for line in traceback)


def test_a_line_is_no_longer_than_journald_takes() -> None:
    fields = {f"field{number}": f"{number}" + "ü" * 4000 for number in range(60)}
    (line,) = written(lambda log: log.info("long", **fields))
    assert MAX_JOURNAL_LINE_BYTES - 4 < len(line.encode()) < 48 * 1024
    assert line.endswith("bytes more]")


def test_auto_is_for_the_journal_where_the_stream_goes_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    with open(path, "w") as stream:
        status = os.fstat(stream.fileno())
        there = {JOURNAL_STREAM: f"{status.st_dev}:{status.st_ino}"}
        Logger(namespace="n", observer=log_observer(stream, "auto", "info", there)).info("one")
        # Inherited, and the stream is another.
        other = {JOURNAL_STREAM: f"{status.st_dev}:{status.st_ino + 1}"}
        Logger(namespace="n", observer=log_observer(stream, "auto", "info", other)).info("two")
    one, two = path.read_text().splitlines()
    assert one == "<6>n one"
    assert two.startswith("{")


def test_the_level_can_be_set_while_the_log_is_written() -> None:
    level = LevelFilter("warn")

    def emit(log: Logger) -> None:
        log.info("one")
        level.set("debug")
        log.debug("two")
        level.set("error")
        log.warn("three")

    assert written(emit, level) == ["<7>cumulusd.thing two"]
