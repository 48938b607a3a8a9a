"""How the daemon's log is written: text for people, JSON lines for machines, and for the journal.

Every line has time, level, namespace and message; every field of the event goes with it, `job_id`
first among them. Lengths are bounded, and control characters never reach the terminal: what a job
or a client says can't forge a line.
"""

import json
import math
import os
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from string import Formatter
from typing import Any, Literal, TextIO

from twisted.logger import (
    FilteringLogObserver,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from zope.interface import implementer

Format = Literal["auto", "text", "json", "journal"]
#: By which systemd tells which stream goes to its journal: device and inode.
JOURNAL_STREAM = "JOURNAL_STREAM"

MAX_MESSAGE_CHARACTERS = 8_192
MAX_FIELD_CHARACTERS = 4_096
MAX_TRACEBACK_CHARACTERS = 32_768
MAX_FIELDS = 64
#: journald cuts lines at 48 KiB (`LineMax=`), and the rest would come as a line without its level.
MAX_JOURNAL_LINE_BYTES = 48 * 1024 - 256

#: Of Twisted's own making; said in our words, or noise.
_HIDDEN = frozenset({"format", "isError", "message", "system", "time", "why", "failure"})
_OURS = frozenset({"time", "level", "namespace", "message", "traceback"})


#: syslog's numbers, which journald reads from a line's beginning.
_PRIORITIES = {"debug": 7, "info": 6, "warn": 4, "error": 3, "critical": 2}


class LevelFilter(LogLevelFilterPredicate):
    """Lets events of at least a level through, which may be set while the log is written."""

    def __init__(self, level: str) -> None:
        super().__init__(LogLevel.levelWithName(level))

    def set(self, level: str) -> None:
        """From the next event on."""
        self.setLogLevelForNamespace("", LogLevel.levelWithName(level))


def log_observer(
    stream: TextIO,
    format: Format,
    level: "str | LevelFilter",
    environ: Mapping[str, str] | None = None,
) -> ILogObserver:
    """Writes events of at least `level` to `stream`, one line each (text: and its traceback).

    `auto` is text where `stream` is a terminal, journald's where it goes to the journal (as
    `environ` tells), JSON lines elsewhere.
    """
    if format == "auto":
        text, journal = stream.isatty(), is_journal(stream, environ or {})
        format = "text" if text else "journal" if journal else "json"
    predicate = level if isinstance(level, LevelFilter) else LevelFilter(level)
    write: ILogObserver = StreamObserver(stream, _RENDERERS[format])
    return FilteringLogObserver(write, [predicate])


def is_journal(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Does that stream go to systemd's journal? The variable alone doesn't say: it is inherited."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):
        return False  # no file: a test's, or it is closed
    return environ.get(JOURNAL_STREAM) == f"{status.st_dev}:{status.st_ino}"


@implementer(ILogObserver)
class StreamObserver:
    """Renders each event and writes it, flushed, so that a crash loses nothing."""

    def __init__(self, stream: TextIO, render: Any) -> None:
        self._stream = stream
        self._render = render

    def __call__(self, event: LogEvent) -> None:
        self._stream.write(self._render(event))
        self._stream.flush()


def json_line(event: LogEvent) -> str:
    """The event as a JSON object on one line."""
    line = _head(event)
    for name, value in _fields(event):
        line[f"field_{name}" if name in _OURS else name] = value
    traceback = _traceback(event)
    if traceback:
        line["traceback"] = traceback
    return json.dumps(line, ensure_ascii=True, separators=(",", ":")) + "\n"


def text_line(event: LogEvent) -> str:
    """The event for a person: one line, and the traceback below it, indented."""
    head = _head(event)
    return f"{head['time']} {head['level']:<8} {_text(event, head)}"


def journal_line(event: LogEvent) -> str:
    """The same for journald, which has the time itself: each line begins with the priority."""
    head = _head(event)
    mark = f"<{_PRIORITIES.get(head['level'], 6)}>"
    return "".join(f"{mark}{_cut(line)}\n" for line in _text(event, head).splitlines())


def _text(event: LogEvent, head: dict[str, Any]) -> str:
    message = _escape(head["message"])
    shown = [
        f"{name}={_escape(value if isinstance(value, str) else json.dumps(value))}"
        for name, value in _fields(event)
        # What the message already tells isn't told twice; the job always is.
        if name == "job_id" or str(value) not in message
    ]
    parts = [head["namespace"], message, *shown]
    text = " ".join(part for part in parts if part) + "\n"
    for line in _traceback(event).splitlines():
        text += f"    {_escape(line)}\n"
    return text


def _cut(line: str) -> str:
    data = line.encode(errors="replace")
    if len(data) <= MAX_JOURNAL_LINE_BYTES:
        return line
    kept = data[:MAX_JOURNAL_LINE_BYTES].decode(errors="ignore")
    return f"{kept}[… {len(data) - MAX_JOURNAL_LINE_BYTES} bytes more]"


_RENDERERS: dict[str, Callable[[LogEvent], str]] = {
    "text": text_line,
    "json": json_line,
    "journal": journal_line,
}


def _head(event: LogEvent) -> dict[str, Any]:
    moment = datetime.fromtimestamp(event.get("log_time", 0.0), UTC)
    level = event.get("log_level", LogLevel.info)
    return {
        "time": moment.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": getattr(level, "name", str(level)),
        "namespace": _bounded(str(event.get("log_namespace", "")), MAX_FIELD_CHARACTERS),
        "message": _bounded(_message(event), MAX_MESSAGE_CHARACTERS),
    }


def _message(event: LogEvent) -> str:
    try:
        text = _formatted(event)
    except Exception as error:
        # Logging must go on whatever a field's own code does; the fault itself is what is told.
        text = f"unformattable event {event.get('log_format')!r}: {type(error).__name__}"
    failure = event.get("log_failure")
    if failure is not None:
        cause = _bounded(_safe_text(failure.value), MAX_FIELD_CHARACTERS)
        cause = f"{failure.type.__name__}: {cause}" if cause else failure.type.__name__
        # The last line of a legacy event's text is its traceback: the cause says it shorter.
        text = text.split("\nTraceback", 1)[0].strip()
        return f"{text}: {cause}" if text else cause
    return text


def _formatted(event: LogEvent) -> str:
    """As Twisted formats it, which takes several times as long."""
    format_ = event.get("log_format")
    if isinstance(format_, str) and _is_plain_format(format_):
        try:
            return format_.format_map(event)
        except KeyError:
            pass  # a field is missing: Twisted says which in its own words
    return formatEvent(event)


@lru_cache(maxsize=1024)
def _is_plain_format(format_: str) -> bool:
    """Nothing but text and `{name}`s: no calls, attributes, conversions or widths."""
    try:
        parts = list(Formatter().parse(format_))
    except ValueError:
        return False  # Twisted says what is wrong with it
    return all(
        name is None or (name.isidentifier() and not spec and conversion is None)
        for _, name, spec, conversion in parts
    )


def _fields(event: LogEvent) -> Iterator[tuple[str, Any]]:
    names = [name for name in event if not name.startswith("log_") and name not in _HIDDEN]
    names.sort(key=lambda name: name != "job_id")
    for name in names[:MAX_FIELDS]:
        # A format's "call()" and "{a.b}" leave odd names; they are no fields of their own.
        if name.isidentifier():
            yield name, _plain(event[name])
    if len(names) > MAX_FIELDS:
        yield "fields_dropped", len(names) - MAX_FIELDS


def _plain(value: Any) -> Any:
    """A value that JSON can hold, bounded."""
    if value is None or isinstance(value, bool | int):
        # No number of ours has more digits; Python refuses to print the longest.
        return value if not isinstance(value, int) or value.bit_length() < 256 else "huge int"
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, str):
        return _bounded(str(value), MAX_FIELD_CHARACTERS)
    if isinstance(value, Mapping | list | tuple | set | frozenset):
        # A container is told as text: its size can't be bounded by depth alone.
        return _bounded(_safe_text(value, repr), MAX_FIELD_CHARACTERS)
    return _bounded(_safe_text(value), MAX_FIELD_CHARACTERS)


def _safe_text(value: Any, render: Any = str) -> str:
    try:
        return str(render(value))
    except Exception as error:
        # A field's own code must not silence the event it stands in.
        return f"<{type(value).__name__}: unprintable, {type(error).__name__}>"


def _traceback(event: LogEvent) -> str:
    failure = event.get("log_failure")
    if failure is None:
        return ""
    try:
        text = str(failure.getTraceback())
    except Exception as error:
        text = f"no traceback: {type(error).__name__}"
    if len(text) <= MAX_TRACEBACK_CHARACTERS:
        return text
    # The end tells most: the raise and the message.
    return "[…]\n" + text[-MAX_TRACEBACK_CHARACTERS:]


def _bounded(text: str, limit: int) -> str:
    return text if len(text) <= limit else f"{text[:limit]}[… {len(text) - limit} more]"


def _escape(text: str) -> str:
    """Control characters and lone surrogates as escapes, so that one line stays one line."""
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() else character.encode("unicode_escape").decode()
        for character in text
    )
