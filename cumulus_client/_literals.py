"""Values as Python source, where that gives back exactly the same value."""

import math
from typing import Any

#: Python's parser takes 200 nested brackets; a set and its call take two.
MAX_DEPTH = 90
#: Longer integers than this don't parse in decimal.
_HEX_FROM = 10**300


class _NoLiteral(Exception):
    pass


def literal_source(value: Any) -> str | None:
    """One line of source for a tree of None, bool, int, float, complex, str, bytes, list, tuple,
    dict, set, frozenset of exactly these types; None when `value` is no such tree."""
    try:
        return _source(value, 0)
    except _NoLiteral:
        return None


def _source(value: Any, depth: int) -> str:
    if depth > MAX_DEPTH:  # also the end of a list that holds itself
        raise _NoLiteral
    kind = type(value)
    if value is None or kind in (bool, str, bytes):
        return repr(value)
    if kind is int:
        return hex(value) if abs(value) > _HEX_FROM else repr(value)
    if kind is float:
        return _float(value)
    if kind is complex:
        return f"complex({_float(value.real)}, {_float(value.imag)})"
    if kind is list:
        return f"[{_items(value, depth)}]"
    if kind is tuple:
        return f"({_items(value, depth)}{',' if len(value) == 1 else ''})"
    if kind in (set, frozenset):
        # Sorted: equal code shall give an equal package, whatever the hash seed.
        items = ", ".join(sorted(_source(item, depth + 1) for item in value))
        if kind is set:
            return f"{{{items}}}" if value else "set()"
        return f"frozenset({{{items}}})" if value else "frozenset()"
    if kind is dict:
        pairs = (
            f"{_source(key, depth + 1)}: {_source(item, depth + 1)}" for key, item in value.items()
        )
        return f"{{{', '.join(pairs)}}}"
    raise _NoLiteral


def _items(values: Any, depth: int) -> str:
    return ", ".join(_source(item, depth + 1) for item in values)


def _float(value: float) -> str:
    if math.isfinite(value):
        return repr(value)
    if math.isnan(value):
        return "float('nan')"
    return "float('inf')" if value > 0 else "float('-inf')"
