"""What machines post under `/provision`, read and checked. Pure; a token is never repeated."""

import json
from collections.abc import Mapping
from typing import Any

from cumulusd.errors import InvalidArgument

MAX_TEXT = 200
#: Key -> (least characters, most); the others are `true` or `false`.
_TEXTS = {
    "token": (1, MAX_TEXT),
    "node_id": (1, MAX_TEXT),
    "machine_id": (8, 128),
    "hostname": (1, 253),
}


def read_body(
    data: bytes, needed: tuple[str, ...], flags: tuple[str, ...] = ()
) -> Mapping[str, Any]:
    """Every key of `needed` (texts) and `flags` (false where they are absent). Raises
    InvalidArgument with every fault."""
    shape = "{" + ", ".join(f'"{key}": "…"' for key in needed) + "}"
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidArgument(f"The body must be JSON: {shape}") from None
    if not isinstance(value, dict):
        raise InvalidArgument(f"The body must be an object: {shape}")
    faults = [
        {"key": key[:MAX_TEXT], "message": "is not known"}
        for key in value
        if key not in needed and key not in flags
    ]
    for key in needed:
        why = _text_fault(value.get(key), *_TEXTS[key])
        if why is not None:
            faults.append({"key": key, "message": why})
    for key in flags:
        if not isinstance(value.get(key, False), bool):
            faults.append({"key": key, "message": "must be true or false"})
    if faults:
        words = "; ".join(f"{fault['key']} {fault['message']}" for fault in faults[:20])
        raise InvalidArgument(f"The body is wrong: {words}", details={"faults": faults[:20]})
    return {**dict.fromkeys(flags, False), **value}


def _text_fault(text: Any, least: int, most: int) -> str | None:
    if not isinstance(text, str) or not text:
        return "must be a text"
    if not text.isascii() or not text.isprintable():
        return "must be a text of printable ASCII characters"
    if not least <= len(text) <= most:
        return f"must have {least} to {most} characters"
    return None
