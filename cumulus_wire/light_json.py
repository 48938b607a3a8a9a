"""`json` without its import, which takes as long as an interpreter's start: each job waits for it.

The C parts of `json` do the work; whatever they don't take is left to `json`, for its errors too.
For Python 3.9 or newer, also where it is loaded by its path: standard library only.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

_SPACE = " \t\n\r"


class _Defaults:
    """What a scanner asks of its decoder."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    memo: dict[str, str] = {}

    @staticmethod
    def parse_constant(name: str) -> float:
        """NaN and the infinities, as `json` takes them."""
        return float(name)


def loads(text: str | bytes | bytearray) -> Any:
    """As `json.loads`. Raises ValueError, RecursionError."""
    scan = _scanner()
    if scan is not None:
        try:
            whole = text if isinstance(text, str) else text.decode()
            begin = len(whole) - len(whole.lstrip(_SPACE))
            value, end = scan(whole, begin)
            if not whole[end:].strip(_SPACE):
                return value
        # The last one: the scanner looks for its error's class in `json.decoder`, where that is.
        except (StopIteration, ValueError, SystemError):
            pass  # `json` says what is wrong with it, or reads it: another encoding
    import json

    return json.loads(text)


def dumps(
    value: object, *, ascii_only: bool = True, compact: bool = False, finite: bool = False
) -> str:
    """As `json.dumps`; `finite`: of finite numbers only. Raises ValueError, TypeError,
    RecursionError."""
    write = _writer(ascii_only, compact, finite)
    if write is not None:
        return "".join(write(value, 0))
    import json

    return json.dumps(
        value,
        ensure_ascii=ascii_only,
        allow_nan=not finite,
        separators=(",", ":") if compact else None,
    )


_made: dict[Any, Any] = {}


def _scanner() -> Callable[[str, int], tuple[Any, int]] | None:
    if "scan" not in _made:
        try:
            from _json import make_scanner

            _made["scan"] = make_scanner(_Defaults)  # type: ignore[arg-type]
        except (ImportError, TypeError, AttributeError):
            _made["scan"] = None  # another implementation of Python
    made: Callable[[str, int], tuple[Any, int]] | None = _made["scan"]
    return made


def _writer(
    ascii_only: bool, compact: bool, finite: bool
) -> Callable[[object, int], tuple[str, ...]] | None:
    try:
        from _json import encode_basestring, encode_basestring_ascii, make_encoder

        return make_encoder(
            {},  # what is being written, to find circles
            _refuse,
            encode_basestring_ascii if ascii_only else encode_basestring,
            None,
            ":" if compact else ": ",
            "," if compact else ", ",
            False,
            False,
            not finite,
        )
    except (ImportError, TypeError):
        return None  # another implementation of Python


def _refuse(value: object) -> None:
    """As `json` does."""
    raise TypeError(f"Object of type {type(value).__name__} is not JSON serializable")
