"""A followed job as server-sent events: what `Relay.follow` gives, as text. Pure: no I/O.

An event's id is the journal offset behind it, so who reconnects says with `Last-Event-ID` what it
has. Output that is no UTF-8 comes as base64: nothing of it is changed.
"""

import base64
import json
from collections.abc import Iterator, Mapping
from typing import Any

from cumulus_wire.journal import FrameParser, Kind, Record, is_rest_missing

#: What `EventSource` waits before it comes back.
RETRY_MS = 2000
_STREAMS = {Kind.STDOUT: "stdout", Kind.STDERR: "stderr", Kind.SETUP: "setup"}


def event(name: str, value: Any, offset: int | None = None) -> bytes:
    """One event; with `offset` its id. Raises ValueError, RecursionError when JSON has no form for
    `value`."""
    head = "" if offset is None else f"id: {offset}\n"
    data = json.dumps(value, separators=(",", ":"), allow_nan=False)
    return f"{head}event: {name}\ndata: {data}\n\n".encode()


def events_of(part: Mapping[str, Any]) -> Iterator[bytes]:
    """The events of one progressive result of `Relay.follow`, or of its answer."""
    kind = part["event"]
    if kind in ("state", "end"):
        yield event(kind, {"job": part["job"]})
    elif kind == "gap":
        gap = {"from": part["offset"], "to": part["next_offset"]}
        yield event("gap", gap, part["next_offset"])
    elif kind == "journal":
        told = part["offset"]
        for record in FrameParser(part["offset"]).feed(part["frames"]):
            text = _record_event(record)
            if text is not None:
                told = record.next_offset
                yield text
        if told != part["next_offset"]:
            # Nothing to show; but who comes back needn't be sent it again.
            yield f"id: {part['next_offset']}\n\n".encode()


def _record_event(record: Record) -> bytes | None:
    if record.kind in _STREAMS:
        value: dict[str, Any] = {
            "stream": _STREAMS[record.kind],
            "offset": record.offset,
            "time": record.time_us / 1e6,
        }
        try:
            value["text"] = record.payload.decode()
        except UnicodeDecodeError:
            value["base64"] = base64.b64encode(record.payload).decode()
        return event("log", value, record.next_offset)
    name = "progress" if record.kind is Kind.PROGRESS else "gap"
    said = record.said() if name == "progress" or is_rest_missing(record) else {}
    try:
        return event(name, said, record.next_offset) if said else None
    except (ValueError, RecursionError):  # Python reads what JSON hasn't, and nests deeper
        return None
