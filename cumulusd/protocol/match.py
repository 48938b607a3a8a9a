"""URIs: which are valid, how one matches a row of the table of permissions, and which patterns a
row covers."""

import re
from collections.abc import Callable

from cumulusd.protocol.patterns import EXACT, PREFIX, WILDCARD

#: Loose URIs of the WAMP specification: components without whitespace, `.` or `#`, none empty.
_URI = re.compile(r"[^\s.#]+(\.[^\s.#]+)*")
#: The last component may be cut short anywhere, also to nothing.
_PREFIX = re.compile(r"([^\s.#]+\.)*[^\s.#]*")
#: Empty components stand for any one.
_WILDCARD = re.compile(r"[^\s.#]*(\.[^\s.#]*)*")
_FORMS = {EXACT: _URI, PREFIX: _PREFIX, WILDCARD: _WILDCARD}


def is_valid_uri(uri: str, max_chars: int, policy: str = EXACT) -> bool:
    """May it name a procedure or topic, or under `policy` be a pattern of such? Empty components
    (but those a pattern has) and more than `max_chars` may not."""
    return len(uri) <= max_chars and _FORMS[policy].fullmatch(uri) is not None


def bind(row: str, uri: str) -> dict[str, str] | None:
    """The values that a row's `{name}` components have in the URI; None when it doesn't match.

    A row is compared component by component: `{name}` and `*` take exactly one component, a last
    `**` one or more, anything else takes itself.
    """
    wanted, given = row.split("."), uri.split(".")
    if wanted[-1] == "**":
        wanted.pop()
        if len(given) <= len(wanted) or "" in given:
            return None
        given = given[: len(wanted)]
    if len(wanted) != len(given) or "" in given:
        return None
    values: dict[str, str] = {}
    for want, have in zip(wanted, given, strict=True):
        if want.startswith("{") and want.endswith("}"):
            values[want[1:-1]] = have
        elif want not in ("*", have):
            return None
    return values


def covers(row: str, pattern: str, policy: str, takes: Callable[[str, str | None], bool]) -> bool:
    """Does the row match *every* URI that the pattern matches?

    `takes(name, value)` says whether the row's `{name}` takes that component; of value None,
    whether it takes every component. A pattern that only some of the row's URIs match is covered,
    one that matches a single URI beside them is not: so no pattern is a way round the table.
    """
    wanted = row.split(".")
    open_ended = wanted[-1] == "**"
    if open_ended:
        wanted.pop()
    given = pattern.split(".")
    if policy == PREFIX:
        # Its last component may go on, and more may follow: only an open end covers that.
        given.pop()
        if not open_ended or len(given) < len(wanted):
            return False
    elif open_ended:
        if len(given) <= len(wanted):
            return False
    elif len(given) != len(wanted):
        return False
    for want, have in zip(wanted, given, strict=False):
        value = None if have == "" and policy == WILDCARD else have
        if want.startswith("{") and want.endswith("}"):
            if not takes(want[1:-1], value):
                return False
        elif want not in ("*", value):
            return False
    return True
