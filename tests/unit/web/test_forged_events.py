"""A followed journal in which the job forged records: its followers and its log go on."""

import json
from typing import Any

import pytest

from cumulus_wire.journal import FrameParser, Kind, encode, is_rest_missing, rest_missing
from cumulusd.jobs.chunk import Chunk
from cumulusd.log_text import printed
from cumulusd.web.log_events import events_of

FORGED = (
    b"",
    b"\x96",
    b"5",
    b"{",
    b"{}",
    b'{"to":null}',
    b'{"to":null,"attempt":[]}',
    b'{"fraction":NaN}',
    b'{"to":null,"attempt":NaN}',
    b'{"to":null,"a":' + b"[" * 900 + b"]" * 900 + b"}",
    b'{"a":' + b"[" * 100_000,
)


class Held:
    """A journal of these frames."""

    def __init__(self, frames: bytes) -> None:
        self._frames = frames

    def read(self, offset: int, max_bytes: int) -> Any:
        end = len(self._frames)
        return Chunk(kind="frames", offset=offset, next_offset=end, data=self._frames[offset:])


@pytest.mark.parametrize("payload", FORGED, ids=range(len(FORGED)))
@pytest.mark.parametrize("kind", [Kind.GAP, Kind.PROGRESS, Kind.STATUS, Kind.EXIT])
def test_a_forged_record_keeps_nobody_from_the_others(kind: Kind, payload: bytes) -> None:
    frames = encode(kind, payload, 1) + encode(Kind.STDOUT, b"after\n", 1)
    part = {"event": "journal", "offset": 0, "next_offset": len(frames), "frames": frames}
    data = [
        json.loads(line[6:], parse_constant=pytest.fail)
        for text in events_of(part)
        for line in text.decode().splitlines()
        if line.startswith("data: ")
    ]
    assert data[-1]["text"] == "after\n"
    log = b"".join(printed(Held(frames), len(frames)))  # type: ignore[arg-type]
    assert log.endswith(b"after\n")


def test_what_the_daemon_itself_says_is_missing_is_told() -> None:
    frames = rest_missing(0, 2, 1)
    (record,) = FrameParser().feed(frames)
    assert is_rest_missing(record)
    part = {"event": "journal", "offset": 0, "next_offset": len(frames), "frames": frames}
    (text,) = events_of(part)
    assert b'"attempt":2' in text and b"event: gap" in text
    assert b"attempt 2" in b"".join(printed(Held(frames), len(frames)))  # type: ignore[arg-type]
