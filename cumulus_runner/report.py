"""What `bootstrap` left behind of the code's end, read without trusting it."""

from __future__ import annotations

from cumulus_wire.journal import MAX_PAYLOAD_BYTES
from cumulus_wire.light_json import dumps, loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

MAX_REPORT_BYTES = 8 << 20
MAX_ERROR_TEXT_CHARS = 12_500
MAX_ERROR_VALUE_CHARS = 16 << 10


def read_report(path: str) -> dict[str, Any] | None:
    """What the bootstrap left; None when the code ended without it.

    The code could have written anything there, but only to its own harm.
    """
    try:
        with open(path, "rb") as file:
            text = file.read(MAX_REPORT_BYTES + 1)
        report = loads(text)
    except (FileNotFoundError, ValueError):
        return None
    return report if isinstance(report, dict) else None


def bounded_error(value: object) -> dict[str, str]:
    """The ERROR record: texts, together well under a frame's bound whatever they hold. `value` is
    left out rather than cut: it is JSON."""
    given = value if isinstance(value, dict) else {}
    error = {}
    for key in ("type", "module", "message", "traceback"):
        text = given.get(key)
        error[key] = text if isinstance(text, str) else ""
    made = given.get("value")
    if isinstance(made, str) and 0 < len(made) <= MAX_ERROR_VALUE_CHARS and made.isascii():
        error["value"] = made
    if len(dumps(error)) > MAX_PAYLOAD_BYTES:
        # Escaped, a character takes up to twelve bytes.
        error = {
            key: text if key == "value" else text[-MAX_ERROR_TEXT_CHARS:]
            for key, text in error.items()
        }
    return error
