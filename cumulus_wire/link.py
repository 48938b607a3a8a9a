"""Frames of `/agent`, the binary WebSocket that carries an agent's bulk data.

A message is `header length u16 (big-endian) | header JSON | body`; `t` in the header names it:

agent to daemon
    offer {job, attempt, start, end} I hold this attempt's journal from `start` to `end`
    data {job, attempt, offset} + bytes   journal bytes at `offset`
    get {id, sha256, offset, length} send me this range of a package
    lock_free {job, attempt}         that attempt's container is proven gone
    output {id, total} + bytes       the answer to `fetch`; `total`: the file's size now
    no_output {id, message, gone}    the other answer to `fetch`; `gone`: asking again is no use
daemon to agent
    from {job, attempt, offset}      send this journal from `offset` on (the answer to `offer`)
    ack {job, attempt, offset}       this journal is on my disk up to `offset`
    drop {job, attempt}              I don't want this attempt: send nothing of it
    wait {job, attempt}              I can't take it now: keep it, offer it again in a moment
    part {id, offset, total} + bytes the answer to `get`
    refused {id, message}            the other answer to `get`
    fetch {id, job, attempt, name, offset, length}   send me this range of an output of the job
"""

import json
from collections.abc import Mapping
from typing import Any

MAX_HEADER_BYTES = 4096
#: Largest body of one message, either way.
MAX_BODY_BYTES = 1 << 20
MAX_MESSAGE_BYTES = 2 + MAX_HEADER_BYTES + MAX_BODY_BYTES
#: A package may take as long as this, beyond the time that every package has.
SLOWEST_PACKAGE_BYTES_PER_S = 1 << 20


class LinkError(ValueError):
    """The peer sent what is no message of this link."""


def encode(header: Mapping[str, Any], body: bytes = b"") -> bytes:
    """One message. Raises ValueError over the bounds."""
    head = json.dumps(header, separators=(",", ":")).encode()
    if len(head) > MAX_HEADER_BYTES or len(body) > MAX_BODY_BYTES:
        raise ValueError("link message over its bounds")
    return b"".join((len(head).to_bytes(2, "big"), head, body))


def decode(message: bytes | memoryview) -> tuple[dict[str, Any], bytes]:
    """The header and body. Raises LinkError."""
    size = int.from_bytes(message[:2], "big")
    if len(message) < 2 + size or size > MAX_HEADER_BYTES or len(message) > MAX_MESSAGE_BYTES:
        raise LinkError("message shorter than its header, or over the bounds")
    try:
        header = json.loads(bytes(message[2 : 2 + size]))
    except (ValueError, RecursionError) as error:
        raise LinkError(f"header is no JSON: {error}") from None
    if not isinstance(header, dict) or not isinstance(header.get("t"), str):
        raise LinkError("header has no type")
    return header, bytes(message[2 + size :])


def text(header: Mapping[str, Any], key: str, max_chars: int = 256) -> str:
    """That text of a header. Raises LinkError when it is none, empty, or longer."""
    value = header.get(key)
    if not isinstance(value, str) or not 0 < len(value) <= max_chars:
        raise LinkError(f"{key} is no text of 1 to {max_chars} characters")
    return value


def number(header: Mapping[str, Any], key: str) -> int:
    """That number of a header, 0 or more. Raises LinkError."""
    value = header.get(key)
    if type(value) is not int or value < 0:
        raise LinkError(f"{key} is no number")
    return value
