"""URIs: which are valid, and how one matches a pattern. Exact match is all the router offers."""

import re

#: Loose URIs of the WAMP specification: components without whitespace, `.` or `#`, none empty.
_URI = re.compile(r"[^\s.#]+(\.[^\s.#]+)*")


def is_valid_uri(uri: str, max_chars: int) -> bool:
    """May it name a procedure or topic? Empty components and more than `max_chars` may not."""
    return len(uri) <= max_chars and _URI.fullmatch(uri) is not None


def bind(pattern: str, uri: str) -> dict[str, str] | None:
    """The values that a pattern's `{name}` components have in the URI; None when it doesn't match.

    A pattern is compared component by component: `{name}` and `*` take exactly one component,
    anything else takes itself.
    """
    wanted, given = pattern.split("."), uri.split(".")
    if len(wanted) != len(given) or "" in given:
        return None
    values: dict[str, str] = {}
    for want, have in zip(wanted, given, strict=True):
        if want.startswith("{") and want.endswith("}"):
            values[want[1:-1]] = have
        elif want != "*" and want != have:
            return None
    return values
