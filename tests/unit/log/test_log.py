"""The log's lines: whole, bounded, unforgeable; text for a terminal, JSON elsewhere."""

import io
import json
from typing import Any

import pytest
from twisted.logger import Logger, LogLevel, formatEvent
from twisted.python.failure import Failure

from cumulusd.log import (
    MAX_FIELD_CHARACTERS,
    MAX_TRACEBACK_CHARACTERS,
    json_line,
    log_observer,
)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def written(format: Any, emit: Any, level: str = "info", stream: io.StringIO | None = None) -> str:
    stream = stream or io.StringIO()
    observer = log_observer(stream, format, level)
    emit(Logger(namespace="cumulusd.thing", observer=observer))
    return stream.getvalue()


def one(emit: Any, level: str = "info") -> dict[str, Any]:
    text = written("json", emit, level)
    assert text.count("\n") == 1
    value = json.loads(text)
    assert isinstance(value, dict)
    return value


def test_json_has_time_level_namespace_message_and_fields() -> None:
    line = one(lambda log: log.warn("job {job_id} waits", job_id="job_1", units=5, share=0.5))
    assert line.pop("time")[10:].count(":") == 2
    assert line == {
        "level": "warn",
        "namespace": "cumulusd.thing",
        "message": "job job_1 waits",
        "job_id": "job_1",
        "units": 5,
        "share": 0.5,
    }


def test_time_is_iso_with_milliseconds_in_utc() -> None:
    stream = io.StringIO()
    log_observer(stream, "json", "info")(
        {"log_time": 0.0014, "log_level": LogLevel.info, "log_format": "x", "log_namespace": "n"}
    )
    assert json.loads(stream.getvalue())["time"] == "1970-01-01T00:00:00.001Z"


def test_text_has_the_job_always_and_other_fields_once() -> None:
    text = written(
        "text", lambda log: log.info("{job_id} on {host}", job_id="job_1", host="lab", units=7)
    )
    assert text.endswith("cumulusd.thing job_1 on lab job_id=job_1 units=7\n")
    assert " info " in text


def test_auto_is_text_on_a_terminal_only() -> None:
    assert written("auto", lambda log: log.info("x"), stream=Terminal()).endswith(" x\n")
    assert json.loads(written("auto", lambda log: log.info("x")))["message"] == "x"


def test_the_level_holds() -> None:
    def emit(log: Logger) -> None:
        log.debug("quiet")
        log.error("loud")

    assert "quiet" not in written("text", emit) and "loud" in written("text", emit)
    assert "quiet" in written("text", emit, "debug")


@pytest.mark.parametrize("format", ["text", "json"])
def test_a_failure_comes_with_its_traceback(format: str) -> None:
    def emit(log: Logger) -> None:
        try:
            raise ValueError("boom\nsecond line")
        except ValueError:
            log.failure("job {job_id} broke", job_id="job_1")

    text = written(format, emit)
    assert "job job_1 broke: ValueError: boom" in text
    assert "Traceback" in text and "test_log.py" in text
    if format == "json":
        assert text.count("\n") == 1
        assert json.loads(text)["level"] == "critical"
    else:
        lines = text.splitlines()
        assert "boom\\nsecond line" in lines[0]
        assert all(line.startswith("    ") for line in lines[1:])


def test_nobody_forges_a_line_or_steers_the_terminal() -> None:
    evil = "x\n2026-01-01T00:00:00.000Z info daemon all is well\x1b[2J\r\u2028\ud800"
    text = written("text", lambda log: log.info("name {name}", name=evil, other=evil))
    assert text.count("\n") == 1
    assert "\x1b" not in text and "\r" not in text and "\u2028" not in text
    assert one(lambda log: log.info("{name}", name=evil))["name"] == evil
    text.encode()


def test_lengths_are_bounded() -> None:
    line = one(lambda log: log.info("{big}", big="a" * 1_000_000, deep=[["b" * 99] * 9] * 10_000))
    assert len(line["big"]) < MAX_FIELD_CHARACTERS + 50
    assert len(line["deep"]) < MAX_FIELD_CHARACTERS + 50
    assert len(line["message"]) < 9_000
    assert line["big"].endswith("more]")
    many = one(lambda log: log.info("x", **{f"f{n}": n for n in range(1000)}))
    assert many["fields_dropped"] == 1000 - 64 and len(many) < 80


def test_a_long_traceback_keeps_its_end() -> None:
    def emit(log: Logger) -> None:
        try:
            raise ValueError("a" * 100_000 + "the end")
        except ValueError:
            log.failure("x")

    traceback = one(emit)["traceback"]
    assert len(traceback) < MAX_TRACEBACK_CHARACTERS + 50
    assert traceback.rstrip().endswith("the end")


def test_odd_values_do_not_silence_an_event() -> None:
    class Bad:
        def __str__(self) -> str:
            raise RuntimeError("no text")

        __repr__ = __str__

    line = one(
        lambda log: log.info(
            "m", bad=Bad(), nested={"x": Bad()}, nan=float("nan"), raw=b"\xff", big=1 << 9999
        )
    )
    assert line["message"] == "m"
    assert "unprintable" in line["bad"] and "unprintable" in line["nested"]
    assert line["nan"] == "nan" and line["big"] == "huge int"
    assert "level" in one(lambda log: log.info("{bad}", bad=Bad()))
    assert one(lambda log: log.info("{missing}"))["level"] == "info"


def test_fields_do_not_overwrite_the_lines_own() -> None:
    line = one(lambda log: log.info("m", traceback="mine", namespace="mine too"))
    assert "traceback" not in line and line["field_traceback"] == "mine"
    assert line["field_namespace"] == "mine too"


def test_a_failure_without_words() -> None:
    line = one(lambda log: log.failure("", failure=Failure(ValueError())))  # type: ignore[no-untyped-call]
    assert line["message"] == "ValueError"


@pytest.mark.parametrize(
    "format",
    [
        "plain",
        "{name} at {count}",
        "{{braces}} {name}",
        "{name!r} {count:>5}",
        "{name.__class__}",
        "{call()}",
        "{missing} of {name}",
        "{broken",
        "{} {0}",
        "{none} {bytes}",
    ],
)
def test_messages_are_those_that_twisted_makes(format: str) -> None:
    def called() -> str:
        return "called"

    event = {
        "log_time": 0.0,
        "log_level": LogLevel.info,
        "log_namespace": "n",
        "log_format": format,
        "name": "aé",
        "count": 3,
        "call": called,
        "none": None,
        "bytes": b"b",
    }
    assert json.loads(json_line(event))["message"] == formatEvent(event)
