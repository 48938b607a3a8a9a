"""JSON as WAMP has it: two quick libraries where they are right, the standard one elsewhere.

JSON has no binary, so WAMP writes it as a string that begins with NUL, followed by base64. Text
that itself begins with NUL has therefore no JSON form: it is refused, never sent as what the other
side would take for binary. CBOR and MessagePack carry both.

What is accepted and what it means is the standard library's to say:

=======  =========  ===========================================================================
         library    left to the standard library
=======  =========  ===========================================================================
reading  msgspec    whatever it refuses: lone surrogates, numbers beyond a float, deep nesting
writing  orjson     whatever it refuses (integers over 64 bits, keys that aren't text, deep
                    nesting); whatever has a `null`, which orjson writes for NaN too; and what
                    `marshal` refuses: of enums, UUIDs, dates and the like orjson has forms that
                    the standard library doesn't have. It takes a tenth of a microsecond.
=======  =========  ===========================================================================
"""

import base64
import binascii
import json
import marshal
from typing import Any, NoReturn

import msgspec
import orjson

_read = msgspec.json.Decoder().decode
#: A form of marshal that keeps no table of what it has seen.
_WITHOUT_REFERENCES = 2
_BINARY = bytes | bytearray | memoryview


class CodecError(ValueError):
    """The bytes are no message, or the message has no form in this serialisation."""


def loads(payload: bytes) -> Any:
    """The value. Raises ValueError or RecursionError."""
    try:
        value = _read(payload)
    except (ValueError, RecursionError):  # msgspec's errors are ValueErrors
        value = json.loads(payload.decode("utf-8"), parse_constant=_refuse_constant)
    return _restore_binary(value) if b"\\u0000" in payload else value


def dumps(value: Any) -> bytes:
    """The bytes. Raises CodecError, ValueError, TypeError or RecursionError."""
    binaries = 0

    def binary(value: Any) -> str:
        nonlocal binaries
        if isinstance(value, _BINARY):
            binaries += 1
            return "\0" + base64.b64encode(value).decode("ascii")
        raise TypeError(f"{type(value).__name__} has no JSON form")

    try:
        marshal.dumps(value, _WITHOUT_REFERENCES)
        text = orjson.dumps(value, binary)
    except (ValueError, TypeError):  # marshal's, and orjson's
        text = b"null"
    if b"null" in text:
        binaries = 0
        written = json.dumps(
            value, separators=(",", ":"), ensure_ascii=False, allow_nan=False, default=binary
        )
        text = written.encode("utf-8")
    # Only a string that begins with NUL can be taken for binary; a key or a quote before a NUL
    # counts too, so a difference is only a reason to look.
    if text.count(b'"\\u0000') != binaries:
        where = _nul_text(value, "message")
        if where is not None:
            raise CodecError(
                f"{where} is text that begins with NUL, which WAMP takes for binary in JSON: "
                "use wamp.2.cbor or wamp.2.msgpack"
            )
    return text


def _refuse_constant(name: str) -> NoReturn:
    raise CodecError(f"{name} is no JSON")


def _restore_binary(value: Any) -> Any:
    """Replaces NUL-led text by the binary it stands for. Keys stay text."""
    if isinstance(value, str) and value.startswith("\0"):
        try:
            return base64.b64decode(value[1:], validate=True)
        except (binascii.Error, ValueError) as error:
            raise CodecError("text that begins with NUL must be base64 (binary)") from error
    if isinstance(value, list):
        return [_restore_binary(item) for item in value]
    if isinstance(value, dict):
        return {key: _restore_binary(item) for key, item in value.items()}
    return value


def _nul_text(value: Any, path: str) -> str | None:
    """Where text that begins with NUL stands, if it does."""
    if isinstance(value, str):
        return path if value.startswith("\0") else None
    if isinstance(value, dict):
        items = [(f"{path}.{key}", item) for key, item in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{path}[{index}]", item) for index, item in enumerate(value)]
    else:
        return None
    for place, item in items:
        found = _nul_text(item, place)
        if found is not None:
            return found
    return None
